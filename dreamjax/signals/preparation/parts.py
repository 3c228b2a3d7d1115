"""A part: the output of one child of `prepare`, a shard file of windows and their summary.

A part is finished when `summary.json` exists next to its shard. Its name is a digest of the input's content and of the
settings, so an interrupted run recognises its finished parts and cannot confuse them with others.
"""

import contextlib
import json
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from etils import epath
from jaxtyping import Float

from dreamjax import __version__
from dreamjax.errors import UserError
from dreamjax.signals.datasets import records, shards
from dreamjax.signals.recordings.identity import pseudonym
from dreamjax.storage import manifest, sniffing

SHARD = "windows.array_record"
SUMMARY = "summary.json"
AVERAGES = "averages.npz"
FREQUENCIES = 161  # 0 … 80 Hz in steps of 0.5 Hz, of the report's spectra
EVERY = 8  # every eighth window enters the report's spectra
RULES = 2  # raised when equal settings give other windows than before; 1 where a dataset does not state it
CHANGED = "since then line noise is judged after the filters, and upsampling loses no last window"  # with these rules
CLASSES = 12  # averages of at most this many classes are kept for the report


class RejectEntry(TypedDict, total=False):
    """A line of rejects.jsonl but for its input: a stretch of a recording, or a trial."""

    start: float
    stop: float
    windows: int
    trial: int
    reason: str


class PartSummary(TypedDict, total=False):
    """The metadata of a part, stored in summary.json and in parts.jsonl of the dataset."""

    part: str  # its folder
    sha256: str  # of its input
    tables: str  # hash of the tables that complete it, such as events.tsv; "" without any
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
    split_windows: dict[str, int]  # windows by split, of a part whose windows are in several
    mismatched: int  # trials that triggers and table do not share
    modality: str
    unit: str
    compensation: int | None  # grade of the gradient compensation of MEG
    plan: dict[str, Any]  # `RecordingPlan.as_json`
    sd_uv: list[float | None]
    warning: str
    notes: list[str]
    faults: dict[str, int]  # kind:channel → windows
    rejects: list[RejectEntry]
    labels: dict[str, int]
    free_labels: list[str]  # those among them that are free text of the recording
    averaged: list[str]
    spectrum: list[float]
    sketch: list[tuple[int, int]]  # of the signal, by which copies are recognised (`copies.Sketch`)
    peak_bytes: int
    reused: bool  # this and the next two: of one run
    wall_s: float
    cpu_s: float


def make(
    parts: str,
    content: str,
    fingerprint: Sequence[str],
    started: tuple[float, float],
    build: Callable[[Path], PartSummary],
) -> PartSummary:
    """Return the summary of a part in the folder `parts`: as an earlier run left it, else of what `build(part)` writes.

    `content` is the hash of the input, `fingerprint` whatever else changes the records, `started` the `clocks()` when
    work on the input began.
    """
    key = [__version__, str(records.FORMAT), str(RULES), *fingerprint]
    part = Path(parts) / pseudonym("part", content, json.dumps(key, sort_keys=True))
    with contextlib.suppress(UserError):  # missing or damaged: it is made again
        return {**sniffing.read_json(epath.Path(part / SUMMARY)), "part": part.name, "reused": True}  # type: ignore[typeddict-item]
    summary = build(part)
    wall, cpu = (now - before for now, before in zip(clocks(), started, strict=True))
    summary = {**summary, "sha256": content, "wall_s": wall, "cpu_s": cpu}
    with _writing(part):
        manifest.write_json(part / SUMMARY, summary, indent=None)
    return {**summary, "part": part.name, "reused": False}


def write_windows(
    part: Path,
    windows: Iterable[records.Window],
    beat: Callable[[], None],
    *,
    averages: bool,
    split_of: Callable[[records.Window], str] | None = None,
) -> PartSummary:
    """Write the shard of a part, and with `averages` the sums of its classes; return the summary of both.

    With `split_of` there is a shard for each split.
    Its spectrum is that at 0, 0.5, … 80 Hz: median over channels, mean over windows.
    """
    labels, sums, samples = Counter[str](), dict[str, np.ndarray](), 0  # samples that are not padding
    power, spectra = np.zeros(FREQUENCIES), 0
    written, writers = Counter[str](), dict[str, shards.ShardWriter]()
    with contextlib.ExitStack() as stack:
        if split_of is None:
            writers[""] = stack.enter_context(shards.ShardWriter(part / SHARD))
        for window in windows:
            split = split_of(window) if split_of else ""
            if split not in writers:
                writers[split] = stack.enter_context(shards.ShardWriter(part / shard_name(split)))
            beat()
            labels[window.label] += 1
            if averages and (window.label in sums or len(sums) < CLASSES):
                sums[window.label] = sums.get(window.label, 0) + np.asarray(window.signal, np.float64)
            x_CxT = window.signal[:, window.valid]
            samples += x_CxT.shape[1]
            if written.total() % EVERY == 0 and x_CxT.shape[1] >= max(window.sfreq / 2, 2):
                power += _spectrum(x_CxT[window.channel_ok] if window.channel_ok.any() else x_CxT, window.sfreq)
                spectra += 1
            writers[split].write(records.encode(window))
            written[split] += 1
    if sums:
        with _writing(part):
            np.savez(part / AVERAGES, *sums.values())
    return {
        "windows": written.total(),
        **({"split_windows": dict(written)} if split_of else {}),
        "valid_samples": samples,
        "labels": dict(labels),
        "averaged": list(sums),
        "spectrum": [float(f"{p:.4g}") for p in power / spectra] if spectra else [],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def shard_name(split: str) -> str:
    """Return the name of the shard of one split of a part."""
    return f"windows-{split}.array_record"


def shards_of(part: Path, summary: PartSummary, assigned: str, split: str) -> list[Path]:
    """Return the shards of a part that belong to a split; `assigned`: the split of the part, if it is in one."""
    if "split_windows" in summary:
        return [part / shard_name(split)] if summary["split_windows"].get(split) else []
    return [part / SHARD] if assigned == split and summary["windows"] else []


def _spectrum(x_CxT: Float[np.ndarray, "channels time"], sfreq: float) -> Float[np.ndarray, "frequencies"]:
    """Return the median over channels of the power at 0, 0.5, … 80 Hz, µV²/Hz."""
    hann = np.hanning(x_CxT.shape[1])
    p_CxF = np.square(np.abs(np.fft.rfft((x_CxT - x_CxT.mean(axis=1, keepdims=True)) * hann, axis=1)))
    p_CxF *= 2 / (sfreq * np.square(hann).sum())
    f = np.fft.rfftfreq(len(hann), 1 / sfreq)
    return np.interp(np.arange(FREQUENCIES) / 2, f, np.median(p_CxF, axis=0))


def clocks() -> tuple[float, float]:
    """Return the seconds of wall-clock time and of processor time."""
    return time.monotonic(), time.process_time()


@contextmanager
def _writing(part: Path) -> Iterator[None]:
    """Raise a problem of the output as `CannotWrite`, so that it is not taken for one of the input."""
    try:
        yield
    except OSError as problem:
        raise shards.CannotWrite.of(part, problem) from problem
