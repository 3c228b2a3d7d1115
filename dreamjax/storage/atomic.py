"""Nothing half-written stays: files and folders appear whole under their name, or not at all.

Local file systems rename atomically. Object stores do not rename folders, but they write one object atomically, so
there a folder counts only once its manifest (written last, see `manifest`) is present.
"""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from etils import epath


def write_bytes(path: epath.PathLike, data: bytes) -> None:
    """Write a file that is either the old one or the new one, never a part."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: epath.PathLike, text: str) -> None:
    """`write_bytes` in UTF-8."""
    write_bytes(path, text.encode())


@contextmanager
def new_folder(path: epath.PathLike) -> Iterator[epath.Path]:
    """A temporary folder that becomes `path` when the block ends well, and vanishes when it does not."""
    path = epath.Path(path)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.part"
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
