"""What several processes do together, each in a thread of its own: it goes well for all of them, or for none."""

import contextlib
import time
from collections.abc import Iterator

import jax

from dreamjax.errors import TryAgain
from dreamjax.parallel import processes

LOOK_S = 0.5  # how often one that waits looks whether another has failed
COUNT_S = 0.05  # how often the first one counts who has come


class AnotherFailed(Exception):
    """What this process waited for will not come: another one told why."""


class Together:
    """One piece of work by its `name`, which is the same in every process and no other work's. Safe in any thread."""

    def __init__(self, name: str) -> None:
        self.folder = f"dreamjax/together/{name}"

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Tells the others where the block fails, so that they do not wait for this process."""
        try:
            yield
        except AnotherFailed:
            raise
        except BaseException as problem:
            if processes.are_several():
                processes.tell(f"{self.folder}/failed/{jax.process_index()}", why(problem))
            raise

    def meet(self, where: str, timeout_s: float) -> None:
        """Wait for every process at a place of its own. Raises AnotherFailed, and TryAgain after `timeout_s`.

        The first one counts; the others wait for its word, so that a thousand hosts do not all read a thousand keys.
        """
        if not processes.are_several():
            return
        here, go, deadline = f"{self.folder}/here/{where}", f"{self.folder}/go/{where}", time.monotonic() + timeout_s
        processes.tell(f"{here}/{jax.process_index()}", True)
        while time.monotonic() < deadline:
            if failed := processes.told(f"{self.folder}/failed"):
                index, reason = min(failed.items())
                raise AnotherFailed(f"process {index}: {reason}")
            if processes.is_first():
                if len(processes.told(here)) == jax.process_count():
                    return processes.tell(go, True)
                time.sleep(COUNT_S)
            elif processes.heard(go, LOOK_S):
                return None
        raise TryAgain(f"process {jax.process_index()} gave up waiting for the others at {where} after {timeout_s:g} s")

    def settle(self, timeout_s: float) -> None:
        """After a failure: the first process waits until all have ended theirs, well or not, and may then tidy up."""
        if not processes.are_several():
            return
        over, deadline = f"{self.folder}/over", time.monotonic() + timeout_s
        processes.tell(f"{over}/{jax.process_index()}", True)
        while processes.is_first() and len(processes.told(over)) < jax.process_count() and time.monotonic() < deadline:
            time.sleep(COUNT_S)

    def forget(self) -> None:
        """Delete what was told, once nobody waits any more."""
        if processes.are_several() and processes.is_first():
            processes.forget(self.folder)


def why(problem: BaseException) -> str:
    """The first line that says something."""
    return next((line.strip() for line in str(problem).splitlines() if line.strip()), type(problem).__name__)
