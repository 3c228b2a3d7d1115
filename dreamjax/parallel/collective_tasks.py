"""Work that all processes do together, each in a thread: it succeeds in all of them or in none."""

import contextlib
import time
from collections.abc import Iterator

import jax

from dreamjax.errors import TryAgain
from dreamjax.parallel import processes

POLL_S = 0.5  # how often a waiting process checks whether another has failed
COUNT_S = 0.05  # how often the first process counts the arrivals


class PeerFailed(Exception):
    """Another process failed, and reported the reason."""


class CollectiveTask:
    """One piece of work. Its unique `name` is the same in every process. Safe in any thread."""

    def __init__(self, name: str) -> None:
        self.folder = f"dreamjax/task/{name}"

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Tell the other processes where the block fails, so that they do not wait for this one."""
        try:
            yield
        except PeerFailed:
            raise
        except BaseException as problem:
            if processes.are_several():
                processes.publish(f"{self.folder}/failed/{jax.process_index()}", first_line(problem))
            raise

    def barrier(self, where: str, timeout_s: float) -> None:
        """Wait for every process at the point named `where`. Raise PeerFailed, and TryAgain after `timeout_s`.

        Only the first process counts; the others wait for its key, so that not every host reads every host's key.
        """
        if not processes.are_several():
            return
        here, go, deadline = f"{self.folder}/here/{where}", f"{self.folder}/go/{where}", time.monotonic() + timeout_s
        processes.publish(f"{here}/{jax.process_index()}", True)
        while time.monotonic() < deadline:
            if failed := processes.published(f"{self.folder}/failed"):
                index, reason = min(failed.items())
                raise PeerFailed(f"process {index}: {reason}")
            if processes.is_first():
                if len(processes.published(here)) == jax.process_count():
                    return processes.publish(go, True)
                time.sleep(COUNT_S)
            elif processes.wait_for_key(go, POLL_S):
                return None
        raise TryAgain(f"process {jax.process_index()} gave up waiting for the others at {where} after {timeout_s:g} s")

    def wait_for_peers(self, timeout_s: float) -> None:
        """Let the first process wait, after a failure, until all have ended their part; it may then clean up."""
        if not processes.are_several():
            return
        over, deadline = f"{self.folder}/over", time.monotonic() + timeout_s
        processes.publish(f"{over}/{jax.process_index()}", True)
        while processes.is_first() and time.monotonic() < deadline:
            if len(processes.published(over)) == jax.process_count():
                return
            time.sleep(COUNT_S)

    def clean_up(self) -> None:
        """Delete the keys of this task, once no process waits for them."""
        if processes.are_several() and processes.is_first():
            processes.delete_keys(self.folder)


def first_line(problem: BaseException) -> str:
    """Return the first line of a message that is not empty, else the kind of error."""
    return next((line.strip() for line in str(problem).splitlines() if line.strip()), type(problem).__name__)
