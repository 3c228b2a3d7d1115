"""Decode the class of the image that was seen, in left-out people or recordings: the baseline for everything else.

shrinkage LDA        of the signal's means over equal spans: the standard for evoked responses
encoder + LDA        of the embedding of a pretrained encoder, where one is given
time index           of the time of a trial, without its signal
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from etils import epath

from dreamjax.console import counted
from dreamjax.errors import UserError
from dreamjax.evaluation import controls, held_out, score_table
from dreamjax.metrics import bootstrap, cross_validation, lda
from dreamjax.metrics.cross_validation import METRICS, Design, Features, LeaveOut
from dreamjax.reports.pages import Page, Section
from dreamjax.reports.tables import Table, cell, number
from dreamjax.signals.datasets import copied, pipeline, records
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.signals.recordings import identity
from dreamjax.storage import atomic, paths
from dreamjax.systems.base import Embeds, capability

LDA, ENCODED, TIME = "shrinkage LDA", "encoder + LDA", "time index"
SPANS = 16  # of time
FEWEST = 5  # trials of a class in all
ENOUGH = 3  # from this many known subjects on, each is left out in turn


@dataclass(frozen=True)
class DecodingSettings:
    """The settings of class decoding: which trials, and which classifiers."""

    data: tuple[str, ...]  # dataset folders of trials
    labels: tuple[str, ...] = ()  # classes; empty: all
    encoder: str = ""  # run of a system that embeds signals
    permutations: int = 200
    seed: int = 0
    leave_out: LeaveOut | None = None  # None: subjects where `ENOUGH` are known, else recordings


@dataclass(frozen=True)
class _LabelledTrials:
    windows: pipeline.WindowExamples
    keys: np.ndarray
    classes: np.ndarray
    recording: np.ndarray
    subject: np.ndarray  # the recordings of unknown subjects each count as a subject
    session: np.ndarray
    unknown: bool  # whether any subject is unknown
    copies: list[str]  # notes on the recordings left out as copies of others
    start: np.ndarray
    names: tuple[str, ...]

    @property
    def people(self) -> int:
        """Return how many subjects there are."""
        return len(np.unique(self.subject))


@dataclass(frozen=True)
class DecodingResult:
    """The scores of class decoding by kind of features and metric: an interval and p."""

    data: Sequence[str]
    title: str
    notes: Sequence[str]
    chance: Mapping[str, float]
    permutations: int
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]]
    leave_out: str = "recording"
    permuted: str = "trials within recordings"

    def as_json(self) -> dict[str, object]:
        return asdict(self)

    def text(self) -> str:
        """Return the table for a terminal."""
        header = ["", *(name for metric in METRICS for name in (metric, "p"))]
        rows = [
            [name, *(text for metric in METRICS for text in (cell(one[metric]), number(one[metric]["p"])))]
            for name, one in self.scores.items()
        ]
        rows.append(["chance", *(text for metric in METRICS for text in (f"{self.chance[metric]:.3f}", ""))])
        how = (
            f"intervals over {self.leave_out}s; p by {self.permutations} permutations of the labels of {self.permuted}"
        )
        return Page(self.title, [Section(table=Table(header, rows)), Section(notes=[how])], self.notes).text()


def decode(settings: DecodingSettings, out: str | None = None) -> DecodingResult:
    """Decode classes; write classes.json into `out`. Raise UserError for trials without two classes."""
    if out:
        paths.refuse_unwritable_folder(out)
    trials = _trials(settings)
    design, notes = _design(settings, trials)
    notes += trials.copies
    ways: dict[str, Callable[[], Features]] = {LDA: lambda: _binned(trials)}
    if settings.encoder:
        ways[ENCODED] = lambda: _encoded(settings, trials, notes)
    impossible = {name: why for path in settings.data for name, why in records.impossible(path).items()}
    if "time" not in impossible:
        ways[TIME] = lambda: _time(trials)
    lacking = {"time": TIME, "block": "blocks"}
    notes += [f"{what}: not possible, as {impossible[name]}" for name, what in lacking.items() if name in impossible]
    scores = {}
    for name, features in ways.items():
        given, how = (features(), trials.classes, design), cross_validation.shrunk_lda
        result = cross_validation.scored(*given, how, permutations=settings.permutations, seed=settings.seed)
        scores[name] = {
            metric: result.score[metric].as_json() | {"p": bootstrap.finite(result.p[metric])} for metric in METRICS
        }
    counts = zip(np.bincount(trials.classes), trials.names, strict=True)
    recordings = counted(len(np.unique(trials.recording)), "recording")
    people = "unknown subjects" if trials.unknown else counted(trials.people, "subject")
    others = "" if design.what == "recording" else f" {design.what}"
    table = DecodingResult(
        data=list(settings.data),
        title=(
            f"{', '.join(settings.data)}: {len(trials.classes)} trials ({', '.join(f'{n} {k}' for n, k in counts)}) in "
            f"{recordings} of {people}, each{others} decoded by classifiers trained on the others"
        ),
        notes=notes,
        chance={"balanced accuracy": 1 / len(trials.names), "AUROC": 0.5},
        permutations=settings.permutations,
        scores=scores,
        leave_out=design.what,
        permuted=design.permuted,
    )
    if out:
        atomic.write_text(epath.Path(out) / "classes.json", json.dumps(table.as_json(), indent=1))
    return table


def _design(settings: DecodingSettings, trials: _LabelledTrials) -> tuple[Design, list[str]]:
    """Return what is left out and permuted, with notes on it. Raise UserError where that is not possible."""
    known = not trials.unknown
    what: LeaveOut = settings.leave_out or ("subject" if known and trials.people >= ENOUGH else "recording")
    groups = {"subject": trials.subject, "session": trials.session, "recording": trials.recording}
    if what == "subject" and not known:
        raise UserError(
            "subjects are unknown, so none can be left out; prepare with --subject-pattern, or leave out recordings"
        )
    if what == "session" and len(np.unique(trials.session)) <= trials.people:
        raise UserError("the records hold one session of each subject; use --leave-out subject or recording")
    design = Design.of(trials.classes, trials.recording, trials.subject, groups[what], what)
    notes = []
    if not known:
        notes.append(
            f"subjects unknown: recordings may share people, so a left-out {what} may be of a person in training"
        )
    elif what != "subject" and len(np.unique(groups[what])) > trials.people:
        notes.append(
            f"other {what}s of the same {'person' if trials.people == 1 else 'people'} are trained on: the scores say "
            "nothing about other people"
        )
    return design, notes + design.notes(trials.classes, settings.permutations)


def _trials(settings: DecodingSettings) -> _LabelledTrials:
    datasets = [records.load_dataset(path) for path in settings.data]
    prepared = [dataset.get("settings", {}) for dataset in datasets]
    shapes = {(s.get("samples"), s.get("sfreq")) for s in prepared}
    if len(shapes) > 1:
        raise UserError("the dataset folders hold windows of different lengths or rates; prepare them alike")
    shape = shapes.pop() if shapes else (None, None)
    known: dict[str, Any] = {name: x for name, x in zip(("samples", "sfreq"), shape, strict=True) if x}
    data = DataConfig(path=settings.data, montage="own", **known)
    windows = pipeline.WindowExamples(data, records.ALL, seed=0, training=False)
    metadata = windows.metadata()
    labels = sorted({one["label"] for one in metadata} - {""})
    names = settings.labels or tuple(labels)
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{twice[0]} is named twice; name each class once")
    if missing := [name for name in names if name not in labels]:
        raise UserError(f"no trial is labelled {missing[0]}; there are {', '.join(labels) or 'no labels'}")
    if len(names) < 2:
        where = ", ".join(settings.data)
        raise UserError(f"{where}: trials of at least two classes are required, there is {len(names)}")
    repeats = copied.Copied.of(settings.data)
    labelled = [i for i, one in enumerate(metadata) if one["label"] in names]
    keys = np.array([i for i in labelled if metadata[i]["recording"] not in repeats.recordings])
    classes = np.array([names.index(metadata[i]["label"]) for i in keys])
    if (counts := np.bincount(classes, minlength=len(names))).min() < FEWEST:
        fewest = names[int(counts.argmin())]
        raise UserError(f"class {fewest} has {counts.min()} trials, and at least {FEWEST} are required")
    chosen = [metadata[i] for i in keys]
    someone = [repeats.unit(one["subject"], one["recording"]) for one in chosen]
    who = {"recording": [one["recording"] for one in chosen], "subject": someone}
    who["session"] = [f"{subject} {one['session']}" for subject, one in zip(someone, chosen, strict=True)]
    return _LabelledTrials(
        windows,
        keys,
        classes,
        **{name: np.unique(texts, return_inverse=True)[1] for name, texts in who.items()},
        unknown=identity.unknown_units(someone) > 0,
        copies=copied.notes(repeats.recordings.intersection(metadata[i]["recording"] for i in labelled)),
        start=np.array([one["start"] for one in chosen]),
        names=names,
    )


def _binned(trials: _LabelledTrials) -> Features:
    parts = [lda.binned(r["signal"], r["valid"], SPANS) for r in controls.rows_of(trials.windows, trials.keys)]
    return np.concatenate(parts).reshape(len(trials.keys), -1).astype(np.float64)


def _time(trials: _LabelledTrials) -> Features:
    """Return powers of the place in the recording: slow drift of classes in time would show in them."""
    t = np.empty(len(trials.start))
    for one in np.unique(trials.recording):
        rows = trials.recording == one
        t[rows] = (trials.start[rows] - trials.start[rows].min()) / max(float(np.ptp(trials.start[rows])), 1e-9)
    return np.stack([t**k for k in (1, 2, 3)], axis=1)


def _encoded(settings: DecodingSettings, trials: _LabelledTrials, notes: list[str]) -> Features:
    run = score_table.open_trained(settings.encoder)
    task = capability(run.task, Embeds, "embed trials")
    data = dataclasses.replace(task.signal, path=settings.data, weights=())
    windows = pipeline.WindowExamples(data, records.ALL, seed=0, training=False)
    if {os.path.abspath(p) for p in settings.data} & {os.path.abspath(p) for p in task.signal.path}:
        notes.append("the encoder was pretrained on signals of these recordings, without their labels")
    embed = held_out.embedder(task, run.params)
    parts = [embed(rows["signal"], rows["valid"]) for rows in controls.rows_of(windows, trials.keys)]
    return np.concatenate(parts).astype(np.float64)
