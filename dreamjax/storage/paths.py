"""Paths that a user gives: local ones, and object stores (`gs://…`, `s3://…`) through the package that opens them."""

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from etils import epath

from dreamjax.errors import UserError
from dreamjax.storage import presence

PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}


def reachable(path: epath.PathLike) -> epath.Path:
    """Return the path. Raise UserError where it is empty, or no installed package opens such paths."""
    text = str(path)
    if not text:
        raise UserError("a path is empty; name a folder")
    scheme = text.partition("://")[0] if "://" in text else ""
    try:
        reached = epath.Path(path)
        if scheme:
            reached.exists()
    except (ImportError, KeyError) as problem:
        package = PACKAGES.get(scheme)
        advice = f"pip install {package}" if package else f"use {' or '.join(f'{s}://' for s in PACKAGES)}, or a folder"
        raise UserError(f"{text}: no installed package opens {scheme}:// paths; {advice}") from problem
    return reached


def refuse_special(path: epath.PathLike) -> None:
    """Raise UserError for a pipe, a socket or a device: opening one may wait for ever."""
    if "://" not in str(path) and os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise UserError(f"{path}: not a regular file; replace or remove it")


def private_folder(path: str | os.PathLike[str]) -> Path:
    """Return a folder that only this user may read and write, made where it is absent.

    Raise UserError where it is somebody else's: others could put files there that would be trusted.
    """
    folder = Path(path)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise UserError(f"{folder}: not a folder of yours; remove it, or set TMPDIR to a folder of yours")
    if facts.st_mode & 0o077:
        folder.chmod(0o700)
    return folder


def refuse_existing(out: epath.PathLike) -> epath.Path:
    """Return the path of an output that does not exist yet. Raise UserError where it exists."""
    path = reachable(out)
    if presence.exists(path):
        raise UserError(f"{out} exists already; choose another --out or delete it")
    return path


def refuse_unwritable(path: epath.PathLike) -> None:
    """Raise UserError where nothing can be written at `path`, before hours of work. An existing file is accepted.

    This is tested by making a folder, as permissions are unreliable on network file systems; object stores and finished
    datasets are not tested.
    """
    if "://" in str(path) or (os.path.lexists(path) and not os.path.isdir(path)):
        return
    if os.path.lexists(os.path.join(path, "dataset.json")):  # `prepare` may have nothing to write
        return
    whole = Path(path).absolute()
    above = next(folder for folder in (whole, *whole.parents) if os.path.lexists(folder))
    if not above.is_dir():
        raise UserError(f"{path} cannot be written: {above} is not a folder; choose another path")
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".dreamjax-", dir=above))
    except OSError as problem:
        why = os.strerror(problem.errno) if problem.errno else str(problem)
        raise UserError(
            f"{path} cannot be written: no folder can be made in {above} ({why}); choose another path"
        ) from problem


def refuse_unwritable_folder(path: epath.PathLike) -> None:
    """Raise UserError where no folder can be written at `path`, before hours of work."""
    if presence.is_file(path):
        raise UserError(f"{path} is a file, and a folder is written; choose another --out")
    refuse_unwritable(path)
