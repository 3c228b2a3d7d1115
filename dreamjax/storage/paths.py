"""Paths that a user names: local ones, and object stores (`gs://…`, `s3://…`) through whichever package opens them."""

import os
import tempfile
from pathlib import Path

from etils import epath

from dreamjax.errors import UserError

PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}


def reachable(path: epath.PathLike) -> epath.Path:
    """The path. Raises UserError where it is empty, or nothing that is installed opens such paths."""
    text = str(path)
    if not text:
        raise UserError("a path is empty; name a folder")
    scheme = text.partition("://")[0] if "://" in text else ""
    try:
        found = epath.Path(path)
        if scheme:
            found.exists()
    except (ImportError, KeyError) as problem:
        package = PACKAGES.get(scheme)
        advice = f"pip install {package}" if package else f"use {' or '.join(f'{s}://' for s in PACKAGES)}, or a folder"
        raise UserError(f"{text}: nothing that is installed opens {scheme}:// paths; {advice}") from problem
    return found


def refuse_unwritable(path: epath.PathLike) -> None:
    """Raises UserError where nothing can be made at `path`: said before hours of work. What is there already may stay.

    Tried by making a folder, as permissions say little of network and system file systems; an object store is not.
    """
    if "://" in str(path) or os.path.lexists(path):
        return
    above = next(parent for parent in Path(path).absolute().parents if os.path.lexists(parent))
    if not above.is_dir():
        raise UserError(f"{path} cannot be written: {above} is not a folder; name another place")
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".dreamjax-", dir=above))
    except OSError as problem:
        why = os.strerror(problem.errno) if problem.errno else str(problem)
        raise UserError(f"{path} cannot be written: {above} takes no folder ({why}); name another place") from problem
