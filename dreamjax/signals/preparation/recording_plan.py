"""The processing of one recording, resolved from the settings and one pass over it; and its filtered signal.

The recording is read in blocks and the statistics come from stretches of it, so memory does not grow with its length.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from dreamjax.errors import UserError
from dreamjax.signals.preparation import filters, quality
from dreamjax.signals.preparation.window_settings import WindowSettings
from dreamjax.signals.recordings.readers.modalities import no_sensors
from dreamjax.signals.recordings.readers.recording import Recording

BLOCK_VALUES = 4_000_000  # channels x samples held at once, as recorded
PIECE = 2560  # samples at the output rate: one stretch of the statistics
PIECES = 120  # at most; a longer recording is judged by as many stretches, evenly spaced
LINE_PIECES = 8  # stretches of 8 s in which the line is looked for
THIN = 4  # every fourth sample of a stretch enters the medians


@dataclass(frozen=True, eq=False)
class RecordingPlan:
    """The processing of one recording, resolved from the settings and the file."""

    picks: tuple[int, ...]
    limits: quality.QualityLimits  # of the recording's modality
    chain: filters.Chain
    low: float | None
    high: float | None
    line: float | None
    line_source: str  # "file", "detected", "setting" or "none"
    reference: str
    rank: int
    good: Bool[np.ndarray, "channels"]  # enter an average reference
    sd: Float[np.ndarray, "channels"]  # median over stretches of the band-passed SD; NaN without a finite sample
    median_sd: float  # over the channels that vary
    rail: Float[np.ndarray, "channels"]  # absolute value, as recorded, at which an input is at its limit; inf: nowhere
    scale: float
    warning: str  # "" or why the amplitude is implausible
    notes: tuple[str, ...]  # on channels that hold no signal

    def as_json(self) -> dict[str, object]:
        """Return the plan for dataset.json and the report."""
        chain = self.chain
        steps: dict[str, object] = {
            "band": [self.low, self.high],
            **{name: getattr(self, name) for name in ("line", "line_source", "reference", "rank")},
            "resampled": f"{chain.sfreq_in:g} x {chain.up}/{chain.down} = {chain.sfreq_out:g} Hz",
        }
        sd, scale = rounded(self.median_sd), rounded(self.scale)
        if self.limits.unit == "µV":
            return steps | {"median_sd_uv": sd, "scale_uv": scale}
        return steps | {"median_sd": sd, "scale": scale, "unit": self.limits.unit}


def rounded(x: float) -> float | None:
    """Return four digits of a number; None for one that JSON cannot hold."""
    return float(f"{x:.4g}") if np.isfinite(x) else None


class FilteredSignal:
    """The filtered signal of one recording, segment by segment, for random access; the last block is kept."""

    def __init__(self, recording: Recording, picks: Sequence[int], chain: filters.Chain, limits: quality.QualityLimits):
        self.recording, self.picks, self.chain, self.limits = recording, list(picks), chain, limits
        self.segment, self.start, self.stop = -1, 0, 0  # of the current block
        self.block = max(PIECE, BLOCK_VALUES // len(self.picks) * chain.up // chain.down)

    def length(self, segment: int) -> int:
        """Return the number of samples of a segment at the output rate."""
        start, stop = self.recording.segments[segment]
        return self.chain.length(stop - start)

    def require(self, segment: int, start: int, stop: int) -> None:
        """Make sure that [start, stop) of a segment lies in the current block; loads ahead as far as a block goes.

        The block is there as recorded (`raw`, `missing`, `plateaus`, `held`) and filtered (`y`).
        """
        if self.segment == segment and self.start <= start and stop <= self.stop:
            return
        stop = max(stop, min(start + self.block, self.length(segment)))
        begin, end = self.recording.segments[segment]
        low, high = self.chain.needs(start, stop)

        def read(a: int, b: int) -> Float[np.ndarray, "channels time"]:
            return self.recording.read(begin + a, begin + b, self.picks)

        x_CxT = filters.extended(read, end - begin, low, high, self.chain.causal)
        self.missing = ~np.isfinite(x_CxT)
        if self.missing.any():
            x_CxT = _bridged(x_CxT, self.missing)
        if self.chain.causal and len(self.chain.kernel):
            first = read(0, 1)
            x_CxT = x_CxT - np.where(np.isfinite(first), first, 0)  # a minimum-phase high-pass lets 1e-4 of it through
        self.raw, self.raw_start = x_CxT, low
        self.y = self.chain.run(x_CxT, start, stop)
        rate, limits = self.recording.sfreq, self.limits
        self.plateaus = quality.plateaus(x_CxT, max(5, round(limits.clip_run_s * rate)))
        held_run = max(6, round(limits.held_run_s * rate))
        self.held = None if self.plateaus is None else quality.plateaus(x_CxT, held_run)
        self.segment, self.start, self.stop = segment, start, stop

    def at(self, start: int, stop: int) -> slice:
        """Return where [start, stop) of the current block's segment lies in `y`."""
        return slice(start - self.start, stop - self.start)

    def recorded(self, start: int, stop: int) -> slice:
        """Return where the same span lies in `raw`, `missing`, `plateaus` and `held`."""
        low = start * self.chain.down // self.chain.up - self.raw_start
        high = ((stop - 1) * self.chain.down) // self.chain.up + 1 - self.raw_start
        return slice(max(low, 0), high)


def _bridged(
    x_CxT: Float[np.ndarray, "channels time"], missing: Bool[np.ndarray, "channels time"]
) -> Float[np.ndarray, "channels time"]:
    """Replace missing samples by straight lines: they would spread through the filter. Their channels are flagged."""
    x_CxT = x_CxT.copy()
    at = np.arange(x_CxT.shape[1])
    for c in np.flatnonzero(missing.any(axis=1)):
        known = ~missing[c]
        x_CxT[c, ~known] = np.interp(at[~known], at[known], x_CxT[c, known]) if known.any() else 0.0
    return x_CxT


def pieces(lengths: Sequence[int], piece: int = PIECE, most: int = PIECES) -> list[tuple[int, int, int]]:
    """Return stretches (segment, start, stop) that represent the recording: all of it, or `most` evenly spaced ones."""
    cut = [(segment, start, min(start + piece, n)) for segment, n in enumerate(lengths) for start in range(0, n, piece)]
    if len(cut) <= most:
        return cut
    return [cut[i] for i in np.linspace(0, len(cut) - 1, most).round().astype(int)]


def _line(recording: Recording, picks: Sequence[int], settings: WindowSettings) -> tuple[float | None, str]:
    if settings.notch == "off":
        return None, "none"
    if settings.notch != "auto":
        return float(settings.notch), "setting"
    if recording.line_freq:
        return float(recording.line_freq), "file"
    piece = round(2 * quality.PIECE_S * recording.sfreq)
    stretches = pieces([stop - start for start, stop in recording.segments], piece, LINE_PIECES)
    begins = [start for start, _ in recording.segments]
    signals = [
        np.nan_to_num(recording.read(begins[s] + a, begins[s] + b, picks))
        for s, a, b in stretches
        if b - a >= recording.sfreq
    ]
    line = quality.mains_frequency(signals, recording.sfreq)
    return line, "detected" if line else "none"


def _band(recording: Recording, settings: WindowSettings) -> tuple[float | None, float | None]:
    low = None if recording.precut else settings.low  # a short trial has no room for a high-pass: it is demeaned
    high = settings.high
    if high is not None:
        high = min(high, 0.45 * recording.sfreq, 0.45 * settings.sfreq)
        if recording.lowpass and recording.lowpass > (low or 0) + 1:
            high = min(high, float(recording.lowpass))
    return low, high


def _design(
    recording: Recording, settings: WindowSettings, line: float | None, low: float | None, high: float | None
) -> filters.Chain:
    """Return the filters, with notches at the line and its harmonics. Raise UserError for rates without a ratio."""
    limit = min(recording.sfreq, settings.sfreq) / 2 - 1.5
    if high is not None:
        limit = min(limit, high + max(0.25 * high, 2.0))
    notches: list[float] = []
    if line and not recording.precut:  # a filter of 3 s would invent most of a shorter trial; the low-pass stays
        notches = [k * line for k in range(1, 20) if k * line < limit]
    try:
        return filters.design(recording.sfreq, settings.sfreq, low, high, tuple(notches), settings.causal)
    except ValueError as problem:
        raise UserError(str(problem)) from problem


def make_plan(recording: Recording, settings: WindowSettings) -> tuple[RecordingPlan, FilteredSignal]:
    """Resolve the settings for a recording, from one pass over it (or over stretches of a long one).

    Raise UserError where the recording has no channel of its modality or no usable sampling rate.
    """
    limits = quality.limits_for(recording.modality, settings.limits, settings.meg_limits)
    picks = [i for i, kind in enumerate(recording.sensor_kind) if kind in limits.sensor_kinds]
    if not picks:
        raise UserError(no_sensors(recording.sensor_kind, recording.modality))
    line, line_source = _line(recording, picks, settings)
    low, high = _band(recording, settings)
    chain = _design(recording, settings, line, low, high)
    signal = FilteredSignal(recording, picks, chain, limits)
    names = [recording.ch_names[i] for i in picks]
    channels, thin_CxT = _statistics(recording, signal)
    sd_C, bad = channels.sd, np.isin(names, recording.bad_channels)
    good = channels.varies & (sd_C >= limits.flat) & (sd_C <= max(limits.noisy, 8 * channels.median_sd)) & ~bad
    average = settings.reference == "average" or (
        settings.reference == "auto"
        and recording.reference != "bipolar"
        and quality.well_spread(recording.xyz[picks][good])
    )
    average = average and good.sum() >= 2 and recording.modality == "eeg"
    if average:
        thin_CxT = thin_CxT[:, np.isfinite(thin_CxT[good]).any(axis=0)]
        thin_CxT = thin_CxT - np.nanmean(thin_CxT[good], axis=0)
    scaled_CxT = thin_CxT[good if good.any() else np.isfinite(sd_C)]
    plan = RecordingPlan(
        picks=tuple(picks),
        limits=limits,
        chain=chain,
        low=low,
        high=high,
        line=line,
        line_source=line_source,
        reference="average" if average else recording.reference,
        rank=len(picks) - int(average or recording.reference == "average"),
        good=good,
        sd=sd_C,
        median_sd=channels.median_sd,
        rail=channels.rail,
        scale=robust_scale(scaled_CxT, np.nanmedian if np.isnan(scaled_CxT).any() else np.median),
        warning=channels.warning(limits),
        notes=channels.notes(names, limits.unit),
    )
    return plan, signal


def _statistics(
    recording: Recording, signal: FilteredSignal
) -> tuple[quality.ChannelStatistics, Float[np.ndarray, "channels thin"]]:
    """Return the statistics of each channel in the chosen `pieces` (the SD: the median over stretches of about 2 s).

    The second result is every fourth sample, NaN in a piece in which a channel has no finite one.
    """
    deviations, thin = [], []
    short = max(2, round(2 * signal.chain.sfreq_out))
    peak_C, stuck_at_C, held_C, samples = (np.zeros(len(signal.picks)) for _ in range(4))
    for segment, start, stop in pieces([signal.length(s) for s in range(len(recording.segments))]):
        signal.require(segment, start, stop)
        y_CxT, recorded = signal.y[:, signal.at(start, stop)], signal.recorded(start, stop)
        absent_C = signal.missing[:, recorded].all(axis=1)
        if absent_C.all():
            continue
        x_CxT = signal.raw[:, recorded]
        peak_C = np.maximum(peak_C, np.maximum(x_CxT.max(axis=1), -x_CxT.min(axis=1)))
        samples += x_CxT.shape[1]
        if signal.held is not None:
            inside = signal.held[:, recorded]
            some = inside.any(axis=1)
            stuck_at_C[some] = np.maximum(stuck_at_C[some], np.abs(x_CxT[some] * inside[some]).max(axis=1))
            held_C += inside.sum(axis=1)
        if absent_C.any():
            y_CxT = np.where(absent_C[:, None], np.nan, y_CxT)
        n = max(1, y_CxT.shape[1] // short)
        parts = y_CxT[:, : n * (y_CxT.shape[1] // n)].reshape(len(y_CxT), n, -1).swapaxes(0, 1)
        deviations.append(quality.deviations(parts))
        thin.append(y_CxT[:, ::THIN].astype(np.float32))
    if not deviations:
        raise UserError("no finite stretch of signal")
    sd_WxC = np.concatenate(deviations)
    known = np.isfinite(sd_WxC).any(axis=0)
    sd_C = np.full(len(known), np.nan)
    sd_C[known] = np.nanmedian(sd_WxC[:, known], axis=0)
    railed = (stuck_at_C >= 0.999 * peak_C) & (stuck_at_C > quality.RAILED * signal.limits.noisy)
    channels = quality.ChannelStatistics(sd_C, np.where(railed, stuck_at_C, np.inf), held_C > samples / 2)
    return channels, np.concatenate(thin, axis=1)


def robust_scale(thin_CxT: Float[np.ndarray, "channels thin"], median: Callable[..., np.ndarray] = np.median) -> float:
    """Return the median over channels of 1.4826 · MAD: the SD of a Gaussian signal, insensitive to blinks."""
    centre = median(thin_CxT, axis=1, keepdims=True)
    return float(np.median(1.4826 * median(np.abs(thin_CxT - centre), axis=1)))
