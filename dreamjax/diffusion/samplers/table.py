"""What a sampler is: a table computed on the host, one row a call of the network, and a step that is linear in its row.

DDPM, DDIM, Euler and DPM-Solver++ differ in their tables alone; PLMS, which remembers more, has a step of its own.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Row = Float[Any, "n"] | Float[Any, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Plan:
    """A sampler's way for a number of steps: NumPy float32 arrays, a pytree, so that it may be a compiled argument.

    At call i, x = signal_i x_0 + sigma_i ε; the network is given scale_i x and timesteps_i. Row n is the end: (1, 0).
    """

    timesteps: Float[Any, "n"]
    scale: Float[Any, "n"]
    signal: Float[Any, "n+1"]
    sigma: Float[Any, "n+1"]
    start_sigma: Float[Any, ""]  # the noise that sampling from nothing starts at (diffusers' init_noise_sigma)
    coefficients: Any  # pytree with leading axis n: what the sampler's step reads
    sampler: str = field(metadata={"static": True})
    stochastic: bool = field(default=False, metadata={"static": True})
    whole: bool = field(default=True, metadata={"static": True})  # False where strength left out the first steps

    @property
    def calls(self) -> int:
        """How often the network is called."""
        return len(self.timesteps)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Linear:
    """The rows of a one-step or two-step method; what is not given is 0, and the limit infinite.

    x_0 = clip(image_of_x · x + image_of_output · output, ± limit)
    x'  = of_x · x + of_output · output + of_image · x_0 + of_previous · (the x_0 before) + of_noise · noise
    """

    image_of_x: Row
    image_of_output: Row
    of_x: Row = 0.0  # type: ignore[assignment]
    of_output: Row = 0.0  # type: ignore[assignment]
    of_image: Row = 0.0  # type: ignore[assignment]
    of_previous: Row = 0.0  # type: ignore[assignment]
    of_noise: Row = 0.0  # type: ignore[assignment]
    limit: Row = np.inf  # type: ignore[assignment]


class LinearCarry(NamedTuple):
    """The state between two calls."""

    x: Float[Array, "B ..."]
    image: Float[Array, "B ..."]


def linear_start(x: Float[Array, "B ..."]) -> LinearCarry:
    return LinearCarry(x, jnp.zeros_like(x))


def linear_step(
    carry: LinearCarry, row: Linear, output: Float[Array, "B ..."], noise: Float[Array, "B ..."] | float
) -> LinearCarry:
    """One row of the table. Elementwise, so that any layout and any sharding of the images stays as it is."""
    image = jnp.clip(row.image_of_x * carry.x + row.image_of_output * output, -row.limit, row.limit)
    x = row.of_x * carry.x + row.of_output * output + row.of_image * image
    return LinearCarry(x + row.of_previous * carry.image + row.of_noise * noise, image)
