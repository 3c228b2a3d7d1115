"""Latents, text states and embeddings of images and captions by frozen networks, each in a bank.

A bank is computed once, kept, and memory-mapped. It is keyed by the bytes of the network's weights, by the images, and
by the steps before and after the network.

ROOT/moments-0123456789abcdef/    named by a hash of everything that the values depend on
    values.npy       float32 [N, …], a row for each image or caption
    bank.json        what they were computed from
    manifest.json    hashes of both, verified when the bank is opened; written last
"""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, PyTree

from dreamjax.console import Bar, log, progress
from dreamjax.errors import UserError
from dreamjax.interruption import interruptible
from dreamjax.models.encoders import VisionTransformer
from dreamjax.parallel import processes, sharding
from dreamjax.signals.datasets.arrays import open_npy
from dreamjax.storage import atomic, image_files, locks, manifest, presence, sniffing
from dreamjax.targets import preprocessing
from dreamjax.targets.image_folder import Captioned
from dreamjax.targets.images import ImageConfig, load_all, scaled
from dreamjax.targets.tokens import Tokenizer
from dreamjax.targets.views import View, changed
from dreamjax.weights import hub, loaded, networks, open_clip, weight_files
from dreamjax.weights.loaded import ComponentSource, LoadedNetwork

TEXTS = 64  # captions at a time
PREPROCESSOR = "preprocessor_config.json"
HELD_OUT = "_held_out_accuracy"  # field of a classifier's config.json that dreamjax trained
FORMAT = 2  # of the files; with another one every bank is made again
VALUES, FACTS = "values.npy", "bank.json"
BUILD_S = 24 * 3600.0  # for the first process to write a bank while the others wait
Function = Callable[[PyTree, Mapping[str, jax.Array]], jax.Array]  # (parameters, a batch of inputs) → values
Inputs = Callable[[np.ndarray], Mapping[str, np.ndarray]]  # numbers of rows → their inputs


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
        "pictures": file_facts(entries),
        "resolution": config.resolution,
        "resample": config.resample,
        "versions": versions,
        "weights": hash_of(folders.path("vae")),
    }

    def load() -> tuple[Function, PyTree, Inputs]:
        part = loaded.load_network(folders, "vae", mesh)

        def read(index: np.ndarray) -> dict[str, np.ndarray]:
            image = load_all([entries[i % len(entries)].path for i in index], config.resolution, config.resample)
            mirrored = (index >= len(entries))[:, None, None, None]
            return {"image": np.where(mirrored, image[:, :, ::-1], image)}

        def encode(params: PyTree, rows: Mapping[str, Array]) -> Array:
            return jnp.concatenate(part.bound(params).moments(scaled(rows["image"])), axis=-1)

        return encode, part.params, read

    flat = open_array(root, "moments", facts, versions * len(entries), load, batch, mesh)
    return flat.reshape(versions, len(entries), *flat.shape[1:])


def text_states(
    root: epath.PathLike, captions: Sequence[str], folders: ComponentSource, mesh: Mesh
) -> Float[np.ndarray, "M S D"]:
    """Return the text encoder's last hidden state of each caption."""
    facts = {
        "captions": list(captions),
        "weights": hash_of(folders.path("text_encoder")),
        "tokenizer": hash_of(folders.path("tokenizer")),
    }

    def load() -> tuple[Function, PyTree, Inputs]:
        part = loaded.load_network(folders, "text_encoder", mesh)
        ids = Tokenizer.open(folders.path("tokenizer"))(captions)

        def encode(params: PyTree, batch: Mapping[str, Array]) -> Array:
            return part.bound(params)(batch["ids"]).last_hidden_state.astype(jnp.float32)

        return encode, part.params, lambda index: {"ids": ids[index]}

    return open_array(root, "text", facts, len(captions), load, TEXTS, mesh)


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
    def open(cls, path: epath.PathLike, mesh: Mesh | None = None) -> "VisionModel":
        """Return that of a folder or hub id, weights streamed onto a `mesh`. Raises UserError where there is none."""
        if not str(path):
            raise UserError("embedding.path is empty; name the folder of a CLIP, DINOv2 or ViT")
        folder = hub.resolve(path)
        source = str(folder / "config.json")
        if presence.is_folder(folder / "checkpoints"):
            raise UserError(f"{path} is a run; export it first: dreamjax export {path} --to diffusers --out FOLDER")
        if open_clip.is_folder(folder):
            return cls._of_open_clip(folder, mesh)
        config = sniffing.read_json(folder / "config.json")
        network = networks.of(config, source, half="vision")
        if not (isinstance(network.build, type) and issubclass(network.build, VisionTransformer)):
            raise UserError(f"{source} does not describe a vision model; name a CLIP, DINOv2 or ViT")
        prepare = preprocessing.from_json(sniffing.read_json(folder / PREPROCESSOR), str(folder / PREPROCESSOR))
        part = LoadedNetwork(network, network.arguments(config, source), {})
        if mesh is not None:
            part = loaded.filled(network, part.arguments, weight_files.open_weights(folder), str(folder), mesh)
        accuracy = config.get(HELD_OUT)
        return cls(folder, part, prepare, accuracy if isinstance(accuracy, float) and 0 <= accuracy <= 1 else None)

    @classmethod
    def _of_open_clip(cls, folder: epath.Path, mesh: Mesh | None) -> "VisionModel":
        source = str(folder / open_clip.CONFIG)
        config = sniffing.read_json(folder / open_clip.CONFIG)
        network = open_clip.NETWORK
        part = LoadedNetwork(network, network.arguments(config, source), {})
        prepare = preprocessing.from_open_clip(config.get("preprocess_cfg") or {}, part.arguments["image"], source)
        if mesh is not None:
            part = loaded.filled(network, part.arguments, open_clip.tensors(folder), str(folder), mesh)
        return cls(folder, part, prepare)

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
    model = VisionModel.open(config.path)
    network, arguments = model.part.network, model.part.arguments
    pixels = jax.ShapeDtypeStruct((1, arguments["image"], arguments["image"], 3), jnp.float32)
    embed = functools.partial(model.embed, config=config)
    return jax.eval_shape(embed, network.shapes(arguments), pixels).shape[1:]


@dataclass(frozen=True)
class ViewOf:
    """A changed view of images, and the size of its blur (`targets.views`)."""

    view: View
    size: int

    @property
    def facts(self) -> dict[str, object]:
        return {"view": self.view, "view_size": self.size, "transparent": "white"}


def opened(entries: Sequence[Captioned], view: ViewOf | None) -> list[Any]:
    """Return images, changed where a view is given; their transparency is then on white, as without one."""
    images = [image_files.open_image(entry.path) for entry in entries]
    if view is None:
        return images
    arrays = [preprocessing.as_rgb(image) for image in images]
    return [changed(array, view.view, view.size, entry.name) for array, entry in zip(arrays, entries, strict=True)]


def embeddings(
    root: epath.PathLike,
    config: EmbeddingConfig,
    entries: Sequence[Captioned],
    mesh: Mesh,
    batch: int,
    view: ViewOf | None = None,
) -> Float[np.ndarray, "N *E"]:
    """Return a vision model's embedding of each whole image, or of a view of it, by the model's preprocessing.

    Raises UserError naming a damaged image, and for a missing model or one without that embedding.
    """
    folder = hub.resolve(config.path)
    facts = {
        "pictures": file_facts(entries),
        "weights": hash_of(folder),  # with the preprocessor's file
        "pooling": config.pooling,
        "layer": config.layer,
        **(view.facts if view else {}),
    }

    def load() -> tuple[Function, PyTree, Inputs]:
        model = VisionModel.open(folder, mesh)

        def read(index: np.ndarray) -> dict[str, np.ndarray]:
            return {"pixels": model.prepare(opened([entries[i] for i in index], view))}

        def encode(params: PyTree, batch: Mapping[str, Array]) -> Array:
            return model.embed(params, batch["pixels"], config)

        return encode, model.part.params, read

    return open_array(root, "embeddings", facts, len(entries), load, batch, mesh)


def file_facts(entries: Sequence[Captioned]) -> list[list[str | int]]:
    """Return name, size and time of each image: these stand for its content."""
    stats = [(entry.name, entry.path.stat()) for entry in entries]
    return [[name, stat.length, stat.mtime] for name, stat in stats]


def open_array(
    root: epath.PathLike,
    kind: str,
    facts: Mapping[str, object],
    count: int,
    load: Callable[[], tuple[Function, PyTree, Inputs]],
    batch: int,
    mesh: Mesh,
) -> np.ndarray:
    """Return the array of `count` rows that `facts` describe; compute and keep it where it does not exist intact.

    `kind`: for the folder's name. `facts`: everything that the values depend on. `load()`: the network, its parameters,
    and what reads its inputs. Every process computes its share of each batch, the first one writes. Raise TryAgain on
    SIGTERM and Control-C: nothing of an unfinished bank stays.
    """
    facts = {"format": FORMAT, "kind": kind, "rows": count, **facts}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    folder = epath.Path(root) / f"{kind}-{digest}"
    if not processes.agree("bank", _is_intact(folder), BUILD_S):
        with interruptible(f"{count} rows of {kind} were being computed for {folder}"), contextlib.ExitStack() as stack:
            missing = True
            if processes.is_first():  # where another run makes the same bank, this one waits for it
                stack.enter_context(locks.output(folder, stop=lambda: False))
                missing = not _is_intact(folder)
                if missing and presence.exists(folder):
                    folder.rmtree()
            if processes.agree("bank to make", missing, BUILD_S):
                log.info("%s of %d are computed once: %s", kind, count, folder)
                _make(folder, facts, _batches(*load(), count, batch, mesh), kind, count)
            processes.barrier("bank written", BUILD_S)
    return open_npy(folder / VALUES)


def _is_intact(folder: epath.Path) -> bool:
    """Return whether there is a bank whose files are as they were written."""
    if not processes.is_first():
        return True  # the first process decides
    if not presence.exists(folder / manifest.NAME):  # none, or one of an older version, which cannot be verified
        return presence.exists(folder / FACTS) and presence.exists(folder / VALUES)
    if damage := manifest.problems(folder):
        log.warning("%s is damaged (%s) and is computed again", folder, damage[0])
    return not damage


def hash_of(folder: epath.Path) -> str:
    """Return a SHA-256 over the names and the bytes of a folder's files."""
    files = sorted(entry for entry in folder.iterdir() if not presence.is_folder(entry))
    return hashlib.sha256("".join(f"{f.name}:{manifest.file_hash(f)}\n" for f in files).encode()).hexdigest()


def _batches(
    function: Function, params: PyTree, inputs: Inputs, count: int, batch: int, mesh: Mesh
) -> Iterator[np.ndarray]:
    """Yield the values of rows 0 … count - 1, batch by batch on the mesh; every process gets all."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    batch = -(-min(batch, count) // shards) * shards
    local = np.array(sharding.rows_by_process(mesh, batch)[jax.process_index()])
    run = jax.jit(function, out_shardings=NamedSharding(mesh, P()))
    for first in range(0, count, batch):
        index = np.minimum(np.arange(first, first + batch), count - 1)
        with jax.set_mesh(mesh):
            values = run(params, sharding.to_devices(inputs(index[local]), mesh, batch))
        yield np.asarray(values)[: count - first]


def _make(
    folder: epath.Path, facts: Mapping[str, object], batches: Iterator[np.ndarray], kind: str, count: int
) -> None:
    """Write a bank in the first process; the others compute their share of its batches."""
    with progress(kind, count) as bar:
        if not processes.is_first():
            for values in batches:
                bar.advance(len(values))
            return
        with atomic.new_folder(folder, last=manifest.NAME) as target:
            _write(target / VALUES, count, batches, bar)
            (target / FACTS).write_text(json.dumps(facts, indent=1))
            manifest.write(target)


def _write(path: epath.Path, count: int, batches: Iterator[np.ndarray], bar: Bar) -> None:
    out, at = None, 0
    for rows in batches:
        if out is None:
            out = np.lib.format.open_memmap(os.fspath(path), "w+", np.float32, (count, *rows.shape[1:]))
        out[at : at + len(rows)] = rows
        at += len(rows)
        bar.advance(len(rows))
    if out is not None:
        out.flush()
