"""Generate images from conditions of any kind, a batch at a time through one compiled program."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypedDict

import jax
import numpy as np
from jaxtyping import UInt8

from dreamjax.console import Bar
from dreamjax.diffusion import sampling
from dreamjax.errors import UserError
from dreamjax.runs.latent_diffusion import LatentDiffusion

AT_ONCE = 8  # images a device, by default

Rows = Callable[[np.ndarray], Mapping[str, np.ndarray]]  # indices → the conditions of those images


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The settings of sampling. Lengths are in pixels; None: the model's own."""

    steps: int = 30
    sampler: str | None = None
    seed: int = 0
    guidance: float = 7.5
    rescale: float = 0.0  # of guidance, from 0 to 1
    eta: float = 0.0
    karras: bool | None = None
    height: int | None = None
    width: int | None = None
    batch: int | None = None  # images at a time; None: all, at most 8 a device

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed is {self.seed}, but it must be from 0 to 4294967295")
        if not self.guidance >= 0 or not np.isfinite(self.guidance):
            raise UserError(f"--guidance is {self.guidance}, but it must be 0 or more")
        if not 0 <= self.rescale <= 1:
            raise UserError(f"--guidance-rescale is {self.rescale}, but it must be from 0 to 1")
        if self.sampler is not None:
            sampling.check(self.sampler, eta=self.eta, karras=self.karras)

    @property
    def guided(self) -> bool:
        return self.guidance != 1


class Summary(TypedDict):
    """The settings with which images were generated, as JSON."""

    size: list[int]  # height, width
    sampler: str
    steps: int
    guidance: float
    seed: int


def summary(model: LatentDiffusion, how: Sampling) -> Summary:
    """Return the settings of sampling, with the model's own size and sampler filled in."""
    h, w = model.latent_size(how.height, how.width)
    return {
        "size": [h * model.factor, w * model.factor],
        "sampler": how.sampler or model.schedule.sampler,
        "steps": how.steps,
        "guidance": how.guidance,
        "seed": how.seed,
    }


def at_once(model: LatentDiffusion, wanted: int | None, count: int) -> int:
    """Return how many of `count` images are computed at a time: a multiple of the devices."""
    devices = model.mesh.shape["data"] * model.mesh.shape["fsdp"]
    return -(-(wanted or min(count, AT_ONCE * devices)) // devices) * devices


def rows_of(given: Mapping[str, np.ndarray]) -> Rows:
    """Return index → the rows of these arrays."""
    return lambda index: {name: value[index] for name, value in given.items()}


def generate(
    model: LatentDiffusion,
    how: Sampling,
    numbers: np.ndarray,
    rows: Rows,
    *,
    unconditional: jax.Array | Mapping[str, jax.Array] | None = None,
    strength: float = 1.0,
    bar: Bar | None = None,
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Generate the images `numbers` (the index of the noise of each), one after another.

    A short last batch is filled up with copies that are dropped. Raise UserError where an image is NaN.

    Args:
        rows: index → the conditions of those images, by the names of `LatentDiffusion.generate`.
    """
    plan = sampling.plan(how.sampler, model.schedule, how.steps, eta=how.eta, karras=how.karras, strength=strength)
    size, count = model.latent_size(how.height, how.width), len(numbers)
    batch = at_once(model, how.batch, count)
    for first in range(0, count, batch):
        index = numbers[np.minimum(np.arange(first, first + batch), count - 1)]
        images, _ = model.generate(
            plan,
            {"index": index.astype(np.uint32), **rows(index)},
            seed=how.seed,
            size=size,
            unconditional=unconditional if how.guided else None,
            scale=how.guidance,
            rescale=how.rescale,
        )
        pixels = np.asarray(images)
        if not np.isfinite(pixels).all():
            raise UserError(
                "the images came out as NaN: a weight of the model is not a finite number, or --guidance is too large"
            )
        host = np.round(255 * pixels).astype(np.uint8)
        for row in range(min(batch, count - first)):
            if bar is not None:
                bar.advance(1)
            yield host[row]
