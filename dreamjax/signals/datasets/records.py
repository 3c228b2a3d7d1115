"""The record on disk: one window, as a TFDS example in an ArrayRecord shard (docs/reference/records.md).

A signal is stored as int16 with a step and an offset per channel, so that the error is at most half a step and nothing
can saturate: value = counts · step + offset, in the record's unit (µV for EEG).
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, overload

import numpy as np
from etils import epath
from jaxtyping import Bool, Float, Float32, Int16

from dreamjax.console import counted
from dreamjax.errors import MissingSplit, UserError, nearest
from dreamjax.signals.datasets import shards, tf_example
from dreamjax.signals.datasets.shards import Shard, ShardReader, ShardWriter
from dreamjax.storage import manifest, presence, replacing
from dreamjax.typing import JsonDict

FORMAT = 1  # raised when a reader of the older format could misread the newer one
ALL = "*"  # in place of a split: all of them
APART = "apart"  # flag: the signal does not continue the window before (a gap, another trial, another baseline)
COUNTS = 32767  # the largest int16 that has a negative twin


@dataclass(frozen=True)
class Window:
    """A window of a recording after preprocessing, in its unit; what a record holds.

    `subject`, `session` and `recording` are salted hashes, `start` counts from the recording's first sample: nothing
    here identifies a person or a date. The fields with a default are optional on disk: records without them are EEG.
    """

    signal: Float[np.ndarray, "channels time"]  # in `unit`
    ch_names: tuple[str, ...]  # normalised 10-05 names where known
    xyz: Float[np.ndarray, "channels 3"]  # sensor positions: head coordinates in metres; NaN where unknown
    sfreq: float  # Hz
    reference: str  # "average", or as recorded: "A2", "unknown", …
    montage_rank: int  # rank of the scalp signal: channels - 1 after an average reference
    dataset: str
    subject: str
    session: str
    recording: str
    start: float  # s since the recording's first sample
    valid: Bool[np.ndarray, "time"]  # False where a shorter trial was padded
    channel_ok: Bool[np.ndarray, "channels"]  # False where quality control flagged the channel
    scale: float  # in `unit`: robust scale of the whole recording (median over channels of 1.4826 · MAD)
    label: str  # trial type, "" without one
    stimulus: str  # stimulus file, "" without one
    licence: str  # SPDX id, or "unknown"
    flags: tuple[str, ...]  # what quality control noticed and kept; APART
    modality: str = "eeg"  # "eeg", "meg", "fmri", …
    unit: str = "µV"
    sensor_kind: tuple[str, ...] = ()  # of each channel: "eeg", "mag", "grad_axial", "grad_planar", …; (): ELECTRODE


TEXTS = ("reference", "dataset", "subject", "session", "recording", "label", "stimulus", "licence", "modality", "unit")
LISTS = ("ch_names", "flags", "sensor_kind")
QUANTISED: dict[str, type] = {"signal/value": np.int16, "step": np.float32, "offset": np.float32}
ARRAYS: dict[str, type] = {
    **{"xyz": np.float32, "valid": np.bool_, "channel_ok": np.bool_},
    **dict.fromkeys(("sfreq", "start", "scale"), np.float64),
}
ELECTRODE = "eeg"
DEFAULTS = {"modality": b"eeg", "unit": "µV".encode(), "sensor_kind": ELECTRODE.encode()}  # of records without them


def texts(feature: tf_example.Features, name: str) -> tuple[bytes, ...]:
    """Return the texts of one feature of a parsed record: one of `TEXTS` (a single one) or of `LISTS`."""
    if name in DEFAULTS and name not in feature:
        return (DEFAULTS[name],) * (len(feature["ch_names"].bytes_list.value) if name in LISTS else 1)
    return tuple(feature[name].bytes_list.value)


# ---------------------------------------------------------------------------------------------------------- quantising
def quantise(
    signal: Float[np.ndarray, "channels time"],
) -> tuple[Int16[np.ndarray, "channels time"], Float32[np.ndarray, "channels"], Float32[np.ndarray, "channels"]]:
    """Return (counts, step, offset) with |counts · step + offset - signal| ≤ step / 2 in exact arithmetic.

    The offset is the middle of a channel's range and the step its range / 65534: a direct-current offset costs no
    resolution, and no sample lies outside. Raise UserError for NaN, infinities and values beyond float32.
    """
    signal = np.asarray(signal, np.float64)
    if signal.size == 0:
        raise UserError("an empty window cannot be stored")
    low, high = signal.min(axis=1), signal.max(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        offset = ((low + high) / 2).astype(np.float32)
        residual = signal - offset[:, None].astype(np.float64)
        peak = np.abs(residual).max(axis=1)
        rounded_up = np.nextafter((peak / COUNTS).astype(np.float32), np.float32(np.inf))  # no count passes COUNTS
    bad = np.flatnonzero(~(np.isfinite(peak) & np.isfinite(rounded_up)))
    if len(bad):
        raise UserError(
            f"channel {bad[0]} holds NaN or infinite values; reject or repair the window before it is stored"
        )
    step = np.where(peak == 0, 0, np.maximum(rounded_up, np.finfo(np.float32).tiny)).astype(np.float32)
    counts = np.rint(residual / np.where(step == 0, 1, step)[:, None].astype(np.float64))
    return counts.astype(np.int16), step, offset


def encode(window: Window) -> bytes:
    """Return a record. Raise UserError where the signal is not finite or the shapes of the window differ."""
    channels, time = np.shape(window.signal)
    window = replace(window, sensor_kind=window.sensor_kind or (ELECTRODE,) * channels)
    shapes = dict.fromkeys(("ch_names", "channel_ok", "sensor_kind"), (channels,))
    for name, shape in (shapes | {"xyz": (channels, 3), "valid": (time,)}).items():
        if np.shape(getattr(window, name)) != shape:
            raise UserError(
                f"recording {window.recording}: {name} has shape {np.shape(getattr(window, name))}, not {shape}"
            )
    try:
        quantised = quantise(window.signal)
    except UserError as problem:
        raise UserError(f"recording {window.recording}, window at {window.start:g} s: {problem}") from problem
    features: dict[str, tf_example.Value] = {
        "signal/shape": [channels, time],
        "montage_rank": int(window.montage_rank),
        **{name: array.tobytes() for name, array in zip(QUANTISED, quantised, strict=True)},
    }
    features |= {name: np.asarray(getattr(window, name), dtype).tobytes() for name, dtype in ARRAYS.items()}
    features |= {name: getattr(window, name).encode() for name in TEXTS}
    features |= {name: [text.encode() for text in getattr(window, name)] for name in LISTS}
    return tf_example.extended(b"", features)


def decode(record: bytes) -> Window:
    """Return the window of a record, float32; samples that are padding come back as exact zeros."""
    feature = tf_example.parse(record)
    arrays: dict[str, np.ndarray] = {
        name: np.frombuffer(feature[name].bytes_list.value[0], dtype) for name, dtype in (QUANTISED | ARRAYS).items()
    }
    counts = arrays["signal/value"].reshape(feature["signal/shape"].int64_list.value)
    signal = counts * arrays["step"][:, None] + arrays["offset"][:, None]
    valid = arrays["valid"]
    if not valid.all():
        signal[:, ~valid] = 0
    return Window(
        signal=signal,
        xyz=arrays["xyz"].reshape(-1, 3),
        montage_rank=int(feature["montage_rank"].int64_list.value[0]),
        valid=valid,
        channel_ok=arrays["channel_ok"],
        **{name: float(arrays[name][0]) for name in ("sfreq", "start", "scale")},  # type: ignore[arg-type]
        **{name: texts(feature, name)[0].decode() for name in TEXTS},  # type: ignore[arg-type]
        **{name: tuple(text.decode() for text in texts(feature, name)) for name in LISTS},  # type: ignore[arg-type]
    )


@cache
def tfds_features() -> Any:
    """Return the FeaturesDict of TFDS that serialises exactly what `encode` writes."""
    from tensorflow_datasets import features

    def raw(shape: tuple[int | None, ...], dtype: Any, doc: str) -> Any:
        return features.Tensor(shape=shape, dtype=dtype, encoding="bytes", doc=doc)

    several = partial(features.Sequence, features.Text())
    return features.FeaturesDict({
        "signal": raw((None, None), np.int16, "channels × time; value = signal · step + offset"),
        "step": raw((None,), np.float32, "unit per count, by channel"),
        "offset": raw((None,), np.float32, "value at count 0, by channel"),
        "xyz": raw((None, 3), np.float32, "sensor positions, head coordinates in metres; NaN where unknown"),
        "valid": raw((None,), np.bool_, "False where a shorter trial was padded, by sample"),
        "channel_ok": raw((None,), np.bool_, "False where quality control flagged the channel"),
        "sfreq": raw((), np.float64, "Hz"),
        "start": raw((), np.float64, "s since the recording's first sample"),
        "scale": raw((), np.float64, "robust scale of the whole recording, in its unit"),
        "montage_rank": features.Scalar(np.int32, doc="rank of the scalp signal"),
        "ch_names": several(doc="normalised channel names"),
        "flags": several(doc="what quality control noticed and kept"),
        "sensor_kind": several(doc="MNE's channel type, by channel"),
        **{name: features.Text() for name in TEXTS},
    })  # fmt: skip


# ------------------------------------------------------------------------------------------------------ dataset folders
SHARD_BYTES = 128 << 20  # of records before compression
VERSION = "1.0.0"  # TFDS wants one


def valid_name(kind: str, name: str) -> str:
    """Return `name`, of a dataset or split. Raise UserError for one that is not allowed."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"{name!r} cannot be the name of a {kind}; use lower-case letters, digits and _")
    return name


def _write_shards(
    out_dir: epath.PathLike, name: str, split: str, records: Iterator[bytes], shard_bytes: int
) -> list[Shard]:
    """Write records as `NAME-SPLIT.array_record-00000-of-0000N`, a new shard every `shard_bytes`."""
    folder = epath.Path(out_dir)
    stem = f"{valid_name('dataset', name)}-{valid_name('split', split)}.array_record"
    finished: list[Shard] = []
    try:
        while record := next(records, None):
            with ShardWriter(folder / f".{stem}-{len(finished):05d}.unnamed") as writer:
                while record:
                    writer.write(record)
                    record = next(records, None) if writer.bytes < shard_bytes else None
            finished.append(writer.shard)
    except BaseException:
        for shard in finished:
            (folder / shard.name).unlink(missing_ok=True)
        raise
    named = [replace(shard, name=f"{stem}-{i:05d}-of-{len(finished):05d}") for i, shard in enumerate(finished)]
    for shard, final in zip(finished, named, strict=True):
        (folder / shard.name).replace(folder / final.name)
    return named


def write_split(
    out_dir: epath.PathLike, name: str, split: str, windows: Iterable[Window], *, shard_bytes: int = SHARD_BYTES
) -> list[Shard]:
    """Write the windows of one split, in order. Call `finish` when every split is written."""
    return _write_shards(out_dir, name, split, (encode(w) for w in windows), shard_bytes)


def merge(
    parts: Sequence[epath.PathLike], out_dir: epath.PathLike, name: str, split: str, *, shard_bytes: int = SHARD_BYTES
) -> list[Shard]:
    """Write the records of `parts` (files that `ShardWriter` wrote), in order, as the shards of one split.

    All get the fields of today, since all records of a dataset have the same (features.json).
    """

    def upgraded(record: bytes) -> bytes:
        feature = tf_example.parse(record)
        missing = {name: list(texts(feature, name)) for name in DEFAULTS if name not in feature}
        return tf_example.extended(record, missing) if missing else record

    def records() -> Iterator[bytes]:
        for part in parts:
            reader = shards.open_shard(part)
            yield from (upgraded(reader[i]) for i in range(len(reader)))

    return _write_shards(out_dir, name, split, records(), shard_bytes)


def finish(
    out_dir: epath.PathLike, name: str, splits: Mapping[str, Sequence[Shard]], extra: Mapping[str, object] | None = None
) -> JsonDict:
    """Write features.json and dataset_info.json (TFDS), then dataset.json; return the content of dataset.json.

    dataset.json, written last, makes the folder a dataset: `extra` (hours, filters, versions, …) and `name`, `format`,
    `splits` (name → records), `shards` (file → records, size, sha256) and `labels` (sorted; the ids of the labels).
    """
    import tensorflow_datasets as tfds

    folder = epath.Path(out_dir)
    splits = {split: written for split, written in splits.items() if written}
    if not splits:
        raise UserError(f"{folder}: the dataset has no windows")
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=valid_name("dataset", name), filetype_suffix="array_record"
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=tfds_features(),
        split_infos=[
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[shard.records for shard in written],
                num_bytes=sum(shard.size for shard in written),
                filename_template=template.replace(split=split),
            )
            for split, written in splits.items()
        ],
        version=VERSION,
        filename_template=template,
        check_data=False,
    )
    dataset = {
        **(extra or {}),
        "name": name,
        "format": FORMAT,
        "splits": {split: sum(shard.records for shard in written) for split, written in splits.items()},
        "shards": {
            s.name: {"records": s.records, "size": s.size, "sha256": s.sha256}
            for written in splits.values()
            for s in written
        },
    }
    if "labels" not in dataset:  # the position of a label is its id
        every = [shard for written in splits.values() for shard in written]
        reader = ShardReader([folder / shard.name for shard in every], [shard.records for shard in every])
        labels = {texts(tf_example.parse(reader[i]), "label")[0] for i in range(len(reader))}
        dataset["labels"] = sorted(label.decode() for label in labels - {b""})
    manifest.write_json(folder / "dataset.json", dataset)
    return dataset


# -------------------------------------------------------------------------------------------------------------- reading
def is_dataset(folder: epath.PathLike) -> bool:
    """Return whether `dreamjax prepare` wrote this folder."""
    replacing.recover(folder)
    return presence.exists(epath.Path(folder) / "dataset.json")


def load_dataset(folder: epath.PathLike) -> JsonDict:
    """Return dataset.json. Raise UserError for another folder, or a format that this version does not know."""
    folder = epath.Path(folder)
    replacing.recover(folder)
    if not presence.exists(folder):
        raise UserError(f"{folder}: no such dataset folder")
    try:
        with presence.reading(folder / "dataset.json"):
            dataset = manifest.unsealed(json.loads((folder / "dataset.json").read_text()), folder / "dataset.json")
    except FileNotFoundError:
        raise UserError(f"{folder}: no dataset.json; is this a folder that `dreamjax prepare` wrote?") from None
    except ValueError as problem:
        again = "prepare the dataset again"
        raise UserError(f"{folder}/dataset.json: not readable as JSON ({problem}); {again}") from problem
    if missing := [key for key in ("name", "format", "splits", "shards") if key not in dataset]:
        raise UserError(f"{folder}/dataset.json has no {missing[0]}; prepare the dataset again")
    if dataset["format"] != FORMAT:
        raise UserError(f"{folder}: its record format is {dataset['format']}, this dreamjax reads {FORMAT}")
    return dataset


def impossible(folder: epath.PathLike) -> dict[str, str]:
    """Return the controls that the experiment rules out ("block", "pre_stimulus", …) with the reasons; usually none."""
    return dict(load_dataset(folder).get("design", {}).get("impossible", {}))


def open_split(folder: epath.PathLike, split: str) -> ShardReader:
    """Open the serialised records of a split, in order; those of all splits, one after another, for `ALL`."""
    folder = epath.Path(folder)
    dataset = load_dataset(folder)
    if split == ALL:
        return shards.joined([open_split(folder, each) for each in dataset["splits"]])
    if split not in dataset["splits"]:
        guess = nearest(split, list(dataset["splits"]))
        if guess:
            raise UserError(f"{folder} has no split {split}; did you mean {guess}?")
        subjects = len({one["subject"] for one in dataset.get("inputs", ()) if "subject" in one})
        of = f", of {counted(subjects, 'subject')}" if subjects else ""
        raise MissingSplit(
            f"{folder} has no split {split}: it has {', '.join(dataset['splits'])}{of}; prepare recordings of more "
            "people, or with other shares (dreamjax prepare --splits TRAIN VAL TEST)"
        )
    prefix = f"{dataset['name']}-{split}.array_record-"
    names = sorted(n for n in dataset["shards"] if n.startswith(prefix))
    return ShardReader([folder / n for n in names], [dataset["shards"][n]["records"] for n in names])


class WindowSequence(Sequence[Window]):
    """The windows of a split, read when asked for: `len`, `[i]`, slices, iteration."""

    def __init__(self, reader: ShardReader):
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    @overload
    def __getitem__(self, key: int) -> Window: ...

    @overload
    def __getitem__(self, key: slice) -> list[Window]: ...

    def __getitem__(self, key: int | slice) -> Window | list[Window]:
        if isinstance(key, slice):
            return [decode(r) for r in self.reader.read(range(len(self))[key])]
        return decode(self.reader[range(len(self))[key]])


def read_windows(folder: epath.PathLike, split: str) -> WindowSequence:
    """Open the windows of a split for random access. Raise UserError naming a bad shard."""
    return WindowSequence(open_split(folder, split))


def verify(folder: epath.PathLike) -> list[str]:
    """Return what is wrong with a dataset's shards, a phrase each; empty when every byte is as it was written."""
    folder = epath.Path(folder)
    problems = []
    for name, entry in load_dataset(folder)["shards"].items():
        path = folder / name
        if not presence.exists(path):
            problems.append(f"{path} is missing")
        elif path.stat().length != entry["size"]:
            problems.append(f"{path} has {path.stat().length} bytes instead of {entry['size']}")
        elif manifest.file_hash(path) != entry["sha256"]:
            problems.append(f"{path} has changed since it was written")
    return problems
