"""A folder's manifest: size and SHA-256 of every file, written last, verified before the folder is used.

Array stores restore a flipped bit silently; the manifest detects it.
"""

import hashlib
import json
import math
import time

from etils import epath

from dreamjax.storage import atomic, paths

NAME = "manifest.json"
CHUNK = 1 << 22


def file_hash(path: epath.PathLike, until: float = math.inf) -> str:
    """Return the SHA-256 of a file, read in pieces. Raise TimeoutError at the time `until` of the monotonic clock."""
    digest = hashlib.sha256()
    paths.refuse_special(path)
    with epath.Path(path).open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            if time.monotonic() > until:
                raise TimeoutError(f"{path}: too long to be read in the time allowed")
    return digest.hexdigest()


def files_of(folder: epath.Path) -> list[epath.Path]:
    """Return every file of a folder and of those in it, sorted."""
    inside = ([entry] if not entry.is_dir() else files_of(entry) for entry in folder.iterdir())
    return sorted((file for files in inside for file in files), key=str)


def write(folder: epath.PathLike, extra: dict | None = None) -> None:
    """Commit `folder`: record every file in it, and the entries `extra` (format version, step, …)."""
    folder = epath.Path(folder)
    listed = [file for file in files_of(folder) if file.name != NAME]
    files = {str(f.relative_to(folder)): {"size": f.stat().length, "sha256": file_hash(f)} for f in listed}
    content = {**(extra or {}), "files": files}
    atomic.write_text(folder / NAME, json.dumps({**content, "sealed": _seal(content)}, indent=1))


def _seal(content: dict) -> str:
    """Return the SHA-256 of the manifest's content, which detects a flipped bit in a file name or in `extra`."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def problems(folder: epath.PathLike) -> list[str]:
    """Return what is wrong with a committed folder, a phrase each; empty when every byte is as it was written."""
    folder = epath.Path(folder)
    try:
        content = json.loads((folder / NAME).read_text())
        if content.pop("sealed") != _seal(content):
            return ["the manifest has changed since it was written"]
        listed = content["files"]
    except FileNotFoundError:
        return ["no manifest (the save did not finish)"]
    except (ValueError, KeyError, TypeError):
        return ["the manifest is not readable"]
    damage = []
    for name, entry in listed.items():
        path = folder / name
        if not path.exists():
            damage.append(f"{name} is missing")
        elif path.stat().length != entry["size"]:
            damage.append(f"{name} has {path.stat().length} bytes instead of {entry['size']}")
        elif file_hash(path) != entry["sha256"]:
            damage.append(f"{name} has changed since it was written")
    return damage
