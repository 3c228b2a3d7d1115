"""What a simulated data set is made of; every field is a fact about the set and is written into its ground truth."""

import math
from dataclasses import dataclass

from etils import epath

from dreamjax.errors import UserError
from dreamjax.signals.simulation.stimuli import SHAPES

MAX_CHANNELS = 128
ALPHA_HZ = (7.5, 13.0)  # the band that every subject's rhythm lies in


@dataclass(frozen=True)
class SimulationSettings:
    """A set of subjects who look at images. Amplitudes are in µV; those of evoked responses scale with `strength`."""

    subjects: int = 6
    minutes: float = 3.0  # per subject, rounded to whole seconds (EDF's records)
    channels: int = 32
    classes: int = 4
    strength: float = 1.0  # 0: a null set, in which nothing follows the images
    order: str = "random"  # or "block": each class in one stretch, the design that slow drift confounds
    format: str = "edf"  # or "brainvision"
    seed: int = 0
    sfreq: float = 250.0  # Hz
    images_per_class: int = 12
    image_s: float = 0.5
    gap_s: tuple[float, float] = (0.5, 0.9)  # between an image's end and the next one's onset, uniform
    rest_fraction: float = 0.15  # of the recording, at its beginning, with closed eyes and no images
    background_uv: float = 10.0  # rms of the 1/f background, mean over channels
    exponent: float = 1.5  # power of the background falls as 1/f^exponent
    alpha_hz: float = 10.0  # mean over subjects
    alpha_spread_hz: float = 0.8  # standard deviation over subjects
    alpha_uv: float = 14.0  # rms at the strongest electrode, eyes closed
    alpha_open: float = 0.35  # share of it that stays with open eyes
    blink_uv: float = 120.0  # peak at the strongest electrode
    blinks_per_minute: float = 12.0  # with open eyes
    line_hz: float = 50.0
    line_uv: float = 2.0
    drift_uv: float = 20.0  # rms below 0.3 Hz
    noise_uv: float = 0.6  # rms of each amplifier channel's own white noise
    missing_channels: int = 0  # so many electrodes, others in every subject, were not recorded

    def __post_init__(self) -> None:
        checks = (
            (1 <= self.subjects <= 999, "subjects", "1 to 999"),
            (10 <= self.minutes * 60 < math.inf, "minutes", "at least 10 s"),
            (4 <= self.channels <= MAX_CHANNELS, "channels", f"4 to {MAX_CHANNELS}"),
            (1 <= self.classes <= len(SHAPES), "classes", f"1 to {len(SHAPES)}"),
            (0 <= self.strength < math.inf, "strength", "0 or more"),
            (ALPHA_HZ[0] <= self.alpha_hz <= ALPHA_HZ[1], "alpha_hz", f"{ALPHA_HZ[0]:g} to {ALPHA_HZ[1]:g} Hz"),
            (self.order in ("random", "block"), "order", "random or block"),
            (self.format in ("edf", "brainvision"), "format", "edf or brainvision"),
            (64 <= self.sfreq <= 4096, "sfreq", "64 to 4096 Hz"),
            (0 <= self.missing_channels <= self.channels - 4, "missing_channels", "so few that 4 channels are left"),
            (self.images_per_class >= 1, "images_per_class", "1 or more"),
            (self.seed >= 0, "seed", "0 or more"),
            (0 <= self.rest_fraction < 1, "rest_fraction", "0 to below 1"),
        )
        for good, name, wanted in checks:
            if not good:
                raise UserError(f"simulate: {name} is {getattr(self, name)}, but must be {wanted}")


def refuse_existing(out: epath.Path) -> None:
    """Raise UserError where `out` exists and is not an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"simulate: {out} exists and is not empty; name another folder or remove it")
