"""Judge the quality of windows, channels and recordings. Nothing here changes a value: it flags or rejects.

Amplitudes and line noise are judged on what is left after filtering, in the unit of the modality, before any
re-referencing (an average reference hides a flat channel); clipping on the samples as recorded (a filter smears
plateaus).
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float

from dreamjax.console import counted
from dreamjax.errors import UserError
from dreamjax.signals.recordings.readers.meg_sensors import MEG

MAINS = (50.0, 60.0)  # Hz
RAILED = 4.0  # times `noisy`: an input that is held at its own extreme beyond this is at its limit
MAINS_PEAK = 3.0  # power at the peak over its neighbourhood, median over channels, from which a line counts as found
PIECE_S = 4.0  # s per spectrum when looking for the line


@dataclass(frozen=True)
class QualityLimits:
    """Thresholds of quality control that no unit enters; those of a modality are its subclasses'."""

    implausible: Literal["reject", "flag"] = "reject"
    clip_run_s: float = 0.01  # s (and at least 5 samples) of one equal value at a window's extreme is a plateau
    clip_share: float = 0.02  # share of a window in plateaus from which a channel counts as clipped
    held_run_s: float = 0.1  # s of one equal value anywhere: a dropout, or the padding of the last record
    line_ratio: float = 1.0  # line power over all other power, both after filtering, from which a channel is flagged
    min_good: float = 0.5  # a window with a smaller share of good channels is rejected

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, str) and not value >= 0:
                raise ValueError(f"{name} is {value:g}, but it must be a number of 0 or more")
        for name in ("clip_share", "min_good"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} is {getattr(self, name):g}, but it is a share: between 0 and 1")
        if not self.plausible[0] < self.plausible[1]:
            raise ValueError(f"the plausible amplitudes {self.plausible[0]:g} to {self.plausible[1]:g} are not a range")

    unit: ClassVar[str] = ""
    sensor_kinds: ClassVar[tuple[str, ...]] = ()  # channels of the modality, as `Recording.sensor_kind` calls them
    # in `unit`:
    flat = property(lambda self: 0.0)  # SD of a window below which a channel is flat
    noisy = property(lambda self: math.inf)  # SD above which a channel is flagged
    plausible = property(lambda self: (0.0, math.inf))  # median SD; outside, a recording probably has another unit


@dataclass(frozen=True)
class EegLimits(QualityLimits):
    flat_uv: float = 0.1
    noisy_uv: float = 200.0
    plausible_low_uv: float = 1.0
    plausible_high_uv: float = 100.0

    unit, sensor_kinds = "µV", ("eeg",)
    flat = property(lambda self: self.flat_uv)
    noisy = property(lambda self: self.noisy_uv)
    plausible = property(lambda self: (self.plausible_low_uv, self.plausible_high_uv))


@dataclass(frozen=True)
class MegLimits(QualityLimits):
    """Magnetometers in fT, gradiometers in fT/cm: a brain gives 50 to 500 fT, an unshielded room far more."""

    flat_ft: float = 1.0
    noisy_ft: float = 5000.0
    plausible_low_ft: float = 5.0
    plausible_high_ft: float = 2000.0

    unit, sensor_kinds = "fT", MEG
    flat = property(lambda self: self.flat_ft)
    noisy = property(lambda self: self.noisy_ft)
    plausible = property(lambda self: (self.plausible_low_ft, self.plausible_high_ft))


@dataclass(frozen=True)
class FmriLimits(QualityLimits):
    """Z-scored betas: only voxels that do not vary, or are not finite, are bad."""

    clip_share: float = 1.0
    line_ratio: float = math.inf
    flat_z: float = 1e-3

    unit, sensor_kinds = "z", ("voxel",)
    flat = property(lambda self: self.flat_z)


LIMITS: Mapping[str, QualityLimits] = {"eeg": EegLimits(), "meg": MegLimits(), "fmri": FmriLimits()}


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """The statistics of each channel over a whole recording."""

    sd: Float[np.ndarray, "channels"]  # median SD after filtering; NaN without a finite sample
    rail: Float[np.ndarray, "channels"]  # absolute value as recorded at which the input is at its limit; inf: nowhere
    stuck: Bool[np.ndarray, "channels"]  # most samples repeat the one before

    @property
    def varies(self) -> Bool[np.ndarray, "channels"]:
        return np.isfinite(self.sd) & ~self.stuck

    @property
    def median_sd(self) -> float:
        """Return the median SD of the channels that vary; 0 without one."""
        return float(np.median(self.sd[self.varies])) if self.varies.any() else 0.0

    def warning(self, limits: QualityLimits) -> str:
        """Return why the recording is to be left out, or ""."""
        if self.varies.any():
            return implausible(self.median_sd, limits)
        railed, n = self.rail[np.isfinite(self.rail) & self.stuck], len(self.rail)
        if not len(railed):
            return f"no signal: none of its {n} channels varies; check that the amplifier was recording"
        return (
            f"railed: {len(railed)} of {n} inputs are held at their limit of up to ±{railed.max():,.0f} {limits.unit} "
            "and no other varies; check the electrodes, the reference and the gain"
        )

    def notes(self, names: Sequence[str], unit: str) -> tuple[str, ...]:
        """Return notes on the channels without a finite sample, those at their limit, and those at another value."""
        missing = [name for name, sd in zip(names, self.sd, strict=True) if not np.isfinite(sd)]
        at_rail = np.flatnonzero(np.isfinite(self.rail) & self.stuck).tolist()
        railed = [f"{names[i]} (±{self.rail[i]:,.0f} {unit})" for i in at_rail]
        constant = [names[i] for i in np.flatnonzero(np.isfinite(self.sd) & np.isinf(self.rail) & self.stuck).tolist()]
        notes = {"without a finite sample": missing, "railed": railed, "stuck at one value": constant}
        return tuple(f"{counted(len(ch), 'channel')} {what}: {', '.join(ch)}" for what, ch in notes.items() if ch)


def limits_for(modality: str, chosen: QualityLimits, *others: QualityLimits) -> QualityLimits:
    """Return the limits of a recording: those of `chosen` or `others` that are of its modality, else the modality's.

    The limits without a unit are those of `chosen`, where they are not its defaults. Raise UserError for a modality
    without limits.
    """
    if modality not in LIMITS:
        raise UserError(f"unknown modality {modality!r}; there are quality limits for {', '.join(LIMITS)}")
    if type(chosen) is type(LIMITS[modality]):
        return chosen
    defaults = next((one for one in others if type(one) is type(LIMITS[modality])), LIMITS[modality])
    usual = type(chosen)()
    shared = {field.name: getattr(chosen, field.name) for field in fields(QualityLimits)}
    return replace(defaults, **{name: value for name, value in shared.items() if value != getattr(usual, name)})


def mains_frequency(stretches: Sequence[Float[np.ndarray, "channels time"]], sfreq: float) -> float | None:
    """Return 50 or 60 Hz, from stretches of the unfiltered signal; None where neither stands out.

    A peak ratio is the power within 0.5 Hz of the frequency over the median power 2 to 6 Hz away; median over
    channels of Hann-weighted spectra averaged over pieces of 4 s.
    """
    n = min([round(PIECE_S * sfreq), *(x.shape[1] for x in stretches)])
    if not stretches or n < sfreq:  # bins of 1 Hz or finer
        return None
    hann = np.hanning(n)
    pieces = [x[:, a : a + n] for x in stretches for a in range(0, x.shape[1] - n + 1, n)]
    spectra = (np.fft.rfft((p - p.mean(axis=1, keepdims=True)) * hann, axis=1) for p in pieces)
    p_CxF = np.sum([np.square(s.real) + np.square(s.imag) for s in spectra], axis=0)
    f = np.fft.rfftfreq(n, 1 / sfreq)
    ratios = dict.fromkeys(MAINS, 0.0)
    for mains in MAINS:
        distance = np.abs(f - mains)
        around = (distance >= 2) & (distance <= 6) & (f < sfreq / 2 - 1)
        if mains + 1 < sfreq / 2 and around.sum() >= 3:
            floor_C = np.median(p_CxF[:, around], axis=1)
            known = floor_C > 0
            if known.any():
                peak_C = p_CxF[known][:, distance <= max(0.5, f[1])].max(axis=1)
                ratios[mains] = float(np.median(peak_C / floor_C[known]))
    best = max(MAINS, key=lambda m: ratios[m])
    return best if ratios[best] >= MAINS_PEAK else None


def deviations(y_WxCxT: Float[np.ndarray, "windows channels time"]) -> Float[np.ndarray, "windows channels"]:
    """Return the standard deviation over time, in the unit of the signal."""
    centred = y_WxCxT - y_WxCxT.mean(axis=-1, keepdims=True)
    return np.sqrt(np.einsum("wct,wct->wc", centred, centred) / max(y_WxCxT.shape[-1], 1))


def line_power(
    y_WxCxT: Float[np.ndarray, "windows channels time"], sfreq: float, *lines: float | None
) -> Float[np.ndarray, "windows channels"]:
    """Return each window's power at a line frequency, 2 · |Hann-weighted projection|²; the largest of several."""
    n = y_WxCxT.shape[-1]
    seen = [line for line in lines if line and line + 1 < sfreq / 2 and n >= sfreq / 4]
    powers = [2 * np.square(y_WxCxT @ _at_frequency(n, line / sfreq)).sum(axis=-1) for line in seen]
    return np.max([np.zeros(y_WxCxT.shape[:2]), *powers], axis=0)


@functools.lru_cache(maxsize=16)
def _at_frequency(n: int, cycles: float) -> Float[np.ndarray, "time 2"]:
    """Return the Hann-weighted cosine and sine of `cycles` a sample, insensitive to an offset."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
    phase = 2 * np.pi * cycles * np.arange(n)
    basis_Tx2 = np.stack([hann * np.cos(phase), hann * np.sin(phase)], axis=1) / hann.sum()
    return basis_Tx2 - hann[:, None] * (basis_Tx2.sum(axis=0) / hann.sum())


def plateaus(x_CxT: Float[np.ndarray, "channels time"], run: int) -> Bool[np.ndarray, "channels time"] | None:
    """Return which samples are in runs of at least `run` equal values; None when there are none."""
    if x_CxT.shape[1] < run:
        return None
    starts = x_CxT[:, 1:] == x_CxT[:, :-1]
    length = 1  # `starts` marks where this many equal neighbours begin; doubled until it is run - 1
    while length < run - 1:
        step = min(length, run - 1 - length)
        starts = starts[:, :-step] & starts[:, step:]
        length += step
    if not starts.any():
        return None
    inside = np.zeros(x_CxT.shape, dtype=bool)
    inside[:, : starts.shape[1]] = starts
    length = 1  # each start reaches over this many samples; doubled until it is run
    while length < run:
        step = min(length, run - length)
        inside[:, step:] |= inside[:, :-step]
        length += step
    return inside


def clipped_share(
    x_CxT: Float[np.ndarray, "channels time"], inside: Bool[np.ndarray, "channels time"] | None
) -> Float[np.ndarray, "channels"]:
    """Return the share of a window's recorded samples in plateaus at its own maximum or minimum."""
    if inside is None or not x_CxT.shape[1]:
        return np.zeros(x_CxT.shape[0])
    top, bottom = x_CxT.max(axis=1, keepdims=True), x_CxT.min(axis=1, keepdims=True)
    extreme = ((x_CxT == top) | (x_CxT == bottom)) & (top > bottom)
    return (extreme & inside).mean(axis=1)


def judge(
    ch_names: Sequence[str],
    limits: QualityLimits,
    *,
    sd: Float[np.ndarray, "channels"],
    clipped: Float[np.ndarray, "channels"],
    held: Float[np.ndarray, "channels"],
    line: Float[np.ndarray, "channels"],
    missing: Float[np.ndarray, "channels"] | None = None,
    railed: Float[np.ndarray, "channels"] | None = None,
) -> tuple[Bool[np.ndarray, "channels"], tuple[str, ...], str]:
    """Return (channel_ok, flags, reason to reject or "") of one window. A flag reads `flat:Fp1`.

    `sd`: filtered, in the unit of the limits; `line`: its square. `clipped`, `held`, `missing`, `railed`: shares of the
    samples. A channel with missing samples, or a railed one, gets no other flag.
    """
    none = np.zeros(len(sd))
    missing_C, railed_C = (none if missing is None else missing) > 0, (none if railed is None else railed)
    faults = {"missing": missing_C, "railed": (railed_C > limits.clip_share) & ~missing_C}
    present = ~faults["missing"] & ~faults["railed"]
    faults |= {
        "flat": present & (sd < limits.flat),
        "clipped": present & (clipped > limits.clip_share),
        "held": present & (held > limits.clip_share),
        "amplitude": present & (sd > limits.noisy),
        "line": present & (line > limits.line_ratio * np.maximum(np.square(sd) - line, limits.flat**2)),
    }
    bad = np.logical_or.reduce(list(faults.values()))
    flags = tuple(f"{kind}:{ch_names[int(c)]}" for kind, where in faults.items() for c in np.flatnonzero(where))
    good = int((~bad).sum())
    reason = ""
    if good == 0 or good < limits.min_good * len(ch_names):
        worst = max(faults, key=lambda kind: int(faults[kind].sum()))
        reason = f"only {good} of {len(ch_names)} channels are good (mostly {worst})"
    return ~bad, flags, reason


def implausible(sd: float, limits: QualityLimits) -> str:
    """Return why a recording with this median SD cannot be in the modality's unit, or ""."""
    low, high = limits.plausible
    if low <= sd <= high:
        return ""
    return (
        f"implausible amplitude: the median SD is {sd:.3g} {limits.unit}, outside "
        f"{low:g}-{high:g} {limits.unit}; check the unit (--unit-scale)"
    )


def well_spread(xyz_Cx3: Float[np.ndarray, "channels 3"]) -> bool:
    """Return whether at least 16 electrodes of known position cover the head: two in each quadrant, and balanced.

    Only then does the mean over electrodes approximate the zero potential that an average reference claims
    (Bertrand et al. 1985). Quadrants are about the middle of the 10-10 cap, x right, y front; the mean horizontal
    direction must be shorter than 0.35.
    """
    known = xyz_Cx3[np.isfinite(xyz_Cx3).all(axis=1)]
    if len(known) < 16:
        return False
    centred = known - np.array([0.0, 0.015, 0.0])  # T7 and T8 lie 1.5 cm in front of the head frame's origin
    right, front = np.sign(np.round(centred[:, 0], 2)), np.sign(np.round(centred[:, 1], 2))
    quadrants = [int(((right == x) & (front == y)).sum()) for x in (-1, 1) for y in (-1, 1)]
    direction = centred[:, :2] / np.linalg.norm(centred, axis=1, keepdims=True)
    return min(quadrants) >= 2 and float(np.linalg.norm(direction.mean(axis=0))) < 0.35
