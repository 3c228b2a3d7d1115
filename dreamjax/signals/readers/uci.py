"""UCI EEG Database (Begleiter, 1999): one gzipped text file a trial, one recording a subject.

Line 4 names the condition (`# S1 obj , trial 0`), a line `# FP1 chan 0` starts each channel, then 256 lines
`trial channel sample µV`. Trials are pre-cut: 1 s at 256 Hz from the onset of the picture.
"""

import gzip
import re
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dreamjax.errors import UserError
from dreamjax.signals.readers.base import Contents, Event, Source

SFREQ = 256.0  # "3.906 msecs"
MAX_TEXT = 1 << 26
TRIAL = re.compile(r"^(co\d[ac]\d+)\.rd\.(\d+)(\.gz)?$")
OTHER = {"X": "eog", "Y": "eog", "nd": "misc"}  # X, Y: horizontal and vertical eye; nd: not a site


def open_uci(source: Source, strict: bool = False) -> Contents:
    """All trials of the subject whose first trial is `source.path`, in the order of their numbers."""
    labels: list[str] = []
    trials: list[Float[np.ndarray, "channels time"]] = []
    conditions: list[str] = []
    for path in trials_of(Path(source.path)):
        condition, names, signal = read_trial(path)
        if not labels:
            labels = names
        if trials and (names != labels or signal.shape != trials[0].shape):
            raise UserError(f"{path}: its channels or length differ from the subject's first trial; remove it")
        trials.append(signal)
        conditions.append(condition)
    signal = np.concatenate(trials, axis=1)
    length = trials[0].shape[1]
    starts = range(0, signal.shape[1], length)
    return Contents(
        format="uci",
        labels=labels,
        sfreq=SFREQ,
        n_samples=signal.shape[1],
        reader=lambda start, stop, picks: signal[list(picks), start:stop].astype(np.float64),
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


def read_trial(path: Path) -> tuple[str, list[str], Float[np.ndarray, "channels time"]]:
    """(condition, channel labels, µV) of one trial file.

    Raises:
      UserError: it is cut off, or not such a file.
    """
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
            text = str(file.read(MAX_TEXT))
        lines = text.splitlines()
        condition = re.match(r"#\s*(S\d[^,]*?)\s*,", lines[3])
        names = [line.split()[1] for line in lines[4:] if line.startswith("#")]
        values = np.array([line.rsplit(" ", 1)[1] for line in lines[4:] if not line.startswith("#")], float)
        if condition is None or not names or len(values) % len(names):
            raise ValueError(f"{len(values)} values for {len(names)} channels")
    except (OSError, EOFError, ValueError, IndexError) as e:
        raise UserError(f"{path}: not a whole trial file ({e}); restore or remove it") from e
    # "S2 match err" is an error trial of its condition; spaces make one code of the words
    return condition.group(1).replace(" ", "_"), names, values.reshape(len(names), -1).astype(np.float32)
