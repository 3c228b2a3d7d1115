"""Paths that a user names: local ones, and object stores (`gs://…`, `s3://…`) through whichever package opens them."""

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
