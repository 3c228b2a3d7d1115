"""EDF, EDF+, BDF and BDF+: a reader of spans of data records, several thousand times faster than real time.

MNE and edfio are the oracles of its tests. It is our own because it must not trust headers (see `edf_header`), keep
what is there of a truncated file, honour the gaps of EDF+D (edfio reads such files as contiguous), and read any span
of a day-long file without more memory than the span.
"""

import os
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from dreamjax.errors import UserError
from dreamjax.signals.recordings.channel_names import names_other_sensor, normalise_name
from dreamjax.signals.recordings.event_codes import keep_codes, stim_changes
from dreamjax.signals.recordings.readers.edf_annotations import read_annotations
from dreamjax.signals.recordings.readers.edf_header import UNITS_TO_UV, Header, filter_edges, read_header
from dreamjax.signals.recordings.readers.recording import Contents, Event, Source

MOST_CHANGES = 0.05  # of the samples; a stimulus channel that changes more often carries noise
SPAN_BYTES = 1 << 26  # one piece of file held while a long span is decoded


def open_source(source: Source, strict: bool = False) -> Contents:
    return open_edf(source.path, strict)


def open_edf(path: str | os.PathLike[str], strict: bool = False) -> Contents:
    """Everything but the signal, which stays on disk.

    Raises:
      UserError: see `read_header`; also a file without any signal.
    """
    header = read_header(path, strict)
    notes = length_notes(header)
    main = main_signals(header, notes)
    per_record = header.signals[main[0]].samples
    sfreq = per_record / header.record_duration
    annotations, onsets = read_annotations(header)
    events, dropped = keep_codes([(t, d, text) for t, d, text in annotations], sfreq, header.patient_words)
    if dropped:
        notes.append(f"{dropped} free-text annotations dropped")
    stim = [i for i in main if normalise_name(header.signals[i].label)[1] == "stim"]
    for i in stim:
        changes = stim_events(header, i, sfreq)
        if len(changes) > MOST_CHANGES * header.n_records * per_record:
            notes.append(f"{len(changes)} changes on a stimulus channel are noise, not events")
        else:
            events = events + changes
    used = [i for i in main if i not in stim]
    unknown = sorted({header.signals[i].unit for i in used if header.signals[i].unit.lower() not in UNITS_TO_UV})
    if unknown:
        notes.append(f"unit {', '.join(repr(u) for u in unknown)} read as µV")
    scalp = [header.signals[i].prefilter for i in used if not names_other_sensor(header.signals[i].label)]
    high, low = filter_edges(scalp)
    return Contents(
        format=header.format,
        labels=[header.signals[i].label for i in used],
        sfreq=sfreq,
        n_samples=header.n_records * per_record,
        reader=lambda start, stop, picks: read_span(header, [used[i] for i in picks], start, stop),
        highpass=high,
        lowpass=low if low and low < sfreq / 2 else None,
        segments=record_segments(header, onsets, per_record, notes),
        events=sorted(events, key=lambda e: e.sample),
        notes=notes,
    )


def length_notes(header: Header) -> list[str]:
    """One sentence where the file's length is not what the header promises."""
    duration = f"records of {header.record_duration:g} s"
    if header.promised > header.n_records:
        return [
            f"the header promises {header.promised} {duration} but the file ends after {header.n_records}; "
            f"{header.n_records} were kept"
        ]
    if header.promised == -1:
        return [f"the header leaves the number of records open; the file holds {header.n_records} {duration}"]
    if header.promised < header.n_records:
        return [
            f"the header promises {header.promised} {duration} but the file holds {header.n_records}; all were kept"
        ]
    return []


def main_signals(header: Header, notes: list[str]) -> list[int]:
    """Indices of the signals at the rate that most of the EEG has; the others are left out, with a note."""
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


def read_span(header: Header, signals: Sequence[int], start: int, stop: int) -> Float[np.ndarray, "channels time"]:
    """Samples [start, stop) of signals that share one rate, in µV; decoded piece by piece."""
    per_record = header.signals[signals[0]].samples if signals else 1
    out = np.empty((len(signals), stop - start))
    records_at_once = max(1, SPAN_BYTES // header.record_bytes)
    first, last = start // per_record, -(-stop // per_record)
    gains = np.array([header.signals[i].gain * header.signals[i].to_uv for i in signals])[:, None]
    offsets = np.array([header.signals[i].offset * header.signals[i].to_uv for i in signals])[:, None]
    for begin in range(first, last, records_at_once):
        end = min(begin + records_at_once, last)
        digital = read_digital(header, signals, begin, end)
        low, high = max(start, begin * per_record), min(stop, end * per_record)
        piece = digital[:, low - begin * per_record : high - begin * per_record]
        np.multiply(piece, gains, out=out[:, low - start : high - start])
        out[:, low - start : high - start] += offsets
    return out


def read_digital(header: Header, signals: Sequence[int], first: int, last: int) -> Int[np.ndarray, "channels time"]:
    """The integers of data records [first, last) of signals that share one rate."""
    width = header.sample_bytes
    with open(header.path, "rb") as file:
        file.seek(header.header_bytes + first * header.record_bytes)
        raw = np.fromfile(file, np.uint8, (last - first) * header.record_bytes)
    records = raw.reshape(-1, header.record_bytes)
    if len(records) < last - first:
        raise UserError(f"{header.path}: the file became shorter while it was read; try again")
    starts = [header.signals[i].start for i in signals]
    samples = header.signals[signals[0]].samples if signals else 0
    if width == 2:
        values = records.view("<i2")
        columns = [values[:, s : s + samples] for s in starts]
    else:
        columns = [_int24(records[:, 3 * s : 3 * (s + samples)]) for s in starts]
    out = np.empty((len(signals), len(records), samples), np.int16 if width == 2 else np.int32)
    for row, column in zip(out, columns, strict=True):
        row[:] = column
    return out.reshape(len(signals), -1)


def _int24(bytes_: np.ndarray) -> np.ndarray:
    """Little-endian two's-complement 24-bit integers, in the upper bytes of 32-bit ones, shifted down with the sign."""
    triples = np.ascontiguousarray(bytes_).reshape(len(bytes_), -1, 3)
    padded = np.zeros((*triples.shape[:2], 4), np.uint8)
    padded[..., 1:] = triples
    return padded.view("<i4")[..., 0] >> 8


def stim_events(header: Header, index: int, sfreq: float) -> list[Event]:
    """Events of a stimulus channel: its changes to another code than 0. BioSemi keeps triggers in the low 16 bits."""
    per_record = header.signals[index].samples
    at_once = max(1, SPAN_BYTES // header.record_bytes)
    events: list[Event] = []
    previous = 0
    for begin in range(0, header.n_records, at_once):
        values = read_digital(header, [index], begin, min(begin + at_once, header.n_records))[0].astype(np.int64)
        if header.format == "bdf":
            values &= 0xFFFF
        changes, previous = stim_changes(values, previous)
        events += [Event(begin * per_record + sample, 1 / sfreq, str(code)) for sample, code in changes]
    return events


def record_segments(
    header: Header, onsets: Float[np.ndarray, "records"], per_record: int, notes: list[str]
) -> list[tuple[int, int]] | None:
    """Contiguous spans of samples: EDF+D data records whose time-keeping onsets leave a gap start a new one.

    Raises:
      UserError: an EDF+D file without the onsets that say where its gaps are.
    """
    if not header.kind.endswith("D"):
        return None
    if len(onsets) < header.n_records or not np.isfinite(onsets).all():
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
