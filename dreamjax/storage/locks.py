"""Files that one process at a time holds, for folders that several might write to.

POSIX record locks: they go with the process however it ends, no child inherits them, and they are seen over NFS. Where
a place knows none, as an object store, nothing is held and everything goes on as without.
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
NONE_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # of file systems without locks


class Busy(TryAgain):
    """Another process holds it."""


@contextlib.contextmanager
def held(path: epath.PathLike, what: str, stop: Callable[[], bool] | None = None) -> Iterator[None]:
    """While this process works at `what`, as people call it. Raises Busy where another does.

    `stop`: wait until that one ends instead, or this answers True.
    """
    if "://" in str(path):
        yield
        return
    with open(path, "a") as file:
        waited = False
        while not _taken(file):
            if stop is None or stop():
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
    except OSError as problem:
        if problem.errno in (errno.EACCES, errno.EAGAIN):
            return False
        if problem.errno not in NONE_HERE:
            raise
        log.warning("%s is on a file system without locks: a second process there is not noticed", file.name)
    return True
