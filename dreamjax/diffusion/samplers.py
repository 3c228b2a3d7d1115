"""Samplers: a table computed on the host, one row per call of the network, and a step that is linear in its row.

DDPM, DDIM, Euler and DPM-Solver++ differ only in their tables; PLMS, which keeps more outputs, has a separate step.
With a = √ᾱ_t, s = √(1 - ᾱ_t), and a', s' at the next timestep; or, with noise σ on an image of scale 1 (Karras et al.,
arXiv 2206.00364), a = 1 / √(σ² + 1) and s = σ a.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dreamjax.diffusion import schedule as schedules
from dreamjax.diffusion.prediction import image_coefficients, noise_coefficients
from dreamjax.diffusion.schedule import Levels, NoiseSchedule
from dreamjax.errors import UserError

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


def _plan(
    sampler: str,
    t: Levels,
    signal: Levels,
    sigma: Levels,
    rows: object,
    first: int,
    *,
    scale: Levels | float = 1.0,
    start_sigma: float = 1.0,
    stochastic: bool = False,
) -> SamplingPlan:
    """Return the plan of a sampler, from call `first` on; by default x enters the network unscaled."""
    return SamplingPlan(
        timesteps=t,
        scale=np.broadcast_to(scale, len(t)),
        signal=np.append(signal, 1.0),
        sigma=np.append(sigma, 0.0),
        start_sigma=np.asarray(start_sigma),
        coefficients=rows,
        sampler=sampler,
        stochastic=stochastic,
        whole=first == 0,
    )


class LinearCarry(NamedTuple):
    """The state between two calls."""

    x: Float[Array, "B ..."]
    image: Float[Array, "B ..."]


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

    def start(self, x: Float[Array, "B ..."]) -> LinearCarry:
        """Return the state before the first call."""
        return LinearCarry(x, jnp.zeros_like(x))

    def step(self, carry: LinearCarry, output: Float[Array, "B ..."], noise: Array | float) -> LinearCarry:
        """Take the step of one row. It is elementwise, so that any layout and sharding of the images is kept."""
        image = jnp.clip(self.image_of_x * carry.x + self.image_of_output * output, -self.limit, self.limit)
        x = self.of_x * carry.x + self.of_output * output + self.of_image * image
        return LinearCarry(x + self.of_previous * carry.image + self.of_noise * noise, image)


def ddpm(schedule: NoiseSchedule, steps: int, first: int) -> SamplingPlan:
    """Return the table of DDPM (Ho et al., arXiv 2006.11239, equation 7; strided as in arXiv 2102.09672, equation 19).

        x' = a' β / s² · x_0 + (a / a') s'² / s² · x + √V · noise,   β = 1 - ᾱ_t / ᾱ_t'
        V = s'² / s² · β (fixed_small) or β (fixed_large); no noise at t = 0

    As in diffusers, it goes from each chosen timestep to the next, and only x_0 is clipped, not ε.
    """
    t, alpha = _called(schedule, steps, first)
    before = np.append(alpha[1:], 1.0)
    beta = 1.0 - alpha / before
    variance = beta if schedule.variance_type == "fixed_large" else (1.0 - before) / (1.0 - alpha) * beta
    a, s = np.sqrt(alpha), np.sqrt(1.0 - alpha)
    p, q = image_coefficients(schedule.prediction_type, a, s)
    rows = LinearCoefficients(
        p,
        q,
        of_image=np.sqrt(before) * beta / (1.0 - alpha),
        of_x=np.sqrt(alpha / before) * (1.0 - before) / (1.0 - alpha),
        of_noise=np.sqrt(variance) * (t > 0),
        limit=schedule.clip_sample_range if schedule.clip_sample else np.inf,
    )
    return _plan("ddpm", t, a, s, rows, first, stochastic=True)


def ddim(schedule: NoiseSchedule, steps: int, first: int, eta: float) -> SamplingPlan:
    """Return the table of DDIM (Song et al., arXiv 2010.02502, equations 12 and 16).

        x' = a' x_0 + √(s'² - σ²) · ε + σ · noise,   σ = η · s' / s · √(1 - ᾱ_t / ᾱ_t')

    As in diffusers, it always goes ⌊T / n⌋ back, and only x_0 is clipped, not ε.
    """
    t, alpha = _called(schedule, steps, first)
    before = _earlier(
        schedule, t - schedule.num_train_timesteps // steps, to_one=schedule.set_alpha_to_one is not False
    )
    sigma = eta * np.sqrt((1.0 - before) / (1.0 - alpha) * (1.0 - alpha / before))
    of_noise_prediction = np.sqrt(np.maximum(1.0 - before - sigma**2, 0.0))
    a, s = np.sqrt(alpha), np.sqrt(1.0 - alpha)
    p, q = image_coefficients(schedule.prediction_type, a, s)
    noise_p, noise_q = noise_coefficients(schedule.prediction_type, a, s)
    rows = LinearCoefficients(
        p,
        q,
        of_image=np.sqrt(before),
        of_x=of_noise_prediction * noise_p,
        of_output=of_noise_prediction * noise_q,
        of_noise=sigma,
        limit=schedule.clip_sample_range if schedule.clip_sample else np.inf,
    )
    return _plan("ddim", t, a, s, rows, first, stochastic=eta > 0)


def _called(schedule: NoiseSchedule, steps: int, first: int) -> tuple[Int[np.ndarray, "n"], Levels]:
    """Return rounded timesteps, from the `first` on, and their ᾱ. Refuse to predict epsilon at pure noise."""
    spacing = schedule.timestep_spacing or "leading"
    t = schedules.on_schedule(schedule, np.round(schedules.spaced(schedule, spacing, steps)))[first:]
    alpha = schedule.alphas_cumprod[t]
    if schedule.prediction_type == "epsilon" and not alpha.all():
        raise UserError(
            f"timestep {t[0]} of this schedule is pure noise (rescale_betas_zero_snr), where prediction_type epsilon "
            "does not determine the image; use v_prediction or sample, or timestep_spacing leading"
        )
    return t, alpha


def _earlier(schedule: NoiseSchedule, t: Int[np.ndarray, "n"], to_one: bool) -> Levels:
    """Return ᾱ at t; before the first timestep 1, or ᾱ_0 for networks that were trained to end there."""
    return np.where(t >= 0, schedule.alphas_cumprod[np.maximum(t, 0)], 1.0 if to_one else schedule.alphas_cumprod[0])


def dpmpp_2m(schedule: NoiseSchedule, steps: int, first: int, karras: bool) -> SamplingPlan:
    """Return the table of DPM-Solver++(2M), a second-order multistep solver of the probability flow.

    Lu et al., arXiv 2211.01095, algorithm 2. With λ = -log σ, and h = λ' - λ to the next level:

        x' = s' / s · x + a' (1 - e^(-h)) · ((1 + 1 / 2r) x_0 - 1 / 2r · (x_0 of the call before)),   r = (h before) / h

    The first step, and the last, which goes to σ' = 0 (so h = ∞ and x' = x_0), are of first order: without 1 / 2r.
    """
    if karras:
        sigma = schedules.karras(schedule.sigmas[-1], schedule.sigmas[0], steps)
        t = schedules.of_sigmas(schedule, sigma)
        # networks were trained on whole timesteps; diffusers rounds down where the schedule is the cosine's
        t = np.floor(t) if schedule.beta_schedule == "squaredcos_cap_v2" else np.round(t)
    else:
        spacing = schedule.timestep_spacing or "linspace"  # which, as leading, is for one more point, the end
        more = 0 if spacing == "trailing" else 1
        t = np.round(schedules.spaced(schedule, spacing, steps + more)[:steps])
        sigma = schedule.sigmas[schedules.on_schedule(schedule, t)]
        if (np.diff(sigma) >= 0).any():
            raise UserError(f"dpmpp_2m with {steps} steps would call a timestep twice; use fewer steps, or ddim")
    t, sigma = t[first:], sigma[first:]

    a, s = 1.0 / np.sqrt(sigma**2 + 1.0), sigma / np.sqrt(sigma**2 + 1.0)
    a_next, s_next = np.append(a[1:], 1.0), np.append(s[1:], 0.0)
    ratio = np.append(sigma[1:], 0.0) / sigma  # e^(-h)
    of_change = np.zeros(len(t))
    if len(t) > 2:
        h = -np.log(ratio[:-1])
        of_change[1:-1] = 0.5 * h[1:] / h[:-1]
    of_image = a_next * (1.0 - ratio)
    p, q = image_coefficients(schedule.prediction_type, a, s)
    rows = LinearCoefficients(
        p, q, of_x=s_next / s, of_image=of_image * (1.0 + of_change), of_previous=-of_image * of_change
    )
    return _plan("dpmpp_2m", t, a, s, rows, first)


def euler(
    schedule: NoiseSchedule, steps: int, first: int, karras: bool = False, ancestral: bool = False
) -> SamplingPlan:
    """Return the table of Euler's method on the probability flow (Karras et al., arXiv 2206.00364; k-diffusion).

    Here x = x_0 + σ ε, and with σ' the next noise level, 0 at the end: x' = x + (σ' - σ) (x - x_0) / σ. `ancestral`:
    down to σ↓ instead, then up by noise: x' = … + σ↑ · noise, σ↓ = σ'² / σ, σ↑² = σ'² - σ↓².
    """
    t = schedules.spaced(schedule, schedule.timestep_spacing or "linspace", steps)
    schedules.on_schedule(schedule, t)
    sigma = np.interp(t, np.arange(schedule.num_train_timesteps), schedule.sigmas)  # t of linspace is not rounded
    if karras:
        sigma = schedules.karras(sigma[0], sigma[-1], steps)
        t = schedules.of_sigmas(schedule, sigma)
    # sampling begins at pure noise; leading spacing begins below the last timestep, where x still holds the image
    start = np.sqrt(sigma[0] ** 2 + 1.0) if schedule.timestep_spacing == "leading" else sigma[0]
    t, sigma = t[first:], sigma[first:]
    after = np.append(sigma[1:], 0.0)
    down = after**2 / sigma if ancestral else after
    scale = 1.0 / np.sqrt(sigma**2 + 1.0)
    p, q = image_coefficients(schedule.prediction_type, scale, sigma * scale)
    rows = LinearCoefficients(
        p * scale, q, of_x=down / sigma, of_image=1.0 - down / sigma, of_noise=np.sqrt(after**2 - down**2)
    )
    name, ones = "euler_ancestral" if ancestral else "euler", np.ones(len(t))
    return _plan(name, t, ones, sigma, rows, first, scale=scale, start_sigma=start, stochastic=ancestral)


WEIGHTS = np.array([[24, 0, 0, 0], [12, 12, 0, 0], [36, -12, 0, 0], [46, -32, 10, 0], [55, -59, 37, -9]]) / 24


class MultistepCarry(NamedTuple):
    """The state between two calls."""

    x: Float[Array, "B ..."]
    before: Float[Array, "B ..."]  # x as it was at the last call
    outputs: tuple[Float[Array, "B ..."], ...]  # three, the latest first


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MultistepCoefficients:
    """x' = of_x · x + of_output · m̄, m̄ = weights · (output, the three before it)."""

    of_x: Coefficient
    of_output: Coefficient
    weights: Float[Any, "n 4"] | Float[Any, "4"]
    again: Coefficient  # 1 where the step before is taken once more

    def start(self, x: Float[Array, "B ..."]) -> MultistepCarry:
        """Return the state before the first call."""
        return MultistepCarry(x, x, (jnp.zeros_like(x),) * 3)

    def step(self, carry: MultistepCarry, output: Float[Array, "B ..."], noise: Array | float) -> MultistepCarry:
        """Take the step of one row; no noise is added."""
        latest = (output, *carry.outputs)
        mean = sum(self.weights[k] * latest[k] for k in range(4))
        again = self.again > 0
        x = self.of_x * jnp.where(again, carry.before, carry.x) + self.of_output * mean
        kept = tuple(jnp.where(again, old, new) for old, new in zip(carry.outputs, latest[:3], strict=True))
        return MultistepCarry(x, carry.x, kept)


def plms(schedule: NoiseSchedule, steps: int, first: int) -> SamplingPlan:
    """Return the table of PLMS, a linear multistep method on the network's outputs.

    Liu et al., PNDM, arXiv 2202.09778, equations 9 and 12. The mean output m̄ of the last calls moves x from t to t':

        x' = a' / a · x - (ᾱ' - ᾱ) / (ᾱ s' + a a' s) · ε(m̄, x),   ε(m̄) = m̄, or s x + a m̄ where m is v

        m̄ = (55 m - 59 m₁ + 37 m₂ - 9 m₃) / 24; with two outputs in memory (23, -16, 5) / 12, with one (3, -1) / 2

    As diffusers with `skip_prk_steps`, it does not start with Runge-Kutta: the first step is taken twice, the second
    time from where the first began, with the mean of the outputs at both ends: n + 1 calls. With `strength` the list of
    calls is cut, as in diffusers, *after* that; the second remaining call then counts as the repetition, and the
    trajectory is off by half a step. Use DDIM or DPM-Solver++ to start from images.
    """
    if schedule.prediction_type == "sample":
        raise UserError("plms supports prediction_type epsilon and v_prediction, not sample; use ddim")
    called, _ = _called(schedule, steps, 0)
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
    after = _earlier(schedule, end, to_one=schedule.set_alpha_to_one is True)
    a, s = np.sqrt(alpha), np.sqrt(1.0 - alpha)
    of_noise = -(after - alpha) / (alpha * np.sqrt(1.0 - after) + a * np.sqrt(after) * s)
    p, q = noise_coefficients(schedule.prediction_type, a, s)
    rows = MultistepCoefficients(
        np.sqrt(after) / a + of_noise * p, of_noise * q, WEIGHTS[np.minimum(np.arange(len(t)), 4)], again.astype(float)
    )
    called_alpha = schedule.alphas_cumprod[t]
    return _plan("plms", t, np.sqrt(called_alpha), np.sqrt(1.0 - called_alpha), rows, first)
