"""Brain responses to images, held in memory: which image was shown in each trial, and which trials are held out.

train, val, test = (load(config, split) for split in ("train", "val", "test"))

The test split is the corpus's own. Validation takes whole concepts (or images, or the end of every session) away from
training, by a hash of their names, so that a checkpoint can be chosen without the test set. Images whose concept is
tested are not trained on.
"""

import functools
import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from dreamjax.errors import UserError, nearest
from dreamjax.signals.datasets import records
from dreamjax.signals.datasets.records import Window
from dreamjax.targets.catalogue import Catalogue, catalogue

Split = Literal["train", "val", "test"]
SPLITS = ("train", "val", "test")
IQR = 1.349  # of a normal distribution, in standard deviations
SMALLEST = 1e-12  # spread of a channel that does not vary


@dataclass(frozen=True)
class ResponseConfig:
    """Which responses are read, how they are scaled, and which of them are held out."""

    path: tuple[str, ...] = ()  # dataset folders, as `dreamjax prepare` writes them
    channels: tuple[str, ...] = ()  # names, in this order; empty: those of the records, which must be alike
    tmin: float | None = None  # s after image onset of the first sample that is read; None: as stored
    tmax: float | None = None  # s, of the end; None: as stored
    baseline: tuple[float, ...] = ()  # (from, to) in s: whose mean is subtracted; empty: none
    scaling: Literal["none", "zscore", "robust"] = "robust"  # of each channel, by the person's training trials
    clip: float = 20.0  # largest scaled magnitude; 0: no limit
    repeats: Literal["average", "single"] = "average"  # of an image and a person, in training
    test_repeats: Literal["average", "single"] = "average"
    people: tuple[str, ...] = ()  # trained on; empty: all
    test_people: tuple[str, ...] = ()  # tested; empty: those trained on
    test_split: str = "test"  # of the dataset
    validation: Literal["concepts", "images", "timeline", "none"] = "concepts"  # taken from training
    val_share: float = 0.1
    identified: bool = True  # whether a network is told whose trial it reads
    concepts_apart: bool = True  # do not train on images whose concept is tested

    def __post_init__(self) -> None:
        for name in ("path", "channels", "people", "test_people"):
            if twice := [one for one, count in Counter(getattr(self, name)).items() if count > 1]:
                raise ValueError(f"data.{name} has {twice[0]} more than once; name each once")
        times = [*self.baseline, self.clip, *(t for t in (self.tmin, self.tmax) if t is not None)]
        if not all(map(math.isfinite, times)):
            raise ValueError("data.tmin, tmax, baseline and clip must be finite numbers")
        if not 0 < self.val_share < 1:
            raise ValueError(f"data.val_share is {self.val_share}, but it must be a share between 0 and 1")
        if self.baseline and (len(self.baseline) != 2 or not self.baseline[0] < self.baseline[1]):
            raise ValueError(f"data.baseline is {self.baseline}, but it must be two times in s, the earlier one first")
        if None not in (self.tmin, self.tmax) and not self.tmin < self.tmax:  # type: ignore[operator]
            raise ValueError(f"data.tmin is {self.tmin} and data.tmax {self.tmax}; the earlier one comes first")
        if self.test_split == "train":
            raise ValueError('data.test_split is "train", but its trials are trained on; choose a split held out of it')
        if self.clip < 0:
            raise ValueError(f"data.clip is {self.clip}, but it must be 0 (no limit) or more")


@dataclass(frozen=True)
class Responses:
    """The trials of a split. `image` counts in `images`, `subject` in `subjects`; `concept` is that of each image."""

    signal: Float[np.ndarray, "N C T"]  # scaled
    image: Int[np.ndarray, "N"]
    subject: Int[np.ndarray, "N"]
    session: Int[np.ndarray, "N"]  # a number for each session of each person; -1 of averages over several
    repeats: Int[np.ndarray, "N"]  # trials that are averaged in it
    start: Float[np.ndarray, "N"]  # s since the start of the recording; NaN of averages
    images: tuple[str, ...]  # all of the corpora, of every split
    concept: tuple[str, ...]
    subjects: tuple[str, ...]  # pseudonyms of all people of the corpora
    ch_names: tuple[str, ...]
    sensor_kind: tuple[str, ...]
    xyz: Float[np.ndarray, "C 3"]  # m; NaN where unknown
    sfreq: float
    tmin: float
    modality: str
    unit: str

    def __len__(self) -> int:
        return len(self.image)

    @property
    def gallery(self) -> Int[np.ndarray, "M"]:
        """Return the images that were shown in these trials, ascending."""
        return np.unique(self.image)

    def take(self, rows: np.ndarray) -> "Responses":
        """Return some of the trials."""
        names = ("signal", "image", "subject", "session", "repeats", "start")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})


# -------------------------------------------------------------------------------------------------------------- splits
def members(config: ResponseConfig, known: Catalogue, split: Split) -> Int[np.ndarray, "n"]:
    """Return the records of a split, without looking at any signal. Raise UserError where there are none."""
    here = known.image >= 0
    stored = set(known.split.tolist())
    if config.test_split not in stored:
        raise UserError(
            f"data.test_split is {config.test_split!r}, but the dataset has {', '.join(sorted(stored))}; choose one"
        )
    trained = _people(config.people, known)
    tested = _people(config.test_people or config.people, known)
    concept = np.array(known.concept)[known.image]
    test = here & (known.split == config.test_split)
    if split == "test":
        return _some(np.flatnonzero(test & tested), config, split)
    train = here & (known.split == "train") & trained
    if config.concepts_apart:
        train &= ~np.isin(concept, np.unique(concept[test]))
    held_out = _validation(config, known, train, concept)
    return _some(np.flatnonzero(train & (held_out if split == "val" else ~held_out)), config, split)


def _some(rows: np.ndarray, config: ResponseConfig, split: str) -> np.ndarray:
    if not len(rows):
        hints = {
            "train": "set data.concepts_apart=false to train on other images of tested concepts",
            "val": "raise data.val_share, or set data.validation=none",
            "test": "choose another data.test_split",
        }
        raise UserError(f"{', '.join(config.path)}: no trial is in split {split}; {hints[split]}")
    return rows


def _people(names: Sequence[str], known: Catalogue) -> Bool[np.ndarray, "records"]:
    for name in names:
        if name not in known.subjects:
            guess = nearest(name, known.subjects)
            raise UserError(f"no person {name!r} in the data; " + (f"did you mean {guess}?" if guess else
                            f"it has {', '.join(known.subjects[:8])}"))  # fmt: skip
    chosen = [known.subjects.index(name) for name in names] or range(len(known.subjects))
    return np.isin(known.subject, list(chosen))


def _validation(
    config: ResponseConfig, known: Catalogue, train: Bool[np.ndarray, "records"], concept: np.ndarray
) -> Bool[np.ndarray, "records"]:
    """Return which training records are held out for validation."""
    if config.validation == "none":
        return np.zeros(len(train), bool)
    if config.validation == "timeline":  # the last part of every session; images may be shown again in it
        late = np.zeros(len(train), bool)
        for session in np.unique(known.session[train]):
            rows = np.flatnonzero(train & (known.session == session))
            order = rows[np.argsort(known.start[rows], kind="stable")]
            late[order[len(order) - max(1, round(config.val_share * len(order))) :]] = True
        return late
    of = concept if config.validation == "concepts" else np.array(known.images)[known.image]
    names = sorted(set(of[train].tolist()), key=lambda name: hashlib.sha256(f"validation {name}".encode()).digest())
    count = max(1, round(config.val_share * len(names)))
    return train & np.isin(of, names[:count])


# ------------------------------------------------------------------------------------------------------------- signals
def load(config: ResponseConfig, split: Split) -> Responses:
    """Return the trials of a split, scaled; repetitions averaged where the config says so. Cached.

    Raise UserError for records that differ in channels, rate or length, and for times that they do not cover.
    """
    if split not in SPLITS:
        raise UserError(f"responses have the splits {', '.join(SPLITS)}, not {split}")
    catalogue(config.path)  # raises UserError where there are none
    stamps = tuple(str(records.load_dataset(path)["shards"]) for path in config.path)
    return _load(config, split, stamps)


@functools.lru_cache(maxsize=6)  # the splits of two people
def _load(config: ResponseConfig, split: Split, stamps: tuple[str, ...]) -> Responses:
    known = catalogue(config.path)
    rows = members(config, known, split)
    single = (config.test_repeats if split == "test" else config.repeats) == "single"
    raw = _read(config, known, rows, single)
    signal = raw.signal
    if config.scaling != "none":
        signal = np.empty_like(raw.signal)
        for person in np.unique(raw.subject):
            of = raw.subject == person
            centre, spread = _scale(config, stamps, int(person))
            signal[of] = (raw.signal[of] - centre[:, None]) / spread[:, None]
    if config.clip:
        np.clip(signal, -config.clip, config.clip, out=signal)
    return replace(raw, signal=signal)


@functools.lru_cache(maxsize=64)
def _scale(config: ResponseConfig, stamps: tuple[str, ...], person: int) -> tuple[np.ndarray, np.ndarray]:
    """Return centre and spread of each channel over one person's training trials, whose images play no part."""
    known = catalogue(config.path)
    alone = replace(config, people=(known.subjects[person],), test_people=(), validation="none", scaling="none")
    signal = _read(alone, known, members(alone, known, "train"), single=config.repeats == "single").signal
    flat = signal.swapaxes(0, 1).reshape(signal.shape[1], -1)
    if config.scaling == "zscore":
        centre, spread = flat.mean(1, dtype=np.float64), flat.std(1, dtype=np.float64)
    else:
        low, centre, high = np.percentile(flat, (25, 50, 75), axis=1)
        spread = (high - low) / IQR
    return centre.astype(np.float32), np.where(spread > SMALLEST, spread, 1.0).astype(np.float32)


def _read(config: ResponseConfig, known: Catalogue, rows: np.ndarray, single: bool) -> Responses:
    """Return records as they are, cut and with their baseline subtracted; `single`: not averaged over repetitions."""
    keys = np.stack([known.subject[rows], known.image[rows]], axis=1)
    groups, of_group = np.unique(keys, axis=0, return_inverse=True)
    of_group = np.arange(len(rows)) if single else of_group.reshape(-1)
    count = len(rows) if single else len(groups)
    total: np.ndarray | None = None
    reader = _Reader(config, known)
    for at, window in reader(rows):
        if total is None:
            total = np.zeros((count, *reader.shape), np.float32)
        total[of_group[at]] += window
    assert total is not None
    assert reader.first is not None
    repeats = np.bincount(of_group, minlength=count)
    total /= repeats[:, None, None]
    one = reader.first
    return Responses(
        signal=total,
        image=known.image[rows] if single else groups[:, 1],
        subject=known.subject[rows] if single else groups[:, 0],
        session=known.session[rows] if single else np.full(count, -1),
        repeats=repeats,
        start=known.start[rows] if single else np.full(count, np.nan),
        images=known.images,
        concept=known.concept,
        subjects=known.subjects,
        ch_names=reader.names,
        sensor_kind=tuple(one.sensor_kind[i] for i in reader.picks),
        xyz=one.xyz[list(reader.picks)],
        sfreq=one.sfreq,
        tmin=reader.tmin,
        modality=one.modality,
        unit=one.unit,
    )


class _Reader:
    """Read records one after another: (position in `rows`, signal of the chosen channels and samples)."""

    def __init__(self, config: ResponseConfig, known: Catalogue):
        self.config, self.known = config, known
        self.readers = [records.open_split(path, records.ALL) for path in config.path]
        self.first: Window | None = None
        self.shape: tuple[int, int] = (0, 0)
        self.names: tuple[str, ...] = ()
        self.picks: tuple[int, ...] = ()
        self.tmin = 0.0
        self.cut = self.base = slice(0)

    def __call__(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        begins = np.concatenate([[0], self.known.ends[:-1]])
        for number, (reader, begin, end) in enumerate(zip(self.readers, begins, self.known.ends, strict=True)):
            within = np.flatnonzero((rows >= begin) & (rows < end))
            for first in range(0, len(within), 256):
                some = within[first : first + 256]
                for at, record in zip(some, reader.read((rows[some] - begin).tolist()), strict=True):
                    window = records.decode(record)
                    if self.first is None:
                        self._choose(window, number)
                    self._check(window, number)
                    signal = window.signal[list(self.picks)] if self.picks else window.signal
                    if self.config.baseline:
                        signal = signal - signal[:, self.base].mean(1, keepdims=True)
                    yield at, signal[:, self.cut]

    def _choose(self, window: Window, number: int) -> None:
        config, names = self.config, window.ch_names
        if missing := [name for name in config.channels if name not in names]:
            guess = nearest(missing[0], names)
            hint = f"did you mean {guess}?" if guess else f"the records have {', '.join(names[:8])}, …"
            raise UserError(f"data.channels: no channel {missing[0]!r} in {config.path[number]}; {hint}")
        self.picks = tuple(names.index(name) for name in config.channels or names)
        self.names = tuple(names[i] for i in self.picks)
        begins = float(self.known.settings[number].get("tmin", 0.0) or 0.0)
        length = window.signal.shape[1]
        self.cut, self.tmin = _samples(config.tmin, config.tmax, begins, window.sfreq, length, "data.tmin and tmax")
        if config.baseline:
            first, last = config.baseline
            self.base, _ = _samples(first, last, begins, window.sfreq, length, "data.baseline")
        self.first, self.shape = window, (len(self.picks), self.cut.stop - self.cut.start)

    def _check(self, window: Window, number: int) -> None:
        assert self.first is not None
        for what in ("ch_names", "sfreq", "modality", "unit"):
            one, other = getattr(self.first, what), getattr(window, what)
            if one != other:
                raise UserError(
                    f"{self.config.path[number]}: records differ in {what}; name the channels that all have with "
                    "data.channels" if what == "ch_names" else
                    f"{self.config.path[number]}: records differ in {what} ({one} and {other}); prepare them alike"
                )  # fmt: skip
        if window.signal.shape[1] != self.first.signal.shape[1]:
            raise UserError(
                f"{self.config.path[number]}: records have {self.first.signal.shape[1]} and {window.signal.shape[1]} "
                "samples; prepare them alike"
            )


def _samples(
    start: float | None, stop: float | None, begins: float, sfreq: float, length: int, what: str
) -> tuple[slice, float]:
    """Return the samples from `start` to before `stop`, and the time of the first.

    Raise UserError for times beyond the record.
    """
    ends = begins + length / sfreq
    low = 0 if start is None else round((start - begins) * sfreq)
    high = length if stop is None else round((stop - begins) * sfreq)
    if not 0 <= low < high <= length:
        raise UserError(f"{what}: {start} to {stop} s, but records last from {begins:g} to {ends:g} s after onset")
    return slice(low, high), begins + low / sfreq
