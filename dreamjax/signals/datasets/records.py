"""The record on disk: one window, as a TFDS example in an ArrayRecord shard (docs/reference/records.md).

A signal is stored as int16 with a step and an offset per channel, so that the error is at most half a step and nothing
can saturate: µV = counts · step + offset.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Float, Float32, Int16

from dreamjax.errors import UserError, nearest
from dreamjax.signals.datasets import examples, shards
from dreamjax.signals.datasets.shards import Shard
from dreamjax.storage import atomic, manifest

FORMAT = 1  # raised when a reader of the older format could misread the newer one
ALL = "*"  # in place of a split: every one of them
APART = "apart"  # flag: the signal does not go on from the window before (a gap, another trial, another baseline)
COUNTS = 32767  # the largest int16 that has a negative twin


@dataclass(frozen=True)
class Window:
    """A window of a recording after preprocessing, in µV; what a record holds.

    `subject`, `session` and `recording` are salted hashes, `start` counts from the recording's first sample: nothing
    here tells who was recorded or when.
    """

    signal: Float[np.ndarray, "channels time"]  # µV
    ch_names: tuple[str, ...]  # normalised 10-05 names where known
    xyz: Float[np.ndarray, "channels 3"]  # head coordinates in metres; NaN where unknown
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
    scale: float  # µV: robust scale of the whole recording (median over channels of 1.4826 · MAD)
    label: str  # trial type, "" without one
    stimulus: str  # stimulus file, "" without one
    licence: str  # SPDX id, or "unknown"
    flags: tuple[str, ...]  # what quality control noticed and kept; APART


TEXTS = ("reference", "dataset", "subject", "session", "recording", "label", "stimulus", "licence")
LISTS = ("ch_names", "flags")


# ---------------------------------------------------------------------------------------------------------- quantising
def quantise(
    signal: Float[np.ndarray, "channels time"],
) -> tuple[Int16[np.ndarray, "channels time"], Float32[np.ndarray, "channels"], Float32[np.ndarray, "channels"]]:
    """(counts, step, offset) with |counts · step + offset - signal| ≤ step / 2 in exact arithmetic; µV throughout.

    The offset is the middle of a channel's range and the step its range / 65534: a direct-current offset costs no
    resolution, and no sample lies outside. Raises UserError for NaN, infinities and values beyond float32.
    """
    signal = np.asarray(signal, np.float64)
    if signal.size == 0:
        raise UserError("an empty window cannot be stored")
    low, high = signal.min(axis=1), signal.max(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        offset = ((low + high) / 2).astype(np.float32)
        residual = signal - offset[:, None].astype(np.float64)
        peak = np.abs(residual).max(axis=1)
        step = np.nextafter(
            (peak / COUNTS).astype(np.float32), np.float32(np.inf)
        )  # rounded up: no count passes COUNTS
    if not (np.isfinite(peak).all() and np.isfinite(step).all()):
        bad = int(np.flatnonzero(~(np.isfinite(peak) & np.isfinite(step)))[0])
        raise UserError(f"channel {bad} holds NaN or infinite values; reject or repair the window before it is stored")
    step = np.where(peak == 0, np.float32(0), np.maximum(step, np.finfo(np.float32).tiny)).astype(np.float32)
    counts = np.rint(residual / np.where(step == 0, 1, step)[:, None].astype(np.float64))
    return counts.astype(np.int16), step, offset


def encode(window: Window) -> bytes:
    """A record. Raises UserError where the signal is not finite, or the parts of the window do not fit together."""
    channels, time = np.shape(window.signal)
    shapes = {"ch_names": (channels,), "xyz": (channels, 3), "channel_ok": (channels,), "valid": (time,)}
    for name, shape in shapes.items():
        if np.shape(getattr(window, name)) != shape:
            raise UserError(
                f"recording {window.recording}: {name} has shape {np.shape(getattr(window, name))}, not {shape}"
            )
    try:
        counts, step, offset = quantise(window.signal)
    except UserError as problem:
        raise UserError(f"recording {window.recording}, window at {window.start:g} s: {problem}") from problem
    features: dict[str, Any] = {
        "signal/value": counts.tobytes(),
        "signal/shape": [channels, time],
        "step": step.tobytes(),
        "offset": offset.tobytes(),
        "xyz": np.asarray(window.xyz, np.float32).tobytes(),
        "valid": np.asarray(window.valid, bool).tobytes(),
        "channel_ok": np.asarray(window.channel_ok, bool).tobytes(),
        "sfreq": np.float64(window.sfreq).tobytes(),
        "start": np.float64(window.start).tobytes(),
        "scale": np.float64(window.scale).tobytes(),
        "montage_rank": int(window.montage_rank),
    }
    features |= {name: getattr(window, name).encode() for name in TEXTS}
    features |= {name: [text.encode() for text in getattr(window, name)] for name in LISTS}
    return examples.serialise(features)


def decode(record: bytes) -> Window:
    """The window of a record, float32 µV; samples that are padding come back as exact zeros."""
    feature = examples.parse(record)

    def one(name: str) -> bytes:
        return feature[name].bytes_list.value[0]

    shape = tuple(feature["signal/shape"].int64_list.value)
    counts = np.frombuffer(one("signal/value"), np.int16).reshape(shape)
    step, offset = np.frombuffer(one("step"), np.float32), np.frombuffer(one("offset"), np.float32)
    valid = np.frombuffer(one("valid"), bool)
    signal = counts * step[:, None] + offset[:, None]
    if not valid.all():
        signal[:, ~valid] = 0
    return Window(
        signal=signal,
        xyz=np.frombuffer(one("xyz"), np.float32).reshape(-1, 3),
        sfreq=float(np.frombuffer(one("sfreq"))[0]),
        montage_rank=int(feature["montage_rank"].int64_list.value[0]),
        start=float(np.frombuffer(one("start"))[0]),
        valid=valid,
        channel_ok=np.frombuffer(one("channel_ok"), bool),
        scale=float(np.frombuffer(one("scale"))[0]),
        **{name: one(name).decode() for name in TEXTS},  # type: ignore[arg-type]
        **{name: tuple(t.decode() for t in feature[name].bytes_list.value) for name in LISTS},  # type: ignore[arg-type]
    )


@cache
def tfds_features() -> Any:
    """The record as TFDS describes it: `encode` writes exactly what this FeaturesDict serialises."""
    import tensorflow_datasets as tfds

    def raw(shape: tuple[int | None, ...], dtype: Any, doc: str) -> Any:
        return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes", doc=doc)

    def texts(doc: str) -> Any:
        return tfds.features.Sequence(tfds.features.Text(), doc=doc)

    return tfds.features.FeaturesDict(
        {
            "signal": raw((None, None), np.int16, "channels × time; µV = signal · step + offset"),
            "step": raw((None,), np.float32, "µV per count, by channel"),
            "offset": raw((None,), np.float32, "µV at count 0, by channel"),
            "xyz": raw((None, 3), np.float32, "electrode positions, head coordinates in metres; NaN where unknown"),
            "valid": raw((None,), np.bool_, "False where a shorter trial was padded, by sample"),
            "channel_ok": raw((None,), np.bool_, "False where quality control flagged the channel"),
            "sfreq": raw((), np.float64, "Hz"),
            "start": raw((), np.float64, "s since the recording's first sample"),
            "scale": raw((), np.float64, "µV: robust scale of the whole recording"),
            "montage_rank": tfds.features.Scalar(np.int32, doc="rank of the scalp signal"),
            "ch_names": texts("normalised channel names"),
            "flags": texts("what quality control noticed and kept"),
            **{name: tfds.features.Text() for name in TEXTS},
        }
    )


# ------------------------------------------------------------------------------------------------------ dataset folders
SHARD_BYTES = 128 << 20  # of records before compression
VERSION = "1.0.0"  # TFDS wants one


class ShardWriter(shards.Writer):
    """A shard of windows, for child processes too: the file has its name only once it is whole (`shards.Writer`)."""

    def write(self, window: Window) -> None:  # type: ignore[override]
        super().write(encode(window))


def valid_name(kind: str, name: str) -> str:
    """`name` of a dataset or split. Raises UserError where it cannot be one."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"{name!r} cannot be the name of a {kind}: use lower-case letters, digits and _")
    return name


def _write_shards(
    out_dir: epath.PathLike, name: str, split: str, records: Iterable[bytes], shard_bytes: int
) -> list[Shard]:
    """Records → `NAME-SPLIT.array_record-00000-of-0000N`, a new shard every `shard_bytes`."""
    folder = epath.Path(out_dir)
    stem = f"{valid_name('dataset', name)}-{valid_name('split', split)}.array_record"
    finished: list[Shard] = []
    writer: shards.Writer | None = None
    try:
        for record in records:
            if writer is None or writer.bytes >= shard_bytes:
                if writer is not None:
                    finished.append(writer.close())
                writer = shards.Writer(folder / f".{stem}-{len(finished):05d}.unnamed")
            writer.write(record)
        if writer is not None:
            finished.append(writer.close())
    except BaseException:
        if writer is not None:
            writer.abort()
        for shard in finished:
            (folder / shard.name).unlink(missing_ok=True)
        raise
    named = []
    for i, shard in enumerate(finished):
        final = f"{stem}-{i:05d}-of-{len(finished):05d}"
        (folder / shard.name).replace(folder / final)
        named.append(Shard(final, shard.records, shard.size, shard.sha256))
    return named


def write_split(
    out_dir: epath.PathLike, name: str, split: str, windows: Iterable[Window], *, shard_bytes: int = SHARD_BYTES
) -> list[Shard]:
    """Write the windows of one split, in order. Call `finish` when every split is written."""
    return _write_shards(out_dir, name, split, (encode(w) for w in windows), shard_bytes)


def merge(
    parts: Sequence[epath.PathLike], out_dir: epath.PathLike, name: str, split: str, *, shard_bytes: int = SHARD_BYTES
) -> list[Shard]:
    """The records of `parts` (shards that `ShardWriter` wrote), in order, as the shards of one split."""

    def records() -> Iterator[bytes]:
        for part in parts:
            with shards.opened(part) as reader:
                yield from (reader[i] for i in range(len(reader)))

    return _write_shards(out_dir, name, split, records(), shard_bytes)


def finish(
    out_dir: epath.PathLike, name: str, splits: Mapping[str, Sequence[Shard]], extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write features.json and dataset_info.json (TFDS), then dataset.json; returns what dataset.json holds.

    dataset.json, written last, makes the folder a dataset: `extra` (hours, filters, versions, …) and `name`, `format`,
    `splits` (name → records), `shards` (file → records, size, sha256) and `labels` (sorted; their places are the ids).
    """
    import tensorflow_datasets as tfds

    folder = epath.Path(out_dir)
    splits = {split: found for split, found in splits.items() if found}
    if not splits:
        raise UserError(f"{folder}: there is no window to make a dataset of")
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=valid_name("dataset", name), filetype_suffix="array_record"
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=tfds_features(),
        split_infos=[
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[shard.records for shard in found],
                num_bytes=sum(shard.size for shard in found),
                filename_template=template.replace(split=split),
            )
            for split, found in splits.items()
        ],
        version=VERSION,
        filename_template=template,
        check_data=False,
    )
    dataset = {
        **(extra or {}),
        "name": name,
        "format": FORMAT,
        "splits": {split: sum(shard.records for shard in found) for split, found in splits.items()},
        "shards": {
            s.name: {k: v for k, v in asdict(s).items() if k != "name"} for found in splits.values() for s in found
        },
    }
    if "labels" not in dataset:
        dataset["labels"] = _labels(folder, splits)
    atomic.write_text(folder / "dataset.json", json.dumps(dataset, indent=1))
    return dataset


def _labels(folder: epath.Path, splits: Mapping[str, Sequence[Shard]]) -> list[str]:
    """Every label of the dataset but the empty one, sorted: the vocabulary whose places are the label ids."""
    found: set[bytes] = set()
    for split in splits.values():
        reader = shards.Reader([folder / s.name for s in split], [s.records for s in split])
        for i in range(len(reader)):
            found.add(examples.parse(reader[i])["label"].bytes_list.value[0])
    return sorted(label.decode() for label in found - {b""})


# -------------------------------------------------------------------------------------------------------------- reading
def is_dataset(folder: epath.PathLike) -> bool:
    """Whether `dreamjax prepare` wrote this folder."""
    return (epath.Path(folder) / "dataset.json").exists()


def load_dataset(folder: epath.PathLike) -> dict[str, Any]:
    """dataset.json. Raises UserError for another folder, or a format that this version does not know."""
    folder = epath.Path(folder)
    if not folder.exists():
        raise UserError(f"{folder}: no such dataset folder")
    dataset = shards.load_json(folder / "dataset.json")
    missing = [key for key in ("name", "format", "splits", "shards") if key not in dataset]
    if missing:
        raise UserError(f"{folder}/dataset.json has no {missing[0]}; prepare the dataset again")
    if dataset["format"] != FORMAT:
        raise UserError(f"{folder}: its record format is {dataset['format']}, this dreamjax reads {FORMAT}")
    return dataset


def impossible(folder: epath.PathLike) -> dict[str, str]:
    """Controls that the experiment behind a dataset rules out, and why: of "block", "pre_stimulus", …; usually none."""
    return dict(load_dataset(folder).get("design", {}).get("impossible", {}))


def open_split(folder: epath.PathLike, split: str) -> shards.Reader:
    """The serialised records of a split, in order; those of every split, one after another, for `ALL`."""
    folder = epath.Path(folder)
    dataset = load_dataset(folder)
    if split == ALL:
        readers = [open_split(folder, each) for each in dataset["splits"]]
        return shards.Reader([p for r in readers for p in r.paths], [n for r in readers for n in r.records])
    if split not in dataset["splits"]:
        guess = nearest(split, list(dataset["splits"]))
        hint = f"did you mean {guess}?" if guess else f"it has {', '.join(dataset['splits'])}"
        raise UserError(f"{folder} has no split {split}; {hint}")
    prefix = f"{dataset['name']}-{split}.array_record-"
    names = sorted(n for n in dataset["shards"] if n.startswith(prefix))
    return shards.Reader([folder / n for n in names], [dataset["shards"][n]["records"] for n in names])


class Windows(Sequence[Window]):
    """The windows of a split, read when asked for."""

    def __init__(self, reader: shards.Reader):
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return [decode(r) for r in self.reader.read(range(len(self))[key])]
        return decode(self.reader[range(len(self))[key]])


def read_windows(folder: epath.PathLike, split: str) -> Windows:
    """Random access to the windows of a split: `len`, `[i]`, slices, iteration. Raises UserError naming a bad shard."""
    return Windows(open_split(folder, split))


def verify(folder: epath.PathLike) -> list[str]:
    """What is wrong with a dataset's shards, a phrase each; empty when every byte is as it was written."""
    folder = epath.Path(folder)
    found = []
    for name, entry in load_dataset(folder)["shards"].items():
        path = folder / name
        if not path.exists():
            found.append(f"{path} is missing")
        elif path.stat().length != entry["size"]:
            found.append(f"{path} has {path.stat().length} bytes instead of {entry['size']}")
        elif manifest.file_hash(path) != entry["sha256"]:
            found.append(f"{path} has changed since it was written")
    return found
