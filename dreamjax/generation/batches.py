"""Conditions → images, a batch at a time through one compiled program, whatever they are conditioned on."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from dreamjax.console import Bar
from dreamjax.diffusion import sampling
from dreamjax.errors import UserError
from dreamjax.runs.latent_diffusion import LatentDiffusion

AT_ONCE = 8  # images a device, by default


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How images are made. Lengths in pixels; None: as the model has it."""

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
            raise UserError(f"--seed is {self.seed}, but it lies from 0 to 4294967295")
        if not self.guidance >= 0 or not np.isfinite(self.guidance):
            raise UserError(f"--guidance is {self.guidance}, but it must be 0 or more")
        if not 0 <= self.rescale <= 1:
            raise UserError(f"--guidance-rescale is {self.rescale}, but it lies from 0 to 1")
        if self.sampler is not None:
            sampling.check(self.sampler, eta=self.eta, karras=self.karras)

    @property
    def guided(self) -> bool:
        return self.guidance != 1


def described(model: LatentDiffusion, how: Sampling) -> dict[str, Any]:
    """How the images are made, as far as the model decides it."""
    h, w = model.latent_size(how.height, how.width)
    return {
        "size": [h * model.factor, w * model.factor],
        "sampler": how.sampler or model.schedule.sampler,
        "steps": how.steps,
        "guidance": how.guidance,
        "seed": how.seed,
    }


def paint(
    model: LatentDiffusion,
    how: Sampling,
    numbers: np.ndarray,
    rows: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    *,
    unconditional: Any = None,
    strength: float = 1.0,
    bar: Bar | None = None,
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """The images `numbers` (the index of each's noise) one after another.

    `rows(i)`: what those images are made from, in the names of `LatentDiffusion.generate`, without their index. A
    short last batch is filled up with copies that are dropped. Raises UserError where an image comes out as NaN.
    """
    plan = sampling.plan(how.sampler, model.schedule, how.steps, eta=how.eta, karras=how.karras, strength=strength)
    size, count = model.latent_size(how.height, how.width), len(numbers)
    devices = model.mesh.shape["data"] * model.mesh.shape["fsdp"]
    batch = -(-(how.batch or min(count, AT_ONCE * devices)) // devices) * devices
    for first in range(0, count, batch):
        own = numbers[np.minimum(np.arange(first, first + batch), count - 1)]
        found, _ = model.generate(
            plan,
            {"index": own.astype(np.uint32), **rows(own)},
            seed=how.seed,
            size=size,
            unconditional=unconditional if how.guided else None,
            scale=how.guidance,
            rescale=how.rescale,
        )
        pixels = np.asarray(found)
        if not np.isfinite(pixels).all():
            raise UserError(
                "the images came out as NaN: a weight of the model is no finite number, or --guidance is too large"
            )
        host = np.round(255 * pixels).astype(np.uint8)
        for row in range(min(batch, count - first)):
            if bar is not None:
                bar.advance(1)
            yield host[row]
