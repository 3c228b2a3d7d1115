"""Controls and the baseline that need a class: what is said of each trial by whoever has no business knowing it.

    class prior         the commonest class of training, always
    labels permuted     a classifier of trials whose training labels were dealt out at random
    time index          a classifier that is told when the trial was, and nothing of its signal
    before the image  a classifier of the signal before the image was shown
    pseudo-blocks       a classifier of signal without any image, cut into blocks that were given classes
    classifier          a classifier of the trials themselves: no control, but what an image has to add to

A control above chance says that classes can be told without anything having been seen: then the design leaks, and so
may every score of the model.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from dreamjax.errors import UserError
from dreamjax.metrics import lda
from dreamjax.metrics.lda import Linear, Moments, Signals
from dreamjax.signals.datasets import pipeline, records
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.targets.trials import ImageTrials

PRIOR, PERMUTED, TIME, BEFORE = "class prior", "labels permuted", "time index", "before the image"
BLOCKS, CLASSIFIER = "pseudo-blocks", "classifier"
NULL = (PRIOR, PERMUTED, TIME, BEFORE, BLOCKS)
OF_CORPUS = {"block": BLOCKS, "pre_stimulus": BEFORE, "time": TIME}  # as `records.impossible` names them
PERMUTATIONS = 20
BATCH = 256  # windows read together
SAME_S = 0.01  # two windows of one recording belong to the same trial when their onsets are this close
EVOKED_S = 1.5  # so long after an onset, a window is not free of it


@dataclass(frozen=True)
class Material:
    """What controls take beside the trials: dataset folders of the same recordings."""

    before: tuple[str, ...] = ()  # windows around the same events, all of them before the image
    free: tuple[str, ...] = ()  # windows of continuous signal; those at which nothing was shown are used


@dataclass(frozen=True)
class Answer:
    """A class for every trial asked about, as a place in `Asked.names`; or none, and why."""

    name: str
    classes: Int[np.ndarray, "n"] | None
    why: str = ""  # not possible: why; or, beside classes, what there is to say


@dataclass(frozen=True)
class Asked:
    """Trials to fit, to choose and to ask about, and their classes."""

    data: DataConfig
    train: ImageTrials
    val: ImageTrials
    test: ImageTrials
    own: Int[np.ndarray, "n"]  # places in `test` that are asked about
    names: tuple[str, ...]  # classes of training
    seed: int

    @classmethod
    def of(
        cls, data: DataConfig, train: ImageTrials, val: ImageTrials, test: ImageTrials, own: np.ndarray, seed: int
    ) -> "Asked":
        return cls(data, train, val, test, own, tuple(sorted({*train.label} - {""})), seed)

    def classes(self, found: ImageTrials) -> Int[np.ndarray, "n"]:
        """Of every trial; -1 for one that training does not have."""
        place = {name: i for i, name in enumerate(self.names)}
        return np.array([place.get(label, -1) for label in found.label])

    @property
    def true(self) -> Int[np.ndarray, "n"]:
        return self.classes(self.test)[self.own]


def answers(asked: Asked, material: Material) -> list[Answer]:
    """Every control's answer, then the classifier's; what the corpus itself makes impossible is told with its reason.

    Continuous signal of another recording (`Material.free`) is no part of the corpus, so it is used where it is given.
    """
    check(material)
    told = {
        OF_CORPUS[name]: why
        for path in asked.data.path
        for name, why in records.impossible(path).items()
        if name in OF_CORPUS and not (name == "block" and material.free)
    }
    if len(asked.names) < 2:
        told = dict.fromkeys((*NULL, CLASSIFIER), "the trials have no classes")
    signals: dict[str, Signals] = {}

    def of(name: str) -> Signals:
        if name not in signals:
            signals[name] = _signals(getattr(asked, name))
        return signals[name]

    ways = {
        PRIOR: lambda: _prior(asked),
        PERMUTED: lambda: _permuted(asked, of),
        TIME: lambda: _timed(asked),
        BEFORE: lambda: _before(asked, material.before),
        BLOCKS: lambda: _blocks(asked, material.free),
        CLASSIFIER: lambda: _classified(asked, of),
    }
    return [Answer(name, None, told[name]) if name in told else way() for name, way in ways.items()]


def check(material: Material) -> None:
    """Raises UserError for a folder that cannot be what it is given as."""
    for path in material.before:
        if not _events(path).get("source"):
            raise UserError(
                f"{path}: it holds continuous signal, no trials; give --before a folder that was prepared with "
                "--events, --tmin -0.5 and --tmax 0"
            )
        if _tmin(path) >= 0 or _tmax(path) > 0:
            raise UserError(
                f"{path}: its windows reach beyond the onset of the image; prepare it with --tmin -0.5 --tmax 0"
            )
    for path in material.free:
        if _events(path).get("source"):
            raise UserError(f"{path}: it holds trials, no continuous signal; give --free one prepared without --events")


# ------------------------------------------------------------------------------------------------------------ each one
def _prior(asked: Asked) -> Answer:
    count = np.bincount(asked.classes(asked.train)[asked.classes(asked.train) >= 0], minlength=len(asked.names))
    return Answer(PRIOR, np.full(len(asked.own), int(count.argmax())), f"always {asked.names[int(count.argmax())]}")


def _classified(asked: Asked, of: Callable[[str], Signals]) -> Answer:
    model = _tuned(asked, of)
    kind = f"chosen by {model.validation:.0%} of validation trials: {model.joined} spans to one, "
    return Answer(CLASSIFIER, model(of("test")[asked.own]), kind + f"shrinkage {model.shrinkage:g}")


def _tuned(asked: Asked, of: Callable[[str], Signals]) -> Linear:
    known = {split: asked.classes(getattr(asked, split)) for split in ("train", "val")}
    train, val = ((of(split)[classes >= 0], classes[classes >= 0]) for split, classes in known.items())
    return lda.tuned(train, val)


def _permuted(asked: Asked, of: Callable[[str], Signals]) -> Answer:
    """One permutation maps separable trials onto classes that are wrong for all of a kind together, or right: each
    trial is answered by one of many.
    """
    classes, tuned = asked.classes(asked.train), _tuned(asked, of)
    x, y, test = of("train")[classes >= 0], classes[classes >= 0], of("test")[asked.own]
    rng = np.random.default_rng([asked.seed, 7])
    said = np.stack([tuned.refitted(x, rng.permutation(y))(test) for _ in range(PERMUTATIONS)])
    return Answer(PERMUTED, said[rng.integers(PERMUTATIONS, size=len(test)), np.arange(len(test))])


def _timed(asked: Asked) -> Answer:
    moments = [_moments(asked, found) for found in (asked.train, asked.val, asked.test)]
    if not any(np.ptp(part.start) > 0 for part in moments):
        return Answer(TIME, None, "the records do not tell when a trial was")
    train, val, test = moments
    own = Moments([test.recording[i] for i in asked.own], test.start[asked.own], test.classes[asked.own])
    return Answer(TIME, lda.tuned_by_time(train, val)(own))


def _moments(asked: Asked, found: ImageTrials) -> Moments:
    return Moments(found.recording, found.start, asked.classes(found))


def _before(asked: Asked, paths: Sequence[str]) -> Answer:
    if not paths:
        return Answer(BEFORE, None, "no windows before the images were given (--before FOLDER)")
    earlier, told, onset = _other(asked.data, paths)
    places = {split: _matched(getattr(asked, split), told, onset) for split in ("train", "val", "test")}
    if min((place >= 0).sum() for place in places.values()) == 0:
        raise UserError(
            f"{', '.join(paths)}: no window there is of a trial of the run; prepare the same recordings with the same "
            "--salt and events, --tmin -0.5 --tmax 0"
        )
    x, classes, kept = {}, {}, {}
    for split in ("train", "val"):
        found = getattr(asked, split)
        kept[split] = np.flatnonzero((places[split] >= 0) & (asked.classes(found) >= 0))
        x[split] = _read(earlier, places[split][kept[split]])
        classes[split] = asked.classes(found)[kept[split]]
    model = lda.tuned((x["train"], classes["train"]), (x["val"], classes["val"]))
    own = places["test"][asked.own]
    said = np.random.default_rng([asked.seed, 8]).integers(len(asked.names), size=len(own))  # where it has no window
    said[own >= 0] = model(_read(earlier, own[own >= 0]))
    missing = int((own < 0).sum())
    notes = [f"{missing} trials have no such window and were guessed"] if missing else []
    if not all(records.load_dataset(path).get("settings", {}).get("causal") for path in paths):
        notes.append(
            "filters of zero phase carry what follows the onset into the time before it: prepare with --causal"
        )
    return Answer(BEFORE, said, "; ".join(notes))


def _blocks(asked: Asked, paths: Sequence[str]) -> Answer:
    if not paths:
        return Answer(BLOCKS, None, "no continuous signal was given (--free FOLDER)")
    windows, told, start = _other(asked.data, paths, around_events=False)
    free = _free(asked, told, start)
    moments = Moments([told[i]["recording"] for i in free], start[free], np.zeros(len(free), int))
    kinds = len(asked.names)
    found = lda.pseudo_blocks(_read(windows, free), moments, kinds, asked.seed)
    if found is None:
        return Answer(
            BLOCKS,
            None,
            f"no recording has {kinds * lda.FEWEST} windows without an image, {lda.FEWEST} for each of {kinds} classes",
        )
    rng, said = np.random.default_rng([asked.seed, 9]), np.empty(len(asked.own), int)
    for i, true in enumerate(asked.true):  # a window of the block that stands for the trial's class
        among = np.flatnonzero(found.true == true)
        said[i] = found.said[rng.choice(among)] if len(among) else rng.integers(kinds)
    return Answer(BLOCKS, said, f"{len(found.true)} held-out windows of {found.recordings} recordings")


# ------------------------------------------------------------------------------------------------------------- windows
def _read(windows: pipeline.WindowExamples, places: np.ndarray) -> Signals:
    parts = []
    for first in range(0, len(places), BATCH):
        rows = windows.read(places[first : first + BATCH], places[first : first + BATCH].astype(np.uint64))
        parts.append(lda.binned(rows["signal"], rows["valid"]))
    return np.concatenate(parts) if parts else np.empty((0, windows.channels, lda.BINS), np.float32)


def _signals(found: ImageTrials) -> Signals:
    return _read(found.windows, found.record)


def _other(
    data: DataConfig, paths: Sequence[str], around_events: bool = True
) -> tuple[pipeline.WindowExamples, list[pipeline.RecordMetadata], np.ndarray]:
    """(windows, what they tell, onset of each: s since its recording's first sample; without events, its start)."""
    config = dataclasses.replace(data, path=tuple(paths), weights=())
    windows = pipeline.WindowExamples(config, records.ALL, seed=0, training=False)
    told = windows.metadata()
    start = np.array([one["start"] for one in told])
    return windows, told, start - _tmins(windows) if around_events else start


def _tmins(windows: pipeline.WindowExamples) -> np.ndarray:
    """Of every window, s: how long after its event it begins."""
    counts = [len(reader) for reader in windows.readers]
    return np.repeat([_tmin(path) for path in windows.config.path], counts)


def _tmin(path: str) -> float:
    return float(_events(path).get("tmin", 0.0))


def _tmax(path: str) -> float:
    found = _events(path).get("tmax")
    settings = records.load_dataset(path).get("settings", {})
    return float(found if found is not None else _tmin(path) + settings.get("samples", 0) / settings.get("sfreq", 1))


def _events(path: str) -> dict[str, Any]:
    return records.load_dataset(path).get("settings", {}).get("events", {}) or {}


def _matched(found: ImageTrials, told: Sequence[Mapping[str, Any]], onset: np.ndarray) -> np.ndarray:
    """Of each trial, the window of another dataset that is around the same event, or -1."""
    own = found.start - _tmins(found.windows)[found.record]
    by_recording: dict[str, list[int]] = {}
    for i, one in enumerate(told):
        by_recording.setdefault(one["recording"], []).append(i)
    out = np.full(len(found), -1)
    for trial, (recording, at) in enumerate(zip(found.recording, own, strict=True)):
        if near := by_recording.get(recording):
            best = min(near, key=lambda i: abs(onset[i] - at))
            out[trial] = best if abs(onset[best] - at) < SAME_S else -1
    return out


def _free(asked: Asked, told: Sequence[Mapping[str, Any]], start: np.ndarray) -> np.ndarray:
    """The windows without a label's image in them: nothing was shown in them, nor shortly before."""
    shown: dict[str, list[np.ndarray]] = {}
    for found in (asked.train, asked.val, asked.test):
        onset = found.start - _tmins(found.windows)[found.record]
        for recording in set(found.recording):
            shown.setdefault(recording, []).append(onset[np.asarray(found.recording) == recording])
    length = asked.data.samples / asked.data.sfreq

    def empty(one: Mapping[str, Any], at: float) -> bool:
        if one["stimulus"]:
            return False
        onsets = np.concatenate(shown.get(one["recording"], [np.empty(0)]))
        return not ((onsets > at - EVOKED_S) & (onsets < at + length)).any()

    return np.array([i for i, one in enumerate(told) if empty(one, start[i])], int)
