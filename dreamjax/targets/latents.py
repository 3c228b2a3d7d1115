"""Latents and text states of captioned images as a stream of training examples, read from banks."""

import os
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float, Int

from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.signals.datasets import rng
from dreamjax.signals.datasets.examples import Examples, Rows
from dreamjax.targets import features, image_folder, images
from dreamjax.targets.images import ImageConfig
from dreamjax.weights.loaded import ComponentSource


@dataclass(frozen=True)
class LatentConfig(ImageConfig):
    """Images, and where the latents and text states of the frozen networks are kept."""

    bank: str = "auto"  # a folder; auto: $XDG_CACHE_HOME/dreamjax/banks
    encode_batch: int = 8  # images at a time, when the bank is made

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encode_batch < 1:
            raise ValueError(f"data.encode_batch is {self.encode_batch}, but it must be at least 1")

    @property
    def bank_root(self) -> str:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        return os.path.join(base, "dreamjax", "banks") if self.bank == "auto" else self.bank


class LatentExamples(Examples):
    """Images as a `training.task.Stream` of `mean`, `log_variance` (h, w, Z), `context` (S, D), `index`, `weight`.

    `moments`: latents of all images of the folder, and mirrored ones where V = 2; `keys`: those in the split. `text`:
    states of the captions, row 0 of the empty one; `caption`: the row of each image. `seed`: of all random choices.
    `training`: endless, shuffled, mirrored, with the share `drop_condition` of captions dropped; otherwise each image
    once.
    """

    def __init__(
        self,
        config: LatentConfig,
        moments: Float[np.ndarray, "V N h w 2Z"],
        text: Float[np.ndarray, "M S D"],
        caption: Int[np.ndarray, "N"],
        *,
        keys: Int[np.ndarray, "n"],
        seed: int,
        training: bool,
        drop_condition: float,
    ):
        super().__init__(
            [len(keys)],
            seed=seed,
            endless=training,
            shuffle=training and config.shuffle,
            shuffle_seed=config.shuffle_seed,
            keys=keys,
        )
        self.moments, self.text, self.caption, self.prefetch = moments, text, caption, config.prefetch
        self.flip, self.drop_condition = (config.flip, drop_condition) if training else (0.0, 0.0)

    def read(self, keys: np.ndarray, index: np.ndarray) -> Rows:
        """Return the images `keys`, mirrored and without caption by the draws of the examples `index`."""
        coins = rng.uniform(self.seed, "picture", index, 2)  # the name is part of the key
        mirrored = (coins[:, 0] < self.flip).astype(int)
        mean, log_variance = np.split(self.moments[mirrored, keys], 2, axis=-1)
        caption = np.where(coins[:, 1] < self.drop_condition, 0, self.caption[keys])
        return {"mean": mean, "log_variance": log_variance, "context": self.text[caption]}


def element(latent: tuple[int, ...], context: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shape and type of one of `LatentExamples` from its shapes (h, w, Z) and (S, D), without any image."""
    shapes = {"mean": latent, "log_variance": latent, "context": context, "weight": ()}
    element = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
    return element | {"index": jax.ShapeDtypeStruct((2,), np.uint32)}


def open_stream(
    config: LatentConfig, split: str, folders: ComponentSource, *, seed: int, drop_condition: float = 0.0
) -> LatentExamples:
    """Open the images of split "train" (endless, shuffled) or "val" (each once); a missing bank is made.

    `folders`: of the parts vae, text_encoder and tokenizer. `drop_condition`: share of training examples that see the
    empty caption. Raises UserError as `images.split`, and for a damaged image.
    """
    chosen = {entry.name for entry in images.split(config, split)}
    entries = image_folder.listing(config.folder)
    root, mesh = config.bank_root, meshes.make(MeshConfig())
    captions = ["", *sorted({entry.caption for entry in entries} - {""})]
    number = {caption: i for i, caption in enumerate(captions)}
    return LatentExamples(
        config,
        features.moments(root, config, entries, folders, mesh, config.encode_batch),
        features.text_states(root, captions, folders, mesh),
        np.array([number[entry.caption] for entry in entries], np.int32),
        keys=np.array([i for i, entry in enumerate(entries) if entry.name in chosen]),
        seed=seed,
        training=split == "train",
        drop_condition=drop_condition,
    )
