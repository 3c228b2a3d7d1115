"""Paths that a user gives: local ones, and object stores (`gs://…`, `s3://…`) through the package that opens them."""

import os
import tempfile
from pathlib import Path

from etils import epath

from dreamjax.errors import UserError

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


def refuse_unwritable(path: epath.PathLike) -> None:
    """Raise UserError where nothing can be written at `path`, before hours of work. An existing path is accepted.

    This is tested by making a folder, as permissions are unreliable on network file systems; object stores are not
    tested.
    """
    if "://" in str(path) or os.path.lexists(path):
        return
    above = next(parent for parent in Path(path).absolute().parents if os.path.lexists(parent))
    if not above.is_dir():
        raise UserError(f"{path} cannot be written: {above} is not a folder; choose another path")
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".dreamjax-", dir=above))
    except OSError as problem:
        why = os.strerror(problem.errno) if problem.errno else str(problem)
        raise UserError(
            f"{path} cannot be written: no folder can be made in {above} ({why}); choose another path"
        ) from problem
