"""The forward process: the amounts of image and noise at each of the T training timesteps.

x_t = √ᾱ_t x_0 + √(1 - ᾱ_t) ε,  ᾱ_t = Π_{s ≤ t} (1 - β_s)          (Ho et al., arXiv 2006.11239, equation 4)

    linear             β_t evenly from beta_start to beta_end
    scaled_linear      √β_t evenly (latent diffusion, arXiv 2112.10752, and so Stable Diffusion)
    squaredcos_cap_v2  ᾱ(u) ∝ cos²(π/2 · (u + 0.008) / 1.008), β ≤ 0.999 (Nichol & Dhariwal, arXiv 2102.09672, eq. 17)

Everything is computed in float64 on the host, once per schedule.
"""

import functools
import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float64, Int

from dreamjax.errors import UserError

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
PredictionType = Literal["epsilon", "v_prediction", "sample"]
Spacing = Literal["leading", "linspace", "trailing"]
SamplerName = Literal["ddim", "ddpm", "plms", "dpmpp_2m", "euler", "euler_ancestral"]
VarianceType = Literal["fixed_small", "fixed_large"]
MAX_TIMESTEPS = 100_000  # a table with a row for each is made
Levels = Float64[np.ndarray, "n"]


@dataclass(frozen=True)
class NoiseSchedule:
    """A schedule, what its network predicts, and the settings of samplers. None: the sampler's default."""

    num_train_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    beta_schedule: BetaSchedule = "linear"
    trained_betas: tuple[float, ...] | None = None  # instead of the three above
    rescale_betas_zero_snr: bool = False  # the last timestep is pure noise
    prediction_type: PredictionType = "epsilon"
    timestep_spacing: Spacing | None = None  # None: linspace for Euler and DPM-Solver++, leading for the others
    steps_offset: int = 0  # added to the timesteps of `leading`
    set_alpha_to_one: bool | None = None  # ᾱ after the last step: 1, or ᾱ_0. None: 1 for DDIM, ᾱ_0 for PLMS
    clip_sample: bool = False  # DDPM and DDIM: predicted images are cut to ± clip_sample_range; not for latents
    clip_sample_range: float = 1.0
    variance_type: VarianceType = "fixed_small"  # DDPM: the lower or the upper bound of section 3.2
    use_karras_sigmas: bool = False  # Euler and DPM-Solver++
    sampler: SamplerName = "ddim"  # where none is named

    def __post_init__(self) -> None:
        for name, kind in (
            ("beta_schedule", BetaSchedule),
            ("prediction_type", PredictionType),
            ("variance_type", VarianceType),
            ("sampler", SamplerName),
            ("timestep_spacing", Spacing),
        ):
            value = getattr(self, name)
            if value not in get_args(kind) and (name, value) != ("timestep_spacing", None):
                raise ValueError(f"{name} is {value!r}, but it must be one of {', '.join(get_args(kind))}")
        if not 1 <= self.num_train_timesteps <= MAX_TIMESTEPS:
            raise ValueError(
                f"num_train_timesteps is {self.num_train_timesteps}, but it must be from 1 to {MAX_TIMESTEPS:,}"
            )
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"beta_start and beta_end are {self.beta_start} and {self.beta_end}, but 0 < beta_start <= beta_end < 1"
            )
        if self.trained_betas is not None:
            if len(self.trained_betas) != self.num_train_timesteps:
                raise ValueError(
                    f"trained_betas has {len(self.trained_betas)} values for {self.num_train_timesteps} timesteps"
                )
            if not all(0 < beta < 1 for beta in self.trained_betas):
                raise ValueError("trained_betas has a value that does not lie between 0 and 1")
        if not 0 <= self.steps_offset < self.num_train_timesteps:
            raise ValueError(f"steps_offset is {self.steps_offset}, but it must lie in [0, num_train_timesteps)")
        if not self.clip_sample_range > 0:
            raise ValueError(f"clip_sample_range is {self.clip_sample_range}, but it must be positive")

    @functools.cached_property
    def alphas_cumprod(self) -> Float64[np.ndarray, "T"]:
        """Return ᾱ_t."""
        alphas = np.cumprod(1.0 - betas(self))
        alphas = zero_terminal_snr(alphas) if self.rescale_betas_zero_snr else alphas
        alphas.setflags(write=False)
        return alphas

    @property
    def snr(self) -> Float64[np.ndarray, "T"]:
        """Return ᾱ_t / (1 - ᾱ_t)."""
        return self.alphas_cumprod / (1.0 - self.alphas_cumprod)

    @property
    def sigmas(self) -> Float64[np.ndarray, "T"]:
        """Return √(1 / SNR): the noise on an image of scale 1, as used by Euler and DPM-Solver++.

        Where the last SNR is 0, ᾱ = 2⁻²⁴ stands there, as in diffusers: finite, and the noise 4096 times the image.
        """
        alphas = np.maximum(self.alphas_cumprod, 2.0**-24) if self.rescale_betas_zero_snr else self.alphas_cumprod
        return np.sqrt((1.0 - alphas) / alphas)


# Stable Diffusion 1.x, as its scheduler_config.json has it (1.4 and 1.5, 2.0 and 2.1 base)
STABLE_DIFFUSION = NoiseSchedule(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, sampler="plms"
)


def betas(schedule: NoiseSchedule) -> Float64[np.ndarray, "T"]:
    """Return β_t, before any rescaling."""
    T = schedule.num_train_timesteps
    if schedule.trained_betas is not None:
        return np.asarray(schedule.trained_betas, np.float64)
    if schedule.beta_schedule == "linear":
        return np.linspace(schedule.beta_start, schedule.beta_end, T)
    if schedule.beta_schedule == "scaled_linear":
        return np.linspace(schedule.beta_start**0.5, schedule.beta_end**0.5, T) ** 2
    alpha_bar = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


def zero_terminal_snr(alphas_cumprod: Float64[np.ndarray, "T"]) -> Float64[np.ndarray, "T"]:
    """Return ᾱ with √ᾱ shifted and scaled so that it ends at exactly 0 and begins at its old value.

    √ᾱ_t ← (√ᾱ_t - √ᾱ_T) · √ᾱ_1 / (√ᾱ_1 - √ᾱ_T)                    (Lin et al., arXiv 2305.08891, algorithm 1)
    """
    root = np.sqrt(alphas_cumprod)
    return ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2


# -------------------------------------------------- the timesteps at which a sampler of n steps calls the network
def spaced(schedule: NoiseSchedule, spacing: Spacing, steps: int) -> Levels:
    """Return `steps` timesteps (Lin et al., arXiv 2305.08891, table 2, in diffusers' numbers); of linspace, fractions.

    leading: i ⌊T / n⌋ + offset,  linspace: i (T - 1) / (n - 1),  trailing: round(T - i T / n) - 1
    """
    T = schedule.num_train_timesteps
    if spacing == "leading":
        return (np.arange(steps)[::-1] * (T // steps) + schedule.steps_offset).astype(np.float64)
    if spacing == "linspace":
        return np.linspace(0, T - 1, steps)[::-1]
    # for some n, 61 among them, rounding makes this one too long, and diffusers calls timestep -1
    return np.round(np.arange(T, 0, -T / steps)[:steps]) - 1


def karras(highest: float, lowest: float, steps: int, rho: float = 7.0) -> Levels:
    """Return σ_i = (σ_max^(1/ρ) + i / (n - 1) (σ_min^(1/ρ) - σ_max^(1/ρ)))^ρ (Karras et al., arXiv 2206.00364, 5)."""
    sigmas = np.linspace(highest ** (1 / rho), lowest ** (1 / rho), steps) ** rho
    return np.clip(sigmas, lowest, highest)  # the powers' rounding


def of_sigmas(schedule: NoiseSchedule, sigmas: Levels) -> Levels:
    """Return the (fractional) timesteps of these noise levels, interpolated in log σ."""
    return np.interp(np.log(sigmas), np.log(schedule.sigmas), np.arange(schedule.num_train_timesteps))


def on_schedule(schedule: NoiseSchedule, timesteps: Levels) -> Int[np.ndarray, "n"]:
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
