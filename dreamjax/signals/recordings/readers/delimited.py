"""Tables of any origin, a row per sample: a line of column names, then numbers; comma, semicolon or tab; also gzipped.

Channels are the columns with numbers; a column of time gives the rate, else the sidecar `x.json` does (`sfreq`; also
`ch_names` to choose the columns, `ch_types`, `unit`, `reference`, …). A unit may stand in a name: `Fp1 (mV)`.
Marker columns become events where they change. What is not a number is missing, counted and never moved: a row with
too many or too few fields keeps its place in time.
"""

import contextlib
import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dreamjax.errors import UserError
from dreamjax.signals.recordings.events import keep_codes, sample_of, trial_types
from dreamjax.signals.recordings.events import number as decimal
from dreamjax.signals.recordings.montage import normalise_name, standard_name
from dreamjax.signals.recordings.readers.bids import reference_named
from dreamjax.signals.recordings.readers.numpy_array import events_listed, sidecar, sidecar_of
from dreamjax.signals.recordings.readers.recording import Contents, Event, Source, settle_names
from dreamjax.signals.recordings.readers.tables import SLOWEST_HZ, WHOLE_HZ, dejitter, text_of
from dreamjax.signals.recordings.units import microvolts
from dreamjax.typing import JsonDict

SECONDS = {"": 1.0, "s": 1.0, "sec": 1.0, "secs": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "milliseconds": 1e-3,
           "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "microseconds": 1e-6, "ns": 1e-9}  # fmt: skip
_UNIT = "|".join(filter(None, SECONDS))
_OTHER_WORDS = "zeit|temps|tiempo|tempo|tijd|tid|czas"  # for time, in exports of programs in other languages
TIME = re.compile(
    rf"(?:(?:unix|lsl|system)[ _]*)?(?:times?|time ?_?stamps?|date ?_?time|t|latency|{_OTHER_WORDS})?"
    rf"[ _:]*[(\[]?({_UNIT})?[)\]]?"
)
TIME_HZ = re.compile(r"time:\s*(\d+(?:\.\d+)?)\s*hz")  # OpenViBE
COUNTER = re.compile(r"|unnamed.*|index|sample ?_?(?:index|number|no)?s?|#|n|row|counter|packet.*|epoch")
MARKER = re.compile(r"(?:markers?|trig(?:ger)?s?|stim(?:ulus)?|sti|status|events?|codes?|annotations?)"
                    r"(?:[ _]?(?:id|code|channel|type|value))?[ _]?\d*")  # fmt: skip
CLASS = re.compile(
    r"labels?|class(?:es)?|targets?|conditions?|trial_type"
)  # holds for every row, and 0 is also a class
IN_VOLTS = re.compile(r"(.*?)[ _]*(?:[(\[]\s*([nuµμm]?v)\s*[)\]]|_([nuµμm]v))", re.IGNORECASE)
LOOKED_AT = 200  # rows from which a column is judged
RATE_AGREES = 0.05
NAMED = 8  # columns that a note lists


@dataclass
class _Columns:
    """What the columns of a table are, by their place."""

    names: list[str]
    time: int | None = None
    seconds: float = 1.0  # per unit of the time column
    sfreq: float | None = None  # where the name of the time column states it
    markers: list[int] = field(default_factory=list)
    signal: list[int] = field(default_factory=list)
    left_out: list[int] = field(default_factory=list)


def looks_like_signal(text: str, has_sidecar: bool) -> bool:
    """Return whether the first line of a text names channels: two sites of the 10-05 system, or numbers and a clock."""
    at, _, names = header_of(text.splitlines())
    if at < 0 or len(names) < 2:
        return False
    if has_sidecar:
        return True
    sites = sum(standard_name(normalise_name(plain_name(name))[0]) is not None for name in names)
    numbered = sum(normalise_name(plain_name(name))[1] == "eeg" and not name.isdigit() for name in names)
    return sites >= 2 or (numbered >= 1 and any(TIME.fullmatch(name.lower()) and name for name in names))


def header_of(lines: Sequence[str]) -> tuple[int, str, list[str]]:
    """Return (line, delimiter, names) of the first line that is not a comment; line -1 where there is none."""
    at = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith(("#", "%"))), -1)
    if at < 0:
        return -1, ",", []
    delimiter = max("\t;,", key=lines[at].count)
    return at, delimiter, [name.strip().strip("\"'") for name in next(csv.reader([lines[at]], delimiter=delimiter))]


def plain_name(name: str) -> str:
    """Return the name of a column without its unit."""
    match = IN_VOLTS.fullmatch(name)
    return match.group(1) if match else name


def open_delimited(source: Source, strict: bool) -> Contents:
    """Read a whole table of numbers into memory (float32)."""
    path, notes = Path(source.path), list[str]()
    facts = {} if source.member else _facts(path)
    lines = text_of(source).splitlines()
    at, delimiter, names = header_of(lines)
    body = [line for line in lines[at + 1 :] if line.strip()] if at >= 0 else []
    if len(body) < 2:
        raise UserError(f"{source.name}: a table without rows; remove it from the input")
    columns = columns_of(source, names, body, delimiter, facts)
    numeric = [*columns.signal, *([] if columns.time is None else [columns.time])]
    values, texts = cells(source, body, delimiter, len(names), numeric, columns.markers, notes, strict)
    labels, unit = [plain_name(names[i]) for i in columns.signal], str(facts.get("unit", ""))
    factors = [microvolts(unit or _unit_in(names[i]) or "uV") or 1.0 for i in columns.signal]
    types = [str(kind).lower() for kind in facts.get("ch_types") or ()]
    if types and len(types) != len(labels):
        raise UserError(
            f"{source.name}: {len(types)} ch_types for {len(labels)} channels in its sidecar; make them agree"
        )
    factors = [1.0 if kind == "stim" else f for f, kind in zip(factors, settle_names(labels, types)[1], strict=True)]
    if not unit and not any(_unit_in(names[i]) for i in columns.signal):
        notes.append("no unit is stated: values are taken as µV")
    if columns.left_out:
        shown = ", ".join(repr(names[i][:24]) for i in columns.left_out[:NAMED])
        notes.append(f"{len(columns.left_out)} columns that are neither channels nor markers left out: {shown}")
    stamps = None if columns.time is None else values[:, -1] * columns.seconds
    stated = facts.get("sfreq") or columns.sfreq
    sfreq, spans = clock_of(source, stamps, stated, names[columns.time or 0], notes)
    listed = events_listed(facts, source.name)
    events, free_text = marker_events(columns, texts, sfreq, notes)
    signal = np.ascontiguousarray(values[:, : len(labels)].T * np.array(factors)[:, None], np.float32)
    return Contents(
        format="csv",
        labels=labels,
        types=types,
        sfreq=sfreq,
        n_samples=signal.shape[1],
        reader=lambda start, stop, picks: signal[list(picks), start:stop].astype(np.float64),
        reference=reference_named(str(facts.get("reference", ""))),
        highpass=facts.get("highpass"),
        lowpass=facts.get("lowpass"),
        line_freq=facts.get("line_freq"),
        segments=spans,
        events=listed or events,
        free_text=[] if listed else free_text,
        notes=notes,
    )


def _facts(path: Path) -> JsonDict:
    """Return the sidecar; {} where the JSON of the same name is about something else."""
    text = sidecar_of(path).read_text(errors="replace") if sidecar_of(path).is_file() else ""
    return sidecar(path, required=()) if re.search(r'"(sfreq|ch_names|ch_types|unit)"', text) else {}


def _unit_in(name: str) -> str:
    match = IN_VOLTS.fullmatch(name)
    return (match.group(2) or match.group(3)) if match else ""


def columns_of(source: Source, names: list[str], body: Sequence[str], delimiter: str, facts: JsonDict) -> _Columns:
    """Return what each column is, by its name and by some of its cells. Raise UserError where none is a channel."""
    looked = [body[i] for i in np.unique(np.linspace(0, len(body) - 1, LOOKED_AT).astype(int))]
    rows = [row for row in csv.reader(looked, delimiter=delimiter) if len(row) >= len(names)]
    columns, chosen = _Columns(names), facts.get("ch_names")
    if chosen and (missing := [name for name in chosen if name not in names]):
        raise UserError(f"{source.name}: its sidecar names the channel {missing[0]!r}, which is not a column of it")
    for i, name in enumerate(names):
        lower = name.lower()
        filled = [cell for row in rows if (cell := row[i].strip())]
        numbers = sum(number(cell, delimiter) is not None for cell in filled)
        hz, time = TIME_HZ.fullmatch(lower), TIME.fullmatch(lower)
        if chosen and name in chosen:
            continue
        if columns.time is None and (hz or (time and lower)):
            columns.time, columns.seconds = i, SECONDS[(time and time.group(1)) or ""]
            columns.sfreq = float(hz.group(1)) if hz else None
        elif MARKER.fullmatch(lower) or CLASS.fullmatch(lower):
            columns.markers.append(i)
        elif COUNTER.fullmatch(lower):
            continue
        elif chosen or time or 2 * numbers <= len(filled):
            columns.left_out.append(i)
        elif normalise_name(name)[1] == "stim" and not MARKER.fullmatch(lower):
            columns.left_out.append(i)  # dates and durations of events
        else:
            columns.signal.append(i)
    if chosen:
        columns.signal = [names.index(name) for name in chosen]
    if not columns.signal:
        raise UserError(f"{source.name}: none of its columns holds the numbers of a channel; check the file")
    return columns


def number(cell: str, delimiter: str = ",") -> float | None:
    """Return the number in a cell, with a decimal comma where commas do not separate; None for text."""
    try:
        return float(cell) if delimiter == "," else decimal(cell)
    except ValueError:
        return None


def instant(cell: str, delimiter: str) -> float | None:
    """Return a time stamp as a number; a date and time is given in s, in UTC where it names no zone."""
    if (value := number(cell, delimiter)) is not None:
        return value
    try:
        moment = datetime.fromisoformat(cell)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def cells(
    source: Source, body: Sequence[str], delimiter: str, width: int, numeric: Sequence[int], markers: Sequence[int],
    notes: list[str], strict: bool,
) -> tuple[Float[np.ndarray, "time columns"], list[list[str]]]:  # fmt: skip
    """Return (numbers of the `numeric` columns, the last of which may be time; texts of each of the `markers`)."""
    plain = all(line.count(delimiter) == width - 1 for line in body) and not any('"' in line for line in body)
    texts: list[list[str]] = [[] for _ in markers]
    if plain and not (delimiter != "," and any("," in line for line in body[:LOOKED_AT])):
        with contextlib.suppress(ValueError):  # one cell is not a number: they are read one by one
            values = np.loadtxt(body, delimiter=delimiter, usecols=list(numeric), ndmin=2, comments=None)
            for line in body if markers else ():
                row = line.split(delimiter)
                for text, i in zip(texts, markers, strict=True):
                    text.append(row[i].strip())
            return values, texts
    values = np.full((len(body), len(numeric)), np.nan)
    wrong = bad = empty = 0
    for r, line in enumerate(body):
        row = next(csv.reader([line], delimiter=delimiter)) if '"' in line else line.split(delimiter)
        if len(row) == width + 1 and not row[-1].strip():
            row = row[:-1]  # each line ends with a delimiter
        if len(row) != width:
            wrong += 1
            row = ["nan"] * width
        for c, i in enumerate(numeric):
            cell = row[i].strip()
            value = (instant if c == len(numeric) - 1 else number)(cell, delimiter)
            values[r, c] = np.nan if value is None else value
            empty += not cell
            bad += value is None and len(cell) > 0
        for text, i in zip(texts, markers, strict=True):
            text.append(row[i].strip())
    counts = {f"rows do not have {width} fields": wrong, "cells are not numbers": bad, "cells are empty": empty}
    given_up = [f"{count} {what}" for what, count in counts.items() if count]
    if given_up and strict:
        raise UserError(f"{source.name}: {' and '.join(given_up)}; repair them, or leave out --strict")
    notes += [f"{text}: missing samples" for text in given_up]
    return values, texts


def clock_of(
    source: Source, stamps: Float[np.ndarray, "time"] | None, stated: float | None, name: str, notes: list[str]
) -> tuple[float, list[tuple[int, int]]]:
    """Return (sfreq, spans) from the time stamps and the rate that the file or its sidecar states."""
    if stamps is None:
        if not stated:
            raise UserError(f"{source.name}: no column of time and no rate; write {sidecar_of(Path(source.path)).name} "
                            'with {"sfreq": …} next to it')  # fmt: skip
        return float(stated), None  # type: ignore[return-value]  # the whole
    known = np.flatnonzero(np.isfinite(stamps))
    try:
        if len(known) < 2:
            raise ValueError("the time stamps are not numbers")
        filled = np.interp(np.arange(len(stamps)), known, stamps[known])  # of rows whose stamp is missing
        step = float(np.median(np.diff(filled)))
        rate = 1 / step if step > 0 else 0.0
        near = rate >= 1 and abs(rate / round(rate) - 1) < WHOLE_HZ
        sfreq, spans, more = dejitter(filled - filled[0], stated or (round(rate) if near else None))
    except (ValueError, ZeroDivisionError) as e:
        why = str(e) if isinstance(e, ValueError) else "the time stamps do not run forwards"
        raise UserError(f"{source.name}: {why}; record again or repair the column {name!r}") from e
    notes += more
    if stated and abs(sfreq / stated - 1) > RATE_AGREES:
        raise UserError(
            f"{source.name}: {stated:g} Hz is stated, but the column {name!r} runs at {sfreq:g} rows a second; name "
            "its unit (time_ms), or repair the rate"
        )
    if not sfreq >= SLOWEST_HZ:
        raise UserError(
            f"{source.name}: the column {name!r} runs at {sfreq:g} rows a second, too slow for EEG; name its unit in "
            'the header (time_ms), or state {"sfreq": …} in a sidecar and rename the column to index'
        )
    return sfreq, spans


def marker_events(
    columns: _Columns, texts: Sequence[Sequence[str]], sfreq: float, notes: list[str]
) -> tuple[list[Event], list[Event]]:
    """Return (codes, free texts): where a column of markers changes to a cell that is neither empty nor 0.

    For a class, 0 counts too. With several columns a code has its column's name.
    """
    events, free_text = list[Event](), list[Event]()
    for i, column in zip(columns.markers, texts, strict=True):
        is_class = CLASS.fullmatch(columns.names[i].lower()) is not None
        whole = [_code(cell) for cell in column]
        silent = ("", "nan", "n/a") if is_class else ("", "0", "nan", "n/a")
        edges = [k for k, cell in enumerate(whole) if k == 0 or cell != whole[k - 1]]
        prefix = f"{columns.names[i]}/" if is_class or len(columns.markers) > 1 else ""
        rows = []
        for start, stop in zip(edges, [*edges[1:], len(whole)], strict=True):
            if whole[start].lower() not in silent:
                rows.append((start / sfreq, (stop - start) / sfreq if is_class else 1 / sfreq, whole[start]))
        if is_class:  # its words are labels by intention
            labels = dict(zip(whole, trial_types(whole, ()), strict=True))
            coded = [Event(sample_of(onset, sfreq), s, labels[text]) for onset, s, text in rows if labels[text]]
        else:
            coded = keep_codes(rows, sfreq, set(), notes, free_text)
        events += [Event(event.sample, event.duration, f"{prefix}{event.code}") for event in coded]
    return sorted(events, key=lambda event: event.sample), sorted(free_text, key=lambda event: event.sample)


def _code(cell: str) -> str:
    """Return a cell of a marker column; a whole number has no decimals."""
    value = number(cell)
    return cell if value is None or not np.isfinite(value) else str(round(value))
