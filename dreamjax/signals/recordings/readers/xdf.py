"""XDF of LabRecorder: one stream of EEG on the clock of the recording computer, events from the streams of markers.

Each stream has the clock of its own computer; the file holds measured offsets, by which pyxdf puts all on one clock.
Where a clock was reset or samples are missing, the signal has segments. An event belongs to the sample whose time,
by the even clock of its segment, is nearest.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import ndimage

from dreamjax.errors import UserError, require
from dreamjax.signals.recordings.events import StimulusChannel, keep_codes
from dreamjax.signals.recordings.montage import normalise_name, standard_name
from dreamjax.signals.recordings.readers.bids import TYPES, reference_named
from dreamjax.signals.recordings.readers.recording import Contents, Event, Source, settle_names
from dreamjax.signals.recordings.readers.tables import SLOWEST_HZ, SURE_S, dejitter
from dreamjax.signals.recordings.readers.xdf_chunks import Stream, XdfFile, read_chunks
from dreamjax.signals.recordings.scrub import error_text
from dreamjax.signals.recordings.units import microvolts

STIM_TYPES = ("stim", "stimulus", "marker", "markers", "trigger", "triggers", "trig", "event", "events")
KNOWN_TYPES = ("EEG", "Markers", "Gaze", "Accelerometer", "Gyroscope", "EMG", "ECG", "EOG", "Audio", "Video", "MoCap",
               "PPG", "GSR", "Quality", "Position", "Mouse", "Keyboard")  # fmt: skip  # a type is free text
RATE_AGREES = 0.005
LATEST_S = 1e11  # s; no clock shows the year 5000


def open_xdf(source: Source, strict: bool) -> Contents:
    """Open the stream of EEG with the most channels and the events of all streams of markers."""
    require("pyxdf", "reading XDF")
    path, notes = source.path, list[str]()
    file = read_chunks(path)
    damage = [f"{file.damaged} damaged chunks left out"] * bool(file.damaged)
    damage += ["the file was cut short: its last chunk is incomplete"] * file.cut_short
    if damage and strict:
        raise UserError(f"{path}: {' and '.join(damage)}; restore it, or leave out --strict to keep what is there")
    notes += damage
    eeg = chosen(path, file)
    markers = [s for s in file.streams.values() if s is not eeg and s.samples and is_markers(s)]
    others = [s for s in file.streams.values() if s is not eeg and s not in markers]
    if others:
        named = Counter(f"{kind_of(s)} ({s.channels} channels, {s.samples} samples)" for s in others)
        listed = ", ".join(f"{n} x {name}" if n > 1 else name for name, n in named.items())
        notes.append(f"{len(others)} other streams left out: {listed}")
    described = len(eeg.info.findall("desc/channels/channel"))
    if described not in (0, eeg.channels):
        notes.append(f"the header describes {described} of {eeg.channels} channels: they are numbered instead")
    if markers and not all(s.clocks for s in (eeg, *markers)):
        notes.append("clock offsets are missing: times of the markers and of the EEG are taken to be on one clock")
    loaded = _load(path, file, [eeg, *markers])
    signal = loaded[eeg.number]
    stamps, resets = repaired(signal["time_stamps"], notes), [a for a, _ in signal["info"]["clock_segments"]][1:]
    sfreq, spans = clock_of(path, stamps, eeg.rate, resets, notes)
    lines = Lines(stamps, spans, sfreq)
    events, free_text = marker_events([loaded[s.number] for s in markers], lines, sfreq, notes)
    series = signal["time_series"]
    labels, types, units, positions = channels_of(eeg)
    kinds = settle_names(labels, types)[1]
    factors = np.array(
        [[1.0] if kind == "stim" else [f] for kind, f in zip(kinds, _factors(units, notes), strict=True)]
    )
    return Contents(
        format="xdf",
        labels=labels,
        types=types,
        sfreq=sfreq,
        n_samples=len(series),
        reader=lambda start, stop, picks: series[start:stop, list(picks)].T.astype(np.float64) * factors[list(picks)],
        positions=positions,
        reference=reference_named(eeg.info.findtext("desc/reference/label") or ""),
        segments=spans,
        events=events,
        free_text=free_text,
        notes=notes,
    )


# ------------------------------------------------------------------------------------------------------------ streams
def kind_of(stream: Stream) -> str:
    """Return the type of a stream, where it is a common one."""
    text = (stream.info.findtext("type") or "").strip().lower()
    return next((kind for kind in KNOWN_TYPES if kind.lower() == text), "other")


def is_markers(stream: Stream) -> bool:
    text = (stream.info.findtext("type") or "").strip().lower()
    return stream.format == "string" or (text in STIM_TYPES and stream.channels == 1)


def chosen(path: str, file: XdfFile) -> Stream:
    """Return the stream of EEG, by type, else by two sites of the 10-05 system; of several, the widest."""
    numeric = [s for s in file.streams.values() if s.format != "string" and s.samples > 1 and not is_markers(s)]
    sites = {
        s.number: sum(standard_name(normalise_name(label)[0]) is not None for label in channels_of(s)[0])
        for s in numeric
    }
    eeg = [s for s in numeric if kind_of(s) == "EEG"] or [s for s in numeric if sites[s.number] >= 2]
    if not eeg:
        kinds = ", ".join(sorted({kind_of(s) for s in file.streams.values()})) or "none"
        raise UserError(f"{path}: has no stream of EEG with samples; the types of its streams are: {kinds}")
    return max(eeg, key=lambda s: (s.channels, s.samples))


def channels_of(stream: Stream) -> tuple[list[str], list[str], list[str], Float[np.ndarray, "channels 3"] | None]:
    """Return (labels, types, units, positions in m or None) of a stream; channels without a label are numbered."""
    listed = stream.info.findall("desc/channels/channel")
    if len(listed) != stream.channels:
        listed = [None] * stream.channels
    labels, types, units = [], [], []
    xyz = np.full((stream.channels, 3), np.nan)
    for i, channel in enumerate(listed):
        label, kind, unit = (
            (channel.findtext(key) or "").strip() if channel is not None else "" for key in ("label", "type", "unit")
        )
        labels.append(label or f"EEG {i + 1}")
        types.append("stim" if kind.lower() in STIM_TYPES else TYPES.get(kind.upper(), ""))
        units.append(unit)
        for axis in range(3):
            try:
                xyz[i, axis] = float(channel.findtext(f"location/{'XYZ'[axis]}")) / 1e3  # mm: x right, y front, z up
            except (AttributeError, TypeError, ValueError):
                break
    return labels, types, units, xyz if np.isfinite(xyz).any() else None


def _factors(units: Sequence[str], notes: list[str]) -> list[float]:
    """Return the factors into µV; a unit that is absent or unknown is read as µV, with a note."""
    factors = [microvolts(unit) for unit in units]
    if unknown := factors.count(None):
        notes.append(f"the unit of {unknown} channels is absent or unknown: values are taken as µV")
    return [1.0 if factor is None else factor for factor in factors]


@contextmanager
def _silent() -> Iterator[None]:
    """Silence what pyxdf logs: it quotes the file."""
    logger = logging.getLogger("pyxdf.pyxdf")
    before, logger.disabled = logger.disabled, True
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        logger.disabled = before


def _load(path: str, file: XdfFile, streams: Sequence[Stream]) -> dict[int, Any]:
    """Return number → stream as pyxdf gives it, with all time stamps on the clock of the recording computer."""
    import pyxdf

    try:
        with _silent():
            loaded, _ = pyxdf.load_xdf(file.only([s.number for s in streams]), dejitter_timestamps=False)
    except Exception as e:
        raise UserError(f"{path}: pyxdf cannot read it ({error_text(e)}); restore it from its source") from e
    return {stream["info"]["stream_id"]: stream for stream in loaded}


# -------------------------------------------------------------------------------------------------------------- clock
def repaired(stamps: Float[np.ndarray, "time"], notes: list[str]) -> Float[np.ndarray, "time"]:
    """Return the stamps; single ones that are not times, or are far from both neighbours, are replaced from these."""
    possible = np.abs(stamps) < LATEST_S
    if possible.sum() < 2:
        return stamps
    at = np.arange(len(stamps))
    stamps = np.interp(at, at[possible], stamps[possible])
    around = ndimage.median_filter(stamps, 5, mode="nearest")
    far = np.abs(stamps - around) > max(SURE_S, 5 * float(np.median(np.abs(np.diff(stamps)))))
    if damaged := int((far | ~possible).sum()):
        notes.append(f"{damaged} time stamps of the EEG are damaged: taken from their neighbours")
    return np.where(far, around, stamps)


def clock_of(
    path: str, stamps: Float[np.ndarray, "time"], nominal: float, resets: Sequence[int], notes: list[str]
) -> tuple[float, list[tuple[int, int]]]:
    """Return (sfreq, spans) from time stamps, which may jump back where a clock was set or reset."""
    even = stamps.copy()
    back = set(resets) | {int(i) + 1 for i in np.flatnonzero(np.diff(stamps) < -SURE_S)}
    for cut in sorted(back):  # as a gap at the same place
        even[cut:] += 2 * SURE_S - (even[cut] - even[cut - 1])
    try:
        sfreq, spans, more = dejitter(even - even[0], nominal if nominal > 0 else None)
    except (ValueError, ZeroDivisionError) as e:
        raise UserError(f"{path}: the time stamps of its stream of EEG do not run forwards; record again") from e
    if not sfreq >= SLOWEST_HZ:
        raise UserError(f"{path}: its stream of EEG has {sfreq:g} samples a second, too few for a signal")
    notes += more
    if back:
        notes.append(f"the clock of the EEG was reset {len(back)} times: each is a gap")
    if nominal <= 0 or abs(sfreq / nominal - 1) > RATE_AGREES:
        notes.append(f"the rate is measured, {sfreq:g} Hz; the header states {nominal:g}")
    return sfreq, spans


class Lines:
    """The even clock of every span: sample = (time - offset) / step."""

    def __init__(self, stamps: Float[np.ndarray, "time"], spans: Sequence[tuple[int, int]], sfreq: float):
        self.spans = [span for span in spans if span[1] > span[0]]
        self.steps, self.starts = [], []
        for a, b in self.spans:
            index, part = np.arange(b - a), stamps[a:b]
            step = float(np.polyfit(index, part - part[0], 1)[0]) if b - a > 2 else 0.0
            step = step if abs(step * sfreq - 1) < 2 * RATE_AGREES else 1 / sfreq  # of a short span: that of all
            self.steps.append(step)
            self.starts.append(part[0] + float(np.mean(part - part[0] - step * index)))

    def sample(self, time: float) -> int | None:
        """Return the sample nearest to a time; None before, after and between the spans."""
        for (a, b), step, start in zip(self.spans, self.steps, self.starts, strict=True):
            place = (time - start) / step
            if -0.5 <= place < b - a - 0.5:
                return a + int(np.floor(place + 0.5))
        return None


def marker_events(
    streams: Sequence[Any], lines: Lines, sfreq: float, notes: list[str]
) -> tuple[list[Event], list[Event]]:
    """Return (codes, free texts) of the streams of markers; a code of two streams has its stream's number as prefix."""
    coded: list[list[Event]] = []
    free_text: list[Event] = []
    outside = 0
    for stream in streams:
        rows = []
        series = stream["time_series"]
        if float(stream["info"]["nominal_srate"][0]) > 0 and isinstance(series, np.ndarray):
            series = _changes(series, notes)
        for time, values in zip(stream["time_stamps"], series, strict=True):
            text = next((word for value in values if (word := _word(value))), "")
            sample = lines.sample(float(time)) if np.isfinite(time) and text else None
            if sample is not None:
                rows.append((sample / sfreq, 0.0, text))
            outside += sample is None and bool(text)
        coded.append(keep_codes(rows, sfreq, set(), notes, free_text))
    if outside:
        notes.append(f"{outside} markers before, after or between the stretches of signal left out")
    shared = Counter(code for events in coded for code in {event.code for event in events})
    distinct = [
        Event(event.sample, 0.0, f"stream {k}/{event.code}" if shared[event.code] > 1 else event.code)
        for k, events in enumerate(coded, start=1)
        for event in events
    ]
    return sorted(distinct, key=lambda event: event.sample), sorted(free_text, key=lambda event: event.sample)


def _changes(series: Shaped[np.ndarray, "time 1"], notes: list[str]) -> Int[np.ndarray, "time 1"]:
    """Return a trigger line that is sampled at a regular rate, with 0 except where a code begins."""
    channel, begins = StimulusChannel(), np.zeros(series.shape, np.int64)
    channel.add(np.rint(np.nan_to_num(series[:, 0])).astype(np.int64))
    for sample, code in channel.changes(notes):
        begins[sample] = code
    return begins


def _word(value: Any) -> str:
    """Return the text of a marker; "" for 0, by which devices mark the end of a trigger."""
    if isinstance(value, str):
        return value.strip()
    return str(int(value)) if np.isfinite(value) and value else ""
