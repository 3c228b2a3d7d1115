"""The training timesteps and noise levels at which a sampler of n steps calls the network.

The three spacings are those of Lin et al. (arXiv 2305.08891, table 2), in diffusers' numbers; the highest first.
"""

import math

import numpy as np
from jaxtyping import Float64, Int

from dreamjax.diffusion.schedule import NoiseSchedule, Spacing
from dreamjax.errors import UserError


def spaced(schedule: NoiseSchedule, spacing: Spacing, steps: int) -> Float64[np.ndarray, "n"]:
    """Return `steps` timesteps, T the number of training timesteps; only those of linspace may be fractions.

    leading: i ⌊T / n⌋ + offset,  linspace: i (T - 1) / (n - 1),  trailing: round(T - i T / n) - 1
    """
    T = schedule.num_train_timesteps
    if spacing == "leading":
        return (np.arange(steps)[::-1] * (T // steps) + schedule.steps_offset).astype(np.float64)
    if spacing == "linspace":
        return np.linspace(0, T - 1, steps)[::-1]
    # for some n, 61 among them, rounding makes this one too long, and diffusers calls timestep -1
    return np.round(np.arange(T, 0, -T / steps)[:steps]) - 1


def spaced_to_zero(schedule: NoiseSchedule, spacing: Spacing, steps: int) -> Float64[np.ndarray, "n"]:
    """Return the timesteps of DPM-Solver++: leading and linspace are spaced for one more point, the end."""
    if spacing == "trailing":
        return spaced(schedule, spacing, steps)
    return np.round(spaced(schedule, spacing, steps + 1)[:-1])


def karras(highest: float, lowest: float, steps: int, rho: float = 7.0) -> Float64[np.ndarray, "n"]:
    """Return σ_i = (σ_max^(1/ρ) + i / (n - 1) (σ_min^(1/ρ) - σ_max^(1/ρ)))^ρ (Karras et al., arXiv 2206.00364, 5)."""
    sigmas = np.linspace(highest ** (1 / rho), lowest ** (1 / rho), steps) ** rho
    return np.clip(sigmas, lowest, highest)  # the powers' rounding


def of_sigmas(schedule: NoiseSchedule, sigmas: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """Return the (fractional) timesteps of these noise levels, interpolated in log σ."""
    return np.interp(np.log(sigmas), np.log(schedule.sigmas), np.arange(schedule.num_train_timesteps))


def on_schedule(schedule: NoiseSchedule, timesteps: Float64[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Return timesteps as indices of the schedule. Raise UserError where the offset moves them past its end."""
    if timesteps.max() >= schedule.num_train_timesteps:
        raise UserError(
            f"{len(timesteps)} steps with steps_offset {schedule.steps_offset} reach timestep {timesteps.max():.0f} "
            f"of a schedule of {schedule.num_train_timesteps}; use fewer steps or another timestep_spacing"
        )
    return timesteps.astype(np.int64)


def first_step(steps: int, strength: float) -> int:
    """Return how many of the first steps are skipped when an image is changed by `strength`: n - ⌊n strength⌋.

    As in diffusers' `get_timesteps`. Raises UserError where no step remains.
    """
    if not 0 < strength <= 1:
        raise UserError(f"strength is {strength}, but it must lie above 0 and up to 1")
    if int(steps * strength) < 1:
        raise UserError(
            f"strength {strength} of {steps} steps leaves no step; use at least {math.ceil(1 / strength)} steps"
        )
    return steps - int(steps * strength)
