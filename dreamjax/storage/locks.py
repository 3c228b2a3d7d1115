"""Locks for folders that several processes might write to. The second one gets `Busy`, or waits.

On a file system these are POSIX record locks: they end with the process however it ends, children do not inherit them,
and they work over NFS. In an object store a lock is a lease (`storage.leases`). On a file system without locks a second
process is not detected, which is logged.
"""

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO

from etils import epath

from dreamjax.console import log
from dreamjax.errors import TryAgain
from dreamjax.interruption import interruptible
from dreamjax.storage import atomic, leases, paths

POLL = 0.5  # seconds
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # of file systems without locks
_ours: set[str] = set()  # held by this process, which could take them a second time
_guard = threading.Lock()


class Busy(TryAgain):
    """Another process holds the lock."""


@contextlib.contextmanager
def held(path: epath.PathLike, what: str, stop: Callable[[], bool] | None = None) -> Iterator[None]:
    """Hold the lock `path` inside the block. Raise Busy where another process holds it, TryAgain on a signal meanwhile.

    The file, and folders that are made for it and stay empty, are deleted at the end.

    Args:
        path: of the lock file.
        what: the name of the locked thing in messages.
        stop: wait for the other process instead, until this returns True.
    """
    remote = "://" in str(path)
    lock = leases.Lease(path, what) if remote else _FileLock(os.path.abspath(path))
    name, waited = str(path) if remote else os.path.abspath(path), False
    taken = False
    with atomic.folders_for(path):
        try:
            with interruptible(f"waiting for {what}, which another process uses"):
                while not (taken := _take(lock, name)):
                    if stop is None or stop():
                        raise Busy(_in_use(what, remote))
                    if not waited:
                        log.info("waiting for another process that uses %s", what)
                    waited = True
                    time.sleep(POLL)
            yield
        finally:
            if taken:
                lock.give_back()
                _ours.discard(name)


def _in_use(what: str, remote: bool) -> str:
    later = f" (one that was killed is noticed within {leases.LEASE_S:g} s)" if remote else ""
    return f"{what} is in use by another process{later}; wait for it, or stop it, and start the same command again"


@contextlib.contextmanager
def output(out: epath.PathLike, stop: Callable[[], bool] | None = None) -> Iterator[None]:
    """Hold the lock of an output, a file next to it, inside the block; see `held`.

    Whatever a killed process left of it half-written is deleted.
    """
    path = epath.Path(out if "://" in str(out) else os.path.abspath(out))
    with held(path.parent / f".{path.name}.lock", str(out), stop):
        atomic.remove_leftovers(path.parent, path.name)
        yield


@contextlib.contextmanager
def new_output(out: epath.PathLike) -> Iterator[None]:
    """Hold the lock of an output that must not exist yet. Raise UserError where it exists, Busy as `held`."""
    paths.refuse_existing(out)
    with output(out):
        paths.refuse_existing(out)  # written by the process that held the lock until now
        yield


def _take(lock: "leases.Lease | _FileLock", name: str) -> bool:
    with _guard:
        if name in _ours:
            return False
        _ours.add(name)
    taken = False
    try:
        taken = lock.take()
    finally:
        if not taken:
            _ours.discard(name)
    return taken


class _FileLock:
    """A record lock on a file. Its holder deletes the file before it releases the lock.

    So a lock counts only if its file still has the name: another process may hold the lock of a newer file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def take(self) -> bool:
        """Return whether this process got the lock, or the file system has none."""
        while True:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            try:
                self._file = file = open(self.path, "a")  # noqa: SIM115
            except FileNotFoundError:  # the folder was deleted meanwhile
                continue
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(file.fileno()), os.stat(self.path)):
                        return True
                file.close()
            except OSError as problem:
                if problem.errno in UNSUPPORTED:
                    log.warning("%s is on a file system without locks: a second process is not detected", self.path)
                    return True
                file.close()
                if problem.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                return False

    def give_back(self) -> None:
        """Delete the file and release the lock."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        if self._file is not None:
            self._file.close()
