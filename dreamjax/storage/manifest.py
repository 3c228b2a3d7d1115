"""Hashes of what the product writes and later trusts, checked when it is read.

A folder's manifest holds size and SHA-256 of every file; it is written last and verified before the folder is used.
Array stores restore a flipped bit silently; the manifest detects it. A JSON file carries the SHA-256 of its content as
its last entry, `sealed`.
"""

import hashlib
import json
import math
import re
import time
from collections.abc import Collection, Mapping

from etils import epath

from dreamjax.errors import UserError
from dreamjax.storage import atomic, paths, presence
from dreamjax.typing import JsonDict

NAME = "manifest.json"
SEAL = "sealed"  # entry of a JSON object: the SHA-256 of the others
CHUNK = 1 << 22


def file_hash(path: epath.PathLike, until: float = math.inf) -> str:
    """Return the SHA-256 of a file, read in pieces. Raise TimeoutError at the time `until` of the monotonic clock.

    Raise CannotRead for a file that cannot be read.
    """
    digest = hashlib.sha256()
    paths.refuse_special(path)
    with presence.reading(path), epath.Path(path).open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            if time.monotonic() > until:
                raise TimeoutError(f"{path}: too long to be read in the time allowed")
    return digest.hexdigest()


def files_of(folder: epath.Path) -> list[epath.Path]:
    """Return every file of a folder and of those in it, sorted."""
    inside = ([entry] if not presence.is_folder(entry) else files_of(entry) for entry in folder.iterdir())
    return sorted((file for files in inside for file in files), key=str)


def write(folder: epath.PathLike, leave_out: Collection[str] = ()) -> None:
    """Commit `folder`: record every file in it, except those named in `leave_out`, which people edit."""
    folder = epath.Path(folder)
    listed = [file for file in files_of(folder) if file.name not in (NAME, *leave_out)]
    files = {str(f.relative_to(folder)): {"size": f.stat().length, "sha256": file_hash(f)} for f in listed}
    write_json(folder / NAME, {"files": files})


def sealed(content: Mapping[str, object]) -> JsonDict:
    """Return a JSON object with the SHA-256 of its content as entry `sealed`."""
    plain = {key: value for key, value in json.loads(json.dumps(content)).items() if key != SEAL}
    return {**plain, SEAL: _seal(plain)}


def unsealed(content: JsonDict, path: object) -> JsonDict:
    """Return a JSON object without its seal. Raise UserError where `path` has changed since it was written.

    An object without a seal, as older versions and people write them, is returned as it is.
    """
    if not isinstance(content, dict):
        return content
    last = next(reversed(content.values()), None)
    if SEAL not in content and not (isinstance(last, str) and re.fullmatch("[0-9a-f]{64}", last)):
        return content
    plain = {key: value for key, value in content.items() if key != SEAL}
    if content.get(SEAL) != _seal(plain):  # or the name of the entry has changed
        raise UserError(
            f"{path} has changed since it was written; restore it, or delete its entry {SEAL} if you meant to change it"
        )
    return plain


def write_json(path: epath.PathLike, content: Mapping[str, object], indent: int | None = 1) -> None:
    """Write a sealed JSON object atomically; `sniffing.read_json` checks it."""
    atomic.write_text(path, json.dumps(sealed(content), indent=indent))


def _seal(content: JsonDict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_export(folder: epath.PathLike) -> None:
    """Raise UserError where a file of an exported folder has changed; a folder without a manifest passes.

    A file that is missing passes: of a folder on the Hub only those that are needed are fetched.
    """
    if _is_ours(epath.Path(folder) / NAME) and (damage := problems(folder, partial=True)):
        raise UserError(
            f"{folder}: {damage[0]}; fetch or export it again, or delete its {NAME} if you meant to change it"
        )


def _is_ours(path: epath.Path) -> bool:
    """Return whether a manifest is one of dreamjax, which may be damaged: other programs have files of this name."""
    if not presence.exists(path):
        return False
    text = path.read_bytes()
    return b'"files"' in text or f'"{SEAL}"'.encode() in text


def problems(folder: epath.PathLike, partial: bool = False) -> list[str]:
    """Return what is wrong with a committed folder, one phrase each; empty when every byte is as it was written.

    `partial`: files may be missing.
    """
    folder = epath.Path(folder)
    try:
        with presence.reading(folder / NAME):
            content = json.loads((folder / NAME).read_text())
        if content.pop(SEAL) != _seal(content):
            return ["the manifest has changed since it was written"]
        listed = content["files"]
    except FileNotFoundError:
        return ["no manifest (the save did not finish)"]
    except (ValueError, KeyError, TypeError):
        return ["the manifest is not readable"]
    damage = []
    for name, entry in listed.items():
        path = folder / name
        if not presence.exists(path):
            if not partial:
                damage.append(f"{name} is missing")
        elif path.stat().length != entry["size"]:
            damage.append(f"{name} has {path.stat().length} bytes instead of {entry['size']}")
        elif file_hash(path) != entry["sha256"]:
            damage.append(f"{name} has changed since it was written")
    return damage
