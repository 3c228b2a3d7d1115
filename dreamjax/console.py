"""Progress bars on a terminal, plain lines elsewhere; always on stderr.

Results go to stdout (see `cli`), so `dreamjax VERB --json | jq` works while bars run.
"""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

log = logging.getLogger("dreamjax")

PLAIN_EVERY_S = 10.0  # elsewhere than on a terminal: one line per this many seconds


def counted(n: int, noun: str, plural: str = "") -> str:
    """Return `1 image`, `1,200 images`."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


class Bar:
    """Progress as plain lines."""

    def __init__(self, description: str, total: float | None):
        self.description, self.total, self.done = description, total, 0.0
        self.started = self.printed = time.monotonic()

    def advance(self, n: float = 1, note: str = "") -> None:
        """Count `n` units more."""
        self.done += n
        if time.monotonic() - self.printed >= PLAIN_EVERY_S:
            self.printed = time.monotonic()
            self.line(note)

    def line(self, note: str) -> None:
        """Print where it is."""
        of = f"/{self.total:g}" if self.total else ""
        after = f" after {time.monotonic() - self.started:.0f} s {note}".rstrip()
        print(f"{self.description}: {self.done:g}{of}{after}", file=sys.stderr, flush=True)


class _RichBar(Bar):
    """Progress as a bar on a terminal."""

    def __init__(self, description: str, total: float | None, progress: "Progress"):
        super().__init__(description, total)
        self.progress, self.task = progress, progress.add_task(description, total=total, note="")

    def advance(self, n: float = 1, note: str = "") -> None:
        self.progress.update(self.task, advance=n, note=note)


@contextmanager
def progress(description: str, total: float | None = None) -> Iterator[Bar]:
    """Show a bar over `total` units: `with progress("prepare", len(files)) as bar: ... bar.advance(1, note="…")`."""
    if not sys.stderr.isatty():
        bar = Bar(description, total)
        yield bar
        bar.line("done")
        return
    from rich import progress as rich
    from rich.console import Console

    timing = (rich.TimeElapsedColumn(), rich.TimeRemainingColumn())
    columns = ("{task.description}", rich.BarColumn(), rich.MofNCompleteColumn(), *timing, "{task.fields[note]}")
    with rich.Progress(*columns, console=Console(stderr=True)) as shown:
        yield _RichBar(description, total, shown)


def configure_logging(verbose: bool = False) -> None:
    """Show dreamjax's messages on stderr, one line each; those of other libraries only with `verbose`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    for noisy in ("jax", "grain", "mne", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.INFO if verbose else logging.ERROR)
    for noisy in ("absl", "orbax", "asyncio"):  # of a failed save each thread logs a traceback, and the error is raised
        logging.getLogger(noisy).setLevel(logging.INFO if verbose else logging.CRITICAL)
    sys.unraisablehook = sys.__unraisablehook__ if verbose else _unraisablehook


def _unraisablehook(problem: "sys.UnraisableHookArgs") -> None:
    """Print an exception that cannot be raised, except those of TensorStore's threads after a failed save."""
    if not (problem.exc_type is RuntimeError and str(problem.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(problem)


@contextmanager
def no_native_messages() -> Iterator[None]:
    """Drop, in a context, what compiled libraries write to the process's stderr as they are loaded."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
