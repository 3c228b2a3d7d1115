"""Trials with the vectors of the images that were seen, as the training loop reads them."""

import functools
from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Float

from dreamjax.errors import UserError
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.signals.datasets.arrays import ArrayExamples
from dreamjax.targets import banks
from dreamjax.targets.banks import BankConfig


@functools.lru_cache(maxsize=8)  # runs of a comparison share them
def vectors_of(configs: tuple[BankConfig, ...], images: tuple[str, ...]) -> Float[np.ndarray, "images *D"]:
    """Return the vectors of images; those of several banks are stacked: [D] becomes [V, D]."""
    mesh = meshes.make(MeshConfig())
    arrays = [banks.open_bank(one, images, mesh).vectors for one in configs]
    if len({x.shape[1] for x in arrays}) > 1:
        widths = ", ".join(f"{one.words}: {x.shape[1]}" for one, x in zip(configs, arrays, strict=True))
        raise UserError(f"vectors of several layers or views need one width ({widths}); choose layers that are as wide")
    return arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=1)


def example(channels: int, samples: int, banks: Mapping[str, tuple[int, int]]) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shapes and types of one example of `WithVectors`; `banks`: name → (width, number of stacked vectors)."""
    shapes: dict[str, tuple[int, ...]] = {"signal": (channels, samples), "weight": ()}
    shapes |= {name: (width,) if count == 1 else (count, width) for name, (width, count) in banks.items()}
    floats = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
    numbers = {name: jax.ShapeDtypeStruct((), np.int32) for name in ("subject", "image", "target")}
    return floats | numbers | {"index": jax.ShapeDtypeStruct((2,), np.uint32)}


class WithVectors(ArrayExamples):
    """Rows of arrays, with the vectors of the image that was seen."""

    def __init__(
        self, arrays: Mapping[str, np.ndarray], *, vectors: Mapping[str, np.ndarray], seed: int, endless: bool
    ):
        super().__init__(arrays, seed=seed, endless=endless)
        self.vectors = vectors

    def read(self, keys: np.ndarray, index: np.ndarray) -> dict[str, np.ndarray]:
        rows = super().read(keys, index)
        return rows | {name: np.asarray(x[rows["image"]], np.float32) for name, x in self.vectors.items()}
