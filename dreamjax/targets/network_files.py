"""Vectors of images by a convolutional network whose weights are one file, of any layer: see `weights.image_networks`.

Every network sees its evaluation transform: torchvision's resize to 256 and crop of 224, CLIP's, and MobileNet's
resize to 224 × 224.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Array, Float

from dreamjax.errors import UserError
from dreamjax.storage import manifest, presence
from dreamjax.targets import features, vector_files
from dreamjax.targets.features import ViewOf
from dreamjax.targets.image_folder import Captioned
from dreamjax.targets.preprocessing import BILINEAR, Preprocessing
from dreamjax.weights import image_networks, loaded, weight_files
from dreamjax.weights.loaded import LoadedNetwork
from dreamjax.weights.table import Tensors

SUFFIXES = (".npz", ".safetensors", *weight_files.PICKLED)
HALVES = Preprocessing(edge=None, size=(224, 224), resample=BILINEAR, crop=None, mean=(0.5,) * 3, std=(0.5,) * 3)
IMAGENET = Preprocessing(edge=256, resample=BILINEAR, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
POOLINGS = ("auto", "patches", "tokens")


def title_of(path: epath.Path) -> str | None:
    """Return the title of the network in a file; None for another file, and where there is none."""
    if not path.name.lower().endswith(SUFFIXES) or not presence.exists(path) or presence.is_folder(path):
        return None
    npz = path.suffix.lower() == ".npz"
    names = vector_files.array_names(path) if npz else tuple(weight_files.open_weights(path))
    return image_networks.recognise({_plain(name) for name in names})


def vectors(
    root: str,
    path: epath.Path,
    title: str,
    entries: Sequence[Captioned],
    mesh: Mesh,
    *,
    layer: int | None,
    pooling: str,
    view: ViewOf | None,
    batch: int,
) -> Float[np.ndarray, "N *D"]:
    """Return a layer of the network of each image, computed once: its mean over positions, or with "tokens" all of it.

    Without a layer and pooling, the network's output. Raise UserError for a layer or pooling that it does not have, and
    for weights that do not fit.
    """
    allowed = (*POOLINGS, "projected") if title == "CLIP's ResNet" else POOLINGS
    if pooling not in allowed:
        raise UserError(f"target.pooling is {pooling}, which {title} does not have; choose {' or '.join(allowed[1:])}")
    output = layer is None and pooling in ("auto", "projected")
    facts = {
        "pictures": features.file_facts(entries),
        "weights": manifest.file_hash(path),
        "layer": layer,
        "pooling": pooling,
        **(view.facts if view else {}),
    }

    def load() -> tuple[Callable[..., Array], Any, Callable[[np.ndarray], Mapping[str, np.ndarray]]]:
        part = _opened(path, title, mesh)
        prepare = _transform(title, part)

        def encode(params: Any, rows: Mapping[str, Array]) -> Array:
            model = part.bound(params)
            if output:
                return model.features(rows["pixels"])
            x = model.layer(rows["pixels"], -1 if layer is None else layer)
            return x.reshape(len(x), -1) if pooling == "tokens" or x.ndim == 2 else x.mean((1, 2))

        def read(index: np.ndarray) -> dict[str, np.ndarray]:
            return {"pixels": prepare(features.opened([entries[i] for i in index], view))}

        return encode, part.params, read

    return features.open_array(root, "layers", facts, len(entries), load, batch, mesh)


def _opened(path: epath.Path, title: str, mesh: Mesh) -> LoadedNetwork:
    stored = vector_files.read(path) if path.suffix.lower() == ".npz" else weight_files.open_weights(path)
    tensors: Tensors = {_plain(name): tensor for name, tensor in stored.items()}
    network, _ = image_networks.NETWORKS[title]
    try:
        arguments = network.arguments(tensors, str(path))
    except IndexError as problem:  # a tensor without axes
        raise UserError(f"{path}: its tensors have the names of {title}, but other shapes") from problem
    return loaded.filled(network, arguments, tensors, str(path), mesh)


def _transform(title: str, part: LoadedNetwork) -> Preprocessing:
    if title == "CLIP's ResNet":
        side = part.arguments["image"]
        return Preprocessing(edge=side, crop=(side, side))
    return HALVES if title == "MobileNet v1" else IMAGENET


def _plain(name: str) -> str:
    return re.sub(r"^module\.", "", name)
