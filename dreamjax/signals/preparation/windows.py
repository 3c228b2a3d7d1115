"""A recording → windows in µV or fT at one sampling rate: band, notch, resampling, reference, events, quality control.

Every step is a field of `WindowSettings`, and what was done to one recording is its `RecordingPlan`. The recording is
read in blocks, so memory does not grow with its length, and the result does not depend on the blocks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from dreamjax.errors import UserError
from dreamjax.signals.datasets.records import APART, Window
from dreamjax.signals.preparation import filters, quality
from dreamjax.signals.preparation.recording_plan import make_plan
from dreamjax.signals.preparation.window_settings import WindowSettings
from dreamjax.signals.recordings.events import sample_of
from dreamjax.signals.recordings.identity import Identity
from dreamjax.signals.recordings.readers.recording import Recording

WHOLE = 1e-6  # samples; nearer than this, an onset is on the grid


@dataclass(frozen=True)
class RejectedStretch:
    """A stretch of a recording that gives no window."""

    start: float  # s since the recording's first sample
    stop: float
    reason: str


@dataclass(frozen=True)
class _WindowSpan:
    """One window to be: samples [start, stop) of a segment, at the output rate, each `shift` of a sample later."""

    segment: int
    start: int
    stop: int
    label: str = ""
    stimulus: str = ""
    shift: float = 0.0


class RecordingWindows:
    """The windows of one recording. Iterating yields them; `plan`, `rejects` and `judged` tell what happened."""

    def __init__(self, recording: Recording, settings: WindowSettings, identity: Identity):
        self.recording, self.settings, self.identity = recording, settings, identity
        self.rejects: list[RejectedStretch] = []
        self.judged = 0
        self.faults: dict[str, int] = {}  # kind:channel → windows
        self.plan, self.signal = make_plan(recording, settings)
        if self.plan.warning and self.plan.limits.implausible == "reject":
            raise UserError(self.plan.warning)
        names = [recording.ch_names[i] for i in self.plan.picks]
        self.ch_names = tuple(names)
        self.marked = np.isin(names, recording.bad_channels)
        self.flags = ("implausible amplitude",) if self.plan.warning else ()

    def __iter__(self) -> Iterator[Window]:
        for item in self._around_events() if self.settings.events.source else self._grid():
            window = self._window(item) if isinstance(item, _WindowSpan) else item
            if isinstance(window, Window):
                yield window
            else:
                self.rejects.append(window)

    def _grid(self) -> Iterator[_WindowSpan]:
        samples, stride, labels = self.settings.samples, self.settings.stride, self.recording.segment_labels
        for segment in range(len(self.recording.segments)):
            n, label = self.signal.length(segment), labels[segment] if labels else ""
            if n < samples:
                yield _WindowSpan(segment, 0, n, label)
            for start in range(0, n - samples + 1, stride or samples):
                yield _WindowSpan(segment, start, start + samples, label)

    def _around_events(self) -> Iterator[_WindowSpan | RejectedStretch]:
        """Yield the windows from tmin to tmax around each event.

        One sample falls on the onset itself, which may lie between two samples of the even grid; causal windows stay on
        the grid, since what lies between needs the later samples.
        """
        wanted, first, length = self.settings.events, self.settings.event_first, self.settings.event_samples
        chain, sfreq, segments = self.signal.chain, self.recording.sfreq, self.recording.segments
        for event in self.recording.events:
            if wanted.codes and event.code not in wanted.codes:
                continue
            onset = event.sample + wanted.offset_ms / 1e3 * sfreq  # in recorded samples
            home = [i for i, (a, b) in enumerate(segments) if a <= onset < b]
            place = (onset - (segments[home[0]][0] if home else 0)) * chain.up / chain.down
            whole = sample_of(place, 1.0) if chain.causal else int(np.floor(place + WHOLE))
            shift = 0.0 if chain.causal or place - whole < WHOLE else place - whole
            start = whole + first
            if not home or start < 0 or start + length + (shift > 0) > self.signal.length(home[0]):
                begin = onset / sfreq + first / chain.sfreq_out
                yield RejectedStretch(begin, begin + length / chain.sfreq_out, "the event's window crosses an edge")
                continue
            yield _WindowSpan(home[0], start, start + length, event.code, event.stimulus, shift)

    def _window(self, item: _WindowSpan) -> Window | RejectedStretch:
        self.judged += 1
        settings, plan, signal = self.settings, self.plan, self.signal
        rate = plan.chain.sfreq_out
        begin = self.recording.segments[item.segment][0] / self.recording.sfreq + (item.start + item.shift) / rate
        n = item.stop - item.start
        end = begin + n / rate
        wanted = settings.event_samples if settings.events.source else settings.samples
        if n < settings.min_fraction * wanted:
            return RejectedStretch(begin, end, f"shorter than {settings.min_fraction:g} of a window")
        reach = filters.REACH if item.shift else 0
        signal.require(item.segment, item.start - reach, item.stop + reach)
        recorded = signal.recorded(item.start, item.stop + (item.shift > 0))
        missing = signal.missing[:, recorded].mean(axis=1)
        if (missing > 0).all():
            return RejectedStretch(begin, end, "samples are not finite")
        y_CxT = signal.y[:, signal.at(item.start - reach, item.stop + reach)]
        y_CxT = filters.between(y_CxT, item.shift) if item.shift else y_CxT
        x_CxT, inside = signal.raw[:, recorded], (None if signal.plateaus is None else signal.plateaus[:, recorded])
        held_C = railed_C = np.zeros(len(x_CxT))
        if signal.held is not None and (held_CxT := signal.held[:, recorded]).any():
            held_C = held_CxT.mean(axis=1)
            railed_C = (held_CxT & (np.abs(x_CxT) >= 0.999 * plan.rail[:, None])).mean(axis=1)
        ok_C, flags, reason = quality.judge(
            self.ch_names,
            plan.limits,
            sd=quality.deviations(y_CxT[None])[0],
            clipped=quality.clipped_share(x_CxT, inside),
            held=held_C,
            line=quality.line_power(y_CxT[None], rate, *quality.MAINS, plan.line)[0],
            missing=missing,
            railed=railed_C,
        )
        for flag in flags:
            self.faults[flag] = self.faults.get(flag, 0) + 1
        if reason:
            return RejectedStretch(begin, end, reason)
        return self._finished(item, y_CxT, begin, ok_C & ~self.marked, flags, plan.good & (missing == 0))

    def _finished(
        self,
        item: _WindowSpan,
        y_CxT: Float[np.ndarray, "channels time"],
        begin: float,
        ok_C: Bool[np.ndarray, "channels"],
        flags: tuple[str, ...],
        good_C: Bool[np.ndarray, "channels"],
    ) -> Window:
        """Return the window: re-referenced to the mean of the `good_C`, demeaned where the step applies, padded."""
        settings, plan = self.settings, self.plan
        if plan.reference == "average" and self.recording.reference != "average" and good_C.any():
            y_CxT = y_CxT - y_CxT[good_C].mean(axis=0)
        if self.recording.precut:
            y_CxT = y_CxT - y_CxT.mean(axis=1, keepdims=True)
        baseline = settings.events.baseline if settings.events.source else ()
        if baseline:
            first, last = (sample_of(t, plan.chain.sfreq_out) - settings.event_first for t in baseline)
            y_CxT = y_CxT - y_CxT[:, max(0, first) : max(1, last)].mean(axis=1, keepdims=True)
        apart = (APART,) if self.recording.precut or baseline or item.start == 0 else ()
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
            modality=self.recording.modality,
            unit=self.recording.unit,
            sensor_kind=tuple(self.recording.sensor_kind[i] for i in plan.picks),
        )
