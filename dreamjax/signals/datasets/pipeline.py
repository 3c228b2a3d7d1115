"""The input pipeline: shards → batches on the host (docs/reference/records.md).

Everything about global example number i — which record, which crop, which hidden channels — follows from (seed, i).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

import numpy as np
from jaxtyping import Int, UInt64

from dreamjax.console import log
from dreamjax.errors import UserError, nearest
from dreamjax.signals.datasets import augment, coverage, mapping, record_view, records, shards, tf_example
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.signals.datasets.examples import Examples, Rows, share
from dreamjax.signals.recordings import identity, montage
from dreamjax.storage import presence

AT_ONCE = 256  # records read together
PROBED = 16  # windows of each dataset that are read before a stream is returned
NAMED = ("subject", "session", "recording", "stimulus", "modality", "unit", "sensor_kind")  # as numbers of names
DESCRIBING = ("stimulus", "label", "subject", "session", "recording")
POSITIONS = "sensor_positions"
ALSO = (*NAMED, POSITIONS)  # what a batch carries where a system asks for it


class RecordMetadata(TypedDict):
    """The metadata of a record. Texts are empty where unknown; subject, session and recording are salted hashes."""

    stimulus: str
    label: str
    subject: str
    session: str
    recording: str
    start: float  # s since the recording's first sample


class WindowExamples(Examples):
    """The windows of a split as a `training.task.Stream`.

    `labels`: the classes whose numbers are `label`. `target`: the channels that the model reads. `names`: of each field
    of `also` whose numbers a batch carries, the sorted names in all splits of all corpora.
    """

    def __init__(self, config: DataConfig, split: str, *, seed: int, training: bool, also: Sequence[str] = ()):
        if not config.path:
            raise UserError("data.path is empty; name a folder that `dreamjax prepare` wrote")
        self.config, self.split, self.training, self.also = config, split, training, tuple(also)
        self.workers, self.prefetch, self.sfreq = config.workers, config.prefetch, config.sfreq
        self.readers = [records.open_split(path, split) for path in config.path]
        self.reader = shards.joined(self.readers)
        datasets = [records.load_dataset(path) for path in config.path]
        for path, reader, dataset in zip(config.path, self.readers, datasets, strict=True):
            if not len(reader):
                raise UserError(f"{path} has no windows in split {split}")
            if config.scaling == "divide" and "unit" in dataset:
                _warn_of_unit(path, dataset["unit"], config.divide)
            augment.check_rate(config, record_view.unpack(reader[0]).sfreq, path)  # of the others when read
        self.labels = tuple(sorted({label for dataset in datasets for label in dataset.get("labels", [])}))
        self._label_ids = {label.encode(): i for i, label in enumerate(self.labels)}
        self.names = {name: _names(config.path, name) for name in NAMED if name in self.also}
        self._name_ids = {field: {n: i for i, n in enumerate(names)} for field, names in self.names.items()}
        self.target = target_channels(config, lambda: [records.decode(reader[0]) for reader in self.readers])
        counts = [len(reader) for reader in self.readers]
        self.ends = np.cumsum(counts)
        keys = None
        if training and config.fraction < 1:
            shares = [share(count, config.fraction) for count in counts]
            keys = np.concatenate([end - n + part for end, n, part in zip(self.ends, counts, shares, strict=True)])
            counts = [len(part) for part in shares]
        super().__init__(
            counts,
            seed=seed,
            endless=training,
            shuffle=training and config.shuffle,
            shuffle_seed=config.shuffle_seed,
            weights=config.weights if training else (),
            keys=keys,
        )

    @property
    def ch_names(self) -> tuple[str, ...]:
        """Return names of the channels that the model reads; empty for mapping "tile"."""
        return self.target.names

    @property
    def channels(self) -> int:
        return len(self.target.names) or self.config.tile_channels

    def read(self, keys: Int[np.ndarray, "batch"], index: UInt64[np.ndarray, "batch"]) -> Rows:
        """Return records, by their numbers in the concatenation of the corpora, as the examples `index`."""
        fields = (*self.names, "recording") if "subject" in self.names else tuple(self.names)
        stored = [record_view.unpack(record, fields) for record in self.reader.read(keys.tolist())]
        for sfreq in {record.sfreq for record in stored}:
            augment.check_rate(self.config, sfreq, ", ".join(self.config.path))
        if self.training and self.config.shift:
            after = np.where(np.isin(keys + 1, self.ends), keys, keys + 1)  # nothing follows a corpus's last
            following = [record_view.unpack(record) for record in self.reader.read(after.tolist())]
            stored = [record_view.follow(a, b) for a, b in zip(stored, following, strict=True)]
        sources = "sensor_kind" in self.also or POSITIONS in self.also
        out = augment.assemble(
            self.config, self.target, stored, index, seed=self.seed, training=self.training, sources=sources
        )
        out["label"] = np.array([self._label_ids.get(record.label, -1) for record in stored], np.int32)
        source = out.pop("source", np.empty((len(stored), 0), int))
        for name, ids in self._name_ids.items():
            numbers = [[ids[text] for text in _named(name, record.texts)] for record in stored]
            if name != "sensor_kind":
                out[name] = np.array(numbers, np.int32)[:, 0]
            else:  # -1 after the last: of channels that are interpolated
                out[name] = np.stack([np.array([*n, -1], np.int32)[s] for n, s in zip(numbers, source, strict=True)])
        if POSITIONS in self.also:
            blank = np.full((1, 3), np.nan, np.float32)
            xyz = [np.concatenate([np.frombuffer(r.xyz, np.float32).reshape(-1, 3), blank]) for r in stored]
            positions = np.stack([metres[s] for metres, s in zip(xyz, source, strict=True)])
            known = np.isfinite(positions).all(axis=2)
            out[POSITIONS] = np.where(known[:, :, None], positions, 0).astype(np.float32)
            out[f"{POSITIONS}_ok"] = known.astype(np.float32)
        return out

    def check_electrodes(self, keys: Int[np.ndarray, "n"] | None = None, where: str = "") -> None:
        """Raise UserError where nothing that the model reads was recorded; in training, log the interpolated share.

        `keys`: records, each of which needs an electrode of the montage, and whose share is logged; None: a sample of
        each dataset. `where`: the records in words, for messages.
        """
        if self.config.mapping == "tile":  # repeats channels and interpolates none
            return
        if keys is None:
            firsts = self.ends - [len(reader) for reader in self.readers]
            ends = zip(firsts, self.ends, strict=True)
            samples = [np.unique(np.linspace(first, end - 1, PROBED).astype(int)) for first, end in ends]
        else:
            samples = [keys]
        seen = [coverage.Coverage.of(self.target, self._stored(sample)) for sample in samples]
        folders = ", ".join(self.config.path)
        where = where or (folders if self.split == records.ALL else f"split {self.split} of {folders}")
        coverage.refuse_none(self.config, coverage.joined(seen), where, every=keys is not None)
        for path, one in zip(self.config.path if keys is None else [where], seen, strict=True):
            if self.training or keys is not None:
                coverage.report_share(self.config, one, path)

    def _stored(self, keys: Int[np.ndarray, "n"]) -> Iterator[record_view.StoredWindow]:
        for first in range(0, len(keys), AT_ONCE):
            yield from map(record_view.unpack, self.reader.read(keys[first : first + AT_ONCE].tolist()))

    def metadata(self) -> list[RecordMetadata]:
        """Return the metadata of every record, in the order of the corpora."""
        return [
            RecordMetadata(
                **{name: records.texts(feature, name)[0].decode() for name in DESCRIBING},  # type: ignore[typeddict-item]
                start=float(np.frombuffer(feature["start"].bytes_list.value[0])[0]),
            )
            for reader in self.readers
            for feature in _parsed(reader)
        ]


def check_training_data(config: DataConfig) -> None:
    """Refuse the training windows, or log the share that is interpolated, as training does; without it.

    Folders that are not on this machine are passed over: a run may be planned where its data is not.
    """
    here, split = [], "train"
    for path in (path for path in config.path if "://" not in path and presence.exists(Path(path, "dataset.json"))):
        dataset = records.load_dataset(path)
        if all(presence.exists(Path(path, name)) for name in dataset["shards"]):
            here.append(path)
            split = split if split in dataset["splits"] else records.ALL  # trials may be split by image, in training
    if here:
        local = replace(config, path=tuple(here), weights=())
        WindowExamples(local, split, seed=0, training=True).check_electrodes()


def target_channels(config: DataConfig, windows: Callable[[], Sequence[records.Window]]) -> augment.TargetChannels:
    """Return the channels that the model reads; `windows`, one of each dataset, are read for montage "own" alone."""
    if config.mapping == "tile":
        return augment.TargetChannels((), np.empty((0, 3)))
    if config.montage != "own":
        names, _ = montage.template(config.montage)
        return augment.TargetChannels(names, mapping.directions(names, np.full((len(names), 3), np.nan)))
    first, *others = windows()
    if any(window.ch_names != first.ch_names for window in others):
        raise UserError("data.montage=own needs the same channels in every dataset; name a template instead")
    return augment.TargetChannels(first.ch_names, mapping.directions(first.ch_names, first.xyz))


def assembled(
    config: DataConfig, windows: Sequence[records.Window], *, seed: int = 0
) -> Iterator[Mapping[str, np.ndarray]]:
    """Yield windows in memory as batches of at most `AT_ONCE`, bit for bit as if they had been read from shards.

    Raise UserError where none of the first ones has an electrode of the montage.
    """
    target = target_channels(config, lambda: windows[:1])
    for first in range(0, len(windows), AT_ONCE):
        stored = [record_view.unpack(records.encode(window)) for window in windows[first : first + AT_ONCE]]
        for sfreq in {record.sfreq for record in stored}:
            augment.check_rate(config, sfreq, "the signal")
        if config.mapping != "tile" and not first:
            seen = coverage.Coverage.of(target, stored)
            coverage.refuse_none(config, seen, "the signal")
            coverage.report_share(config, seen, "the signal")
        index = np.arange(first, first + len(stored), dtype=np.uint64)
        yield augment.assemble(config, target, stored, index, seed=seed, training=False)


def _parsed(reader: records.ShardReader) -> Iterator[tf_example.Features]:
    for first in range(0, len(reader), AT_ONCE):
        yield from map(tf_example.parse, reader.read(range(first, min(first + AT_ONCE, len(reader)))))


def _named(field: str, texts: Mapping[str, Sequence[bytes]]) -> list[str]:
    """Return the names in a field of one record; for an unknown subject, its recording (`identity.unit`)."""
    names = [text.decode() for text in texts[field]]
    return names if field != "subject" else [identity.unit(names[0], texts["recording"][0].decode())]


def _names(paths: Sequence[str], field: str) -> tuple[str, ...]:
    """Return the names in one field of all records of all splits, sorted. Subjects are listed in dataset.json too."""
    names: set[str] = set()
    for path in paths:
        inputs = records.load_dataset(path).get("inputs") if field == "subject" else None
        if inputs:
            names.update(identity.unit(one["subject"], one.get("recording", "")) for one in inputs)
        else:
            features = _parsed(records.open_split(path, records.ALL))
            fields = (field, "recording") if field == "subject" else (field,)
            for feature in features:
                names.update(_named(field, {name: records.texts(feature, name) for name in fields}))
    return tuple(sorted(names))


@lru_cache(maxsize=64)  # once for each dataset
def _warn_of_unit(path: str, unit: str, divide: float) -> None:
    log.warning("%s is in %s: data.divide = %g divides those numbers, not µV", path, unit, divide)


def open_stream(
    config: DataConfig, split: str, *, seed: int, training: bool, also: Sequence[str] = ()
) -> WindowExamples:
    """Open the windows of a split: endless, shuffled and augmented in training, else each once and in order.

    `also`: further fields of a batch, of `ALSO`: numbers of names (`WindowExamples.names`), or sensor positions in
    metres with `sensor_positions_ok`. Raise UserError where a dataset is absent, has no such split, or does not suit
    the config.
    """
    if unknown := [name for name in also if name not in ALSO]:
        hint = nearest(unknown[0], ALSO)
        raise UserError(
            f"a batch cannot carry {unknown[0]!r}; "
            + (f"did you mean {hint}?" if hint else f"choose from {', '.join(ALSO)}")
        )
    stream = WindowExamples(config, split, seed=seed, training=training, also=also)
    stream.check_electrodes()
    stream.rows(np.unique(np.linspace(0, len(stream) - 1, PROBED).astype(np.uint64)))  # refuses unsuitable windows now
    return stream
