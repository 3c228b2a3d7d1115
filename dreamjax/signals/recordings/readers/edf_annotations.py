"""Time-stamped annotation lists (TALs) of EDF+ and BDF+ (Kemp 2003, section 2.2).

A TAL is `onset [0x15 duration] 0x14 text 0x14 … 0x00`; the first TAL of a record with an empty text gives the time
at which the record starts. Onsets count from the header's start time; here they are turned into seconds since the
first *kept sample*, through the gaps of a discontinuous file.
"""

import re

import numpy as np
from jaxtyping import Float

from dreamjax.signals.recordings.readers.edf_header import Header

_ONSET = re.compile(rb"^([+-]\d{1,12}(?:\.\d{0,12})?)(?:\x15(\d{1,12}(?:\.\d{0,12})?))?$")
MAX_ANNOTATIONS = 1_000_000


def read_annotations(header: Header) -> tuple[list[tuple[float, float, str]], Float[np.ndarray, "records"]]:
    """([(onset s, duration s, text), …], start of every record in s); NaN where a record has no time-keeping TAL."""
    signals = [s for s in header.signals if s.is_annotations]
    starts = np.full(header.n_records, np.nan)
    if not signals:
        return [], starts
    annotations: list[tuple[float, float, str]] = []
    records = np.memmap(
        header.path, np.uint8, "r", header.header_bytes, (header.n_records, header.record_bytes), order="C"
    )
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
    """The TALs of one record's annotation bytes; what is not one is skipped."""
    tals = []
    for tal in data.split(b"\x00"):
        parts = tal.split(b"\x14")
        match = _ONSET.match(parts[0]) if len(parts) > 1 else None
        if match:
            texts = [part.decode("utf-8", "replace").strip() for part in parts[1:]]
            texts = texts[:-1] if len(texts) > 1 and texts[-1] == "" else texts
            tals.append((float(match.group(1)), float(match.group(2) or 0), texts))
    return tals


def _since_first_sample(onset: float, starts: np.ndarray, header: Header) -> float:
    """Seconds in the concatenation of the kept records at which `onset` (s since the header's start time) lies."""
    if not header.kind.endswith("D") or not np.isfinite(starts).all():
        first = starts[0] if np.isfinite(starts[0]) else 0.0
        return float(onset - first)
    record = int(np.clip(np.searchsorted(starts, onset + 1e-9, side="right") - 1, 0, len(starts) - 1))
    return float(record * header.record_duration + onset - starts[record])
