"""The input pipeline: shards → batches on the host (docs/reference/records.md).

Everything about global example number i — which record, which crop, which hidden channels — follows from (seed, i).
So the data position of a run is that one number, and any count of workers and processes gives the same stream.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import jax
import numpy as np

from dreamjax.config import check_seed
from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.signals.datasets import augment, examples, mapping, mixture, record_view, records
from dreamjax.signals.datasets.read_ahead import IndexedStream, index_and_weight
from dreamjax.signals.recordings import montage

AT_ONCE = 256  # records read together
TOLD = ("stimulus", "label", "subject", "recording")  # of a record; empty without, the last two are salted hashes
PROBED = 16  # windows that are looked at before a stream is handed out


@dataclass(frozen=True)
class DataConfig:
    """What a model is fed with: corpora, channels, time, scale, and how fast."""

    path: tuple[str, ...] = ()  # dataset folders, as `dreamjax prepare` writes them
    weights: tuple[float, ...] = ()  # share of each dataset in training; empty: by number of windows
    fraction: float = 1.0  # of each dataset's training windows; smaller ones lie in larger ones
    montage: str = "1020-19"  # template whose channels the model sees; "own": the records' own, where all have the same
    mapping: Literal["interpolate", "tile"] = "interpolate"  # tile: DreamDiffusion's repetition to `tile_channels`
    tile_channels: int = 128
    samples: int = 512  # per window
    sfreq: float = 256.0  # Hz
    stretch: bool = False  # resample in time to `samples` whatever the rate: DreamDiffusion's parity presets only
    scaling: Literal["divide", "robust", "zscore"] = "robust"
    divide: float = 10.0  # µV per unit, for scaling "divide"
    clip: float = 20.0  # largest scaled magnitude; 0: no limit
    mask_channels: float = 0.0  # share of real channels hidden before referencing and mapping; 0: no such mask
    shuffle: bool = True
    shuffle_seed: int | None = None  # None: the run's seed
    workers: int = 0  # processes that read ahead; 0: threads of this one
    prefetch: int = 2  # batches that each worker holds ready
    amplitude_jitter: float = 0.0  # augmentation: gain drawn from exp(± this)
    flip_polarity: float = 0.0  # … probability of multiplying by -1
    reverse_time: float = 0.0  # … probability of playing backwards
    drop_channels: float = 0.0  # … probability, by channel, of reading zeros
    shift: bool = False  # … crops at any offset, reading on into the next window of the same recording

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.path):
            raise ValueError(f"data.weights has {len(self.weights)} entries for {len(self.path)} paths")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"data.fraction is {self.fraction}, but it is a share above 0, and 1 at most")
        if self.fraction < 1 and self.shift:
            raise ValueError("data.shift reads on into windows that data.fraction leaves out: set one of the two")
        for name in ("samples", "sfreq", "divide", "tile_channels"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise ValueError(f"data.{name} is {value}, but it must be positive")
        for name in ("clip", "workers", "prefetch", "amplitude_jitter"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"data.{name} is {value}, but it must be 0 or more")
        for name in ("flip_polarity", "reverse_time", "drop_channels"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"data.{name} is {value}, but it is a probability from 0 to 1")
        check_seed("data.shuffle_seed", self.shuffle_seed)
        if not 0 <= self.mask_channels < 1:
            raise ValueError(f"data.mask_channels is {self.mask_channels}, but it is a share below 1")


class Examples:
    """Global example indices → rows of a batch. Picklable, so that worker processes can have it."""

    def __init__(self, config: DataConfig, split: str, *, seed: int, training: bool):
        if not config.path:
            raise UserError("data.path is empty; name a folder that `dreamjax prepare` wrote")
        self.config, self.seed, self.training = config, seed, training
        self.readers = [records.open_split(path, split) for path in config.path]
        empty = [path for path, reader in zip(config.path, self.readers, strict=True) if not len(reader)]
        if empty:
            raise UserError(f"{empty[0]} holds no window in split {split}")
        described = [records.load_dataset(path) for path in config.path]
        vocabularies = [dataset.get("labels", []) for dataset in described]
        for path, dataset in zip(config.path, described, strict=True):
            if config.scaling == "divide" and "unit" in dataset:
                _warn_of_unit(path, dataset["unit"], config.divide)
        self.labels = tuple(sorted({label for labels in vocabularies for label in labels}))
        self.target = self._target()
        self.ends = np.cumsum([len(reader) for reader in self.readers])
        self._label_ids = {label.encode(): i for i, label in enumerate(self.labels)}
        for path, reader in zip(config.path, self.readers, strict=True):  # the first window now, every other when read
            augment.check_rate(config, record_view.unpack(reader[0]).sfreq, path)

    def _target(self) -> augment.Target:
        if self.config.mapping == "tile":
            return augment.Target((), np.empty((0, 3)))
        if self.config.montage != "own":
            names, _ = montage.template(self.config.montage)
            return augment.Target(names, mapping.directions(names, np.full((len(names), 3), np.nan)))
        windows = [records.decode(reader[0]) for reader in self.readers]
        if len({w.ch_names for w in windows}) > 1:
            raise UserError("data.montage=own needs the same channels in every dataset; name a template instead")
        return augment.Target(windows[0].ch_names, mapping.directions(windows[0].ch_names, windows[0].xyz))

    @property
    def channels(self) -> int:
        return len(self.target.names) or self.config.tile_channels

    @cached_property
    def order(self) -> Any:
        """Global example index → record; see `mixture.order`."""
        config, sizes = self.config, [len(kept) for kept in self.kept]
        if not self.training:
            return mixture.order(sizes, (), seed=0, shuffle=False, repeat=False)
        seed = self.seed if config.shuffle_seed is None else config.shuffle_seed
        return mixture.order(sizes, config.weights, seed=seed, shuffle=config.shuffle, repeat=True)

    @cached_property
    def kept(self) -> list[Any]:
        """Of each corpus the records that are read, ascending: all, but where training has a share of them."""
        share = self.config.fraction if self.training else 1.0
        return [mixture.share(len(reader), share) for reader in self.readers]

    def _records(self, keys: np.ndarray) -> np.ndarray:
        """Places in the concatenation of what is kept → records in that of the corpora."""
        return keys if self.config.fraction == 1 or not self.training else self._places[keys]

    @cached_property
    def _places(self) -> np.ndarray:
        firsts = self.ends - [len(reader) for reader in self.readers]
        return np.concatenate([first + kept for first, kept in zip(firsts, self.kept, strict=True)])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "order"}

    def __len__(self) -> int:
        return len(self.order)

    def _read(self, keys: np.ndarray) -> list[bytes]:
        """Records by their number in the concatenation of the corpora."""
        corpus = np.searchsorted(self.ends, keys, side="right")
        out: list[bytes] = [b""] * len(keys)
        for c in np.unique(corpus):
            rows = np.flatnonzero(corpus == c)
            first = self.ends[c] - len(self.readers[c])
            for row, record in zip(rows, self.readers[c].read((keys[rows] - first).tolist()), strict=True):
                out[row] = record
        return out

    def rows(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """The examples `index` (uint64) as arrays with a leading axis; beyond the end, the last one with weight 0."""
        last = len(self.order) - 1
        keys = self._records(np.array([self.order[min(int(i), last)] for i in index]))
        return self.of(keys, index) | index_and_weight(index, len(self.order))

    def of(self, keys: np.ndarray, index: np.ndarray) -> dict[str, np.ndarray]:
        """The records `keys` as the examples `index`, by which every random choice about them is keyed."""
        found = [record_view.unpack(record) for record in self._read(keys)]
        for sfreq in {record.sfreq for record in found}:
            augment.check_rate(self.config, sfreq, ", ".join(self.config.path))
        if self.training and self.config.shift:
            after = np.where(np.isin(keys + 1, self.ends), keys, keys + 1)  # none beyond a corpus's last
            found = [
                record_view.follow(a, record_view.unpack(b)) for a, b in zip(found, self._read(after), strict=True)
            ]
        out = augment.assemble(self.config, self.target, found, index, seed=self.seed, training=self.training)
        out["label"] = np.array([self._label_ids.get(record.label, -1) for record in found], np.int32)
        return out

    def told(self) -> list[dict[str, Any]]:
        """What every record says of itself besides its signal, in the order of the corpora: `TOLD`, and its `start` in
        seconds since its recording's first sample.
        """
        records_of = (
            reader.read(range(at, min(at + AT_ONCE, len(reader))))
            for reader in self.readers
            for at in range(0, len(reader), AT_ONCE)
        )
        found = (examples.parse(record) for some in records_of for record in some)
        return [
            {name: one[name].bytes_list.value[0].decode() for name in TOLD}
            | {"start": float(np.frombuffer(one["start"].bytes_list.value[0])[0])}
            for one in found
        ]


@lru_cache(maxsize=64)  # said once
def _warn_of_unit(path: str, unit: str, divide: float) -> None:
    log.warning("%s is in %s: data.divide = %g divides those numbers, not µV", path, unit, divide)


class WindowStream(IndexedStream):
    """A `training.task.Stream` over shards. `labels`, `ch_names` and `sfreq` say what its numbers mean."""

    def __init__(self, config: DataConfig, split: str, *, seed: int, training: bool):
        self.config, self.split, self.training = config, split, training
        self.workers, self.prefetch = config.workers, config.prefetch
        self.examples = Examples(config, split, seed=seed, training=training)
        self.labels = self.examples.labels
        self.ch_names = self.examples.target.names
        self.sfreq = config.sfreq
        probed = np.unique(np.linspace(0, len(self) - 1, PROBED).astype(np.uint64))
        if not self.examples.rows(probed)["valid"].any():
            raise UserError(
                f"{', '.join(config.path)}: none of the {len(probed)} windows looked at in split {split} has a usable "
                f"channel that can be mapped to montage {config.montage}; set data.montage=own, or give positions "
                "when preparing"
            )

    def __len__(self) -> int:
        """Windows in one pass over the split, or over the share of it that is read."""
        return sum(map(len, self.examples.kept))

    def element(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and type of one example, by name; without the batch axis."""
        c, t = self.examples.channels, self.config.samples
        f32 = np.float32
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "signal": ((c, t), f32),
            "valid": ((t,), f32),
            "channel_ok": ((c,), f32),
            "gain": ((c,), f32),
            "offset": ((c,), f32),
            "label": ((), np.int32),
            "index": ((2,), np.uint32),
            "weight": ((), f32),
        }
        if self.config.mask_channels:
            shapes |= {"target": ((c, t), f32), "channel_mask": ((c,), f32)}
        return {name: jax.ShapeDtypeStruct(shape, kind) for name, (shape, kind) in shapes.items()}


def open_stream(config: DataConfig, split: str, *, seed: int, training: bool) -> WindowStream:
    """The windows of a split: endless, shuffled and augmented in training, else each once and in order.

    Raises UserError where a dataset is absent, has no such split, or does not suit the config.
    """
    return WindowStream(config, split, seed=seed, training=training)
