"""Euler's method on the probability flow, and its ancestral form (Karras et al., arXiv 2206.00364; k-diffusion).

Here x = x_0 + σ ε, and the network is given x / √(σ² + 1). With σ' the next noise level, 0 at the end:

    Euler              x' = x + (σ' - σ) (x - x_0) / σ
    Euler ancestral    x' = x + (σ↓ - σ) (x - x_0) / σ + σ↑ · noise,   σ↓ = σ'² / σ,  σ↑² = σ'² - σ↓²

The timesteps of `linspace` are not rounded: σ is interpolated between the training timesteps.
"""

import numpy as np
from jaxtyping import Float64

from dreamjax.diffusion import timesteps
from dreamjax.diffusion.prediction import image_coefficients
from dreamjax.diffusion.samplers.table import LinearCoefficients, SamplingPlan
from dreamjax.diffusion.schedule import NoiseSchedule


def euler(schedule: NoiseSchedule, steps: int, first: int, karras: bool) -> SamplingPlan:
    """Return the table of Euler's method, from call `first` on."""
    t, sigma = levels(schedule, steps)
    if karras:
        sigma = timesteps.karras(sigma[0], sigma[-1], steps)
        t = timesteps.of_sigmas(schedule, sigma)
    return variance_exploding("euler", schedule, t, sigma, first)


def euler_ancestral(schedule: NoiseSchedule, steps: int, first: int) -> SamplingPlan:
    """Return the table of the ancestral form, from call `first` on."""
    t, sigma = levels(schedule, steps)
    return variance_exploding("euler_ancestral", schedule, t, sigma, first, stochastic=True)


def levels(schedule: NoiseSchedule, steps: int) -> tuple[Float64[np.ndarray, "n"], Float64[np.ndarray, "n"]]:
    """Return timesteps and their σ."""
    t = timesteps.spaced(schedule, schedule.timestep_spacing or "linspace", steps)
    timesteps.on_schedule(schedule, t)
    return t, np.interp(t, np.arange(schedule.num_train_timesteps), schedule.sigmas)


def variance_exploding(
    sampler: str,
    schedule: NoiseSchedule,
    t: Float64[np.ndarray, "n"],
    sigma: Float64[np.ndarray, "n"],
    first: int,
    stochastic: bool = False,
) -> SamplingPlan:
    """Return the plan from each σ to the next, from call `first` on; `stochastic`: down to σ↓, then up by σ↑."""
    # sampling begins at pure noise; leading spacing begins below the last timestep, where x still holds the image
    start = np.sqrt(sigma[0] ** 2 + 1.0) if schedule.timestep_spacing == "leading" else sigma[0]
    t, sigma = t[first:], sigma[first:]
    after = np.append(sigma[1:], 0.0)
    down = after**2 / sigma if stochastic else after
    scale = 1.0 / np.sqrt(sigma**2 + 1.0)
    p, q = image_coefficients(schedule.prediction_type, scale, sigma * scale)
    rows = LinearCoefficients(
        p * scale, q, of_x=down / sigma, of_image=1.0 - down / sigma, of_noise=np.sqrt(after**2 - down**2)
    )
    return SamplingPlan(
        timesteps=t,
        scale=scale,
        signal=np.ones(len(t) + 1),
        sigma=np.append(sigma, 0.0),
        start_sigma=start,
        coefficients=rows,
        sampler=sampler,
        stochastic=stochastic,
        whole=first == 0,
    )
