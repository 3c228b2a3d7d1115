"""A sampler is a table computed on the host, one row per call of the network, and a step that is linear in its row.

DDPM, DDIM, Euler and DPM-Solver++ differ only in their tables; PLMS, which keeps more outputs, has a separate step.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Coefficient = Float[Any, "n"] | Float[Any, ""] | float


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SamplingPlan:
    """The table of a sampler for a number of steps: a pytree of NumPy float32 arrays, so that it can be an argument.

    At call i, x = signal_i x_0 + sigma_i ε; the network is given scale_i x and timesteps_i. Row n is the end: (1, 0).
    """

    timesteps: Float[Any, "n"]
    scale: Float[Any, "n"]
    signal: Float[Any, "n+1"]
    sigma: Float[Any, "n+1"]
    start_sigma: Float[Any, ""]  # the noise that sampling starts at (diffusers' init_noise_sigma)
    coefficients: Any  # pytree with leading axis n, read by the sampler's step
    sampler: str = field(metadata={"static": True})
    stochastic: bool = field(default=False, metadata={"static": True})
    whole: bool = field(default=True, metadata={"static": True})  # False where strength skips the first steps

    @property
    def calls(self) -> int:
        """Return how often the network is called."""
        return len(self.timesteps)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LinearCoefficients:
    """The coefficients of a one-step or two-step method; by default 0, and an infinite limit.

    x_0 = clip(image_of_x · x + image_of_output · output, ± limit)
    x'  = of_x · x + of_output · output + of_image · x_0 + of_previous · (the x_0 before) + of_noise · noise
    """

    image_of_x: Coefficient
    image_of_output: Coefficient
    of_x: Coefficient = 0.0
    of_output: Coefficient = 0.0
    of_image: Coefficient = 0.0
    of_previous: Coefficient = 0.0
    of_noise: Coefficient = 0.0
    limit: Coefficient = np.inf


class LinearCarry(NamedTuple):
    """The state between two calls."""

    x: Float[Array, "B ..."]
    image: Float[Array, "B ..."]


def linear_start(x: Float[Array, "B ..."]) -> LinearCarry:
    """Return the state before the first call."""
    return LinearCarry(x, jnp.zeros_like(x))


def linear_step(
    carry: LinearCarry, row: LinearCoefficients, output: Float[Array, "B ..."], noise: Float[Array, "B ..."] | float
) -> LinearCarry:
    """Take one step. It is elementwise, so that any layout and sharding of the images is kept."""
    image = jnp.clip(row.image_of_x * carry.x + row.image_of_output * output, -row.limit, row.limit)
    x = row.of_x * carry.x + row.of_output * output + row.of_image * image
    return LinearCarry(x + row.of_previous * carry.image + row.of_noise * noise, image)
