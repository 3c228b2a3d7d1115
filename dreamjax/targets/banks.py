"""Vectors of images, from a frozen network's layer or from a file: what retrieval compares brain responses with.

config = BankConfig(path="openai/clip-vit-large-patch14", layer=16, pooling="patches", images="images")
bank = open_bank(config, names, mesh)

Images are seen by the network's evaluation transform: resized and cropped from the middle, never at random.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Array, Float

from dreamjax.errors import UserError
from dreamjax.models import mobilenet
from dreamjax.signals.datasets.arrays import open_npy
from dreamjax.storage import manifest, presence
from dreamjax.targets import features, image_folder, preprocessing
from dreamjax.targets.features import EmbeddingConfig
from dreamjax.targets.image_folder import Captioned
from dreamjax.targets.views import View
from dreamjax.weights import weight_files

FILES = (".npy", ".npz", ".safetensors")
NAMES = ".names.txt"  # after the stem of a .npy or .safetensors file: the images' names, one a line
MOBILENET = preprocessing.Preprocessing(
    edge=None, size=(224, 224), resample=preprocessing.BILINEAR, crop=None, mean=(0.5,) * 3, std=(0.5,) * 3
)


@dataclass(frozen=True)
class BankConfig:
    """Where the vectors of images come from."""

    path: str = ""  # folder or hub id of a CLIP, DINOv2 or ViT; a MobileNet's .npz; or a file of vectors with names
    layer: int | None = None  # of the network, from 0 or from the end; None: its output
    pooling: Literal["auto", "projected", "pooled", "cls", "patches", "tokens"] = "auto"
    view: View = "none"  # of the images, before the network's own transform
    view_size: int = 51  # taps of a blur, of 224 pixels
    images: str = ""  # folder of the images that were seen; not needed for a file of vectors
    bank: str = "auto"  # folder where computed vectors are kept; auto: $XDG_CACHE_HOME/dreamjax/banks
    batch: int = 32  # images at a time

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"target.batch is {self.batch}, but it must be at least 1")
        if self.layer is not None and self.pooling in ("projected", "pooled"):
            raise ValueError(f"target.layer is {self.layer}, but {self.pooling} is an output of the whole network")
        if self.view_size < 3 or self.view_size % 2 == 0:
            raise ValueError(f"target.view_size is {self.view_size}, but it must be an odd number of at least 3")

    @property
    def root(self) -> str:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        return os.path.join(base, "dreamjax", "banks") if self.bank == "auto" else self.bank

    @property
    def is_network(self) -> bool:
        """Return whether a network computes the vectors, so that it can see other views of the images."""
        return bool(self.path) and (bool(self.images) or not self.path.lower().endswith(FILES))

    @property
    def words(self) -> str:
        """Return the source in a few words, for tables."""
        layer = "" if self.layer is None else f", layer {self.layer}"
        pooling = "" if self.pooling == "auto" else f", {self.pooling}"
        view = "" if self.view == "none" else f", {self.view.replace('_', ' ')}"
        return f"{PurePosixPath(self.path).name}{layer}{pooling}{view}"


class Bank(NamedTuple):
    """A vector for each image, and the images' names."""

    vectors: Float[np.ndarray, "N D"]
    names: tuple[str, ...]


def open_bank(config: BankConfig, names: Sequence[str], mesh: Mesh) -> Bank:
    """Return the vectors of images, in the order of `names`; computed once and kept.

    `names`: relative to the folder `config.images`, or a file name that only one image of it has.

    Raise UserError for a missing model, image or row of a file, naming it.
    """
    if not config.path:
        raise UserError("target.path is empty; name a vision model's folder, or a file of vectors with names")
    path = epath.Path(config.path)
    if config.view != "none" and not config.is_network:
        raise UserError(f"target.view is {config.view}, but {config.path} holds vectors that are computed already")
    if config.path.lower().endswith(FILES):
        if not presence.exists(path):
            raise UserError(f"{config.path}: no such file; name a file of vectors or a vision model's folder")
        stored = _stored(path)
        if not _is_mobilenet(stored):
            return _imported(config, stored, names)
        return Bank(_mobilenet(config, path, stored, _entries(config, names), mesh), tuple(names))
    pooling = config.pooling
    if pooling == "auto":
        pooling = "projected" if config.layer is None else "patches"
    embedding = EmbeddingConfig(config.path, pooling, config.layer)
    entries = _entries(config, names)
    vectors = features.embeddings(config.root, embedding, entries, mesh, config.batch, _view(config))
    return Bank(vectors.reshape(len(vectors), -1), tuple(names))


def _view(config: BankConfig) -> features.ViewOf | None:
    return None if config.view == "none" else features.ViewOf(config.view, config.view_size)


def _entries(config: BankConfig, names: Sequence[str]) -> list[Captioned]:
    """Return the images' files. Raise UserError for missing ones."""
    if not config.images:
        raise UserError("target.images is empty; name the folder of the images that were seen")
    listed = image_folder.listing(config.images, captions=False, among=set(names))
    by_name = {entry.name: entry for entry in listed}
    by_file: dict[str, list[Captioned]] = {}
    for entry in listed:
        by_file.setdefault(PurePosixPath(entry.name).name, []).append(entry)
    chosen, missing = [], []
    for name in names:
        same = [by_name[name]] if name in by_name else by_file.get(PurePosixPath(name).name, [])
        (chosen.append(same[0]) if len(same) == 1 else missing.append(name))
    if missing:
        raise UserError(
            f"{config.images} lacks {len(missing)} of the {len(names)} images that were seen, such as {missing[0]}; "
            "name the folder that holds them all"
        )
    return chosen


# --------------------------------------------------------------------------------------------------- files of vectors
def _stored(path: epath.Path) -> Mapping[str, Any]:
    """Return the arrays of a file, never executing what it holds."""
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return {"vectors": open_npy(path)}
    if suffix == ".safetensors":
        return {name: np.asarray(x) for name, x in weight_files.open_weights(path).items()}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError) as problem:
        raise UserError(f"{path}: not readable as .npz ({problem}); write it with np.savez") from problem


def _imported(config: BankConfig, stored: Mapping[str, Any], names: Sequence[str]) -> Bank:
    """Return the rows of a file in the order of `names`. Raise UserError where it lacks names, or one of them."""
    path = epath.Path(config.path)
    arrays = [name for name, x in stored.items() if x.ndim >= 2 and x.dtype.kind == "f"]
    if len(arrays) != 1:
        raise UserError(f"{path}: it has {len(arrays)} arrays of vectors ({', '.join(arrays[:4])}); keep one")
    vectors, listed = stored[arrays[0]], _names(path, stored)
    if len(listed) != len(vectors):
        raise UserError(f"{path}: {len(vectors)} vectors, but {len(listed)} names; each vector needs its image's name")
    if len(set(listed)) < len(listed):
        twice = next(name for name in listed if listed.count(name) > 1)
        raise UserError(f"{path}: {twice} is named more than once; each image has one vector")
    row = {name: i for i, name in enumerate(listed)}
    by_file = {PurePosixPath(name).name: i for name, i in row.items()}
    if len(by_file) == len(row):  # names may lack, or have, folders
        row = by_file | row
        names = [name if name in row else PurePosixPath(name).name for name in names]
    if missing := [name for name in names if name not in row]:
        raise UserError(
            f"{path} has no vector of {len(missing)} of the {len(names)} images that were seen, such as {missing[0]}; "
            "compute them with the same network and add them"
        )
    chosen = np.asarray(vectors[[row[name] for name in names]], np.float32)
    if not np.isfinite(chosen).all():
        raise UserError(f"{path}: some vectors are not finite; compute them again")
    return Bank(chosen.reshape(len(chosen), -1), tuple(names))


def _names(path: epath.Path, stored: Mapping[str, Any]) -> list[str]:
    for key in ("names", "ids"):
        if key in stored and stored[key].dtype.kind in "US":
            return [str(name) for name in stored[key].tolist()]
    file = path.with_name(path.stem + NAMES)
    if not presence.exists(file):
        raise UserError(
            f"{path} does not say which image each vector is of; add an array `names`, or the file {file.name} with a "
            "name a line"
        )
    return [line.strip() for line in file.read_text().splitlines() if line.strip()]


# ----------------------------------------------------------------------------------------------------------- MobileNet
def _is_mobilenet(stored: Mapping[str, Any]) -> bool:
    return "00_pw_w" in stored


def _mobilenet(
    config: BankConfig, path: epath.Path, stored: Mapping[str, Any], entries: Sequence[Captioned], mesh: Mesh
) -> np.ndarray:
    """Return a layer's mean over positions, or with pooling "tokens" all of its numbers."""
    module, params = mobilenet.from_arrays(dict(stored), str(path))
    number = -1 if config.layer is None else config.layer
    if config.pooling not in ("auto", "patches", "tokens"):
        raise UserError(f"target.pooling is {config.pooling}, which MobileNet does not have; choose patches or tokens")
    facts = {
        "pictures": features.file_facts(entries),
        "weights": hashlib.sha256(manifest.file_hash(path).encode()).hexdigest(),
        "layer": number,
        "pooling": config.pooling,
        **(view.facts if (view := _view(config)) else {}),
    }

    def load() -> tuple[Callable[..., Array], Any, Callable[[np.ndarray], Mapping[str, np.ndarray]]]:
        from flax import nnx

        graph = nnx.split(module, nnx.Param)[0]

        def encode(params: Any, rows: Mapping[str, Array]) -> Array:
            x = nnx.merge(graph, params).layer(rows["pixels"], number)
            return x.reshape(len(x), -1) if config.pooling == "tokens" else x.mean((1, 2))

        def read(index: np.ndarray) -> dict[str, np.ndarray]:
            return {"pixels": MOBILENET(features.opened([entries[i] for i in index], view))}

        return encode, jax.tree.map(jnp.asarray, params), read

    return features.open_array(config.root, "mobilenet", facts, len(entries), load, config.batch, mesh)
