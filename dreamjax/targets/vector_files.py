"""Files of image vectors that were computed elsewhere, such as by networks that are too large to run here.

A .npy, .npz or .safetensors file with one array of vectors, and the name of the image of each: an array `names` or
`ids` in the file, or NAME.names.txt next to it with a name a line. Nothing in a file is executed.
"""

import collections
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float

from dreamjax.errors import UserError
from dreamjax.signals.datasets.arrays import open_npy
from dreamjax.storage import presence
from dreamjax.weights import weight_files

SUFFIXES = (".npy", ".npz", ".safetensors")
NAMES = ".names.txt"  # after the stem of the file
T = TypeVar("T")
KEYS = ("names", "ids")  # of the array of names in it


def read(path: epath.Path) -> dict[str, Any]:
    """Return the arrays of a file. Raise UserError where it is missing or damaged, or holds Python objects."""
    if not presence.exists(path):
        raise UserError(f"{path}: no such file; name a file of vectors or a vision model's folder")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return {"vectors": open_npy(path)}
    if suffix == ".safetensors":
        return dict(weight_files.open_weights(path))
    return _of_npz(path, lambda stored: {name: stored[name] for name in stored.files})


def array_names(path: epath.Path) -> tuple[str, ...]:
    """Return the names of a file's arrays, which are not read. Raise UserError where it is damaged."""
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _of_npz(path, lambda stored: tuple(stored.files))
    return tuple(weight_files.open_weights(path)) if suffix == ".safetensors" else ()


def _of_npz(path: epath.Path, get: Callable[[Any], T]) -> T:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return get(stored)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as problem:
        raise UserError(f"{path}: not readable as .npz ({problem}); write it with np.savez") from problem


def rows(
    path: epath.Path, stored: Mapping[str, Any], names: Sequence[str], listing: Sequence[str] | None = None
) -> Float[np.ndarray, "N D"]:
    """Return the vectors of images in the order of `names`, float32.

    `listing`: the images that the rows are of, in order, where the user vouches for it; it counts only for a file
    without names. Raise UserError where rows cannot be assigned, an image has none, or a vector is not finite.
    """
    arrays = [name for name, x in stored.items() if len(x.shape) >= 2 and jnp.issubdtype(x.dtype, jnp.floating)]
    if len(arrays) != 1:
        raise UserError(
            f"{path}: it has {len(arrays)} arrays of vectors ({', '.join(arrays[:4])}); keep one, of floating-point "
            "numbers, with a row for each image"
        )
    vectors = stored[arrays[0]]
    vectors = vectors if isinstance(vectors, np.ndarray) else np.asarray(vectors)
    if not vectors[:1].size:
        raise UserError(f"{path}: {arrays[0]} has the shape {vectors.shape}; each image needs a vector of numbers")
    listed = _names(path, stored)
    if listed is None and listing is not None:
        if len(listing) != len(vectors):
            raise UserError(
                f"{path}: {len(vectors)} vectors, but the folder has {len(listing)} images; with target.order = "
                '"listing" there is one for each image, sorted by name'
            )
        listed = list(listing)
    if listed is None:
        raise UserError(
            f"{path} does not say which image each vector is of; add an array `names`, or the file "
            f'{path.stem}{NAMES} with a name a line, or set target.order to "listing" if the rows follow the sorted '
            "names of the image folder"
        )
    if len(listed) != len(vectors):
        raise UserError(f"{path}: {len(vectors)} vectors, but {len(listed)} names; each vector needs its image's name")
    chosen = np.asarray(vectors[_places(path, listed, names)], np.float32)
    if not np.isfinite(chosen).all():
        bad = names[int(np.argmin(np.isfinite(chosen).reshape(len(chosen), -1).all(1)))]
        raise UserError(f"{path}: some vectors are not finite, such as that of {bad}; compute them again")
    return chosen.reshape(len(chosen), -1)


def _places(path: epath.Path, listed: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return the row of each name. Raise UserError for a name that has none, or that several rows have."""
    if len(set(listed)) < len(listed):
        twice = next(name for name, count in collections.Counter(listed).items() if count > 1)
        raise UserError(f"{path}: {twice} is named more than once; each image has one vector")
    row = places(names, listed)
    if missing := [name for name, i in zip(names, row, strict=True) if i < 0]:
        raise UserError(
            f"{path} has no vector of {len(missing)} of the {len(names)} images that were seen, such as {missing[0]}; "
            "compute them with the same network and add them"
        )
    return row


def places(names: Sequence[str], listed: Sequence[str]) -> list[int]:
    """Return the place of each name in a list, or -1.

    One of the two may lack leading folders, if only one name of the list then fits; folders that differ never fit.
    """
    exact = {name: i for i, name in enumerate(listed)}
    by_file: dict[str, list[int]] = {}
    for i, name in enumerate(listed):
        by_file.setdefault(PurePosixPath(name).name, []).append(i)

    def place(name: str) -> int:
        if name in exact:
            return exact[name]
        same = [i for i in by_file.get(PurePosixPath(name).name, []) if _fits(name, listed[i])]
        return same[0] if len(same) == 1 else -1

    return [place(name) for name in names]


def _fits(a: str, b: str) -> bool:
    shorter, longer = sorted((PurePosixPath(a).parts, PurePosixPath(b).parts), key=len)
    return longer[len(longer) - len(shorter) :] == shorter


def _names(path: epath.Path, stored: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the rows, or None where there are none. Raise UserError for names that are not text."""
    file = path.with_name(path.stem + NAMES)
    try:
        for key in KEYS:
            if key in stored and path.suffix.lower() == ".npz" and stored[key].dtype.kind in "US":
                array = stored[key]
                return [str(name) for name in (np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array)]
        if not presence.exists(file):
            return None
        return [line.strip() for line in file.read_text().splitlines() if line.strip()]
    except UnicodeDecodeError as problem:
        raise UserError(f"{path}: the names of its images are not UTF-8 ({problem}); write them again") from problem
