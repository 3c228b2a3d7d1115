"""Gaussian noise that is a function of (seed, image's index, purpose, step) alone.

Never of the batch that an image happens to be drawn in, its row, or the number of devices: image 7 of seed 0 is the
same image alone and among a thousand. The generator is named (threefry), because the faster ones that an environment
may choose as default mix the rows of a batch.
"""

import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def draw(
    seed: int | Int[Array, ""],
    index: Int[Array, "B"],
    purpose: str,
    shape: Sequence[int],
    step: int | Int[Array, ""] = 0,
) -> Float[Array, "B ..."]:
    """Return standard normal float32 of `shape` for each image. Everything but `purpose` and `shape` may be traced.

    Purposes in use: "start" (the noise that an image begins as), "step" (what a stochastic sampler adds).
    """
    key = jax.random.key(seed, impl="threefry2x32")
    key = jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(purpose.encode())), step)

    def one(image: Int[Array, ""]) -> Float[Array, "..."]:
        return jax.random.normal(jax.random.fold_in(key, image), tuple(shape), jnp.float32)

    return jax.vmap(one)(jnp.asarray(index))
