"""UCI EEG Database (Begleiter, 1999): one gzipped text file a trial, one recording a subject.

Line 4 names the condition (`# S1 obj , trial 0`), a line `# FP1 chan 0` starts each channel, then 256 lines
`trial channel sample µV`. Trials are pre-cut: 1 s at 256 Hz from the onset of the image.
"""

import gzip
import re
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dreamjax.errors import UserError
from dreamjax.signals.recordings.readers.recording import Contents, Event, Source, end_to_end
from dreamjax.signals.recordings.scrub import error_text

SFREQ = 256.0  # "3.906 msecs"
MAX_TEXT = 1 << 26
TRIAL = re.compile(r"^(co\d[ac]\d+)\.rd\.(\d+)(\.gz)?$")
OTHER = {"X": "eog", "Y": "eog", "nd": "misc"}  # X, Y: horizontal and vertical eye; nd: not a site


def open_uci(source: Source, strict: bool) -> Contents:
    """Open all trials of the subject whose first trial is `source.path`, by number.

    Only the first trial and every trial's condition are read now; a trial is decoded (and kept) when asked for.
    """
    paths = trials_of(Path(source.path))
    labels, first = read_trial(paths[0])
    conditions = [condition_of(path) for path in paths]
    length = first.shape[1]
    kept: dict[int, Float[np.ndarray, "channels time"]] = {0: first}

    def trial(i: int) -> Float[np.ndarray, "channels time"]:
        if i not in kept:
            names, signal = read_trial(paths[i])
            if names != labels or signal.shape != first.shape:
                raise UserError(f"{paths[i]}: its channels or length differ from the subject's first trial; remove it")
            kept[i] = signal
        return kept[i]

    return Contents(
        **end_to_end(trial, len(paths), length),
        format="uci",
        labels=labels,
        sfreq=SFREQ,
        types=[OTHER.get(label, "eeg") for label in labels],
        segment_labels=conditions,
        precut=True,
        events=[Event(i * length, length / SFREQ, condition) for i, condition in enumerate(conditions)],
    )


def trials_of(first: Path) -> list[Path]:
    """Return the trial files of the same subject in the folder of `first`."""
    subject = TRIAL.match(first.name)
    if not subject:
        raise UserError(f"{first}: not a trial file of the UCI EEG database (co2a0000364.rd.000.gz)")
    mine = [
        (m, p)
        for p in first.parent.iterdir()
        if (m := TRIAL.match(p.name)) and m.group(1) == subject.group(1) and p.is_file()
    ]
    return [p for _, p in sorted(mine, key=lambda pair: int(pair[0].group(2)))]


def condition_of(path: Path) -> str:
    """Return a trial's condition: `# S2 nomatch, trial 73` → "S2_nomatch"; "S2 match err" is a separate condition."""
    line = _lines(path, 1000)[3:4]
    match = re.match(r"#\s*(S\d (?:obj|match|nomatch)(?: err)?)\s*,", line[0]) if line else None
    if match is None:
        raise UserError(f"{path}: its fourth line names no condition; restore or remove it")
    return match.group(1).replace(" ", "_")


def _lines(path: Path, most: int) -> list[str]:
    try:
        with gzip.open(path, "rt", encoding="ascii") if path.suffix == ".gz" else open(path, encoding="ascii") as file:
            return file.read(most).splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: not a whole trial file ({error_text(e)}); restore or remove it") from e


def read_trial(path: Path) -> tuple[list[str], Float[np.ndarray, "channels time"]]:
    """Return (channel labels, µV) of one trial file. Raise UserError for a truncated or different file."""
    condition_of(path)
    lines = _lines(path, MAX_TEXT)[4:]
    try:
        names = [line.split()[1] for line in lines if line.startswith("#")]
        values = np.loadtxt(lines, usecols=3, comments="#", ndmin=1)
        if not names or len(values) == 0 or len(values) % len(names):
            raise ValueError(f"{len(values)} values for {len(names)} channels")
    except (ValueError, IndexError) as e:
        raise UserError(f"{path}: not a whole trial file ({error_text(e)}); restore or remove it") from e
    return names, values.reshape(len(names), -1).astype(np.float32)
