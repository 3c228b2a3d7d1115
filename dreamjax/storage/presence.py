"""Decide whether a file or folder exists: "not there" and "cannot be read" are different answers.

`os.path.exists`, `Path.is_dir` and the file systems of object stores return False for both, and a program that takes
an unreadable checkpoint for a missing one trains again from the beginning. So whatever depends on an absence asks here.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from etils import epath

from dreamjax.errors import UserError

# a name that no file can have, or a path through a file
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


class CannotRead(UserError):
    """Something may exist, but it cannot be read for now: permissions, a mount or a store that does not answer."""

    @classmethod
    def of(cls, path: epath.PathLike, problem: Exception) -> "CannotRead":
        """Return the error for a path and what its file system answered."""
        reason = getattr(problem, "strerror", None) or str(problem).partition("\n")[0] or type(problem).__name__
        return cls(
            f"{path} cannot be read ({reason}), so it is unknown what it holds; make it readable, or wait for its file "
            "system, and start the same command again"
        )


def exists(path: epath.PathLike) -> bool:
    """Return whether there is a file or folder. Raise CannotRead where that cannot be known."""
    return _mode(path) is not None


def is_folder(path: epath.PathLike) -> bool:
    """Return whether there is a folder. Raise CannotRead where that cannot be known."""
    return stat.S_ISDIR(_mode(path) or 0)


def is_file(path: epath.PathLike) -> bool:
    """Return whether there is a regular file. Raise CannotRead where that cannot be known."""
    return stat.S_ISREG(_mode(path) or 0)


def entries(folder: epath.PathLike) -> list[epath.Path]:
    """Return what a folder holds, by name; [] where there is no folder. Raise CannotRead where that cannot be known."""
    if not is_folder(folder):
        return []
    try:
        return sorted(epath.Path(folder).iterdir(), key=lambda entry: entry.name)
    except FileNotFoundError:  # deleted meanwhile
        return []
    except Exception as problem:  # object stores raise their own kinds
        raise CannotRead.of(folder, problem) from problem


@contextlib.contextmanager
def reading(path: epath.PathLike) -> Iterator[None]:
    """Raise CannotRead where the block, which reads `path`, fails but not because the file is missing."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise
    except OSError as problem:
        raise CannotRead.of(path, problem) from problem


def _mode(path: epath.PathLike) -> int | None:
    """Return what a path is, as in `os.stat`; None where there is nothing."""
    try:
        if "://" not in os.fspath(path):
            return os.stat(path).st_mode
        return stat.S_IFDIR if epath.Path(path).stat().is_directory else stat.S_IFREG
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:  # a null byte
        return None
    except ImportError:  # see `paths.reachable`
        raise
    except Exception as problem:  # object stores raise their own kinds
        if getattr(problem, "errno", None) in ABSENT:
            return None
        raise CannotRead.of(path, problem) from problem
