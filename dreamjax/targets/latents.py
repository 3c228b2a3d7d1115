"""Latents and text states of captioned images as a stream of training examples, out of banks."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.signals.datasets import mixture, rng
from dreamjax.signals.datasets.read_ahead import IndexedStream, index_and_weight
from dreamjax.targets import banks, features, image_folder, images
from dreamjax.targets.images import ImageConfig
from dreamjax.weights.loaded import Folders


@dataclass(frozen=True)
class LatentConfig(ImageConfig):
    """Images, and where what the frozen networks make of them is kept."""

    bank: str = "auto"  # a folder; auto: $XDG_CACHE_HOME/dreamjax/banks
    encode_batch: int = 8  # images at a time, when the bank is made

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encode_batch < 1:
            raise ValueError(f"data.encode_batch is {self.encode_batch}, but it must be at least 1")

    @property
    def bank_root(self) -> str:
        return banks.default_root() if self.bank == "auto" else self.bank


@dataclass(frozen=True)
class _Examples:
    """Global example indices → rows of a batch; `own` are the split's rows of the bank."""

    config: LatentConfig
    moments: np.ndarray  # [V, N, h, w, 2Z]
    text: np.ndarray  # [M, S, D]; row 0 is the empty caption's
    caption: np.ndarray  # [N], row of `text`
    own: np.ndarray
    seed: int
    training: bool
    drop_condition: float

    @cached_property
    def order(self) -> Any:
        """Global example index → image of the split; see `mixture.order`."""
        if not self.training:
            return mixture.order([len(self.own)], (), seed=0, shuffle=False, repeat=False)
        seed = self.seed if self.config.shuffle_seed is None else self.config.shuffle_seed
        return mixture.order([len(self.own)], (), seed=seed, shuffle=self.config.shuffle, repeat=True)

    def __len__(self) -> int:
        return len(self.order)

    def rows(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """The examples `index` (uint64) as arrays with a leading axis; beyond the end, the last one with weight 0."""
        last = len(self.order) - 1
        keys = self.own[[int(self.order[min(int(i), last)]) for i in index]]
        coins = rng.uniform(self.seed, "picture", index, 2)  # the name is part of the key
        mirrored = (coins[:, 0] < self.config.flip).astype(int) if self.training else np.zeros(len(index), int)
        mean, log_variance = np.split(self.moments[mirrored, keys], 2, axis=-1)
        caption = np.where(coins[:, 1] < self.drop_condition, 0, self.caption[keys])
        rows = {"mean": mean, "log_variance": log_variance, "context": self.text[caption]}
        return rows | index_and_weight(index, len(self.order))


class LatentStream(IndexedStream):
    """A `training.task.Stream` of `mean` and `log_variance` (h, w, Z), `context` (S, D), `index`, `weight`."""

    def __init__(self, examples: _Examples, prefetch: int):
        self.examples, self.prefetch = examples, prefetch

    def __len__(self) -> int:
        """Images in one pass over the split."""
        return len(self.examples.own)

    def element(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and type of one example, by name; without the batch axis."""
        h, w, both = self.examples.moments.shape[2:]
        return element((h, w, both // 2), self.examples.text.shape[1:])


def element(latent: tuple[int, ...], context: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    """One example of a `LatentStream`, by its shapes (h, w, Z) and (S, D)."""
    shapes: Mapping[str, tuple[tuple[int, ...], Any]] = {
        "mean": (latent, np.float32),
        "log_variance": (latent, np.float32),
        "context": (context, np.float32),
        "index": ((2,), np.uint32),
        "weight": ((), np.float32),
    }
    return {name: jax.ShapeDtypeStruct(shape, kind) for name, (shape, kind) in shapes.items()}


def open_stream(
    config: LatentConfig, split: str, folders: Folders, *, seed: int, drop_condition: float = 0.0
) -> LatentStream:
    """The images of split "train" (endless, shuffled) or "val" (each once); their bank is made where it is missing.

    `folders`: of the parts vae, text_encoder and tokenizer. `drop_condition`: share of training examples that see the
    empty caption. Raises UserError as `images.split`, and for a damaged image.
    """
    chosen = {entry.name for entry in images.split(config, split)}
    entries = image_folder.listing(config.folder)
    root, mesh = config.bank_root, meshes.make(MeshConfig())
    captions = ["", *sorted({entry.caption for entry in entries} - {""})]
    number = {caption: i for i, caption in enumerate(captions)}
    training = split == "train"
    examples = _Examples(
        config,
        features.moments(root, config, entries, folders, mesh, config.encode_batch),
        features.text_states(root, captions, folders, mesh),
        np.array([number[entry.caption] for entry in entries], np.int32),
        np.array([i for i, entry in enumerate(entries) if entry.name in chosen]),
        seed,
        training,
        drop_condition if training else 0.0,
    )
    return LatentStream(examples, config.prefetch)
