"""Events of a recording: codes and contiguous spans from annotations, a person's tables, and what is in a file.

A code is short and impersonal; free text never becomes one. Annotations of clinical and home-made recordings hold
names, dates and remarks, and a single word that occurs often may be a name. Kept as codes are numbers of up to five
digits with at most three letters before them (`T1`, `S 12`, `33024`). Other texts become labels only where the user
names them (`--event-codes`) or asks for all (`--keep-labels`): `with_labels`. Those with a date or a word of the
patient field never do. Labels given on purpose as trial types (BIDS, CSV, Epochs) do not pass through here.

Golden rule, tested at several rates: markers moved by one sample move every event by exactly one sample.
"""

import csv
import math
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Int

from dreamjax.console import counted
from dreamjax.errors import UserError, nearest
from dreamjax.signals.recordings.readers.recording import Contents, Event, Recording, once_each, settle_names
from dreamjax.signals.recordings.scrub import error_text
from dreamjax.typing import JsonDict

STIM_CODE = re.compile(r"[A-Za-z]{0,3} {0,3}\d{1,5}")
KINDED_CODE = re.compile(r"(Stimulus|Response|Event|Optic|Toggle|Trigger)/([A-Za-z]{0,3} {0,3}\d{1,5})")  # BrainVision
RESPONSE = re.compile(r"(Keyboard|KeyPad) Response (\d{1,3})")  # Neuroscan
TOKEN = re.compile(r"[A-Za-z][A-Za-z0-9_+\-#/.]{0,23}")
DATE_LIKE = re.compile(r"\d{6,}|\d{1,4}[-:./]\d{1,2}[-:./]\d{1,4}")
REPEATED = 2
BOUNDARY = re.compile(r"BAD|EDGE|boundary|New Segment", re.IGNORECASE)
CUT = re.compile(r"EDGE|boundary|New Segment", re.IGNORECASE)  # the signal jumps here
LEFT_OUT = re.compile(r"^BAD", re.IGNORECASE)  # MNE's convention: this span must not be used
ABSENT = ("", "n/a", "na", "nan")
MAX_CODE = 64  # characters; a trial type is a name, not a text
MISSING_NAMED = 5  # number of missing images that are named
STIM_PIECE = 1 << 20  # samples of stimulus channels held at once
COMBINED = re.compile(r"STI ?(101|014)")  # of Neuromag systems: all the trigger lines as one number
LINE = re.compile(r"STI ?001")  # … and the first line; BTi's STI 013 and 014 are two inputs
MOST_CHANGES = 0.05  # of the samples; a stimulus channel that changes more often carries noise

Annotations = Sequence[tuple[float, float, str]]  # onset in s, duration in s, text


def sample_of(onset: float, sfreq: float) -> int:
    """Return the sample nearest to an onset in s; halves round up, so that shifting onsets shifts all events alike."""
    return int(np.floor(onset * sfreq + 0.5 + 1e-6))


# ---------------------------------------------------------------------------------- annotations and stimulus channels
def keep_codes(
    annotations: Annotations,
    sfreq: float,
    forbidden: Collection[str],
    notes: list[str],
    free_text: list[Event] | None = None,
) -> list[Event]:
    """Return the events among annotations whose text is a code, without boundaries.

    Other texts go to `free_text`; `notes` reports how many are left out of both: those with a date or a name.
    """
    events, dropped = list[Event](), 0
    free_text = [] if free_text is None else free_text
    for onset, duration, words in annotations:
        text = words.strip()
        if BOUNDARY.search(text):
            continue
        code = code_of(text)
        if code is None and not impersonal(text, forbidden):
            dropped += 1
        else:
            (free_text if code is None else events).append(
                Event(sample_of(onset, sfreq), float(duration), text if code is None else code)
            )
    if dropped:
        notes.append(f"{dropped} annotations with names, dates or long texts dropped")
    return events


def with_labels(recording: Recording, declared: Collection[str], keep: bool = False) -> Recording:
    """Return the recording whose events include the free texts that are `declared`, or with `keep` all of them."""
    chosen = [event for event in recording.free_text if keep or event.code in declared]
    dropped = len(recording.free_text) - len(chosen)
    return replace(
        recording,
        events=tuple(sorted((*recording.events, *chosen), key=lambda event: event.sample)),
        notes=(*recording.notes, *([f"{dropped} free-text annotations dropped"] if dropped else [])),
    )


def code_of(text: str) -> str | None:
    """Return the code that an annotation stands for, or None where it is free text."""
    if kinded := KINDED_CODE.fullmatch(text):
        return f"{kinded.group(1)}/{kinded.group(2).replace(' ', '')}"
    if response := RESPONSE.fullmatch(text):
        return "/".join(response.groups())
    if STIM_CODE.fullmatch(text):
        return text.replace(" ", "")
    return None


def impersonal(text: str, forbidden: Collection[str]) -> bool:
    """Return whether a text has no date, no word of `forbidden` (lower case) and the length of a label."""
    words = {word.lower() for word in re.split(r"[\W_]+", text)}
    return 0 < len(text) <= MAX_CODE and text.isprintable() and not (DATE_LIKE.search(text) or words & set(forbidden))


def trial_types(texts: Sequence[str], forbidden: Collection[str]) -> list[str]:
    """Return the label of every trial of Epochs, whose names were chosen when they were cut; "" for free text.

    A name is a code, or an impersonal word of up to 24 characters that at least two trials have.
    """
    counts = Counter(texts)
    named = {
        text: code_of(text) or (text if n >= REPEATED and TOKEN.fullmatch(text) and impersonal(text, forbidden) else "")
        for text, n in counts.items()
    }
    return [named[text] for text in texts]


class StimulusChannel:
    """The levels of a stimulus channel, read in pieces. Its idle level is not an event, whatever its value.

    Many trigger inputs rest at 0, but BioSemi's may rest at 255 or another value: the level at which the channel is for
    more than half of the time.
    """

    def __init__(self) -> None:
        self.starts, self.codes, self.length = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)], 0

    def add(self, values: Int[np.ndarray, "time"]) -> None:
        """Take the next values."""
        before = np.concatenate((self.codes[-1][-1:], values[:-1]))
        starts = np.flatnonzero(values != before)
        if len(starts):
            self.starts.append(starts + self.length)
            self.codes.append(values[starts])
        self.length += len(values)

    def begin(self, sample: int) -> None:
        """Begin a trial that is not connected with what is before it: it may start with a code."""
        self.starts.append(np.array([sample]))
        self.codes.append(np.zeros(1, np.int64))
        self.length = sample

    def changes(self, notes: list[str], rests: bool = True) -> list[tuple[int, int]]:
        """Return [(sample, code), …] of the levels that are neither 0 nor idle; a note names the idle level.

        `rests=False`: only 0 is idle.
        """
        starts, codes = np.concatenate(self.starts), np.concatenate(self.codes)
        samples = np.diff(starts, append=self.length)
        levels, which = np.unique(codes, return_inverse=True)
        shares = np.bincount(which, samples) / max(self.length, 1)
        idle = int(levels[shares.argmax()]) if rests and shares.max() > 0.5 else 0
        if idle:
            notes.append(f"the stimulus channel rests at {idle} ({100 * shares.max():.0f} % of the time): not an event")
        kept = (codes != 0) & (codes != idle)
        return list(zip(starts[kept].tolist(), codes[kept].tolist(), strict=True))


def stim_events(contents: Contents, channels: Sequence[int]) -> list[Event]:
    """Return the events of stimulus channels, read in pieces; with several channels a code has its channel's name.

    The reader gives their values without a unit. Trials are not connected: each may begin with a code.
    """
    levels = {i: StimulusChannel() for i in channels}
    for a, b in contents.segments if contents.precut else [(0, contents.n_samples)]:
        for channel in levels.values():
            channel.begin(a)
        for start in range(a, b, STIM_PIECE):
            rows = contents.reader(start, min(start + STIM_PIECE, b), list(channels))
            for row, channel in zip(rows, levels.values(), strict=True):
                channel.add(np.rint(np.nan_to_num(row)).astype(np.int64))
    events: list[Event] = []
    for i, channel in levels.items():
        prefix = f"{contents.labels[i].strip()}/" if len(channels) > 1 else ""
        changes = channel.changes(contents.notes, rests=not contents.precut)
        events += [Event(sample, 1 / contents.sfreq, f"{prefix}{code}") for sample, code in changes]
    return sorted(events, key=lambda e: e.sample)


def add_stim_events(contents: Contents) -> None:
    """Make events of the stimulus channels where the file and its sidecars list none; noise on one is noted instead."""
    _, types = settle_names(contents.labels, contents.types)
    stim = [i for i, kind in enumerate(types) if kind == "stim"]
    if not stim or contents.events:
        return
    combined = [i for i in stim if COMBINED.fullmatch(contents.labels[i].strip())]
    if combined and any(LINE.fullmatch(contents.labels[i].strip()) for i in stim):
        contents.notes.append(
            f"events from {contents.labels[combined[0]].strip()}, which has the codes of the other "
            f"{counted(len(stim) - 1, 'stimulus channel')}"
        )
        stim = combined[:1]
    events = stim_events(contents, stim)
    if len(events) > MOST_CHANGES * len(stim) * contents.n_samples:
        contents.notes.append(f"{len(events)} changes on a stimulus channel are noise, not events")
    else:
        contents.events = events


def cut_spans(annotations: Annotations, sfreq: float, n_samples: int, notes: list[str]) -> list[tuple[int, int]]:
    """Return contiguous spans [start, stop) in samples: cut at boundaries, without the spans that are marked bad.

    A `BAD boundary` is a point; `BAD_ACQ_SKIP` and other `BAD…` are spans.
    """
    cuts, holes = set(), []
    for onset, duration, text in annotations:
        start = min(max(sample_of(onset, sfreq), 0), n_samples)
        stop = min(max(sample_of(onset + duration, sfreq), start), n_samples)
        if LEFT_OUT.search(text) and stop > start:
            holes.append((start, stop))
        elif CUT.search(text) or LEFT_OUT.search(text):
            cuts.add(start)
    if inner := {cut for cut in cuts if 0 < cut < n_samples}:
        notes.append(f"{len(inner)} discontinuities in the file")
    if holes:
        lost = sum(b - a for a, b in holes) / sfreq
        notes.append(f"{len(holes)} spans marked bad or skipped ({lost:.1f} s) left out")
    edges = sorted({0, n_samples, *cuts, *(edge for hole in holes for edge in hole)})
    return [(a, b) for a, b in pairwise(edges) if not any(start <= a and b <= stop for start, stop in holes)]


# ------------------------------------------------------------------------------------------- tables: events.tsv or CSV
def read_table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a tab- or comma-separated table as {column: cell}.

    Raise UserError for one that is unreadable or not text, and for a row with more cells than there are columns.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            delimiter = "\t" if "\t" in first else (";" if ";" in first and "," not in first else ",")
            file.seek(0)
            rows = []
            for number, row in enumerate(csv.DictReader(file, delimiter=delimiter), start=2):
                if None in row:
                    raise UserError(f"{path}: row {number} has more cells than there are columns; repair it")
                rows.append({(key or "").strip(): (value or "").strip() for key, value in row.items()})
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{path}: not a readable table ({error_text(e)}); save it as UTF-8 text") from e
    return rows


def number(cell: str) -> float:
    """Return the number in a cell, which may have a decimal comma. Raise ValueError where it is not one.

    >>> number("0,5"), number("-1.25e-3")
    (0.5, -0.00125)
    """
    return float(cell.replace(",", ".") if re.fullmatch(r"\s*[+-]?\d*,\d+([eE][+-]?\d+)?\s*", cell) else cell)


def events_of_table(path: Path, sfreq: float, n_samples: int, strict: bool = False) -> tuple[list[Event], Counter[str]]:
    """Return (events by time, rows left out by reason) of a table; onsets are rounded to the nearest sample.

    Columns: `onset` (s since the first sample; required), `duration` (s), `trial_type` (or `value`), `stim_file`. With
    `strict` (a user's own table) a row that cannot be used is an error; without (BIDS) it is left out.
    Raise UserError also for a table that cannot be read, or without a column onset.
    """
    rows = read_table(path)
    if rows and "onset" not in rows[0]:
        guess = nearest("onset", list(rows[0]))
        hint = f"rename {guess}" if guess else "add it"
        raise UserError(f"{path}: has no column onset (s since the first sample); {hint}")
    events, left_out = [], Counter[str]()
    for line, row in enumerate(rows, start=2):
        event = _event(row, sfreq, n_samples)
        if isinstance(event, Event):
            events.append(event)
        elif strict:
            raise UserError(f"{path}: row {line} has {event[1]}; repair or remove it")
        else:
            left_out[event[0]] += 1
    return sorted(events, key=lambda e: e.sample), left_out


def _event(row: dict[str, str], sfreq: float, n_samples: int) -> Event | tuple[str, str]:
    """Return the event of a row, or what is wrong with it, in a few words and with the value."""
    cells = {column: "" if cell.lower() in ABSENT else cell for column, cell in row.items()}
    times = {"onset": row["onset"], "duration": cells.get("duration") or "0"}
    for name, text in times.items():
        try:
            number(text)
        except ValueError:
            kind = "without an onset" if text.lower() in ABSENT else f"whose {name} is not a number"
            return kind, f"the {name} {text[:30]!r}, which is not a number"
    onset, duration = map(number, times.values())
    if not math.isfinite(onset) or not math.isfinite(duration) or duration < 0:
        return "without an onset", f"the onset {times['onset']} and duration {times['duration']}, which are not times"
    sample = sample_of(onset, sfreq)
    if not 0 <= sample < n_samples:
        return "outside the recording", f"an onset of {onset:g} s, outside the recording of {n_samples / sfreq:g} s"
    code = cells.get("trial_type") or cells.get("value") or ""
    return Event(sample, duration, code[:MAX_CODE], cells.get("stim_file", ""))


def with_event_table(recording: Recording, table: str | Path, *, stimuli: str | Path | None = None) -> Recording:
    """Return the recording with its events replaced by those of a user's table.

    Raise UserError for an unusable row, with its number, and for images that are not in the folder `stimuli`.
    """
    events, _ = events_of_table(Path(table), recording.sfreq, recording.n_samples, strict=True)
    if not events:
        raise UserError(f"{table}: a table without events; add a row for each")
    if stimuli is not None:
        folder = Path(stimuli)
        if missing := sorted({e.stimulus for e in events if e.stimulus and not (folder / e.stimulus).is_file()}):
            named = ", ".join(missing[:MISSING_NAMED]) + (", …" if len(missing) > MISSING_NAMED else "")
            raise UserError(f"{table}: {len(missing)} of its images are not in {str(stimuli)!r}: {named}; add them")
    events, again = once_each(events)
    return replace(recording, events=tuple(events), notes=(*recording.notes, *again))


# --------------------------------------------------------------------------------------------------- what is in a file
def in_order(code: str) -> list[tuple[int, float, str]]:
    """Return the key that sorts codes as people do: numbers by value, -2 before 10, `S 9` before `S 10`."""
    parts = [part for part in re.split(r"(^-?\d+|\d+)", code) if part]
    return [(0, int(part), "") if re.fullmatch(r"-?\d+", part) else (1, 0.0, part) for part in parts]


def list_events(recording: Recording) -> JsonDict:
    """Return what `dreamjax prepare --list-events` prints: counts, intervals, first onsets in s, all and per code."""
    by_code: dict[str, list[Event]] = {}
    for event in recording.events:
        by_code.setdefault(event.code, []).append(event)
    sfreq = recording.sfreq
    codes = [
        {
            "code": code,
            "count": len(events),
            "first": round(events[0].sample / sfreq, 3),
            "interval": _intervals(events, sfreq),
            "duration": round(float(np.median([e.duration for e in events])), 3),
            "stimuli": len({e.stimulus for e in events if e.stimulus}),
        }
        for code, events in sorted(by_code.items(), key=lambda item: in_order(item[0]))
    ]
    return {
        "file": recording.path,
        "format": recording.format,
        "sfreq": sfreq,
        "duration": round(recording.n_samples / sfreq, 3),
        "n_events": len(recording.events),
        "codes": codes,
        "free_text": dict(Counter(event.code for event in recording.free_text).most_common()),
        "intervals": _intervals(recording.events, sfreq),
        "segments": len(recording.segments),
        "trials": dict(Counter(recording.segment_labels)),
        "notes": list(recording.notes),
    }


def _intervals(events: Sequence[Event], sfreq: float) -> dict[str, float] | None:
    """Return the shortest, median and longest time between successive events in s; None for fewer than two."""
    steps = np.diff(sorted(e.sample for e in events)) / sfreq
    if len(steps) == 0:
        return None
    return {name: round(float(f(steps)), 4) for name, f in (("min", np.min), ("median", np.median), ("max", np.max))}
