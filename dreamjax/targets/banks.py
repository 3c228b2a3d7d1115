"""Vectors of images, of a frozen network, of pixels or from a file: what retrieval compares brain responses with.

config = BankConfig(path="openai/clip-vit-large-patch14", layer=16, pooling="patches", images="images")
bank = open_bank(config, names, mesh)

Images are seen by the network's evaluation transform: resized and cropped from the middle, never at random.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Array, Float

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.storage import image_files, presence, sniffing
from dreamjax.targets import features, image_folder, low_level, network_files, vector_files
from dreamjax.targets.features import EmbeddingConfig
from dreamjax.targets.image_folder import Captioned
from dreamjax.targets.images import ImageConfig
from dreamjax.targets.low_level import FEATURES
from dreamjax.targets.views import View
from dreamjax.typing import JsonDict
from dreamjax.weights import hub, image_networks, open_clip, weight_files
from dreamjax.weights.config_json import class_of
from dreamjax.weights.loaded import ComponentSource
from dreamjax.weights.pipeline_folder import INDEX, PipelineFolder
from dreamjax.weights.table import Tensors

VAE_CLASS = "AutoencoderKL"
PAGE_SIDE = 192  # pixels of an image on a page


@dataclass(frozen=True)
class BankConfig:
    """Where the vectors of images come from."""

    # folder or hub id of a CLIP, DINOv2, ViT or AutoencoderKL; weights of a MobileNet v1, VGG-19, ResNet or CLIP's
    # ResNet; a file of vectors with names; or colour_histogram, lbp, hog, fft, fft_log_psd
    path: str = ""
    layer: int | None = None  # of the network, from 0 or from the end; None: its output
    pooling: Literal["auto", "projected", "pooled", "cls", "patches", "tokens"] = "auto"
    resolution: int = 512  # pixels of a side that an AutoencoderKL sees; other networks have their size
    view: View = "none"  # of the images, before the network's own transform
    view_size: int = 51  # taps of a blur, of 224 pixels
    images: str = ""  # folder of the images that were seen; not needed for a file of vectors with names
    order: Literal["names", "listing"] = "names"  # listing: the rows of a file without names are the sorted images
    bank: str = "auto"  # folder where computed vectors are kept; auto: $XDG_CACHE_HOME/dreamjax/banks
    batch: int = 32  # images at a time

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"target.batch is {self.batch}, but it must be at least 1")
        if self.resolution < 8:
            raise ValueError(f"target.resolution is {self.resolution}, but it must be at least 8 pixels")
        if self.layer is not None and self.pooling in ("projected", "pooled"):
            raise ValueError(f"target.layer is {self.layer}, but {self.pooling} is an output of the whole network")
        if self.view_size < 3 or self.view_size % 2 == 0:
            raise ValueError(f"target.view_size is {self.view_size}, but it must be an odd number of at least 3")

    @property
    def root(self) -> str:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        return os.path.join(base, "dreamjax", "banks") if self.bank == "auto" else self.bank

    @property
    def sees_images(self) -> bool:
        """Return whether the vectors are computed from the images here, so that views of these can be had too.

        A file that is not there, as where a run is opened elsewhere, counts as a network's if images are named.
        """
        if not self.path.lower().endswith(vector_files.SUFFIXES):
            return bool(self.path)
        path = epath.Path(self.path)
        return network_files.title_of(path) is not None if presence.exists(path) else bool(self.images)

    @property
    def has_layers(self) -> bool:
        """Return whether a network computes the vectors, of which another layer can be had too."""
        return self.sees_images and self.path not in FEATURES

    def with_images(self, folder: str) -> "BankConfig":
        """Return the same source for the images of another folder; a file of vectors stays as it is."""
        return replace(self, images=folder) if self.sees_images else self

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

    `names`: relative to the folder `config.images`, or without leading folders where only one image of it fits.

    Raise UserError for a missing model, image or row of a file, naming it.
    """
    if not config.path:
        raise UserError(
            "target.path is empty; name a vision model's folder, a file of vectors with names, or one of "
            f"{', '.join(FEATURES)}"
        )
    if config.path in FEATURES:
        vectors = _low_level(config, image_entries(config, names), mesh)
    elif title := network_files.title_of(epath.Path(config.path)):
        vectors = network_files.vectors(
            config.root,
            epath.Path(config.path),
            title,
            image_entries(config, names),
            mesh,
            layer=config.layer,
            pooling=config.pooling,
            view=_view(config),
            batch=config.batch,
        )
    elif config.path.lower().endswith(vector_files.SUFFIXES):
        vectors = _imported(config, names)
    else:
        vectors = _embedded(config, image_entries(config, names), mesh)
    return Bank(vectors.reshape(len(vectors), -1), tuple(names))


def _view(config: BankConfig) -> features.ViewOf | None:
    return None if config.view == "none" else features.ViewOf(config.view, config.view_size)


def image_entries(config: BankConfig, names: Sequence[str]) -> list[Captioned]:
    """Return the images' files. Raise UserError for missing ones."""
    if not config.images:
        raise UserError("target.images is empty; name the folder of the images that were seen")
    listed = image_folder.listing(config.images, captions=False, among=set(names))
    places = vector_files.places(names, [entry.name for entry in listed])
    if missing := [name for name, i in zip(names, places, strict=True) if i < 0]:
        raise UserError(
            f"{config.images} lacks {len(missing)} of the {len(names)} images that were seen, such as {missing[0]}; "
            "name the folder that holds them all"
        )
    return [listed[i] for i in places]


def png_reader(config: BankConfig, names: Sequence[str]) -> Callable[[str], bytes | None]:
    """Return image's name → PNG for a page, or None where the folder of the images is not known or lacks some."""
    entries: dict[str, Captioned] = {}
    if config.images:
        try:
            entries = dict(zip(names, image_entries(config, names), strict=True))
        except UserError as problem:
            log.warning("the page shows images by their names: %s", problem)

    def png(name: str) -> bytes | None:
        shown = entries.get(name)
        return image_files.png_bytes(image_files.load_sized(shown.path), PAGE_SIDE) if shown else None

    return png


def _imported(config: BankConfig, names: Sequence[str]) -> np.ndarray:
    """Return the rows of a file of vectors."""
    path = epath.Path(config.path)
    stored = vector_files.read(path)
    if config.view != "none":
        raise UserError(f"target.view is {config.view}, but {config.path} holds vectors that are computed already")
    if config.layer is not None or config.pooling != "auto":
        raise UserError(
            f"target.layer and target.pooling choose what a network computes, but {config.path} holds vectors that are "
            "computed already; leave them out"
        )
    listing = None
    if config.order == "listing":
        if not config.images:
            raise UserError('target.order is "listing", which needs the image folder; set target.images')
        listing = [entry.name for entry in image_folder.listing(config.images, captions=False)]
    return vector_files.rows(path, stored, names, listing)


def _embedded(config: BankConfig, entries: Sequence[Captioned], mesh: Mesh) -> np.ndarray:
    """Return what a CLIP, DINOv2 or ViT makes of images, or the mean latents of an autoencoder."""
    if config.path.lower().endswith(network_files.SUFFIXES) and presence.is_file(config.path):
        raise UserError(
            f"{config.path} does not hold {', '.join(image_networks.NETWORKS)}; name a vision model's folder"
        )
    folder = hub.resolve(config.path)
    if presence.exists(folder / INDEX):
        return _latents(config, PipelineFolder.open(folder), entries, mesh)
    if not open_clip.is_folder(folder) and class_of(sniffing.read_json(folder / "config.json")) == VAE_CLASS:
        return _latents(config, _OnePart(folder), entries, mesh)
    pooling = config.pooling
    if pooling == "auto":
        pooling = "projected" if config.layer is None else "patches"
    embedding = EmbeddingConfig(config.path, pooling, config.layer)
    return features.embeddings(config.root, embedding, entries, mesh, config.batch, _view(config))


def _low_level(config: BankConfig, entries: Sequence[Captioned], mesh: Mesh) -> np.ndarray:
    """Return a low-level feature of images of 224 × 224 pixels."""
    if config.layer is not None or config.pooling != "auto":
        raise UserError(f"target.path is {config.path}, which has no layers; leave target.layer and target.pooling out")
    view = features.ViewOf(config.view, config.view_size)
    facts = {"pictures": features.file_facts(entries), "version": low_level.VERSION, **view.facts}

    def read(index: np.ndarray) -> dict[str, np.ndarray]:
        images = features.opened([entries[i] for i in index], view)
        return {"vector": np.stack([FEATURES[config.path](image) for image in images]).astype(np.float32)}

    def load() -> tuple[Callable[..., Array], Any, Callable[[np.ndarray], Mapping[str, np.ndarray]]]:
        return (lambda _, rows: rows["vector"]), {}, read

    return features.open_array(config.root, config.path, facts, len(entries), load, config.batch, mesh)


def _latents(config: BankConfig, folders: ComponentSource, entries: Sequence[Captioned], mesh: Mesh) -> np.ndarray:
    """Return the mean latents of an autoencoder, all of them or with "patches" their mean over positions."""
    if config.view != "none" or config.layer is not None or config.pooling not in ("auto", "patches", "tokens"):
        raise UserError(
            f"{config.path} holds an autoencoder, which has no views and layers, and of target.pooling only patches "
            "and tokens; leave the others out"
        )
    square = ImageConfig(resolution=config.resolution)
    moments = features.moments(config.root, square, entries, folders, mesh, config.batch)[0]
    mean = moments[..., : moments.shape[-1] // 2]
    return mean.mean((1, 2)) if config.pooling == "patches" else mean


@dataclass(frozen=True)
class _OnePart:
    """The folder of an autoencoder as the source of the part "vae"."""

    folder: epath.Path

    def path(self, name: str) -> epath.Path:
        return self.folder

    def source(self, name: str) -> str:
        return str(self.folder / "config.json")

    def config(self, name: str) -> JsonDict:
        return sniffing.read_json(self.folder / "config.json")

    def tensors(self, name: str) -> Tensors:
        return weight_files.open_weights(self.folder)
