"""DPM-Solver++(2M), a second-order multistep solver of the probability flow (Lu et al., arXiv 2211.01095, algorithm 2).

With σ the noise on an image of scale 1, a = 1 / √(σ² + 1), s = σ a, λ = -log σ, and h = λ' - λ to the next level:

    x' = s' / s · x + a' (1 - e^(-h)) · ((1 + 1 / 2r) x_0 - 1 / 2r · (x_0 of the call before)),   r = (h before) / h

The first step, and the last, which goes to σ' = 0 (so h = ∞ and x' = x_0), are of first order: without 1 / 2r.
"""

import numpy as np

from dreamjax.diffusion import timesteps
from dreamjax.diffusion.prediction import image_coefficients
from dreamjax.diffusion.samplers.table import LinearCoefficients, SamplingPlan
from dreamjax.diffusion.schedule import NoiseSchedule
from dreamjax.errors import UserError


def dpmpp_2m(schedule: NoiseSchedule, steps: int, first: int, karras: bool) -> SamplingPlan:
    """Return the table of DPM-Solver++(2M), from call `first` on."""
    if karras:
        sigma = timesteps.karras(schedule.sigmas[-1], schedule.sigmas[0], steps)
        t = timesteps.of_sigmas(schedule, sigma)
        # networks were trained on whole timesteps; diffusers rounds down where the schedule is the cosine's
        t = np.floor(t) if schedule.beta_schedule == "squaredcos_cap_v2" else np.round(t)
    else:
        t = timesteps.spaced_to_zero(schedule, schedule.timestep_spacing or "linspace", steps)
        sigma = schedule.sigmas[timesteps.on_schedule(schedule, t)]
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
    return SamplingPlan(
        timesteps=t,
        scale=np.ones(len(t)),
        signal=np.append(a, 1.0),
        sigma=np.append(s, 0.0),
        start_sigma=np.asarray(1.0),
        coefficients=rows,
        sampler="dpmpp_2m",
        whole=first == 0,
    )
