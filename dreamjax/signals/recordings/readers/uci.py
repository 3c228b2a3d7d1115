"""UCI EEG Database (Begleiter, 1999): one gzipped text file a trial, one recording a subject.

Line 4 names the condition (`# S1 obj , trial 0`), a line `# FP1 chan 0` starts each channel, then 256 lines
`trial channel sample µV`. Trials are pre-cut: 1 s at 256 Hz from the onset of the image.
"""

import gzip
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Float

from dreamjax.errors import UserError
from dreamjax.signals.recordings.readers.recording import Contents, Event, Source
from dreamjax.signals.recordings.scrub import error_text

SFREQ = 256.0  # "3.906 msecs"
MAX_TEXT = 1 << 26
TRIAL = re.compile(r"^(co\d[ac]\d+)\.rd\.(\d+)(\.gz)?$")
OTHER = {"X": "eog", "Y": "eog", "nd": "misc"}  # X, Y: horizontal and vertical eye; nd: not a site


def open_uci(source: Source, strict: bool = False) -> Contents:
    """All trials of the subject whose first trial is `source.path`, in the order of their numbers.

    Only the first trial and every trial's condition are read now; a trial is decoded (and kept) when asked for.
    """
    paths = trials_of(Path(source.path))
    _, labels, first = read_trial(paths[0])
    conditions = [condition_of(path) for path in paths]
    length = first.shape[1]
    kept: dict[int, Float[np.ndarray, "channels time"]] = {0: first}

    def trial(i: int) -> Float[np.ndarray, "channels time"]:
        if i not in kept:
            _, names, signal = read_trial(paths[i])
            if names != labels or signal.shape != first.shape:
                raise UserError(f"{paths[i]}: its channels or length differ from the subject's first trial; remove it")
            kept[i] = signal
        return kept[i]

    def read(start: int, stop: int, picks: Sequence[int]) -> Float[np.ndarray, "channels time"]:
        out = np.empty((len(picks), stop - start))
        for i in range(start // length, -(-stop // length)):
            low, high = max(start, i * length), min(stop, (i + 1) * length)
            out[:, low - start : high - start] = trial(i)[list(picks), low - i * length : high - i * length]
        return out

    starts = range(0, len(paths) * length, length)
    return Contents(
        format="uci",
        labels=labels,
        sfreq=SFREQ,
        n_samples=len(paths) * length,
        reader=read,
        types=[OTHER.get(label, "eeg") for label in labels],
        segments=[(start, start + length) for start in starts],
        segment_labels=conditions,
        precut=True,
        events=[Event(s, length / SFREQ, c) for s, c in zip(starts, conditions, strict=True)],
    )


def trials_of(first: Path) -> list[Path]:
    """The trial files beside `first` that are the same subject's."""
    subject = TRIAL.match(first.name)
    if not subject:
        raise UserError(f"{first}: not a trial file of the UCI EEG database (co2a0000364.rd.000.gz)")
    mine = [(m, p) for p in first.parent.iterdir() if (m := TRIAL.match(p.name)) and m.group(1) == subject.group(1)]
    return [p for _, p in sorted(mine, key=lambda pair: int(pair[0].group(2)))]


def condition_of(path: Path) -> str:
    """`# S2 nomatch, trial 73` → "S2_nomatch"; "S2 match err" is an error trial, a condition of its own."""
    try:
        with opened(path) as file:
            line = [file.readline(200) for _ in range(4)][3]
    except (OSError, EOFError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: not a whole trial file ({error_text(e)}); restore or remove it") from e
    match = re.match(r"#\s*(S\d (?:obj|match|nomatch)(?: err)?)\s*,", line)
    if match is None:
        raise UserError(f"{path}: its fourth line names no condition; restore or remove it")
    return match.group(1).replace(" ", "_")


def opened(path: Path) -> IO[str]:
    return gzip.open(path, "rt") if path.suffix == ".gz" else open(path)


def read_trial(path: Path) -> tuple[str, list[str], Float[np.ndarray, "channels time"]]:
    """(condition, channel labels, µV) of one trial file.

    Raises:
      UserError: it is cut off, or not such a file.
    """
    try:
        with opened(path) as file:
            lines = file.read(MAX_TEXT).splitlines()
        names = [line.split()[1] for line in lines[4:] if line.startswith("#")]
        values = np.loadtxt(lines[4:], usecols=3, comments="#", ndmin=1)
        if not names or len(values) == 0 or len(values) % len(names):
            raise ValueError(f"{len(values)} values for {len(names)} channels")
    except (OSError, EOFError, ValueError, IndexError) as e:
        raise UserError(f"{path}: not a whole trial file ({error_text(e)}); restore or remove it") from e
    return condition_of(path), names, values.reshape(len(names), -1).astype(np.float32)
