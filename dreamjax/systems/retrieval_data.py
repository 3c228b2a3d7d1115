"""The data of systems that retrieve which image was seen: trials, banks of image vectors, and the shapes of both."""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dreamjax.errors import UserError
from dreamjax.signals.datasets import records
from dreamjax.systems.base import Bank, System
from dreamjax.systems.retrieval_streams import WithVectors, vectors_of
from dreamjax.targets import responses
from dreamjax.targets.banks import BankConfig
from dreamjax.targets.catalogue import catalogue
from dreamjax.targets.responses import Responses, Split
from dreamjax.training.task import Batch, BatchSpec, PyTree

VECTOR = "vector"  # name, in a batch, of what images are retrieved by


@dataclass(frozen=True)
class SizesConfig:
    """The shapes that a network is built for; 0: those of the data, which must then be there."""

    channels: int = 0
    samples: int = 0
    people: int = 0
    features: int = 0  # width of the image vectors
    latent: int = 0  # width of what a second head predicts; 0: there is none, or as the data

    def filled(self, others: Mapping[str, int]) -> "SizesConfig":
        """Return the sizes with those of the data in place of 0. Raise UserError where the two differ."""
        for name, value in others.items():
            if (given := getattr(self, name)) not in (0, value):
                raise UserError(f"sizes.{name} is {given}, but the data have {value}; leave it at 0")
        return dataclasses.replace(self, **others)

    @property
    def known(self) -> bool:
        return min(self.channels, self.samples, self.people, self.features) > 0


@dataclass(frozen=True)
class Examples:
    """The trials of a split as arrays, and the image vectors that they refer to."""

    trials: Responses
    rows: Mapping[str, np.ndarray]  # of each trial: signal, subject, image (a row of the vectors)
    vectors: Mapping[str, Float[np.ndarray, "images *D"]]  # of every image of the corpora, by bank


class RetrievalData(System):
    """What systems of this family share whether they are trained by gradients or solved: data, banks, sizes."""

    config: Any

    def banks(self) -> dict[str, tuple[BankConfig, ...]]:
        """Return the banks of image vectors by name in a batch; of several for one name the vectors are stacked.

        "vector" is what the images are retrieved by.
        """
        return {VECTOR: (self.config.target,)}

    @functools.cached_property
    def vectors(self) -> Mapping[str, Float[np.ndarray, "images *D"]]:
        """Return the vectors of every image of the corpora, in the order of the catalogue, by bank."""
        images = catalogue(self.config.data.path).images
        return {name: vectors_of(each, images) for name, each in self.banks().items()}

    def examples(self, split: Split) -> Examples:
        """Return the trials of a split in memory."""
        trials = responses.load(self.config.data, split)
        rows = {
            "signal": trials.signal,
            "subject": self.numbers(trials).astype(np.int32),
            "image": trials.image.astype(np.int32),
        }
        return Examples(trials, rows, self.vectors)

    @property
    def people(self) -> tuple[str, ...]:
        """Return the people that are trained on, by their numbers; one name where they are not told apart."""
        if not self.config.data.identified:
            return ("anyone",)
        return self.config.data.people or catalogue(self.config.data.path).subjects

    def numbers(self, trials: Responses) -> Int[np.ndarray, "N"]:
        """Return the number of each trial's person among those trained on; -1 for others."""
        if not self.config.data.identified:
            return np.zeros(len(trials), int)
        of = {name: i for i, name in enumerate(self.people)}
        return np.array([of.get(name, -1) for name in trials.subjects])[trials.subject]

    @property
    def here(self) -> bool:
        """Return whether the data are where the config says; a run opens and exports without them."""
        paths = self.config.data.path
        return bool(paths) and all(records.is_dataset(path) for path in paths)

    @functools.cached_property
    def sizes(self) -> SizesConfig:
        """Return the shapes of the network, from the config or else from the data."""
        if self.config.sizes.known:
            return self.config.sizes
        trials = responses.load(self.config.data, "test")
        _, channels, samples = trials.signal.shape
        shapes = {"channels": channels, "samples": samples, "people": len(self.people)}
        return self.config.sizes.filled(shapes | {"features": self.vectors[VECTOR].shape[-1]})

    def filled(self) -> Any:
        """Return the config with the sizes of the data, as a run keeps it so that it opens without them."""
        return dataclasses.replace(self.config, sizes=self.sizes)

    @functools.cached_property
    def positions(self) -> Float[np.ndarray, "C 3"]:
        """Return the sensors' positions in metres, 0 where unknown; all 0 where the data are not here."""
        if self.config.sizes.known and not self.here:
            return np.zeros((self.sizes.channels, 3), np.float32)
        xyz = np.nan_to_num(responses.load(self.config.data, "test").xyz).astype(np.float32)
        if not xyz.any():
            folders = ", ".join(self.config.data.path)
            raise UserError(
                f"{self.config.system} reads the positions of the sensors, but {folders} has none; prepare the "
                "recordings with --montage, or choose a system that does without"
            )
        return xyz

    def image_side(self, params: PyTree, vectors: Float[Array, "M *D"]) -> Float[Array, "M F"]:
        """Return the images' vectors as they are compared; as they are where the system does not map them."""
        return vectors

    def query(self, params: PyTree, batch: Batch) -> Float[Array, "B F"]:
        """Return the responses' vectors as they are compared with those of images."""
        raise NotImplementedError

    def trained_vectors(self, batch: Batch) -> Float[Array, "B *D"]:
        """Return the image vectors that training compares with: those of retrieval, where there are no other views."""
        return batch[VECTOR]

    def bank(self, params: PyTree, split: str) -> Bank:
        """Return the images that were shown in a split."""
        trials = responses.load(self.config.data, split)  # type: ignore[arg-type]
        gallery = trials.gallery
        vectors = np.asarray(self.image_side(params, jnp.asarray(self.vectors[VECTOR][gallery])))
        return Bank(vectors, [trials.images[i] for i in gallery])

    def spec_of(self, split: Split, batch_size: int, endless: bool) -> BatchSpec:
        """Return the stream of a split for the loop: signal, subject, image, vector; `target`: a row of the gallery."""
        examples = self.examples(split)
        target = np.searchsorted(examples.trials.gallery, examples.trials.image)
        rows = dict(examples.rows) | {"target": target.astype(np.int32)}
        stream = WithVectors(rows, vectors=examples.vectors, seed=self.config.seed, endless=endless)
        return BatchSpec(stream, min(batch_size, len(stream)))
