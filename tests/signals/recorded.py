"""Recordings in memory, computed when read, for tests of what comes after the readers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dreamjax.signals.recordings.montage import standard_positions
from dreamjax.signals.recordings.readers.recording import Recording

TEN_TWENTY = (
    "Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "T7", "C3", "Cz", "C4", "T8", "P7", "P3", "Pz", "P4", "P8", "O1", "O2",
)  # fmt: skip


def recording(
    signal: Any, sfreq: float = 256.0, names: Sequence[str] = TEN_TWENTY, n_samples: int | None = None, **fields: Any
) -> Recording:
    """`signal`: channels x samples in µV, or a function (start, stop, picks) → that span."""
    if callable(signal):
        read, n = signal, n_samples
    else:
        array = np.asarray(signal, float)
        read, n = (lambda start, stop, picks: array[list(picks), start:stop]), array.shape[1]
        names = names[: len(array)]
    settled = {
        "path": "memory", "format": "array", "dataset": "test", "subject": "s", "session": "",
        "ch_names": tuple(names), "sensor_kind": ("eeg",) * len(names), "xyz": standard_positions(list(names)),
        "sfreq": sfreq, "n_samples": n, "reference": "unknown", "highpass": None, "lowpass": None, "line_freq": None,
        "segments": ((0, n),), "precut": False, "segment_labels": (), "events": (), "licence": "unknown", "notes": (),
        "reader": read,
    }  # fmt: skip
    return Recording(**{**settled, **fields})


def noise(channels: int, seconds: float, sfreq: float = 256.0, seed: int = 0, scale: float = 15.0) -> np.ndarray:
    """Independent noise of a plausible amplitude, µV."""
    return np.random.default_rng(seed).normal(size=(channels, round(seconds * sfreq))) * scale
