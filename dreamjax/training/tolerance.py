"""Logs that cannot be written (a full disk) cost a line on stderr, and not the run."""

from types import TracebackType

from dreamjax.console import log


class Tolerant:
    """`with tolerant: write()`: an OSError is told once, until a write goes well again."""

    def __init__(self, what: object) -> None:
        self.what, self.refused = what, False

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, _: TracebackType | None
    ) -> bool:
        if isinstance(problem, OSError) and not self.refused:
            log.warning("%s could not be written (%s); training goes on", self.what, problem.strerror or problem)
        self.refused = isinstance(problem, OSError)
        return self.refused
