"""Whether the images that were shown are there and can be read, before anything is trained on them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

from etils import epath

from dreamjax.errors import UserError
from dreamjax.storage import image_files, paths

THREADS = 8  # Pillow decodes without Python's lock; an object store answers many at once


def unusable(folder: epath.PathLike, names: Sequence[str]) -> dict[str, str]:
    """name → "is missing" or "is damaged" for those of `names` (relative to `folder`) that cannot be read whole.

    Raises UserError where the folder is not there, or holds none of them.
    """
    root = paths.reachable(folder)
    if not root.is_dir():
        raise UserError(f"{folder}: no such folder; name the one with the images, such as ImageNet's train")
    within = {str(PurePosixPath(name).parent) for name in names}  # one listing each, not one question an image
    there = {
        str(PurePosixPath(part) / entry.name)
        for part in within
        if (root / part).is_dir()
        for entry in (root / part).iterdir()
    }
    present = [name for name in names if name in there]
    if names and not present:
        raise UserError(f"{folder} holds none of the {len(names)} images, such as {names[0]}; name another folder")
    with ThreadPoolExecutor(THREADS) as pool:
        damaged = dict(zip(present, pool.map(lambda name: _damaged(root / name), present), strict=True))
    return {name: "is missing" for name in names if name not in there} | {
        name: "is damaged" for name, bad in damaged.items() if bad
    }


def _damaged(path: epath.Path) -> bool:
    image_files.pillow()  # raises UserError where it is not installed
    try:
        image_files.open_image(path)
    except UserError:
        return True
    return False
