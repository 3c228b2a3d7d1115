"""Null controls and a baseline that predict a class for each trial.

    class prior         always the most frequent class of training
    labels permuted     a classifier of trials, trained on permuted labels
    time index          a classifier of the time of the trial, without its signal
    before the image    a classifier of the signal before the image was shown
    pseudo-blocks       a classifier of signal without images, cut into blocks with assigned classes
    classifier          a classifier of the trials themselves: not a control, but the baseline for generated images

A control above chance shows that classes can be predicted without the image: the design leaks, and every score of the
model may be inflated.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from dreamjax.errors import UserError
from dreamjax.metrics import lda
from dreamjax.metrics.lda import BinnedTrials, LinearClassifier, TrialTimes
from dreamjax.signals.datasets import pipeline, records
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.signals.datasets.examples import Rows
from dreamjax.targets.trials import ImageTrials
from dreamjax.typing import JsonDict

PRIOR, PERMUTED, TIME, BEFORE = "class prior", "labels permuted", "time index", "before the image"
BLOCKS, CLASSIFIER = "pseudo-blocks", "classifier"
OF_CORPUS = {"block": BLOCKS, "pre_stimulus": BEFORE, "time": TIME}  # as `records.impossible` names them
PERMUTATIONS = 20
SAME_S = 0.01  # two windows of one recording belong to the same trial when their onsets are this close
EVOKED_S = 1.5  # s after an onset in which a window is not free of the response


@dataclass(frozen=True)
class ControlData:
    """Dataset folders of the same recordings that some controls need in addition to the trials."""

    before: tuple[str, ...] = ()  # windows around the same events, all of them before the image
    free: tuple[str, ...] = ()  # windows of continuous signal; those at which nothing was shown are used


@dataclass(frozen=True)
class Answer:
    """A class for every scored trial, as an index into `ClassTask.names`; or no classes, and the reason."""

    name: str
    classes: Int[np.ndarray, "n"] | None
    why: str = ""  # why there are no classes; or a note on them


@dataclass(frozen=True)
class ClassTask:
    """Trials to fit, choose and score classifiers on, and their classes."""

    data: DataConfig
    train: ImageTrials
    val: ImageTrials
    test: ImageTrials
    scored: Int[np.ndarray, "n"]  # places in `test`
    names: tuple[str, ...]  # classes of training
    seed: int

    @classmethod
    def of(
        cls, data: DataConfig, train: ImageTrials, val: ImageTrials, test: ImageTrials, scored: np.ndarray, seed: int
    ) -> "ClassTask":
        return cls(data, train, val, test, scored, tuple(sorted({*train.label} - {""})), seed)

    def classes(self, trials: ImageTrials) -> Int[np.ndarray, "n"]:
        """Return the class of every trial; -1 for one that training does not have."""
        place = {name: i for i, name in enumerate(self.names)}
        return np.array([place.get(label, -1) for label in trials.label])

    @property
    def true(self) -> Int[np.ndarray, "n"]:
        """Return the classes of the scored trials."""
        return self.classes(self.test)[self.scored]

    @property
    def parts(self) -> dict[str, ImageTrials]:
        return {"train": self.train, "val": self.val, "test": self.test}

    @functools.cached_property
    def signals(self) -> dict[str, BinnedTrials]:
        """Return the binned signals of every trial by split."""
        return {name: _read(part.windows, part.record) for name, part in self.parts.items()}

    @functools.cached_property
    def classifier(self) -> LinearClassifier:
        """Return a classifier fitted on the training trials, chosen on the validation trials."""
        return lda.tuned(self.known("train"), self.known("val"))

    def known(self, split: str) -> tuple[BinnedTrials, Int[np.ndarray, "n"]]:
        """Return the signals and classes of the trials whose class training has."""
        classes = self.classes(self.parts[split])
        return self.signals[split][classes >= 0], classes[classes >= 0]


def answers(task: ClassTask, material: ControlData) -> list[Answer]:
    """Return the answers of every control, then the classifier's; an impossible control has the reason instead.

    Continuous signal of another recording (`ControlData.free`) is not part of the corpus; it is used where given.
    """
    check(material)
    impossible = {
        OF_CORPUS[name]: why
        for path in task.data.path
        for name, why in records.impossible(path).items()
        if name in OF_CORPUS and not (name == "block" and material.free)
    }
    ways = {PRIOR: _prior, PERMUTED: _permuted, TIME: _timed, BEFORE: _before, BLOCKS: _blocks, CLASSIFIER: _classified}
    if len(task.names) < 2:
        impossible = dict.fromkeys(ways, "the trials have no classes")
    return [
        Answer(name, None, impossible[name]) if name in impossible else way(task, material)
        for name, way in ways.items()
    ]


def check(material: ControlData) -> None:
    """Raise UserError for a folder that does not hold what its option takes."""
    for path in material.before:
        settings, events = _settings(path)
        if not events.get("source"):
            raise UserError(
                f"{path}: it holds continuous signal, not trials; give --before a folder that was prepared with "
                "--events, --tmin -0.5 and --tmax 0"
            )
        tmin, tmax = float(events.get("tmin", 0.0)), events.get("tmax")
        end = tmin + settings.get("samples", 0) / settings.get("sfreq", 1) if tmax is None else float(tmax)
        if tmin >= 0 or end > 0:
            raise UserError(
                f"{path}: its windows reach beyond the onset of the image; prepare it with --tmin -0.5 --tmax 0"
            )
    for path in material.free:
        if _settings(path)[1].get("source"):
            raise UserError(
                f"{path}: it holds trials, not continuous signal; give --free one prepared without --events"
            )


def _prior(task: ClassTask, _: ControlData) -> Answer:
    classes = task.classes(task.train)
    commonest = int(np.bincount(classes[classes >= 0], minlength=len(task.names)).argmax())
    return Answer(PRIOR, np.full(len(task.scored), commonest), f"always {task.names[commonest]}")


def _classified(task: ClassTask, _: ControlData) -> Answer:
    model = task.classifier
    right = f"{model.validation:.0%}" if np.isfinite(model.validation) else "none"
    kind = f"chosen by {right} of validation trials: {model.joined} spans to one, "
    return Answer(CLASSIFIER, model(task.signals["test"][task.scored]), kind + f"shrinkage {model.shrinkage:g}")


def _permuted(task: ClassTask, _: ControlData) -> Answer:
    """Answer each trial with one of many permutations.

    With separable trials, a single permutation would be wrong, or right, for all trials of a class at once.
    """
    (x, y), test = task.known("train"), task.signals["test"][task.scored]
    rng = np.random.default_rng([task.seed, 7])
    models = (task.classifier.refitted(x, rng.permutation(y)) for _ in range(PERMUTATIONS))
    predicted = np.stack([model(test) for model in models])
    return Answer(PERMUTED, predicted[rng.integers(PERMUTATIONS, size=len(test)), np.arange(len(test))])


def _timed(task: ClassTask, _: ControlData) -> Answer:
    times = [TrialTimes(part.recording, part.start, task.classes(part)) for part in task.parts.values()]
    if not any(np.ptp(part.start) > 0 for part in times):
        return Answer(TIME, None, "the records do not hold the times of trials")
    train, val, test = times
    scored = TrialTimes([test.recording[i] for i in task.scored], test.start[task.scored], test.classes[task.scored])
    return Answer(TIME, lda.tuned_by_time(train, val)(scored))


def _before(task: ClassTask, material: ControlData) -> Answer:
    if not (paths := material.before):
        return Answer(BEFORE, None, "no windows before the images were given (--before FOLDER)")
    earlier, metadata, onset = _other(task.data, paths)
    places = {name: _matched(part, metadata, onset) for name, part in task.parts.items()}
    if min((place >= 0).sum() for place in places.values()) == 0:
        raise UserError(
            f"{', '.join(paths)}: no window there is of a trial of the run; prepare the same recordings with the same "
            "--salt and events, --tmin -0.5 --tmax 0"
        )
    known = {name: task.classes(task.parts[name]) for name in ("train", "val")}
    kept = {name: (places[name] >= 0) & (classes >= 0) for name, classes in known.items()}
    train, val = ((_read(earlier, places[name][kept[name]]), known[name][kept[name]]) for name in known)
    model = lda.tuned(train, val)
    scored = places["test"][task.scored]
    predicted = np.random.default_rng([task.seed, 8]).integers(len(task.names), size=len(scored))  # without a window
    predicted[scored >= 0] = model(_read(earlier, scored[scored >= 0]))
    missing = int((scored < 0).sum())
    notes = [f"{missing} trials have no such window and were guessed"] if missing else []
    if not all(_settings(path)[0].get("causal") for path in paths):
        notes.append(
            "filters of zero phase carry what follows the onset into the time before it: prepare with --causal"
        )
    return Answer(BEFORE, predicted, "; ".join(notes))


def _blocks(task: ClassTask, material: ControlData) -> Answer:
    if not (paths := material.free):
        return Answer(BLOCKS, None, "no continuous signal was given (--free FOLDER)")
    windows, metadata, start = _other(task.data, paths, around_events=False)
    free = _free(task, metadata, start)
    times = TrialTimes([metadata[i]["recording"] for i in free], start[free], np.zeros(len(free), int))
    kinds = len(task.names)
    blocks = lda.pseudo_blocks(_read(windows, free), times, kinds, task.seed)
    if blocks is None:
        least = f"{kinds * lda.FEWEST} windows without an image, {lda.FEWEST} for each of {kinds} classes"
        return Answer(BLOCKS, None, f"no recording has {least}")
    rng, predicted = np.random.default_rng([task.seed, 9]), np.empty(len(task.scored), int)
    for i, true in enumerate(task.true):  # a window of the block that was assigned the trial's class
        among = np.flatnonzero(blocks.true == true)
        predicted[i] = blocks.predicted[rng.choice(among)] if len(among) else rng.integers(kinds)
    return Answer(BLOCKS, predicted, f"{len(blocks.true)} held-out windows of {blocks.recordings} recordings")


def rows_of(examples: pipeline.WindowExamples, keys: np.ndarray, size: int = 256) -> Iterator[Rows]:
    """Return the windows with these keys, some at a time."""
    for first in range(0, len(keys), size):
        some = keys[first : first + size]
        yield examples.read(some, some.astype(np.uint64))


def _read(windows: pipeline.WindowExamples, places: np.ndarray) -> BinnedTrials:
    parts = [lda.binned(rows["signal"], rows["valid"]) for rows in rows_of(windows, places)]
    return np.concatenate(parts) if parts else np.empty((0, windows.channels, lda.BINS), np.float32)


def _other(
    data: DataConfig, paths: Sequence[str], around_events: bool = True
) -> tuple[pipeline.WindowExamples, Sequence[pipeline.RecordMetadata], np.ndarray]:
    """Return windows, their metadata, and the onset of each in s of its recording; without events, its start."""
    config = dataclasses.replace(data, path=tuple(paths), weights=())
    windows = pipeline.WindowExamples(config, records.ALL, seed=0, training=False)
    metadata = windows.metadata()
    start = np.array([one["start"] for one in metadata])
    return windows, metadata, start - _tmins(windows) if around_events else start


def _tmins(windows: pipeline.WindowExamples) -> np.ndarray:
    """Return how long after its event every window begins, s."""
    counts = [len(reader) for reader in windows.readers]
    return np.repeat([float(_settings(path)[1].get("tmin", 0.0)) for path in windows.config.path], counts)


def _onsets(trials: ImageTrials) -> np.ndarray:
    """Return the onset of each trial's image, s of its recording."""
    return trials.start - _tmins(trials.windows)[trials.record]


def _settings(path: str) -> tuple[JsonDict, JsonDict]:
    """Return the settings with which a dataset was prepared, and its events."""
    settings = records.load_dataset(path).get("settings", {})
    return settings, settings.get("events", {}) or {}


def _matched(trials: ImageTrials, metadata: Sequence[Mapping[str, Any]], onset: np.ndarray) -> np.ndarray:
    """Return, for each trial, the window of another dataset that is around the same event, or -1."""
    by_recording: dict[str, list[int]] = {}
    for i, one in enumerate(metadata):
        by_recording.setdefault(one["recording"], []).append(i)
    out = np.full(len(trials), -1)
    for trial, (recording, at) in enumerate(zip(trials.recording, _onsets(trials), strict=True)):
        if near := by_recording.get(recording):
            best = min(near, key=lambda i: abs(onset[i] - at))
            out[trial] = best if abs(onset[best] - at) < SAME_S else -1
    return out


def _free(task: ClassTask, metadata: Sequence[Mapping[str, Any]], start: np.ndarray) -> np.ndarray:
    """Return the windows in which no image was shown, nor shortly before."""
    shown: dict[str, list[np.ndarray]] = {}
    for part in task.parts.values():
        onset = _onsets(part)
        for recording in set(part.recording):
            shown.setdefault(recording, []).append(onset[np.asarray(part.recording) == recording])
    length = task.data.samples / task.data.sfreq

    def empty(one: Mapping[str, Any], at: float) -> bool:
        if one["stimulus"]:
            return False
        onsets = np.concatenate(shown.get(one["recording"], [np.empty(0)]))
        return not ((onsets > at - EVOKED_S) & (onsets < at + length)).any()

    return np.array([i for i, one in enumerate(metadata) if empty(one, start[i])], int)
