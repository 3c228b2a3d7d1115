"""Atomic writes: files and folders appear whole under their name, or not at all.

Local file systems rename atomically. Object stores do not rename folders, but they write one object atomically, so
there a folder counts only once its manifest (written last, see `manifest`) is present.
"""

import errno
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from etils import epath

from dreamjax.storage import presence

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk, or of a file that may not be larger


@contextmanager
def folders_for(path: epath.PathLike) -> Iterator[None]:
    """Make the folders above `path`; after the block delete those of them that are still empty."""
    if "://" in str(path):  # an object store, whose folders are parts of names
        yield
        return
    made = [folder for folder in Path(path).absolute().parents if not presence.exists(folder)]
    epath.Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # not empty, or used by another process
            for folder in made:
                folder.rmdir()


def remove_leftovers(folder: epath.PathLike, name: str = "") -> None:
    """Delete what killed processes left half-written in a folder; of all outputs, or of the one called `name`.

    The caller holds the lock of what is written there.
    """
    wanted = re.escape(name) if name else ".+"
    for entry in presence.entries(folder) if "://" not in str(folder) else ():
        if re.fullmatch(rf"\.{wanted}\.[0-9a-f]{{8}}\.part", entry.name):
            with suppress(OSError):
                entry.rmtree() if entry.is_dir() else entry.unlink()


@contextmanager
def new_file(path: epath.PathLike, private: bool = False) -> Iterator[IO[bytes]]:
    """Yield a stream whose bytes become the file when the block succeeds; otherwise the old file stays.

    With `private` only the user may read it, where the file system has such rights.
    """
    path = epath.Path(path)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.part"
    with folders_for(path):
        try:
            if private and "://" not in str(path):
                os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            with temporary.open("wb") as stream:
                yield stream
            temporary.replace(path)
        except BaseException as problem:
            temporary.unlink(missing_ok=True)
            if isinstance(problem, OSError) and problem.errno in FULL and problem.filename is None:
                problem.filename = str(path)  # a write does not name its file
            raise


def write_together(folder: epath.PathLike, contents: Mapping[str, bytes]) -> None:
    """Write the files of one result: all of them or, where a write fails, none.

    They get their names in the given order, so that after a kill between two of them the last is missing or old.
    """
    with ExitStack() as stack:
        for name, data in reversed(list(contents.items())):  # the last one opened is the first to be renamed
            stream = stack.enter_context(new_file(epath.Path(folder) / name))
            stream.write(data)
            stream.flush()


def write_bytes(path: epath.PathLike, data: bytes, private: bool = False) -> None:
    """Write a file atomically."""
    with new_file(path, private) as stream:
        stream.write(data)


def write_text(path: epath.PathLike, text: str, private: bool = False) -> None:
    """Write a text file atomically, in UTF-8."""
    write_bytes(path, text.encode(), private)


@contextmanager
def new_folder(path: epath.PathLike, last: str = "") -> Iterator[epath.Path]:
    """Yield a temporary folder that becomes `path` when the block succeeds, and is deleted otherwise.

    For an object store the folder is made locally and copied file by file, the file `last` at the end: without that one
    the copy did not finish.
    """
    if "://" in str(path):
        with tempfile.TemporaryDirectory(prefix="dreamjax-") as local:
            yield epath.Path(local)
            _copy(Path(local), epath.Path(path), last)
        return
    path = epath.Path(path)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.part"
    with folders_for(path):
        try:
            temporary.mkdir()
            yield temporary
            temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _copy(folder: Path, to: epath.Path, last: str) -> None:
    """Copy every file of a local folder into an object store; delete all where one fails."""
    files = sorted(f.relative_to(folder) for f in folder.rglob("*") if not f.is_dir())
    written = []
    try:
        for name in sorted(files, key=lambda name: str(name) == last):
            written.append(to / name)
            write_bytes(to / name, (folder / name).read_bytes())
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
