"""Tables of events that a person wrote: BIDS `events.tsv`, or a CSV of their own.

Columns: `onset` (s since the first sample; required), `duration` (s), `trial_type` (or `value`), `stim_file`.
"""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from dreamjax.errors import UserError, nearest
from dreamjax.signals.recordings.event_codes import sample_of
from dreamjax.signals.recordings.readers.recording import Event
from dreamjax.signals.recordings.scrub import error_text

ABSENT = ("", "n/a", "na", "nan")
MAX_CODE = 64  # characters; a trial type is a name, not a text


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a tab- or comma-separated table as {column: cell}.

    Raises:
      UserError: unreadable, not text, or a row with more cells than there are columns.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            delimiter = "\t" if "\t" in first else (";" if ";" in first and "," not in first else ",")
            file.seek(0)
            reader = csv.DictReader(file, delimiter=delimiter)
            rows = []
            for number, row in enumerate(reader, start=2):
                if None in row:
                    raise UserError(f"{path}: row {number} has more cells than there are columns; repair it")
                rows.append({(key or "").strip(): (value or "").strip() for key, value in row.items()})
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{path}: not a readable table ({error_text(e)}); save it as UTF-8 text") from e
    return rows


def events_of_rows(
    rows: Sequence[dict[str, str]],
    name: str,
    sfreq: float,
    n_samples: int,
    offset_ms: float = 0.0,
    strict: bool = False,
) -> tuple[list[Event], int]:
    """(events in order of time, rows left out) from a table; onsets are rounded to the nearest sample.

    With `strict` (a user's own table) a row that cannot be used is an error; without (BIDS) it is left out.

    Raises:
      UserError: no onset column; with `strict`, a bad onset or duration, or an onset outside the recording.
    """
    if rows and "onset" not in rows[0]:
        guess = nearest("onset", list(rows[0]))
        hint = f"rename {guess}" if guess else "add it"
        raise UserError(f"{name}: has no column onset (s since the first sample); {hint}")
    events, skipped = [], 0
    for number, row in enumerate(rows, start=2):
        problem, onset, duration = _times(row, sfreq, n_samples, offset_ms)
        if problem and strict:
            raise UserError(f"{name}: row {number} has {problem}; repair or remove it")
        if problem:
            skipped += 1
            continue
        kind = row.get("trial_type", "")
        code = row.get("value", "") if kind.lower() in ABSENT else kind
        image = row.get("stim_file", "")
        events.append(
            Event(
                sample=sample_of(onset, sfreq),
                duration=duration,
                code=("" if code.lower() in ABSENT else code)[:MAX_CODE],
                stimulus="" if image.lower() in ABSENT else image,
            )
        )
    return sorted(events, key=lambda e: e.sample), skipped


def _times(row: dict[str, str], sfreq: float, n_samples: int, offset_ms: float) -> tuple[str, float, float]:
    """(what is wrong or "", onset s, duration s) of one row."""
    text = row.get("onset", "")
    try:
        onset = float(text) + offset_ms / 1e3
    except ValueError:
        return f"the onset {text[:30]!r}, which is not a number", 0.0, 0.0
    length = row.get("duration", "")
    try:
        duration = 0.0 if length.lower() in ABSENT else float(length)
    except ValueError:
        return f"the duration {length[:30]!r}, which is not a number", 0.0, 0.0
    if not math.isfinite(onset) or not math.isfinite(duration) or duration < 0:
        return f"the onset {text} and duration {length}, which are not times", 0.0, 0.0
    if not 0 <= sample_of(onset, sfreq) < n_samples:
        return f"an onset of {onset:g} s, outside the recording of {n_samples / sfreq:g} s", 0.0, 0.0
    return "", onset, duration
