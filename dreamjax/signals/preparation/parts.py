"""A part: what one child of `prepare` writes, a shard file with its windows and a summary of them.

A part is finished when `summary.json` lies beside its shard. Its name is a digest of the input's content and of the
settings, so an interrupted run finds its finished parts again and nothing else can be taken for them.
"""

import json
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Float

from dreamjax import __version__
from dreamjax.signals.datasets import records, shards
from dreamjax.signals.recordings.identity import pseudonym
from dreamjax.storage import atomic

SHARD = "windows.array_record"
SUMMARY = "summary.json"
AVERAGES = "averages.npz"
FREQUENCIES = 161  # 0 … 80 Hz in steps of 0.5 Hz, of the report's spectra
EVERY = 8  # every eighth window enters the report's spectra
CLASSES = 12  # averages of at most so many classes are kept for the report


class RejectEntry(TypedDict, total=False):
    """A line of rejects.jsonl but for its input: a stretch of a recording, or a trial."""

    start: float
    stop: float
    windows: int
    trial: int
    reason: str


class PartSummary(TypedDict, total=False):
    """What is known about a part besides its windows: kept in summary.json, and in parts.jsonl of the dataset."""

    part: str  # its folder
    sha256: str  # of its input
    dataset: str
    licence: str
    format: str
    sfreq: float  # Hz, as recorded
    seconds: float  # read
    windows: int
    judged: int
    valid_samples: int
    ch_names: list[str]
    reference_recorded: str
    plan: dict[str, Any]  # `RecordingPlan.as_json`
    sd_uv: list[float]
    warning: str
    notes: list[str]
    faults: dict[str, int]  # kind:channel → windows
    rejects: list[RejectEntry]
    labels: dict[str, int]
    averaged: list[str]
    spectrum: list[float]
    peak_bytes: int
    reused: bool  # this and the next two: of one run
    wall_s: float
    cpu_s: float


@dataclass
class WindowSketch:
    """What is counted and averaged of the windows of a part for its report: a spectrum, and per class the mean."""

    averages: bool = False
    windows: int = 0
    samples: int = 0  # that are not padding
    labels: dict[str, int] = field(default_factory=dict)
    sums: dict[str, Float[np.ndarray, "channels time"]] = field(default_factory=dict)
    power: Float[np.ndarray, "frequencies"] = field(default_factory=lambda: np.zeros(FREQUENCIES))
    spectra: int = 0

    def add(self, window: records.Window) -> None:
        self.labels[window.label] = self.labels.get(window.label, 0) + 1
        if self.averages and (window.label in self.sums or len(self.sums) < CLASSES):
            self.sums[window.label] = self.sums.get(window.label, 0) + np.asarray(window.signal, np.float64)
        x_CxT = window.signal[:, window.valid]
        self.samples += x_CxT.shape[1]
        if self.windows % EVERY == 0 and x_CxT.shape[1] >= window.sfreq / 2:
            x_CxT = x_CxT[window.channel_ok] if window.channel_ok.any() else x_CxT
            hann = np.hanning(x_CxT.shape[1])
            p_CxF = np.square(np.abs(np.fft.rfft((x_CxT - x_CxT.mean(axis=1, keepdims=True)) * hann, axis=1)))
            p_CxF *= 2 / (window.sfreq * np.square(hann).sum())  # µV²/Hz
            f = np.fft.rfftfreq(len(hann), 1 / window.sfreq)
            self.power = self.power + np.interp(np.arange(FREQUENCIES) / 2, f, np.median(p_CxF, axis=0))
            self.spectra += 1
        self.windows += 1

    def summary(self) -> PartSummary:
        """The counts, and the spectrum at 0, 0.5, … 80 Hz: median over channels, mean over windows."""
        spectrum = [float(f"{p:.4g}") for p in self.power / self.spectra] if self.spectra else []
        return {
            "windows": self.windows,
            "valid_samples": self.samples,
            "labels": self.labels,
            "averaged": list(self.sums),
            "spectrum": spectrum,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }


def folder_of(parts: str, content: str, fingerprint: Sequence[str]) -> Path:
    """The folder of a part: by the content of its input and by whatever else changes its records."""
    fingerprint = [__version__, str(records.FORMAT), *fingerprint]
    return Path(parts) / pseudonym("part", content, json.dumps(fingerprint, sort_keys=True))


def finished(part: Path) -> PartSummary | None:
    """The summary of a part that an earlier run finished."""
    if not (part / SUMMARY).exists():
        return None
    return {**json.loads((part / SUMMARY).read_text()), "part": part.name, "reused": True}  # type: ignore[typeddict-item]


def write_windows(
    part: Path, windows: Iterable[records.Window], beat: Callable[[], None], *, averages: bool
) -> WindowSketch:
    """Write the shard of a part, and the sums from which the report averages."""
    sketch = WindowSketch(averages)
    with shards.ShardWriter(part / SHARD) as writer:
        for window in windows:
            beat()
            writer.write(records.encode(window))
            sketch.add(window)
    if sketch.sums:
        with writing(part):
            np.savez(part / AVERAGES, *sketch.sums.values())
    return sketch


def finish(part: Path, summary: PartSummary, started: tuple[float, float]) -> PartSummary:
    """Write the summary, which marks the part as finished. `started`: `clocks()` when work on it began."""
    wall, cpu = clocks()
    summary = {**summary, "wall_s": wall - started[0], "cpu_s": cpu - started[1]}  # type: ignore[typeddict-item]
    with writing(part):
        atomic.write_text(part / SUMMARY, json.dumps(summary))
    return {**summary, "part": part.name, "reused": False}  # type: ignore[typeddict-item]


def clocks() -> tuple[float, float]:
    """Seconds of wall-clock time and of processor time."""
    return time.monotonic(), time.process_time()


@contextmanager
def writing(part: Path) -> Iterator[None]:
    """Raise a problem of the output as `CannotWrite`, so that it is not taken for one of the input."""
    try:
        yield
    except OSError as problem:
        raise shards.CannotWrite.of(part, problem) from problem
