"""Files that one process at a time holds, for folders that several might write to.

POSIX record locks: they go with the process however it ends, no child inherits them, and they are seen over NFS. Where
a place knows none, as an object store, nothing is held and everything goes on as without.
"""

import contextlib
import errno
import fcntl
import time
from collections.abc import Iterator
from typing import IO

from etils import epath

from dreamjax.console import log
from dreamjax.errors import TryAgain

POLL = 0.5  # seconds


class Busy(TryAgain):
    """Another process holds it."""


@contextlib.contextmanager
def held(path: epath.Path, what: str, wait: bool = False) -> Iterator[None]:
    """While this process works at `what`, as people call it. Raises Busy where another does, or waits until it ends."""
    if "://" in str(path):
        yield
        return
    with open(path, "a") as file:
        waited = False
        while not _taken(file):
            if not wait:
                raise Busy(f"another process is at {what}; wait for it, or stop it, and give the same command again")
            if not waited:
                log.info("waiting for another process that is at %s", what)
            waited = True
            time.sleep(POLL)
        yield


def _taken(file: IO[str]) -> bool:
    """Whether no other process holds the file; where there are no locks, nobody can know of one."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        return e.errno not in (errno.EACCES, errno.EAGAIN)
    return True
