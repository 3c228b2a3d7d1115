"""Decode which kind of image was seen, in left-out recordings: the baseline for everything else.

shrinkage LDA        on the signal's means over equal spans: the standard for evoked responses
encoder + LDA        on the embedding of a pretrained encoder, where one is given
time index           on the time of a trial, without its signal
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from etils import epath
from jaxtyping import Float

from dreamjax.errors import UserError
from dreamjax.evaluation import functions
from dreamjax.metrics import cross_validation, lda
from dreamjax.metrics.cross_validation import METRICS
from dreamjax.reports.pages import Page, Section
from dreamjax.reports.tables import Table, cell
from dreamjax.signals.datasets import pipeline, records
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.storage import atomic
from dreamjax.systems import opening
from dreamjax.systems.base import Embeds, capability

LDA, ENCODED, TIME = "shrinkage LDA", "encoder + LDA", "time index"
SPANS = 16  # of time
BATCH = 256  # windows at a time
FEWEST = 5  # trials of a class in all


@dataclass(frozen=True)
class DecodingSettings:
    """Which trials, and what is tried on them."""

    data: tuple[str, ...]  # dataset folders of trials
    labels: tuple[str, ...] = ()  # classes; empty: all there are
    encoder: str = ""  # run of a system that embeds signals
    permutations: int = 200
    seed: int = 0


@dataclass(frozen=True)
class _LabelledTrials:
    windows: pipeline.WindowExamples
    keys: np.ndarray
    classes: np.ndarray
    recording: np.ndarray
    start: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True)
class DecodingResult:
    """How well classes are decoded, by kind of features and metric: an interval and p."""

    data: Sequence[str]
    title: str
    notes: Sequence[str]
    chance: Mapping[str, float]
    permutations: int
    scores: Mapping[str, Mapping[str, Mapping[str, object]]]

    def as_json(self) -> dict[str, object]:
        return asdict(self)

    def text(self) -> str:
        """Return the table for a terminal."""
        header = ["", *(name for metric in METRICS for name in (metric, "p"))]
        rows = [
            [name, *(text for metric in METRICS for text in (cell(one[metric]), f"{one[metric]['p']:.3f}"))]
            for name, one in self.scores.items()
        ]
        rows.append(["chance", *(text for metric in METRICS for text in (f"{self.chance[metric]:.3f}", ""))])
        how = f"intervals over recordings; p by {self.permutations} permutations of labels within recordings"
        return Page(self.title, [Section(table=Table(header, rows)), Section(notes=[how])], self.notes).text()


def decode(settings: DecodingSettings, out: str | None = None) -> DecodingResult:
    """Decode classes; write classes.json into `out`. Raise UserError for trials without two classes."""
    trials = _trials(settings)
    ways: dict[str, Callable[[], Float[np.ndarray, "n F"]]] = {LDA: lambda: _binned(trials)}
    notes: list[str] = []
    if settings.encoder:
        ways[ENCODED] = lambda: _encoded(settings, trials, notes)
    impossible = {name: why for path in settings.data for name, why in records.impossible(path).items()}
    if "time" in impossible:
        notes.append(f"{TIME}: not possible, as {impossible['time']}")
    else:
        ways[TIME] = lambda: _time(trials)
    if "block" in impossible:
        notes.append(f"blocks: not possible, as {impossible['block']}")
    scores = {}
    for name, features in ways.items():
        result = cross_validation.scored(
            features(),
            trials.classes,
            trials.recording,
            cross_validation.shrunk_lda,
            permutations=settings.permutations,
            seed=settings.seed,
        )
        scores[name] = {metric: result.score[metric].as_json() | {"p": result.p[metric]} for metric in METRICS}
    counts = np.bincount(trials.classes)
    table = DecodingResult(
        data=list(settings.data),
        title=(
            f"{', '.join(settings.data)}: {len(trials.classes)} trials ("
            + ", ".join(f"{n} {name}" for n, name in zip(counts, trials.names, strict=True))
            + f") in {len(np.unique(trials.recording))} recordings, each decoded by classifiers of the others"
        ),
        notes=notes,
        chance={"balanced accuracy": 1 / len(trials.names), "AUROC": 0.5},
        permutations=settings.permutations,
        scores=scores,
    )
    if out:
        atomic.write_text(epath.Path(out) / "classes.json", json.dumps(table.as_json(), indent=1))
    return table


# -------------------------------------------------------------------------------------------------------------- trials
def _trials(settings: DecodingSettings) -> _LabelledTrials:
    prepared = [records.load_dataset(path).get("settings", {}) for path in settings.data]
    shapes = {(s.get("samples"), s.get("sfreq")) for s in prepared}
    if len(shapes) > 1:
        raise UserError("the dataset folders hold windows of different lengths or rates; prepare them alike")
    samples, sfreq = shapes.pop() if shapes else (None, None)
    data = DataConfig(
        path=settings.data, montage="own", samples=samples or DataConfig().samples, sfreq=sfreq or DataConfig().sfreq
    )
    windows = pipeline.WindowExamples(data, records.ALL, seed=0, training=False)
    metadata = windows.metadata()
    labels = sorted({one["label"] for one in metadata} - {""})
    names = settings.labels or tuple(labels)
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{twice[0]} is named twice; name each class once")
    if missing := [name for name in names if name not in labels]:
        raise UserError(f"no trial is labelled {missing[0]}; there are {', '.join(labels) or 'no labels'}")
    if len(names) < 2:
        raise UserError(
            f"{', '.join(settings.data)}: trials of at least two classes are required, there is {len(names)}"
        )
    keys = np.array([i for i, one in enumerate(metadata) if one["label"] in names])
    classes = np.array([names.index(metadata[i]["label"]) for i in keys])
    if (fewest := np.bincount(classes, minlength=len(names))).min() < FEWEST:
        raise UserError(
            f"class {names[int(fewest.argmin())]} has {fewest.min()} trials, and at least {FEWEST} are required"
        )
    _, recording = np.unique([metadata[i]["recording"] for i in keys], return_inverse=True)
    return _LabelledTrials(windows, keys, classes, recording, np.array([metadata[i]["start"] for i in keys]), names)


def _rows(windows: pipeline.WindowExamples, keys: Sequence[int] | np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    for first in range(0, len(keys), BATCH):
        part = np.asarray(keys[first : first + BATCH])
        yield windows.read(part, part.astype(np.uint64))


def _binned(trials: _LabelledTrials) -> Float[np.ndarray, "n F"]:
    rows = _rows(trials.windows, trials.keys)
    parts = [lda.binned(r["signal"], r["valid"], SPANS) for r in rows]
    return np.concatenate(parts).reshape(len(trials.keys), -1).astype(np.float64)


def _time(trials: _LabelledTrials) -> Float[np.ndarray, "n F"]:
    """Return powers of the place in the recording: slow drift of classes in time would show in them."""
    t = np.empty(len(trials.start))
    for one in np.unique(trials.recording):
        rows = trials.recording == one
        t[rows] = (trials.start[rows] - trials.start[rows].min()) / max(float(np.ptp(trials.start[rows])), 1e-9)
    return np.stack([t**k for k in (1, 2, 3)], axis=1)


def _encoded(settings: DecodingSettings, trials: _LabelledTrials, notes: list[str]) -> Float[np.ndarray, "n F"]:
    run = opening.open_run(settings.encoder)
    task = capability(run.task, Embeds, "embed trials")
    if run.step == 0:
        raise UserError(f"{settings.encoder} is untrained (step 0): no score is shown for it; train it first")
    data = dataclasses.replace(task.signal, path=settings.data, weights=())
    windows = pipeline.WindowExamples(data, records.ALL, seed=0, training=False)
    if {os.path.abspath(p) for p in settings.data} & {os.path.abspath(p) for p in task.signal.path}:
        notes.append("the encoder was pretrained on signals of these recordings, without their labels")
    embed = functions.embedder(task, run.params)
    parts = [embed(rows["signal"], rows["valid"]) for rows in _rows(windows, trials.keys)]
    return np.concatenate(parts).astype(np.float64)
