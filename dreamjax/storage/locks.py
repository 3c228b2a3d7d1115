"""File locks for folders that several processes might write to.

POSIX record locks: they end with the process however it ends, children do not inherit them, and they work over NFS.
Where a file system has none, such as an object store, nothing is locked.
"""

import contextlib
import errno
import fcntl
import time
from collections.abc import Callable, Iterator
from typing import IO

from etils import epath

from dreamjax.console import log
from dreamjax.errors import TryAgain

POLL = 0.5  # seconds
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # of file systems without locks


class Busy(TryAgain):
    """Another process holds the lock."""


@contextlib.contextmanager
def held(path: epath.PathLike, what: str, stop: Callable[[], bool] | None = None) -> Iterator[None]:
    """Hold the lock `path` inside the block. Raise Busy where another process holds it.

    `what`: what messages call the locked thing. `stop`: wait for the other process instead, until this returns True.
    """
    if "://" in str(path):
        yield
        return
    with open(path, "a") as file:
        waited = False
        while not _taken(file):
            if stop is None or stop():
                raise Busy(
                    f"{what} is in use by another process; wait for it, or stop it, and start the same command again"
                )
            if not waited:
                log.info("waiting for another process that uses %s", what)
            waited = True
            time.sleep(POLL)
        yield


def _taken(file: IO[str]) -> bool:
    """Return whether this process got the lock, or the file system has none."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        if problem.errno in (errno.EACCES, errno.EAGAIN):
            return False
        if problem.errno not in UNSUPPORTED:
            raise
        log.warning("%s is on a file system without locks: a second process there is not detected", file.name)
    return True
