"""Read ranges of a file's bytes directly into their destination, or map the file.

Ranges do not map it: pages of a mapping that were read count as memory of the process until they are dropped,
so that streaming a checkpoint would hold all of it where memory is limited.
"""

import mmap
import os
import shutil
import tempfile
import weakref
from pathlib import Path

import numpy as np
from etils import epath

from dreamjax.errors import UserError
from dreamjax.storage import paths, presence


class Ranges:
    """A file of which ranges are read. An object of an object store is copied when its first large range is read.

    The file stays open, so that a file that is replaced meanwhile is read as it was. Raises UserError where it is
    missing, a folder, empty or not readable.
    """

    def __init__(self, path: epath.PathLike):
        self.path, self.source = epath.Path(path), str(path)
        if not presence.exists(self.path):
            raise UserError(f"{self.source}: no such file")
        if presence.is_folder(self.path):
            raise UserError(f"{self.source}: this is a folder; name the file in it")
        paths.refuse_special(path)
        self._local = None if "://" in self.source else self._opened()
        self.size = self.path.stat().length if self._local is None else os.fstat(self._local).st_size
        if self.size == 0:
            raise UserError(f"{self.source}: the file is empty")

    def read(self, start: int, count: int) -> bytes:
        """Return a small range, fewer bytes where the file ends before; an object of an object store is not copied."""
        if self._local is not None:
            return os.pread(self._local, count, start)
        with self.path.open("rb") as remote:
            remote.seek(start)
            return remote.read(count)

    def read_into(self, array: np.ndarray, start: int) -> None:
        """Fill a contiguous `array` with the bytes from `start` on."""
        if self._local is None:
            self._local = self._copied()
        rest = array.reshape(-1).view(np.uint8).data
        while len(rest):  # one call of the system reads 2 GiB at most
            count = os.preadv(self._local, [rest], start)
            if not count:
                raise UserError(f"{self.source}: the file was cut short while it was read; fetch it again")
            rest, start = rest[count:], start + count

    def map(self) -> mmap.mmap:
        """Return the whole file, mapped into memory."""
        if self._local is None:
            self._local = self._copied()
        return mmap.mmap(self._local, 0, access=mmap.ACCESS_READ)

    def _opened(self) -> int:
        try:
            local = os.open(Path(self.path), os.O_RDONLY)
        except OSError as problem:
            raise UserError(f"{self.source}: {problem.strerror}") from problem
        weakref.finalize(self, os.close, local)
        return local

    def _copied(self) -> int:
        with self.path.open("rb") as remote, tempfile.TemporaryFile() as stream:
            shutil.copyfileobj(remote, stream, 1 << 22)
            stream.flush()
            local = os.dup(stream.fileno())
        weakref.finalize(self, os.close, local)
        return local
