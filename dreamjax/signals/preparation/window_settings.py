"""The settings of preprocessing from recordings to windows, with defaults. All are recorded in dataset.json."""

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from dreamjax.signals.preparation.quality import EegLimits, MegLimits, QualityLimits
from dreamjax.signals.recordings.events import sample_of

LONGEST = 1e9  # s, or ms; no time around an event is as long


@dataclass(frozen=True)
class EventWindows:
    """Windows locked to events instead of an even grid."""

    source: str = ""  # "" for an even grid, "file" for the recording's own events, or a CSV / events.tsv
    codes: tuple[str, ...] = ()  # only these trial types; all when empty
    keep_labels: bool = False  # free text of annotations in the recordings becomes labels
    offset_ms: float = 0.0  # added to every onset: the display's delay
    tmin: float = 0.0  # s after the event
    tmax: float | None = None  # s after the event; None for tmin + one window
    baseline: tuple[float, ...] = ()  # (from, to) in s after the event, whose mean is subtracted
    onset: str = ""  # of THINGS-MEG: "trigger" or "events" (events.tsv), where the onsets of images are from

    def __post_init__(self) -> None:
        for name in ("offset_ms", "tmin", "tmax"):
            if not abs(value := getattr(self, name) or 0.0) < LONGEST:
                raise ValueError(f"{name} is {value:g}, but it must be a time around an event")


@dataclass(frozen=True)
class WindowSettings:
    """The steps from a recording to its windows."""

    low: float | None = 0.5  # Hz, high-pass edge
    high: float | None = 75.0  # Hz, low-pass edge; never above 0.45 of either sampling rate or the file's own
    notch: str = "auto"  # "auto": the line frequency of the file or the peak found; "off"; or a number in Hz
    sfreq: float = 256.0  # Hz of the windows
    reference: Literal["auto", "average", "recorded"] = "auto"  # auto: average where quality.well_spread
    causal: bool = False  # minimum-phase filters: no sample depends on a later one
    samples: int = 512  # per window
    stride: int | None = None  # samples between windows; None for no overlap
    min_fraction: float = 0.25  # a shorter trial or recording is padded if it fills at least this much of a window
    limits: QualityLimits = field(default_factory=EegLimits)
    meg_limits: MegLimits = field(default_factory=MegLimits)  # of recordings of MEG; those without a unit: `limits`
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
        span, tmin, baseline = self.event_samples, self.events.tmin, self.events.baseline
        if baseline and not (len(baseline) == 2 and tmin <= baseline[0] < baseline[1] <= tmin + span / self.sfreq):
            raise ValueError("the baseline is (from, to) within tmin and tmax, in s after the event")
        if self.events.source and span <= 0:
            raise ValueError(f"tmax is {self.events.tmax:g} s, but it must be later than tmin, {tmin:g} s")
        if self.events.source and span > self.samples:
            raise ValueError(
                f"tmin to tmax is {span / self.sfreq:g} s, but a window holds up to {self.samples / self.sfreq:g} s; "
                f"set samples to {span}"
            )

    @property
    def event_samples(self) -> int:
        """Return the number of samples from tmin to tmax."""
        if self.events.tmax is None:
            return self.samples
        return round((self.events.tmax - self.events.tmin) * self.sfreq)

    @property
    def event_first(self) -> int:
        """Return the first sample of the window, counted from the event's: tmin to the nearest sample."""
        return sample_of(self.events.tmin, self.sfreq)

    def as_json(self) -> dict[str, object]:
        """Return the settings for dataset.json; an event table is only marked as given (its path may name a person)."""
        values = asdict(replace(self, stride=self.stride or self.samples))
        if self.events.source not in ("", "file"):
            values["events"]["source"] = "table"
        if not self.events.keep_labels:  # as in versions without this setting
            del values["events"]["keep_labels"]
        if self.events.onset:  # as the datasets of trials state them
            values |= {"onset": self.events.onset, "tmin": self.events.tmin}
        else:
            del values["events"]["onset"]
        units = {name: value for name, value in values.pop("meg_limits").items() if name.endswith("_ft")}
        if self.meg_limits != MegLimits():
            values["meg_limits"] = units
        return values


def _positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False
