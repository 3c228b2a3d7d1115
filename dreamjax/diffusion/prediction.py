"""The kinds of prediction of a network (noise, image or v): conversions, and training targets.

With x_t = a x_0 + s ε, a = √ᾱ_t, s = √(1 - ᾱ_t):

    epsilon        ε
    sample         x_0
    v_prediction   v = a ε - s x_0                 (Salimans & Ho, arXiv 2202.00512, section 4 and appendix D)

so that x_0 = a x_t - s v and ε = s x_t + a v. Where t is an array it counts images, one timestep each; a scalar t
holds for all.
"""

from typing import TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dreamjax.diffusion.schedule import NoiseSchedule, PredictionType

ArrayT = TypeVar("ArrayT", Array, np.ndarray)
Timesteps = Int[Array, "B"] | Int[Array, ""]


def image_coefficients(kind: PredictionType, a: ArrayT, s: ArrayT) -> tuple[ArrayT, ArrayT]:
    """Return (p, q) such that x_0 = p x_t + q output. NumPy or JAX arrays; `epsilon` needs a > 0."""
    if kind == "epsilon":
        return 1.0 / a, -s / a
    if kind == "v_prediction":
        return a, -s
    return 0.0 * a, 1.0 + 0.0 * a


def noise_coefficients(kind: PredictionType, a: ArrayT, s: ArrayT) -> tuple[ArrayT, ArrayT]:
    """Return (p, q) such that ε = p x_t + q output. `sample` needs s > 0."""
    if kind == "epsilon":
        return 0.0 * a, 1.0 + 0.0 * a
    if kind == "v_prediction":
        return s, a
    return 1.0 / s, -a / s


def add_noise(
    schedule: NoiseSchedule, x0: Float[Array, "B ..."], noise: Float[Array, "B ..."], t: Timesteps
) -> Float[Array, "B ..."]:
    """Return x_t = a x_0 + s ε."""
    a, s = _levels(schedule, t, x0)
    return a * x0 + s * noise


def target(
    schedule: NoiseSchedule, x0: Float[Array, "B ..."], noise: Float[Array, "B ..."], t: Timesteps
) -> Float[Array, "B ..."]:
    """Return the training target of the network's output for `add_noise(schedule, x0, noise, t)`."""
    if schedule.prediction_type == "epsilon":
        return noise
    if schedule.prediction_type == "v_prediction":
        a, s = _levels(schedule, t, x0)
        return a * noise - s * x0
    return x0


def min_snr_weight(schedule: NoiseSchedule, t: Int[Array, "..."], gamma: float = 5.0) -> Float[Array, "..."]:
    """Return the weight of each example's squared error that equals min(SNR, γ) on the image.

    epsilon: min(SNR, γ) / SNR,  v: min(SNR, γ) / (SNR + 1),  sample: min(SNR, γ)  (Hang et al., arXiv 2303.09556, 3.4)

    At SNR = 0 the first is 1, its limit.
    """
    ratio = jnp.asarray(schedule.snr, jnp.float32)[t]
    if schedule.prediction_type == "epsilon":
        return jnp.minimum(1.0, gamma / ratio)
    least = jnp.minimum(ratio, gamma)
    return least / (ratio + 1.0) if schedule.prediction_type == "v_prediction" else least


def _levels(schedule: NoiseSchedule, t: Timesteps, x: Array) -> tuple[Array, Array]:
    """Return a and s at t, float32, with as many axes as x."""
    a = jnp.asarray(schedule.alphas_cumprod**0.5, jnp.float32)[t]
    s = jnp.asarray((1.0 - schedule.alphas_cumprod) ** 0.5, jnp.float32)[t]
    shape = a.shape + (1,) * (x.ndim - a.ndim)
    return a.reshape(shape), s.reshape(shape)
