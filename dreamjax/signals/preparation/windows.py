"""A recording → windows in µV at one sampling rate: band, notch, resampling, reference, events, quality control.

Every step is a field of `Settings`, and what was done to one recording is its `Plan`. The recording is read in blocks,
so memory does not grow with its length, and the result does not depend on the blocks.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from dreamjax.errors import UserError
from dreamjax.signals.datasets.records import APART, Window
from dreamjax.signals.preparation import filters, quality
from dreamjax.signals.preparation.recording_plan import Filtered, make_plan

if TYPE_CHECKING:
    from dreamjax.signals.recordings.readers.recording import Recording


WHOLE = 1e-6  # samples; nearer than this, an onset is on the grid
FAR = 1e9  # s, or ms; no time around an event is as long


@dataclass(frozen=True)
class EventWindows:
    """Windows locked to events instead of an even grid."""

    source: str = ""  # "" for an even grid, "file" for the recording's own events, or a CSV / events.tsv
    codes: tuple[str, ...] = ()  # only these trial types; all when empty
    offset_ms: float = 0.0  # added to every onset: the display's delay
    tmin: float = 0.0  # s after the event
    tmax: float | None = None  # s after the event; None for tmin + one window
    baseline: tuple[float, ...] = ()  # (from, to) in s after the event, whose mean is subtracted

    def __post_init__(self) -> None:
        for name in ("offset_ms", "tmin", "tmax"):
            if not abs(value := getattr(self, name) or 0.0) < FAR:
                raise ValueError(f"{name} is {value:g}, but it must be a time around an event")


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
        for name in ("sfreq", "low", "high"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                or_none = "" if name == "sfreq" else ", or none"
                raise ValueError(f"{name} is {value:g}, but it must be a positive number of Hz{or_none}")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"the pass band {self.low:g}-{self.high:g} Hz is empty")
        if self.notch not in ("auto", "off") and not _positive(self.notch):
            raise ValueError(f"notch is {self.notch!r}, but it takes auto, off or a frequency in Hz")
        if self.events.baseline and not self._holds(self.events.baseline):
            raise ValueError("the baseline is (from, to) within tmin and tmax, in s after the event")
        span = self.event_samples
        if self.events.source and span <= 0:
            raise ValueError(f"tmax is {self.events.tmax:g} s, but it must be later than tmin, {self.events.tmin:g} s")
        if self.events.source and span > self.samples:
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

    @property
    def event_first(self) -> int:
        """Sample at which the window begins, counted from the event's: tmin to the nearest sample."""
        return _nearest(self.events.tmin * self.sfreq)


@dataclass(frozen=True)
class Identity:
    """What a record says about its origin: salted hashes (`identity.py`)."""

    subject: str
    session: str
    recording: str


@dataclass(frozen=True)
class Reject:
    """A stretch of a recording that gives no window."""

    start: float  # s since the recording's first sample
    stop: float
    reason: str


@dataclass(frozen=True)
class _Item:
    """One window to be: samples [start, stop) of a segment, at the output rate, each `shift` of a sample later."""

    segment: int
    start: int
    stop: int
    label: str = ""
    stimulus: str = ""
    shift: float = 0.0


def _nearest(x: float) -> int:
    """Halves go up, so that a shift of everything by one sample shifts all alike."""
    return int(np.floor(x + 0.5 + 1e-6))


def _positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


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
    """Windows from tmin to tmax around each event. One sample falls on the onset itself, which may lie between two
    samples of the even grid; causal windows stay on the grid, since what lies between needs the later samples."""
    wanted, length = settings.events, settings.event_samples
    chain, sfreq = signal.chain, recording.sfreq
    for event in recording.events:
        if wanted.codes and event.code not in wanted.codes:
            continue
        onset = event.sample + wanted.offset_ms / 1e3 * sfreq  # in recorded samples
        home = [i for i, (a, b) in enumerate(recording.segments) if a <= onset < b]
        begin = recording.segments[home[0]][0] if home else 0
        place = (onset - begin) * chain.up / chain.down
        whole = _nearest(place) if chain.causal else int(np.floor(place + WHOLE))
        shift = 0.0 if chain.causal or place - whole < WHOLE else place - whole
        start = whole + settings.event_first
        if not home or start < 0 or start + length + (shift > 0) > signal.length(home[0]):
            first = onset / sfreq + settings.event_first / chain.sfreq_out
            yield Reject(first, first + length / chain.sfreq_out, "the event's window crosses an edge")
            continue
        yield _Item(home[0], start, start + length, event.code, event.stimulus, shift)


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
        begin = self.recording.segments[item.segment][0] / self.recording.sfreq + (item.start + item.shift) / rate
        n = item.stop - item.start
        end = begin + n / rate
        wanted = settings.event_samples if settings.events.source else settings.samples
        if n < settings.min_fraction * wanted:
            return Reject(begin, end, f"shorter than {settings.min_fraction:g} of a window")
        reach = filters.REACH if item.shift else 0
        signal.require(item.segment, item.start - reach, item.stop + reach)
        recorded = signal.recorded(item.start, item.stop + (item.shift > 0))
        if signal.missing[:, recorded].any():
            return Reject(begin, end, "samples are not finite")
        y_CxT = signal.filtered(item.start - reach, item.stop + reach)
        y_CxT = filters.between(y_CxT, item.shift) if item.shift else y_CxT
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
            first, last = (_nearest(t * plan.chain.sfreq_out) - settings.event_first for t in settings.events.baseline)
            y_CxT = y_CxT - y_CxT[:, max(0, first) : max(1, last)].mean(axis=1, keepdims=True)
        own_zero = self.recording.precut or bool(settings.events.source and settings.events.baseline)
        apart = (APART,) if own_zero or item.start == 0 else ()
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
            flags=self.flags + flags + apart,
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
