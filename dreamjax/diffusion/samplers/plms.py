"""PLMS: a linear multistep method on the network's outputs (Liu et al., PNDM, arXiv 2202.09778, equations 9 and 12).

The mean output m̄ of the last calls moves x from t to t' (a, s, a', s' = √ᾱ, √(1 - ᾱ) there):

    x' = a' / a · x - (ᾱ' - ᾱ) / (ᾱ s' + a a' s) · ε(m̄, x),   ε(m̄) = m̄, or s x + a m̄ where m is v

    m̄ = (55 m - 59 m₁ + 37 m₂ - 9 m₃) / 24; with two outputs in memory (23, -16, 5) / 12, with one (3, -1) / 2

As diffusers with `skip_prk_steps`, it does not start with Runge-Kutta: the first step is taken twice, the second time
from where the first began, with the mean of the outputs at both ends. n steps therefore cost n + 1 calls (for n > 1).

With `strength` the list of calls is cut, as in diffusers, *after* the repetition was inserted; the second remaining
call then counts as the repetition, and the trajectory is off by half a step. Use DDIM or DPM-Solver++ to start from
images.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dreamjax.diffusion.prediction import noise_coefficients
from dreamjax.diffusion.samplers import ancestral
from dreamjax.diffusion.samplers.table import Coefficient, SamplingPlan
from dreamjax.diffusion.schedule import NoiseSchedule
from dreamjax.errors import UserError

WEIGHTS = np.array([[24, 0, 0, 0], [12, 12, 0, 0], [36, -12, 0, 0], [46, -32, 10, 0], [55, -59, 37, -9]]) / 24


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MultistepCoefficients:
    """x' = of_x · x + of_output · m̄, m̄ = weights · (output, the three before it)."""

    of_x: Coefficient
    of_output: Coefficient
    weights: Float[Any, "n 4"] | Float[Any, "4"]
    again: Coefficient  # 1 where the step before is taken once more


class MultistepCarry(NamedTuple):
    """The state between two calls."""

    x: Float[Array, "B ..."]
    before: Float[Array, "B ..."]  # x as it was at the last call
    outputs: tuple[Float[Array, "B ..."], ...]  # three, the latest first


def plms(schedule: NoiseSchedule, steps: int, first: int) -> SamplingPlan:
    """Return the table of PLMS, from call `first` on."""
    if schedule.prediction_type == "sample":
        raise UserError("plms supports prediction_type epsilon and v_prediction, not sample; use ddim")
    called, _ = ancestral.called(schedule, steps, 0)
    t = np.concatenate([called[:2], called[1:]])[first:]  # the second is called twice
    stride = schedule.num_train_timesteps // steps
    again = np.arange(len(t)) == 1
    start, end = t + stride * again, t - stride * ~again
    if start.max() >= schedule.num_train_timesteps:
        raise UserError(
            f"plms with {steps} steps from timestep {t[0]} would begin past the last timestep; use more steps, or ddim"
        )
    alpha = schedule.alphas_cumprod[start]
    if not alpha.all():
        raise UserError(
            f"timestep {start[0]} of this schedule is pure noise (rescale_betas_zero_snr), from which plms cannot "
            "start; use ddim, or timestep_spacing leading"
        )
    after = ancestral.earlier(schedule, end, to_one=schedule.set_alpha_to_one is True)
    a, s = np.sqrt(alpha), np.sqrt(1.0 - alpha)
    of_noise = -(after - alpha) / (alpha * np.sqrt(1.0 - after) + a * np.sqrt(after) * s)
    p, q = noise_coefficients(schedule.prediction_type, a, s)
    rows = MultistepCoefficients(
        np.sqrt(after) / a + of_noise * p, of_noise * q, WEIGHTS[np.minimum(np.arange(len(t)), 4)], again.astype(float)
    )
    return ancestral.variance_preserving("plms", t, schedule.alphas_cumprod[t], rows, first)


def multistep_start(x: Float[Array, "B ..."]) -> MultistepCarry:
    """Return the state before the first call."""
    return MultistepCarry(x, x, (jnp.zeros_like(x),) * 3)


def multistep_step(
    carry: MultistepCarry,
    row: MultistepCoefficients,
    output: Float[Array, "B ..."],
    noise: Float[Array, "B ..."] | float,
) -> MultistepCarry:
    """Take one step; no noise is added."""
    latest = (output, *carry.outputs)
    mean = sum(row.weights[k] * latest[k] for k in range(4))
    again = row.again > 0
    x = row.of_x * jnp.where(again, carry.before, carry.x) + row.of_output * mean
    kept = tuple(jnp.where(again, old, new) for old, new in zip(carry.outputs, latest[:3], strict=True))
    return MultistepCarry(x, carry.x, kept)
