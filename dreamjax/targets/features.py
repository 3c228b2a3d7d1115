"""Latents, text states and embeddings of images and captions by frozen networks, each in a bank (see `banks`).

A bank is keyed by the bytes of the network's weights, by the images, and by the steps before and after the network.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree

from dreamjax.errors import UserError
from dreamjax.models.vision_transformer import VisionTransformer
from dreamjax.storage import image_files, sniffing
from dreamjax.targets import banks, preprocessing
from dreamjax.targets.image_folder import Captioned
from dreamjax.targets.images import ImageConfig, load_all, scaled
from dreamjax.targets.tokens import Tokenizer
from dreamjax.weights import hub, loaded, networks, streaming, weight_files
from dreamjax.weights.loaded import ComponentSource, LoadedNetwork

TEXTS = 64  # captions at a time
PREPROCESSOR = "preprocessor_config.json"
HELD_OUT = "_held_out_accuracy"  # field of a classifier's config.json that dreamjax trained


def moments(
    root: epath.PathLike,
    config: ImageConfig,
    entries: Sequence[Captioned],
    folders: ComponentSource,
    mesh: Mesh,
    batch: int,
) -> Float[np.ndarray, "V N h w 2Z"]:
    """Return mean and log-variance of the latents of each image, and of its mirror image with `config.flip` (V = 2).

    Raises UserError naming a damaged image.
    """
    versions = 2 if config.flip > 0 else 1
    facts = {
        "pictures": _file_facts(entries),
        "resolution": config.resolution,
        "resample": config.resample,
        "versions": versions,
        "weights": banks.hash_of(folders.path("vae")),
    }

    def rows() -> Iterator[np.ndarray]:
        part = loaded.load_network(folders, "vae", mesh)

        def read(index: np.ndarray) -> dict[str, np.ndarray]:
            image = load_all([entries[i % len(entries)].path for i in index], config.resolution, config.resample)
            mirrored = (index >= len(entries))[:, None, None, None]
            return {"image": np.where(mirrored, image[:, :, ::-1], image)}

        def encode(params: PyTree, rows: Mapping[str, Array]) -> Array:
            return jnp.concatenate(part.bound(params).moments(scaled(rows["image"])), axis=-1)

        return banks.mapped(encode, part.params, read, versions * len(entries), batch, mesh)

    flat = banks.open_array(root, "moments", facts, versions * len(entries), rows)
    return flat.reshape(versions, len(entries), *flat.shape[1:])


def text_states(
    root: epath.PathLike, captions: Sequence[str], folders: ComponentSource, mesh: Mesh
) -> Float[np.ndarray, "M S D"]:
    """Return the text encoder's last hidden state of each caption."""
    facts = {
        "captions": list(captions),
        "weights": banks.hash_of(folders.path("text_encoder")),
        "tokenizer": banks.hash_of(folders.path("tokenizer")),
    }

    def rows() -> Iterator[np.ndarray]:
        part, ids = (
            loaded.load_network(folders, "text_encoder", mesh),
            Tokenizer.open(folders.path("tokenizer"))(captions),
        )

        def encode(params: PyTree, batch: Mapping[str, Array]) -> Array:
            return part.bound(params)(batch["ids"]).last_hidden_state.astype(jnp.float32)

        return banks.mapped(encode, part.params, lambda index: {"ids": ids[index]}, len(captions), TEXTS, mesh)

    return banks.open_array(root, "text", facts, len(captions), rows)


# ------------------------------------------------------------------------------------------------------ vision models
@dataclass(frozen=True)
class EmbeddingConfig:
    """A vision model, and which of its outputs is the embedding."""

    path: str = ""  # folder or hub id of a CLIP, DINOv2 or ViT, with its preprocessor_config.json
    # projected, pooled: outputs of the network; the others: of a hidden state
    pooling: Literal["projected", "pooled", "cls", "patches", "tokens"] = "projected"
    layer: int | None = None  # of cls, patches and tokens: which hidden state, from 0 or from the end; None: the last

    def __post_init__(self) -> None:
        if self.layer is not None and self.pooling in ("projected", "pooled"):
            raise ValueError(
                f"embedding.layer is {self.layer}, but {self.pooling} is an output of the whole network; leave it out"
            )


@dataclass(frozen=True)
class VisionModel:
    """A network with its weights, and the preprocessing of its images."""

    folder: epath.Path
    part: LoadedNetwork  # without parameters where only its shapes are needed
    prepare: preprocessing.Preprocessing
    accuracy: float | None = None  # of a classifier on held-out images, if its config says it

    @classmethod
    def described(cls, path: epath.PathLike, dtype: DTypeLike = jnp.float32) -> "VisionModel":
        """Return that of a folder or a hub id, without weights. Raises UserError where there is no vision model."""
        if not str(path):
            raise UserError("embedding.path is empty; name the folder of a CLIP, DINOv2 or ViT")
        folder = hub.resolve(path)
        source = str(folder / "config.json")
        if (folder / "checkpoints").is_dir():
            raise UserError(f"{path} is a run; export it first: dreamjax export {path} --to diffusers --out FOLDER")
        config = sniffing.read_json(folder / "config.json")
        network = networks.of(config, source, half="vision")
        if not (isinstance(network.build, type) and issubclass(network.build, VisionTransformer)):
            raise UserError(f"{source} does not describe a vision model; name a CLIP, DINOv2 or ViT")
        prepare = preprocessing.from_json(sniffing.read_json(folder / PREPROCESSOR), str(folder / PREPROCESSOR))
        part = LoadedNetwork(network, network.arguments(config, source) | {"dtype": dtype}, {})
        accuracy = config.get(HELD_OUT)
        return cls(folder, part, prepare, accuracy if isinstance(accuracy, float) and 0 <= accuracy <= 1 else None)

    @classmethod
    def open(cls, path: epath.PathLike, mesh: Mesh, dtype: DTypeLike = jnp.float32) -> "VisionModel":
        """Return that of a folder or a hub id, its weights streamed onto `mesh`. Raises UserError as `described`."""
        model = cls.described(path, dtype)
        network, arguments = model.part.network, model.part.arguments
        abstract = loaded.placed(network.shapes(arguments), mesh, dtype)
        params = streaming.source(network.table, weight_files.open_weights(model.folder), str(model.folder))(abstract)
        return dataclasses.replace(model, part=LoadedNetwork(network, arguments, params))

    def embed(self, params: PyTree, pixels: Float[Array, "B H W 3"], config: EmbeddingConfig) -> Float[Array, "B *E"]:
        """Return the embedding, float32, of pixels from `prepare`. Raises UserError where the model has none such."""
        model = self.part.bound(params)
        if config.pooling in ("projected", "pooled"):
            output = getattr(model(pixels), config.pooling)
            if output is None:
                raise UserError(f"{self.folder} has no {config.pooling} output; set embedding.pooling to cls")
            return output.astype(jnp.float32)
        tokens = model.hidden_state(pixels, -1 if config.layer is None else config.layer)
        return model.pool(tokens, config.pooling).astype(jnp.float32)


def shape(config: EmbeddingConfig) -> tuple[int, ...]:
    """Return the shape of one image's embedding, without loading weights. Raises UserError as `embeddings`."""
    model = VisionModel.described(config.path)
    network, arguments = model.part.network, model.part.arguments
    pixels = jax.ShapeDtypeStruct((1, arguments["image"], arguments["image"], 3), jnp.float32)
    embed = functools.partial(model.embed, config=config)
    return jax.eval_shape(embed, network.shapes(arguments), pixels).shape[1:]


def embeddings(
    root: epath.PathLike, config: EmbeddingConfig, entries: Sequence[Captioned], mesh: Mesh, batch: int
) -> Float[np.ndarray, "N *E"]:
    """Return a vision model's embedding of each whole image, by the model's preprocessing.

    Raises UserError naming a damaged image, and for a missing model or one without that embedding.
    """
    folder = hub.resolve(config.path)
    facts = {
        "pictures": _file_facts(entries),
        "weights": banks.hash_of(folder),  # with the preprocessor's file
        "pooling": config.pooling,
        "layer": config.layer,
    }

    def rows() -> Iterator[np.ndarray]:
        model = VisionModel.open(folder, mesh)

        def read(index: np.ndarray) -> dict[str, np.ndarray]:
            return {"pixels": model.prepare([image_files.open_image(entries[i].path) for i in index])}

        def encode(params: PyTree, batch: Mapping[str, Array]) -> Array:
            return model.embed(params, batch["pixels"], config)

        return banks.mapped(encode, model.part.params, read, len(entries), batch, mesh)

    return banks.open_array(root, "embeddings", facts, len(entries), rows)


def _file_facts(entries: Sequence[Captioned]) -> list[list[str | int]]:
    """Return name, size and time of each image: these stand for its content."""
    stats = [(entry.name, entry.path.stat()) for entry in entries]
    return [[name, stat.length, stat.mtime] for name, stat in stats]
