"""The header of EDF, EDF+, BDF and BDF+ (Kemp 1992, 2003; BioSemi), read without trusting a single field of it.

256 bytes of fixed ASCII fields, then 256 bytes a signal, then data records of `samples_per_record` little-endian
integers a signal (2 bytes in EDF, 3 in BDF). The patient, recording, date and time fields identify a person: of them
only the words of the patient field are kept, in memory, so that annotations which repeat them can be dropped.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from dreamjax.errors import UserError
from dreamjax.signals.recordings.units import microvolts

MAX_SIGNALS = 4096
MAX_RATE = 1e6  # Hz
MAX_RECORD_BYTES = 1 << 28  # 256 MiB; the standard recommends 61440 bytes a record
ANNOTATIONS = ("EDF Annotations", "BDF Annotations")  # labels of the signals that hold them


@dataclass(frozen=True)
class Signal:
    label: str
    unit: str
    gain: float  # µV = gain * digital + offset
    offset: float
    prefilter: str
    samples: int  # per data record
    start: int  # of its samples in a record, counted in samples of all signals

    @property
    def is_annotations(self) -> bool:
        return self.label in ANNOTATIONS


@dataclass(frozen=True)
class Header:
    path: str
    format: str  # "edf" or "bdf"
    kind: str  # "", "EDF+C", "EDF+D", "BDF+C", "BDF+D"
    signals: tuple[Signal, ...]
    header_bytes: int
    record_duration: float  # s
    n_records: int  # whole records that the file really holds
    promised: int  # records that the header states; -1: unknown while recording
    patient_words: frozenset[str]

    @property
    def sample_bytes(self) -> int:
        return 3 if self.format == "bdf" else 2

    @property
    def record_bytes(self) -> int:
        return sum(s.samples for s in self.signals) * self.sample_bytes


def read_header(path: str, strict: bool) -> Header:
    """Read the header, checked field by field for consistency and against the file's size.

    Raise UserError for another file, and for a field that cannot be; with `strict` also for a file that ends early.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        fixed = file.read(256)
        format_ = _format(fixed, path)
        n_signals = _integer(fixed[252:256], "number of signals", path, 1, MAX_SIGNALS)
        block = file.read(256 * n_signals)
    if len(block) < 256 * n_signals:
        raise UserError(f"{path}: the file ends inside its header ({size} bytes for {n_signals} signals); restore it")
    header_bytes = 256 * (n_signals + 1)
    duration = _number(fixed[244:252], "duration of a record", path)
    if not 0 <= duration <= 86400:
        raise UserError(f"{path}: the header gives {duration:g} s as a record's duration; the file cannot be read")
    signals = _signals(block, n_signals, path)
    record_bytes = sum(s.samples for s in signals) * (3 if format_ == "bdf" else 2)
    if not 0 < record_bytes <= MAX_RECORD_BYTES:
        raise UserError(f"{path}: the header gives {record_bytes} bytes a record; the file cannot be read")
    if duration == 0 and not all(s.is_annotations for s in signals):
        raise UserError(f"{path}: the header gives 0 s as a record's duration but the file has signals")
    rates = [s.samples / duration for s in signals if not s.is_annotations and s.samples and duration]
    if rates and (min(rates) < 0.1 or max(rates) > MAX_RATE):
        raise UserError(f"{path}: the header gives sampling rates up to {max(rates):g} Hz; the file cannot be read")
    promised = _integer(fixed[236:244], "number of records", path, -1, 1 << 40)
    n_records = (size - header_bytes) // record_bytes
    if n_records == 0:
        raise UserError(f"{path}: the file ends before its first whole data record; restore it from its source")
    if strict and promised != n_records:
        raise UserError(
            f"{path}: the header promises {promised} records of {duration:g} s but the file holds {n_records}; "
            "restore the file, or leave out --strict to keep what is there"
        )
    reserved = fixed[192:236].decode("latin-1").strip()
    kind = reserved[:5] if re.match(r"(EDF|BDF)\+[CD]", reserved) else ""
    words = frozenset(w.lower() for w in re.split(r"[\W_]+", fixed[8:168].decode("latin-1")) if len(w) > 1)
    return Header(path, format_, kind, signals, header_bytes, duration, n_records, promised, words)


def _format(fixed: bytes, path: str) -> str:
    if len(fixed) < 256:
        raise UserError(f"{path}: only {len(fixed)} bytes, too short for an EDF header; restore it from its source")
    if fixed[:8] == b"\xffBIOSEMI":
        return "bdf"
    if fixed[:8].strip() == b"0":
        return "edf"
    printable = sum(32 <= b < 127 or b in (9, 10, 13) for b in fixed) > 250
    what = "a text file" if printable else "no EDF or BDF file"
    raise UserError(f"{path}: {what} under the name {Path(path).suffix}; give the file its real name or remove it")


def _text(field: bytes) -> str:
    return field.decode("latin-1").strip(" \x00")


def _number(field: bytes, name: str, path: str) -> float:
    text = _text(field).replace(",", ".")
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?", text):
        raise UserError(f"{path}: the header's {name} is not a number; the file cannot be read")
    return float(text)


def _integer(field: bytes, name: str, path: str, low: int, high: int) -> int:
    value = _number(field, name, path)
    if value != int(value) or not low <= value <= high:
        raise UserError(f"{path}: the header's {name} is {value:g}, expected {low} to {high}; the file cannot be read")
    return int(value)


_WIDTHS = (("label", 16), ("transducer", 80), ("unit", 8), ("pmin", 8), ("pmax", 8), ("dmin", 8), ("dmax", 8),
           ("prefilter", 80), ("samples", 8), ("reserved", 32))  # fmt: skip


def _signals(block: bytes, n: int, path: str) -> tuple[Signal, ...]:
    fields: dict[str, list[bytes]] = {}
    position = 0
    for name, width in _WIDTHS:
        fields[name] = [block[position + i * width : position + (i + 1) * width] for i in range(n)]
        position += n * width
    signals, start = [], 0
    for i in range(n):
        label = _text(fields["label"][i])
        where = f"field of signal {i + 1}"
        samples = _integer(fields["samples"][i], f"samples {where}", path, 0, MAX_RECORD_BYTES)
        gain, offset = 1.0, 0.0
        if label not in ANNOTATIONS:
            dmin, dmax = (_number(fields[k][i], f"digital range {where}", path) for k in ("dmin", "dmax"))
            pmin, pmax = (_number(fields[k][i], f"physical range {where}", path) for k in ("pmin", "pmax"))
            if dmax != dmin and pmax != pmin:  # else an unused channel of some devices, whose numbers are not scaled
                gain = (pmax - pmin) / (dmax - dmin)
                offset = pmin - gain * dmin
        unit, prefilter = _text(fields["unit"][i]), _text(fields["prefilter"][i])
        factor = microvolts(unit) or 1.0
        signals.append(Signal(label, unit, gain * factor, offset * factor, prefilter, samples, start))
        start += samples
    return tuple(signals)


def filter_edges(prefilters: list[str]) -> tuple[float | None, float | None]:
    """Return (highpass, lowpass) in Hz on which all EDF prefilter fields ("HP:0.5Hz LP:45Hz N:50Hz") agree.

    The strictest of each where channels differ; a time constant ("HP:0.3s") is turned into a frequency.
    """
    highs, lows = [], []
    for text in prefilters:
        if m := re.search(r"HP:?\s*([\d.]+)\s*(s\b|sec|mHz|Hz)?", text, re.IGNORECASE):
            highs.append(_edge(m))
        if m := re.search(r"LP:?\s*([\d.]+)\s*(kHz|Hz)?", text, re.IGNORECASE):
            lows.append(_edge(m))
    return max(filter(None, highs), default=None), min(filter(None, lows), default=None)


def _edge(match: re.Match[str]) -> float | None:
    try:
        value = float(match.group(1))
    except ValueError:
        return None
    unit = (match.group(2) or "").lower()
    if unit in ("s", "sec"):
        return 1 / (2 * 3.141592653589793 * value) if value else None
    return {"mhz": value / 1e3, "khz": value * 1e3}.get(unit, value) or None
