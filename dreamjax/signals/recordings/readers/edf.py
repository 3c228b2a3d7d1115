"""EDF, EDF+, BDF and BDF+: a reader of spans of data records, several thousand times faster than real time.

Its tests compare it with MNE and edfio. Neither is used here, because a reader must not trust headers (see
`edf_header`), must keep the complete records of a truncated file, respect the gaps of EDF+D (edfio reads such files as
contiguous), and read any span of a day-long file without more memory than the span.
"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from dreamjax.errors import UserError
from dreamjax.signals.recordings.events import MOST_CHANGES, StimulusChannel, keep_codes
from dreamjax.signals.recordings.montage import names_other_sensor, normalise_name
from dreamjax.signals.recordings.readers.edf_header import Header, filter_edges, read_header
from dreamjax.signals.recordings.readers.recording import Contents, Event, Source
from dreamjax.signals.recordings.units import microvolts

SPAN_BYTES = 1 << 26  # one piece of file held while a long span is decoded
MAX_ANNOTATIONS = 1_000_000
_ONSET = re.compile(rb"^([+-]\d{1,12}(?:\.\d{0,12})?)(?:\x15(\d{1,12}(?:\.\d{0,12})?))?$")


def open_edf(source: Source, strict: bool) -> Contents:
    """Open everything but the signal, which stays on disk. Raise UserError as `read_header`, and without any signal."""
    header = read_header(source.path, strict)
    notes = length_notes(header)
    main = main_signals(header, notes)
    per_record = header.signals[main[0]].samples
    sfreq = per_record / header.record_duration
    annotations, onsets = read_annotations(header)
    free_text: list[Event] = []
    events = keep_codes(annotations, sfreq, header.patient_words, notes, free_text)
    stim = [i for i in main if normalise_name(header.signals[i].label)[1] == "stim"]
    for i in stim:
        changes = stim_events(header, i, sfreq, notes)
        if len(changes) > MOST_CHANGES * header.n_records * per_record:
            notes.append(f"{len(changes)} changes on a stimulus channel are noise, not events")
        else:
            events += changes
    used = [i for i in main if i not in stim]
    signals = [header.signals[i] for i in used]
    if unknown := sorted({s.unit for s in signals if microvolts(s.unit) is None}):
        notes.append(f"unit {', '.join(repr(u) for u in unknown)} read as µV")
    high, low = filter_edges([s.prefilter for s in signals if not names_other_sensor(s.label)])
    return Contents(
        format=header.format,
        labels=[s.label for s in signals],
        units=[s.unit for s in signals],
        sfreq=sfreq,
        n_samples=header.n_records * per_record,
        reader=lambda start, stop, picks: read_span(header, [used[i] for i in picks], start, stop),
        highpass=high,
        lowpass=low if low and low < sfreq / 2 else None,
        segments=record_segments(header, onsets, per_record, notes),
        events=sorted(events, key=lambda e: e.sample),
        free_text=free_text,
        notes=notes,
    )


def length_notes(header: Header) -> list[str]:
    """Return a sentence where the file's length is not what the header states."""
    held, promised, duration = header.n_records, header.promised, f"records of {header.record_duration:g} s"
    if promised == held:
        return []
    if promised == -1:
        return [f"the header leaves the number of records open; the file holds {held} {duration}"]
    kept = (
        f"the file ends after {held}; {held} were kept" if promised > held else f"the file holds {held}; all were kept"
    )
    return [f"the header promises {promised} {duration} but {kept}"]


def main_signals(header: Header, notes: list[str]) -> list[int]:
    """Return the indices of the signals at the rate of most of the EEG; the others are left out, with a note."""
    signals = [i for i, s in enumerate(header.signals) if not s.is_annotations and s.samples > 0]
    if not signals:
        raise UserError(f"{header.path}: no signal, only annotations; nothing can be read from it")
    scalp = [i for i in signals if normalise_name(header.signals[i].label)[1] == "eeg"] or signals
    counts = Counter(header.signals[i].samples for i in scalp)
    rate = max(counts, key=lambda samples: (counts[samples], samples))
    main = [i for i in signals if header.signals[i].samples == rate]
    if len(main) < len(signals):
        notes.append(f"{len(signals) - len(main)} channels at another sampling rate left out")
    return main


# ------------------------------------------------------------------------------------------------------------- signal
def read_span(header: Header, signals: Sequence[int], start: int, stop: int) -> Float[np.ndarray, "channels time"]:
    """Read samples [start, stop) of signals that share one rate, in µV; decoded piece by piece."""
    per_record = header.signals[signals[0]].samples
    out = np.empty((len(signals), stop - start))
    records_at_once = max(1, SPAN_BYTES // header.record_bytes)
    first, last = start // per_record, -(-stop // per_record)
    gains, offsets = np.array([(header.signals[i].gain, header.signals[i].offset) for i in signals]).T[..., None]
    for begin in range(first, last, records_at_once):
        end = min(begin + records_at_once, last)
        digital = read_digital(header, signals, begin, end)
        low, high = max(start, begin * per_record), min(stop, end * per_record)
        piece = digital[:, low - begin * per_record : high - begin * per_record]
        np.multiply(piece, gains, out=out[:, low - start : high - start])
        out[:, low - start : high - start] += offsets
    return out


def read_digital(header: Header, signals: Sequence[int], first: int, last: int) -> Int[np.ndarray, "channels time"]:
    """Read the integers of data records [first, last) of signals that share one rate."""
    with open(header.path, "rb") as file:
        file.seek(header.header_bytes + first * header.record_bytes)
        raw = np.fromfile(file, np.uint8, (last - first) * header.record_bytes)
    records = raw.reshape(-1, header.record_bytes)
    if len(records) < last - first:
        raise UserError(f"{header.path}: the file became shorter while it was read; try again")
    starts = [header.signals[i].start for i in signals]
    samples = header.signals[signals[0]].samples
    if header.sample_bytes == 2:
        values = records.view("<i2")
        columns = [values[:, s : s + samples] for s in starts]
    else:
        columns = [_int24(records[:, 3 * s : 3 * (s + samples)]) for s in starts]
    return np.stack(columns).reshape(len(signals), -1)


def _int24(bytes_: np.ndarray) -> np.ndarray:
    """Return little-endian two's-complement 24-bit integers, shifted down with the sign from the upper bytes."""
    triples = np.ascontiguousarray(bytes_).reshape(len(bytes_), -1, 3)
    padded = np.zeros((*triples.shape[:2], 4), np.uint8)
    padded[..., 1:] = triples
    return padded.view("<i4")[..., 0] >> 8


def stim_events(header: Header, index: int, sfreq: float, notes: list[str]) -> list[Event]:
    """Return a stimulus channel's events (`StimulusChannel`). BioSemi's triggers are the low 16 bits."""
    at_once = max(1, SPAN_BYTES // header.record_bytes)
    channel = StimulusChannel()
    for begin in range(0, header.n_records, at_once):
        values = read_digital(header, [index], begin, min(begin + at_once, header.n_records))[0].astype(np.int64)
        if header.format == "bdf":
            values &= 0xFFFF
        channel.add(values)
    return [Event(sample, 1 / sfreq, str(code)) for sample, code in channel.changes(notes)]


# -------------------------------------------------------------------------------------------- annotations and gaps
def read_annotations(header: Header) -> tuple[list[tuple[float, float, str]], Float[np.ndarray, "records"]]:
    """Return ([(onset s, duration s, text), …], start of every record in s, NaN without a time-keeping TAL).

    A time-stamped annotation list of EDF+ and BDF+ (TAL; Kemp 2003, section 2.2) is
    `onset [0x15 duration] 0x14 text 0x14 … 0x00`; the first one of a record with an empty text gives the time at which
    the record starts. Onsets count from the header's start time; here they are turned into seconds since the first
    *kept sample*, through the gaps of a discontinuous file.
    """
    signals = [s for s in header.signals if s.is_annotations]
    starts = np.full(header.n_records, np.nan)
    if not signals:
        return [], starts
    annotations: list[tuple[float, float, str]] = []
    shape = (header.n_records, header.record_bytes)
    records = np.memmap(header.path, np.uint8, "r", header.header_bytes, shape)
    width = header.sample_bytes
    for record in range(header.n_records):
        for k, signal in enumerate(signals):
            data = records[record, width * signal.start : width * (signal.start + signal.samples)].tobytes()
            if not data.startswith((b"+", b"-")):
                continue
            for position, (onset, duration, texts) in enumerate(parse_tals(data)):
                if k == 0 and position == 0 and texts and texts[0] == "":
                    starts[record] = onset
                annotations += [(onset, duration, text) for text in texts if text]
        if len(annotations) > MAX_ANNOTATIONS:
            break
    return [(_since_first_sample(t, starts, header), d, text) for t, d, text in annotations], starts


def parse_tals(data: bytes) -> list[tuple[float, float, list[str]]]:
    """Return the TALs of one record's annotation bytes; anything else is skipped."""
    tals = []
    for tal in data.rstrip(b"\x00").split(b"\x00"):
        parts = tal.split(b"\x14")
        match = _ONSET.match(parts[0]) if len(parts) > 1 else None
        if match:
            texts = [part.decode("utf-8", "replace").strip() for part in parts[1:]]
            texts = texts[:-1] if len(texts) > 1 and texts[-1] == "" else texts
            tals.append((float(match.group(1)), float(match.group(2) or 0), texts))
    return tals


def _since_first_sample(onset: float, starts: np.ndarray, header: Header) -> float:
    """Return the seconds in the concatenated kept records of `onset` (s since the header's start time)."""
    if not header.kind.endswith("D") or not np.isfinite(starts).all():
        first = starts[0] if np.isfinite(starts[0]) else 0.0
        return float(onset - first)
    record = int(np.clip(np.searchsorted(starts, onset + 1e-9, side="right") - 1, 0, len(starts) - 1))
    return float(record * header.record_duration + onset - starts[record])


def record_segments(
    header: Header, onsets: Float[np.ndarray, "records"], per_record: int, notes: list[str]
) -> list[tuple[int, int]]:
    """Return contiguous spans of samples; a gap between the onsets of EDF+D data records starts a new one.

    Raise UserError for an EDF+D file without the onsets that say where its gaps are.
    """
    if not header.kind.endswith("D"):
        return [(0, header.n_records * per_record)]
    if not np.isfinite(onsets).all():
        raise UserError(
            f"{header.path}: a discontinuous recording (EDF+D) without the onset of every data record; "
            "its gaps cannot be found, convert it with the software that wrote it"
        )
    gaps = np.diff(onsets) - header.record_duration
    cuts = np.flatnonzero(np.abs(gaps) > 0.5 * header.record_duration / per_record) + 1
    if len(cuts):
        notes.append(f"{len(cuts)} discontinuities in the file")
    edges = [0, *(int(c) * per_record for c in cuts), header.n_records * per_record]
    return list(pairwise(edges))
