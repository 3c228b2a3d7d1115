"""A recording → windows in µV at one sampling rate: band, notch, resampling, reference, events, quality control.

Every step is a field of `Settings`, and what was done to one recording is its `Plan`. The recording is read in blocks,
so memory does not grow with its length, and the result does not depend on the blocks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from dreamjax.errors import UserError
from dreamjax.signals import filters, quality
from dreamjax.signals.records import Window

if TYPE_CHECKING:
    from dreamjax.signals.readers.base import Recording

BLOCK_VALUES = 4_000_000  # channels x samples held at once, as recorded
PIECE = 2560  # samples at the output rate: one stretch of the statistics
PIECES = 120  # at most; a longer recording is judged by as many stretches, evenly spaced
LINE_PIECES = 8  # stretches of 8 s in which the line is looked for
THIN = 4  # every fourth sample of a stretch enters the medians


@dataclass(frozen=True)
class EventWindows:
    """Windows locked to events instead of an even grid."""

    source: str = ""  # "" for an even grid, "file" for the recording's own events, or a CSV / events.tsv
    codes: tuple[str, ...] = ()  # only these trial types; all when empty
    offset_ms: float = 0.0  # added to every onset: the display's delay
    tmin: float = 0.0  # s after the event
    tmax: float | None = None  # s after the event; None for tmin + one window
    baseline: tuple[float, ...] = ()  # (from, to) in s after the event, whose mean is subtracted


@dataclass(frozen=True)
class Settings:
    """Every step of preprocessing. All of it is recorded in dataset.json."""

    low: float | None = 0.5  # Hz, high-pass edge
    high: float | None = 75.0  # Hz, low-pass edge; never above 0.45 of either sampling rate or the file's own
    notch: str = "auto"  # "auto": the line frequency of the file or the peak found; "off"; or a number in Hz
    sfreq: float = 256.0  # Hz of the windows
    reference: Literal["auto", "average", "recorded"] = "auto"  # auto: average where quality.well_spread
    causal: bool = False  # minimum-phase filters: no sample depends on a later one
    samples: int = 512  # per window
    stride: int | None = None  # samples between windows; None for no overlap
    min_fraction: float = 0.25  # a shorter trial or recording is padded if it fills at least this much of a window
    limits: quality.Limits = field(default_factory=quality.Limits)
    events: EventWindows = field(default_factory=EventWindows)

    def __post_init__(self) -> None:
        if self.samples < 2 or (self.stride is not None and self.stride < 1):
            raise ValueError("samples must be at least 2 and stride at least 1")
        if not 0 < self.min_fraction <= 1:
            raise ValueError("min_fraction is a share of a window: between 0 and 1")
        if self.low is not None and self.high is not None and not 0 < self.low < self.high:
            raise ValueError(f"the pass band {self.low:g}-{self.high:g} Hz is empty")
        if self.notch not in ("auto", "off") and not _positive(self.notch):
            raise ValueError(f"notch is {self.notch!r}, but it takes auto, off or a frequency in Hz")
        if self.events.baseline and not self._holds(self.events.baseline):
            raise ValueError("the baseline is (from, to) within tmin and tmax, in s after the event")
        span = self.event_samples
        if self.events.source and not 0 < span <= self.samples:
            raise ValueError(
                f"tmin to tmax is {span / self.sfreq:g} s, but a window holds up to {self.samples / self.sfreq:g} s; "
                f"set samples to {span}"
            )

    def _holds(self, baseline: Sequence[float]) -> bool:
        first, last = baseline[0], baseline[-1]
        return len(baseline) == 2 and self.events.tmin <= first < last <= self.events.tmin + self._event_s

    @property
    def _event_s(self) -> float:
        return self.event_samples / self.sfreq

    @property
    def event_samples(self) -> int:
        """Samples from tmin to tmax."""
        if self.events.tmax is None:
            return self.samples
        return round((self.events.tmax - self.events.tmin) * self.sfreq)


@dataclass(frozen=True)
class Identity:
    """What a record says about its origin: salted hashes (`identity.py`)."""

    subject: str
    session: str
    recording: str


@dataclass(frozen=True, eq=False)
class Plan:
    """What is done to one recording, resolved from the settings and the file."""

    picks: tuple[int, ...]
    chain: filters.Chain
    low: float | None
    high: float | None
    line: float | None
    line_source: str  # "file", "detected", "setting" or "none"
    reference: str
    rank: int
    good: Bool[np.ndarray, "channels"]  # enter an average reference
    sd_uv: Float[np.ndarray, "channels"]  # median over stretches of the band-passed SD
    scale: float
    warning: str  # "" or why the amplitude is implausible

    def described(self) -> dict[str, Any]:
        """For dataset.json and the report."""
        chain = self.chain
        return {
            "band": [self.low, self.high],
            "line": self.line,
            "line_source": self.line_source,
            "reference": self.reference,
            "rank": self.rank,
            "resampled": f"{chain.sfreq_in:g} x {chain.up}/{chain.down} = {chain.sfreq_out:g} Hz",
            "median_sd_uv": _rounded(float(np.median(self.sd_uv))),
            "scale_uv": _rounded(self.scale),
        }


@dataclass(frozen=True)
class Reject:
    """A stretch of a recording that gives no window."""

    start: float  # s since the recording's first sample
    stop: float
    reason: str


@dataclass(frozen=True)
class _Item:
    """One window to be: samples [start, stop) of a segment, at the output rate."""

    segment: int
    start: int
    stop: int
    label: str = ""
    stimulus: str = ""


def _positive(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False


def _rounded(x: float) -> float | None:
    return float(f"{x:.4g}") if np.isfinite(x) else None


class Filtered:
    """The filtered signal of one recording, segment by segment, for random access; the last block is kept."""

    def __init__(self, recording: "Recording", picks: Sequence[int], chain: filters.Chain, limits: quality.Limits):
        self.recording, self.picks, self.chain, self.limits = recording, list(picks), chain, limits
        self.key: tuple[int, int, int] | None = None
        self.block = max(PIECE, BLOCK_VALUES // len(self.picks) * chain.up // chain.down)

    def length(self, segment: int) -> int:
        """Samples of a segment at the output rate."""
        start, stop = self.recording.segments[segment]
        return self.chain.length(stop - start)

    def _load(self, segment: int, start: int, stop: int) -> None:
        """Make [start, stop) of a segment the current block: as recorded, only resampled, and filtered."""
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
        self.y, self.plain = self.chain.run(x_CxT, start, stop)
        rate = self.recording.sfreq
        self.plateaus = quality.plateaus(x_CxT, max(5, round(self.limits.clip_run_s * rate)))
        self.held = (
            None if self.plateaus is None else quality.plateaus(x_CxT, max(6, round(self.limits.held_run_s * rate)))
        )
        self.key = (segment, start, stop)

    def require(self, segment: int, start: int, stop: int) -> None:
        """Make sure that [start, stop) of a segment lies in the current block; loads ahead as far as a block goes."""
        if self.key is not None and self.key[0] == segment and self.key[1] <= start and stop <= self.key[2]:
            return
        self._load(segment, start, max(stop, min(start + self.block, self.length(segment))))

    def filtered(self, start: int, stop: int) -> Float[np.ndarray, "channels time"]:
        """Filtered samples of the current block's segment."""
        first = self.key[1]  # type: ignore[index]
        return self.y[:, start - first : stop - first]

    def unfiltered(self, start: int, stop: int) -> Float[np.ndarray, "channels time"]:
        """The same span, resampled but not filtered."""
        first = self.key[1]  # type: ignore[index]
        return self.plain[:, start - first : stop - first]

    def recorded(self, start: int, stop: int) -> slice:
        """Where the same span lies in `raw`, `missing` and `plateaus`."""
        low = start * self.chain.down // self.chain.up - self.raw_start
        high = ((stop - 1) * self.chain.down) // self.chain.up + 1 - self.raw_start
        return slice(max(low, 0), high)


def _bridged(x_CxT: Float[np.ndarray, "channels time"], missing: Bool[np.ndarray, "channels time"]) -> Any:
    """Missing samples replaced by straight lines, so that they do not spread through the filter; windows with any of
    them are rejected anyway."""
    x_CxT = x_CxT.copy()
    at = np.arange(x_CxT.shape[1])
    for c in np.flatnonzero(missing.any(axis=1)):
        known = ~missing[c]
        x_CxT[c, ~known] = np.interp(at[~known], at[known], x_CxT[c, known]) if known.any() else 0.0
    return x_CxT


# ----------------------------------------------------------------------------------------------------------- planning
def pieces(lengths: Sequence[int], piece: int = PIECE, most: int = PIECES) -> list[tuple[int, int, int]]:
    """(segment, start, stop) stretches that stand for the recording: all of it, or `most` evenly spaced ones."""
    cut = [(segment, start, min(start + piece, n)) for segment, n in enumerate(lengths) for start in range(0, n, piece)]
    if len(cut) <= most:
        return cut
    return [cut[i] for i in np.linspace(0, len(cut) - 1, most).round().astype(int)]


def _line(recording: "Recording", picks: Sequence[int], settings: Settings) -> tuple[float | None, str]:
    if settings.notch == "off":
        return None, "none"
    if settings.notch != "auto":
        return float(settings.notch), "setting"
    if recording.line_freq:
        return float(recording.line_freq), "file"
    piece = round(2 * quality.PIECE_S * recording.sfreq)
    stretches = pieces([stop - start for start, stop in recording.segments], piece, LINE_PIECES)
    found, _ = quality.mains_peak(
        [
            np.nan_to_num(recording.read(recording.segments[s][0] + a, recording.segments[s][0] + b, picks))
            for s, a, b in stretches
            if b - a >= recording.sfreq
        ],
        recording.sfreq,
    )
    return found, "detected" if found else "none"


def _band(recording: "Recording", settings: Settings) -> tuple[float | None, float | None]:
    low = None if recording.precut else settings.low  # a short trial has no room for a high-pass: it is demeaned
    high = settings.high
    if high is not None:
        high = min(high, 0.45 * recording.sfreq, 0.45 * settings.sfreq)
        if recording.lowpass and recording.lowpass > (low or 0) + 1:
            high = min(high, float(recording.lowpass))
    return low, high


def make_plan(recording: "Recording", settings: Settings) -> tuple[Plan, Filtered]:
    """Resolve the settings for a recording, from one pass over it (or over stretches of a long one).

    Raises UserError where the recording has no EEG channel or no usable sampling rate.
    """
    picks = [i for i, kind in enumerate(recording.ch_types) if kind == "eeg"]
    if not picks:
        raise UserError("no EEG channel")
    line, line_source = _line(recording, picks, settings)
    low, high = _band(recording, settings)
    limit = min(recording.sfreq, settings.sfreq) / 2 - 1.5
    if high is not None:
        limit = min(limit, high + max(0.25 * high, 2.0))
    notches = [k * line for k in range(1, 20) if k * line < limit] if line else []
    if recording.precut:
        notches = []  # 3 s of filter on a shorter trial would be invention; the low-pass stays
    try:
        chain = filters.design(recording.sfreq, settings.sfreq, low, high, tuple(notches), settings.causal)
    except ValueError as problem:
        raise UserError(str(problem)) from problem
    signal = Filtered(recording, picks, chain, settings.limits)
    sd_C, thin_CxT = _statistics(recording, signal)
    median_sd = float(np.median(sd_C[np.isfinite(sd_C)])) if np.isfinite(sd_C).any() else float("nan")
    limits = settings.limits
    bad = np.isin([recording.ch_names[i] for i in picks], recording.bad_channels)
    good = (sd_C >= limits.flat_uv) & (sd_C <= max(limits.noisy_uv, 8 * median_sd)) & ~bad
    average = settings.reference == "average" or (
        settings.reference == "auto" and quality.well_spread(recording.xyz[picks][good])
    )
    average = average and good.sum() >= 2
    if average:
        thin_CxT = thin_CxT - thin_CxT[good].mean(axis=0)
    recorded_average = recording.reference == "average"
    plan = Plan(
        picks=tuple(picks),
        chain=chain,
        low=low,
        high=high,
        line=line,
        line_source=line_source,
        reference="average" if average else recording.reference,
        rank=len(picks) - int(average or recorded_average),
        good=good,
        sd_uv=sd_C,
        scale=_robust_scale(thin_CxT[good] if good.any() else thin_CxT),
        warning=quality.implausible(median_sd, limits),
    )
    return plan, signal


def _statistics(
    recording: "Recording", signal: Filtered
) -> tuple[Float[np.ndarray, "channels"], Float[np.ndarray, "channels thin"]]:
    """Per channel the median SD over stretches of about 2 s, and every fourth sample, of what `pieces` chose."""
    deviations, thin = [], []
    short = max(2, round(2 * signal.chain.sfreq_out))
    for segment, start, stop in pieces([signal.length(s) for s in range(len(recording.segments))]):
        signal.require(segment, start, stop)
        y_CxT = signal.filtered(start, stop)
        if signal.missing[:, signal.recorded(start, stop)].all(axis=1).any():
            continue
        n = max(1, y_CxT.shape[1] // short)
        parts = y_CxT[:, : n * (y_CxT.shape[1] // n)].reshape(len(y_CxT), n, -1).swapaxes(0, 1)
        deviations.append(quality.deviations(parts))
        thin.append(y_CxT[:, ::THIN].astype(np.float32))
    if not deviations:
        raise UserError("no finite stretch of signal")
    return np.median(np.concatenate(deviations), axis=0), np.concatenate(thin, axis=1)


def _robust_scale(thin_CxT: Float[np.ndarray, "channels thin"]) -> float:
    """Median over channels of 1.4826 · MAD, µV: the SD of a Gaussian signal, deaf to blinks."""
    centre = np.median(thin_CxT, axis=1, keepdims=True)
    return float(np.median(1.4826 * np.median(np.abs(thin_CxT - centre), axis=1)))


# ------------------------------------------------------------------------------------------------------------ windows
def _grid(recording: "Recording", signal: Filtered, settings: Settings) -> Iterator[_Item]:
    stride = settings.stride or settings.samples
    for segment in range(len(recording.segments)):
        n = signal.length(segment)
        label = recording.segment_labels[segment] if recording.segment_labels else ""
        if n < settings.samples:
            yield _Item(segment, 0, n, label)
        for start in range(0, n - settings.samples + 1, stride):
            yield _Item(segment, start, start + settings.samples, label)


def _around_events(recording: "Recording", signal: Filtered, settings: Settings) -> Iterator[_Item | Reject]:
    """Windows from tmin to tmax around each event; the nearest output sample is the event's."""
    wanted, length = settings.events, settings.event_samples
    rate = signal.chain.sfreq_out
    for event in recording.events:
        if wanted.codes and event.code not in wanted.codes:
            continue
        at = event.sample / recording.sfreq + wanted.offset_ms / 1e3
        home = [i for i, (a, b) in enumerate(recording.segments) if a <= at * recording.sfreq < b]
        begin = recording.segments[home[0]][0] if home else 0
        start = int(np.floor((at - begin / recording.sfreq + wanted.tmin) * rate + 0.5 + 1e-6))
        if not home or start < 0 or start + length > signal.length(home[0]):
            yield Reject(at + wanted.tmin, at + wanted.tmin + length / rate, "the event's window crosses an edge")
            continue
        yield _Item(home[0], start, start + length, event.code, event.stimulus)


class Windows:
    """The windows of one recording. Iterating yields them; `plan`, `rejects` and `judged` tell what happened."""

    def __init__(self, recording: "Recording", settings: Settings, identity: Identity):
        self.recording, self.settings, self.identity = recording, settings, identity
        self.rejects: list[Reject] = []
        self.judged = 0
        self.faults: dict[str, int] = {}  # kind:channel → windows
        self.plan, self.signal = make_plan(recording, settings)
        if self.plan.warning and settings.limits.implausible == "reject":
            raise UserError(self.plan.warning)
        names = [recording.ch_names[i] for i in self.plan.picks]
        self.ch_names = tuple(names)
        self.marked = np.isin(names, recording.bad_channels)
        self.flags = ("implausible amplitude",) if self.plan.warning else ()

    def _items(self) -> Iterator[_Item | Reject]:
        if self.settings.events.source:
            return _around_events(self.recording, self.signal, self.settings)
        return _grid(self.recording, self.signal, self.settings)

    def __iter__(self) -> Iterator[Window]:
        for item in self._items():
            if isinstance(item, Reject):
                self.rejects.append(item)
                continue
            self.judged += 1
            window = self._window(item)
            if isinstance(window, Reject):
                self.rejects.append(window)
            else:
                yield window

    def _window(self, item: _Item) -> Window | Reject:
        settings, plan, signal = self.settings, self.plan, self.signal
        rate = plan.chain.sfreq_out
        begin = self.recording.segments[item.segment][0] / self.recording.sfreq + item.start / rate
        n = item.stop - item.start
        end = begin + n / rate
        wanted = settings.event_samples if settings.events.source else settings.samples
        if n < settings.min_fraction * wanted:
            return Reject(begin, end, f"shorter than {settings.min_fraction:g} of a window")
        signal.require(item.segment, item.start, item.stop)
        recorded = signal.recorded(item.start, item.stop)
        if signal.missing[:, recorded].any():
            return Reject(begin, end, "samples are not finite")
        y_CxT = signal.filtered(item.start, item.stop)
        ok_C, flags, reason = quality.judge(self.ch_names, self._measured(item, y_CxT, recorded), settings.limits)
        for flag in flags:
            self.faults[flag] = self.faults.get(flag, 0) + 1
        if reason:
            return Reject(begin, end, reason)
        return self._finished(item, y_CxT, begin, ok_C & ~self.marked, flags)

    def _measured(self, item: _Item, y_CxT: Float[np.ndarray, "channels time"], recorded: slice) -> quality.Measures:
        signal, plan = self.signal, self.plan
        plain_CxT = signal.unfiltered(item.start, item.stop)
        inside = None if signal.plateaus is None else signal.plateaus[:, recorded]
        nowhere = np.zeros(len(y_CxT))
        return quality.Measures(
            sd=quality.deviations(y_CxT[None])[0],
            clipped=quality.clipped_share(signal.raw[:, recorded], inside),
            held=nowhere if signal.held is None else signal.held[:, recorded].mean(axis=1),
            line=quality.line_power(plain_CxT[None], plan.chain.sfreq_out, plan.line)[0],
        )

    def _finished(
        self,
        item: _Item,
        y_CxT: Float[np.ndarray, "channels time"],
        begin: float,
        ok_C: Bool[np.ndarray, "channels"],
        flags: tuple[str, ...],
    ) -> Window:
        """Referenced, demeaned where the step applies, padded."""
        settings, plan = self.settings, self.plan
        if plan.reference == "average" and self.recording.reference != "average":
            y_CxT = y_CxT - y_CxT[plan.good].mean(axis=0)
        if self.recording.precut:
            y_CxT = y_CxT - y_CxT.mean(axis=1, keepdims=True)
        if settings.events.source and settings.events.baseline:
            first, last = ((t - settings.events.tmin) * plan.chain.sfreq_out for t in settings.events.baseline)
            y_CxT = y_CxT - y_CxT[:, max(0, round(first)) : max(1, round(last))].mean(axis=1, keepdims=True)
        n = y_CxT.shape[1]
        signal = np.zeros((len(y_CxT), settings.samples), np.float32)
        signal[:, :n] = y_CxT
        return Window(
            signal=signal,
            ch_names=self.ch_names,
            xyz=np.asarray(self.recording.xyz[list(plan.picks)], np.float32),
            sfreq=plan.chain.sfreq_out,
            reference=plan.reference,
            montage_rank=plan.rank,
            dataset=self.recording.dataset,
            subject=self.identity.subject,
            session=self.identity.session,
            recording=self.identity.recording,
            start=begin,
            valid=np.arange(settings.samples) < n,
            channel_ok=ok_C,
            scale=plan.scale,
            label=item.label,
            stimulus=item.stimulus,
            licence=self.recording.licence,
            flags=self.flags + flags,
        )


def windows(
    recording: "Recording", settings: Settings | None = None, identity: Identity | None = None
) -> Iterator[Window]:
    """The windows of a recording, in order of time, µV. Raises UserError where it can give none."""
    return iter(Windows(recording, settings or Settings(), identity or Identity("", "", "")))


def described(settings: Settings) -> dict[str, Any]:
    """Settings as JSON; of an event table only that there was one (its path may name a person)."""
    said = asdict(replace(settings, stride=settings.stride or settings.samples))
    if said["events"]["source"] not in ("", "file"):
        said["events"]["source"] = "table"
    return said
