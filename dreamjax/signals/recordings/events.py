"""Events of a recording: what is there (`list_events`), and events that a user brings in a table.

Golden rule, tested at several rates: markers moved by one sample move every event by exactly one sample.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dreamjax.errors import UserError
from dreamjax.signals.recordings.event_codes import sample_of
from dreamjax.signals.recordings.readers.event_tables import events_of_rows, read_table
from dreamjax.signals.recordings.readers.recording import Event, Recording, Source
from dreamjax.typing import JsonDict

__all__ = ["list_events", "missing_stimuli", "sample_of", "with_event_table"]

MISSING_NAMED = 5  # of the images that are missing, so many are named


def list_events(recording: Recording | Source | str) -> JsonDict:
    """What `dreamjax prepare --list-events FILE` prints: counts, intervals and first onsets per code.

    Returns a JSON-able dict: file, format, sfreq (Hz), duration (s), n_events, codes: [{code, count, first (s),
    interval: {min, median, max} in s between successive ones, duration (s, median), stimuli}], intervals (all codes
    together), segments and notes.
    """
    if not isinstance(recording, Recording):
        from dreamjax.signals.recordings.opening import open_recording

        recording = open_recording(recording)
    by_code: dict[str, list[Event]] = {}
    for event in recording.events:
        by_code.setdefault(event.code, []).append(event)
    return {
        "file": recording.path,
        "format": recording.format,
        "sfreq": recording.sfreq,
        "duration": round(recording.n_samples / recording.sfreq, 3),
        "n_events": len(recording.events),
        "codes": [_summary(code, events, recording.sfreq) for code, events in sorted(by_code.items())],
        "intervals": _intervals([e.sample for e in recording.events], recording.sfreq),
        "segments": len(recording.segments),
        "trials": dict(Counter(recording.segment_labels)),
        "notes": list(recording.notes),
    }


def _summary(code: str, events: Sequence[Event], sfreq: float) -> JsonDict:
    return {
        "code": code,
        "count": len(events),
        "first": round(events[0].sample / sfreq, 3),
        "interval": _intervals([e.sample for e in events], sfreq),
        "duration": round(float(np.median([e.duration for e in events])), 3),
        "stimuli": len({e.stimulus for e in events if e.stimulus}),
    }


def _intervals(samples: Sequence[int], sfreq: float) -> dict[str, float] | None:
    """Shortest, median and longest time between successive events in s; None for fewer than two."""
    steps = np.diff(np.sort(np.asarray(samples))) / sfreq
    if len(steps) == 0:
        return None
    return {"min": round(float(steps.min()), 4), "median": round(float(np.median(steps)), 4),
            "max": round(float(steps.max()), 4)}  # fmt: skip


def with_event_table(
    recording: Recording, table: str | Path, *, offset_ms: float = 0.0, stimuli: str | Path | None = None
) -> Recording:
    """The recording with the events of a user's table (`onset, duration, trial_type, stim_file`) instead of its own.

    Args:
      table: CSV or TSV; `onset` in seconds since the recording's first sample.
      offset_ms: added to every onset, for a known delay of the screen or of the trigger.
      stimuli: folder in which every `stim_file` must exist.

    Raises:
      UserError: an unusable row, with its number; images that are missing, with their names.
    """
    path = Path(table)
    events, _ = events_of_rows(
        read_table(path), str(path), recording.sfreq, recording.n_samples, offset_ms, strict=True
    )
    if not events:
        raise UserError(f"{path}: a table without events; add a row for each")
    if stimuli is not None and (missing := missing_stimuli(events, stimuli)):
        named = ", ".join(missing[:MISSING_NAMED]) + (", …" if len(missing) > MISSING_NAMED else "")
        raise UserError(f"{path}: {len(missing)} of its images are not in {str(stimuli)!r}: {named}; add them")
    return replace(recording, events=tuple(events))


def missing_stimuli(events: Sequence[Event], folder: str | Path) -> list[str]:
    """Stimulus files that the events name and that are not below `folder`, sorted."""
    return sorted({e.stimulus for e in events if e.stimulus and not (Path(folder) / e.stimulus).is_file()})
