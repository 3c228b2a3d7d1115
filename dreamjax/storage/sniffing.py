"""Detect files that are not what their name says, such as failed downloads."""

import json

from etils import epath

from dreamjax.errors import UserError
from dreamjax.storage import manifest, paths, presence
from dreamjax.typing import JsonDict


def refuse(head: bytes, source: str, wanted: str) -> None:
    """Raise UserError where a file's first bytes are those of a web page or of a Git LFS pointer."""
    if head.lstrip()[:1] == b"<" and b"\0" not in head:
        raise UserError(f"{source}: this is a web page, not {wanted}; download the file itself")
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{source}: this is a Git LFS pointer, not {wanted}; fetch it with git lfs pull")


def read_json(path: epath.Path, advice: str = "fetch it again") -> JsonDict:
    """Return the object of a JSON file. Raise UserError, with `advice`, where it is missing or not a JSON object.

    Raise UserError also where its content has changed since `manifest.write_json` wrote it.
    """
    paths.refuse_special(path)
    try:
        with presence.reading(path):
            data = path.read_bytes()
    except OSError as problem:  # the file is missing, or is a folder
        raise UserError(f"{path}: {problem.strerror or 'no such file'}; {advice}") from problem
    refuse(data[:64], str(path), "JSON")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as problem:
        raise UserError(f"{path}: this is not JSON ({problem}); {advice}") from problem
    if not isinstance(content, dict):
        raise UserError(f"{path}: this is a JSON {type(content).__name__}, not an object with fields; {advice}")
    return manifest.unsealed(content, path)
