"""The windows of a split as arrays in memory, with their subjects and recordings: the data of an evaluation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32

from dreamjax.errors import UserError
from dreamjax.signals.datasets import coverage, pipeline, records
from dreamjax.signals.datasets.copied import Copied
from dreamjax.signals.datasets.data_config import DataConfig

MAX_BYTES = 400 << 20  # of signal in memory; more windows than that are thinned evenly
ARRAYS = ("signal", "gain", "offset", "valid", "real")  # fields with a row for each window
TEXTS = ("subjects", "recordings", "starts", "labels")


@dataclass(frozen=True)
class WindowSet:
    """Windows from a model's input pipeline: its channels, length, rate and scaling. µV = signal · gain + offset.

    The recording itself is scored (`microvolts`). The input of model and baselines is clipped as in training (`seen`,
    `seen_microvolts`), so that all of them get the same information.
    """

    signal: Float32[np.ndarray, "B C T"]  # scaled, not clipped
    gain: Float32[np.ndarray, "B C"]
    offset: Float32[np.ndarray, "B C"]
    valid: Bool[np.ndarray, "B T"]
    real: Bool[np.ndarray, "B C"]  # a good, recorded electrode: only these are scored
    subjects: tuple[str, ...]  # for an unknown one, its recording; who share a recording count as one (`copied`)
    recordings: tuple[str, ...]
    starts: tuple[float, ...]  # s since the recording's first sample
    labels: tuple[str, ...]
    ch_names: tuple[str, ...]
    sfreq: float
    available: int  # windows in the split, of which these are an even choice
    clip: float = 0.0  # largest scaled magnitude of what a model sees; 0: no limit
    copies: tuple[str, ...] = ()  # recordings of which windows were left out, as they repeat others

    def __len__(self) -> int:
        return len(self.signal)

    @property
    def whole(self) -> Bool[np.ndarray, "B"]:
        """Return which windows have no padding."""
        return np.asarray(self.valid.all(axis=1))

    @property
    def ids(self) -> list[str]:
        """Return a name for every window, the same in whatever shards it is."""
        return [window_id(*who) for who in zip(self.subjects, self.recordings, self.starts, strict=True)]

    def microvolts(self, rows: np.ndarray | slice = slice(None)) -> Float[np.ndarray, "R C T"]:
        """Return the recorded signal, which is scored: float64 µV, zero in padding."""
        return self._in_microvolts(self.signal[rows], rows)

    def seen(self, rows: np.ndarray | slice = slice(None)) -> Float32[np.ndarray, "R C T"]:
        """Return the scaled signal, clipped as the model's input is."""
        return np.clip(self.signal[rows], -self.clip, self.clip) if self.clip else self.signal[rows]

    def seen_microvolts(self, rows: np.ndarray | slice = slice(None)) -> Float[np.ndarray, "R C T"]:
        """Return `seen` in float64 µV, zero in padding: the input of baselines, and the data they are fitted on."""
        return self._in_microvolts(self.seen(rows), rows)

    def _in_microvolts(self, scaled: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
        out = scaled.astype(np.float64) * self.gain[rows][:, :, None] + self.offset[rows][:, :, None]
        return out * self.valid[rows][:, None, :]

    @property
    def clipped_share(self) -> float:
        """Return the share of the samples of real electrodes that reach the model, and the baselines, clipped."""
        counted = sum(int(self.valid[i].sum()) * int(self.real[i].sum()) for i in range(len(self)))
        beyond = sum(int((np.abs(self.signal[i][self.real[i]]) > self.clip).sum()) for i in range(len(self)))
        return beyond / max(counted, 1) if self.clip else 0.0

    def where(self, chosen: Bool[np.ndarray, "B"]) -> "WindowSet":
        """Return some of the windows, in order."""
        return self.take(np.flatnonzero(chosen))

    def take(self, rows: np.ndarray) -> "WindowSet":
        """Return the windows `rows`, in that order."""
        chosen: dict[str, Any] = {name: getattr(self, name)[rows] for name in ARRAYS}
        chosen |= {name: tuple(getattr(self, name)[i] for i in rows) for name in TEXTS}
        return replace(self, **chosen)

    def mapped(self, function: Callable[[np.ndarray], np.ndarray], size: int) -> np.ndarray:
        """Return `function` of all rows, `size` at a time; the last are filled up, so that it compiles once."""
        parts = []
        for first in range(0, len(self), size):
            rows = np.minimum(np.arange(first, first + size), len(self) - 1)
            parts.append(function(rows)[: len(self) - first])
        return np.concatenate(parts)


def window_id(subject: str, recording: str, start: float) -> str:
    """Return the name of a window wherever masks are drawn: independent of shards, splits and order."""
    return f"{subject}/{recording}/{start:.3f}"


def load(config: DataConfig, split: str, limit: int | None = None) -> WindowSet:
    """Return the windows of a split, in order: all, or an even choice of at most `limit` that fit in MAX_BYTES.

    Nothing is cropped at random, augmented, hidden or clipped. Copies of recordings are left out (`copied`). Raise
    UserError where the shards are absent or do not suit.
    """
    config = replace(config, weights=(), mask_channels=0.0, workers=0)
    examples = pipeline.WindowExamples(replace(config, clip=0.0), split, seed=0, training=False)
    total = len(examples)
    room = MAX_BYTES // (4 * examples.channels * config.samples)
    count = max(1, min(total, room, limit or total))
    chosen = np.unique(np.linspace(0, total - 1, count).round().astype(np.uint64))
    parts = [examples.rows(chosen[i : i + 256]) for i in range(0, len(chosen), 256)]
    batch, repeats = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, Copied.of(config.path)
    about = [_record(examples, int(i)) for i in chosen]
    real = batch["channel_ok"] > 0
    if config.mapping == "tile":  # repeated rows of one electrode are scored once
        for row, window in enumerate(about):
            real[row, len(window.ch_names) :] = False
    loaded = WindowSet(
        signal=batch["signal"],
        gain=batch["gain"],
        offset=batch["offset"],
        valid=batch["valid"] > 0,
        real=real,
        subjects=tuple(repeats.unit(w.subject, w.recording) for w in about),
        recordings=tuple(w.recording for w in about),
        starts=tuple(w.start for w in about),
        labels=tuple(w.label for w in about),
        ch_names=examples.target.names or tuple(f"row {i}" for i in range(examples.channels)),
        sfreq=config.sfreq,
        available=total,
        clip=config.clip,
    )
    if config.mapping != "tile":
        seen = coverage.Coverage(real, tuple(dict.fromkeys(tuple(window.ch_names) for window in about)))
        coverage.refuse_none(config, seen, f"split {split} of {', '.join(config.path)}")
        coverage.report_share(config, seen, ", ".join(config.path))
    is_copy = np.isin(loaded.recordings, list(repeats.recordings))
    if is_copy.any():
        copies = tuple(sorted(repeats.recordings.intersection(loaded.recordings)))
        loaded = replace(loaded.where(~is_copy), copies=copies, available=round(total * (1 - float(is_copy.mean()))))
    scorable = np.asarray(loaded.real.any(axis=1) & loaded.valid.any(axis=1))
    if not scorable.any():
        raise UserError(f"{', '.join(config.path)}: no window of split {split} has a valid sample; prepare them again")
    return loaded if scorable.all() else loaded.where(scorable)


def _record(examples: pipeline.WindowExamples, index: int) -> records.Window:
    corpus = int(np.searchsorted(examples.ends, index, side="right"))
    first = int(examples.ends[corpus]) - len(examples.readers[corpus])
    return records.decode(examples.readers[corpus][index - first])


def concatenate(parts: Sequence[WindowSet]) -> WindowSet:
    """Return the windows of several splits, in order."""
    joined: dict[str, Any] = {name: np.concatenate([getattr(p, name) for p in parts]) for name in ARRAYS}
    joined |= {name: sum((getattr(p, name) for p in parts), ()) for name in TEXTS}
    joined["copies"] = tuple(sorted({copy for part in parts for copy in part.copies}))
    return replace(parts[0], **joined, available=sum(p.available for p in parts))
