"""DDPM and DDIM: x_0 is predicted, and x moves to the distribution that this leaves for an earlier timestep.

With a = √ᾱ_t, s = √(1 - ᾱ_t), and a', s' at the earlier timestep t':

DDPM (Ho et al., arXiv 2006.11239, equation 7; strided as in Nichol & Dhariwal, arXiv 2102.09672, equation 19)

    x' = a' β / s² · x_0 + (a / a') s'² / s² · x + √V · noise,   β = 1 - ᾱ_t / ᾱ_t'
    V = s'² / s² · β (fixed_small) or β (fixed_large); no noise at t = 0

DDIM (Song et al., arXiv 2010.02502, equations 12 and 16)

    x' = a' x_0 + √(s'² - σ²) · ε + σ · noise,   σ = η · s' / s · √(1 - ᾱ_t / ᾱ_t')

As in diffusers, DDPM goes from each chosen timestep to the next, DDIM always ⌊T / n⌋ back, and only x_0 is clipped,
not ε.
"""

import numpy as np
from jaxtyping import Float64, Int

from dreamjax.diffusion import timesteps
from dreamjax.diffusion.prediction import image_coefficients, noise_coefficients
from dreamjax.diffusion.samplers.table import LinearCoefficients, SamplingPlan
from dreamjax.diffusion.schedule import NoiseSchedule
from dreamjax.errors import UserError


def ddpm(schedule: NoiseSchedule, steps: int, first: int) -> SamplingPlan:
    """Return the table of DDPM, from call `first` on."""
    t, alpha = called(schedule, steps, first)
    before = np.append(alpha[1:], 1.0)
    beta = 1.0 - alpha / before
    variance = beta if schedule.variance_type == "fixed_large" else (1.0 - before) / (1.0 - alpha) * beta
    p, q = image_coefficients(schedule.prediction_type, np.sqrt(alpha), np.sqrt(1.0 - alpha))
    rows = LinearCoefficients(
        p,
        q,
        of_image=np.sqrt(before) * beta / (1.0 - alpha),
        of_x=np.sqrt(alpha / before) * (1.0 - before) / (1.0 - alpha),
        of_noise=np.sqrt(variance) * (t > 0),
        limit=schedule.clip_sample_range if schedule.clip_sample else np.inf,
    )
    return variance_preserving("ddpm", t, alpha, rows, first, stochastic=True)


def ddim(schedule: NoiseSchedule, steps: int, first: int, eta: float) -> SamplingPlan:
    """Return the table of DDIM, from call `first` on."""
    t, alpha = called(schedule, steps, first)
    before = earlier(schedule, t - schedule.num_train_timesteps // steps, to_one=schedule.set_alpha_to_one is not False)
    sigma = eta * np.sqrt((1.0 - before) / (1.0 - alpha) * (1.0 - alpha / before))
    of_noise_prediction = np.sqrt(np.maximum(1.0 - before - sigma**2, 0.0))
    p, q = image_coefficients(schedule.prediction_type, np.sqrt(alpha), np.sqrt(1.0 - alpha))
    noise_p, noise_q = noise_coefficients(schedule.prediction_type, np.sqrt(alpha), np.sqrt(1.0 - alpha))
    rows = LinearCoefficients(
        p,
        q,
        of_image=np.sqrt(before),
        of_x=of_noise_prediction * noise_p,
        of_output=of_noise_prediction * noise_q,
        of_noise=sigma,
        limit=schedule.clip_sample_range if schedule.clip_sample else np.inf,
    )
    return variance_preserving("ddim", t, alpha, rows, first, stochastic=eta > 0)


def called(schedule: NoiseSchedule, steps: int, first: int) -> tuple[Int[np.ndarray, "n"], Float64[np.ndarray, "n"]]:
    """Return the rounded timesteps of `steps` steps, from the `first` on, and their ᾱ.

    Raises UserError where epsilon is predicted at a timestep of pure noise.
    """
    spacing = schedule.timestep_spacing or "leading"
    t = timesteps.on_schedule(schedule, np.round(timesteps.spaced(schedule, spacing, steps)))[first:]
    alpha = schedule.alphas_cumprod[t]
    if schedule.prediction_type == "epsilon" and not alpha.all():
        raise UserError(
            f"timestep {t[0]} of this schedule is pure noise (rescale_betas_zero_snr), where prediction_type epsilon "
            "does not determine the image; use v_prediction or sample, or timestep_spacing leading"
        )
    return t, alpha


def earlier(schedule: NoiseSchedule, t: Int[np.ndarray, "n"], to_one: bool) -> Float64[np.ndarray, "n"]:
    """Return ᾱ at t; before the first timestep 1, or ᾱ_0 for networks that were trained to end there."""
    return np.where(t >= 0, schedule.alphas_cumprod[np.maximum(t, 0)], 1.0 if to_one else schedule.alphas_cumprod[0])


def variance_preserving(
    sampler: str,
    t: Int[np.ndarray, "n"],
    alpha: Float64[np.ndarray, "n"],
    rows: object,
    first: int,
    stochastic: bool = False,
) -> SamplingPlan:
    """Return the plan of a sampler whose x is √ᾱ x_0 + √(1 - ᾱ) ε and enters the network unscaled."""
    return SamplingPlan(
        timesteps=t,
        scale=np.ones(len(t)),
        signal=np.append(np.sqrt(alpha), 1.0),
        sigma=np.append(np.sqrt(1.0 - alpha), 0.0),
        start_sigma=np.asarray(1.0),
        coefficients=rows,
        sampler=sampler,
        stochastic=stochastic,
        whole=first == 0,
    )
