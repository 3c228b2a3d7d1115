"""Evaluate a system by a frozen linear probe of its embeddings, with controls and what may be claimed."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath

from dreamjax.console import progress
from dreamjax.errors import UserError
from dreamjax.evaluation import (
    cross_fitting,
    functions,
    probe_report,
    reconstruction,
    reconstruction_report,
    reconstruction_scores,
    window_set,
)
from dreamjax.evaluation.cross_fitting import Fold
from dreamjax.evaluation.reconstruction import PageResult
from dreamjax.evaluation.window_set import WindowSet
from dreamjax.metrics import bandpower, bootstrap, probe
from dreamjax.metrics.probe import ProbeScore
from dreamjax.parallel import environment
from dreamjax.signals.datasets import records
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.systems import opening, registry
from dreamjax.systems.base import Embeds, Reconstructs, capability
from dreamjax.typing import JsonDict

ENCODER, UNTRAINED, BANDS = "pretrained encoder", "untrained encoder", "band power"
DRIFT_S = 60.0  # first against last minute of rest
ALIKE = 4  # people, at least, that a conditional mean is fitted and chosen on


@dataclass(frozen=True)
class ProbeSettings:
    """What to probe, and with which encoders."""

    probe: bool = True
    probe_data: str | None = None  # the labelled dataset; None: the one of the run's that has both labels
    probe_labels: tuple[str, str] = ("rest", "arithmetic")  # drift is looked for in the first
    folds: int = 3
    fold_runs: tuple[str, ...] = ()  # trained already; empty: train them
    with_reconstruction: bool = False  # also masked reconstruction, every subject by its fold's model
    probe_steps: int | None = None  # of each fold's pretraining; None: as the run
    seed: int = 0
    level: float = bootstrap.LEVEL
    out: str | None = None  # None: RUN/evaluation; the runs of the folds are in it too


@dataclass(frozen=True, kw_only=True)
class ProbeResult(PageResult):
    """Scores of a probe, and of masked reconstruction where it was asked for."""

    data: str
    labels: Sequence[str]
    fold_runs: Mapping[str, Sequence[str]]  # run → subjects
    fold_steps: Sequence[int]
    probe: Mapping[str, Any]  # see `probe_report.summary`
    reconstruction: Sequence[Mapping[str, Any]] | None = None


def evaluate(workdir: str, settings: ProbeSettings) -> PageResult:
    """Pretrain without each fold's subjects (or open given fold runs) and probe; write the result into `out`."""
    config = opening.config_of(workdir)
    data = capability(registry.build(config), Embeds, "be probed, which takes embeddings").signal
    out = settings.out or str(epath.Path(workdir) / "evaluation")
    labelled = labelled_dataset(data.path, settings)
    subjects = people(data, labelled, settings.probe_labels)
    if settings.fold_runs:
        folds = cross_fitting.open_folds(settings.fold_runs, labelled, subjects)
    else:
        where = str(epath.Path(out) / "probe")
        folds = cross_fitting.train_folds(config, labelled, subjects, settings.folds, where, settings.probe_steps)
    if untrained := [fold.run.workdir for fold in folds if fold.run.step == 0]:
        raise UserError(f"{untrained[0]} is untrained (step 0), and an untrained encoder is a control, not a result")
    with environment.single_blas_thread():
        scores = score(folds, labelled, settings)
    result = _result(workdir, settings, labelled, folds, scores)
    figures = {"probe": probe_report.figure(list(scores.values()))}
    if settings.with_reconstruction:
        entries = reconstruct(folds, labelled, settings)
        result = dataclasses.replace(
            result,
            reconstruction=entries,
            notes=[*result.notes, *cross_fitted_notes(folds, entries)],
            statements=[*result.statements, *reconstruction.findings(entries)],
        )
        figures["cross_fitted_scores"] = reconstruction_report.reconstruction_figure(entries)
    return result.written(figures, out, "probe")


def reconstruct(folds: Sequence[Fold], labelled: str, settings: ProbeSettings) -> list[JsonDict]:
    """Score masked reconstruction where every subject is held out once: by the encoder of its fold.

    The conditional mean of a fold is fitted and chosen on subjects outside it, whom the encoder trained on too.
    """
    parts = []
    alike = recorded_alike(folds)
    for fold in folds:
        task = capability(fold.run.task, Reconstructs, "reconstruct a signal")
        windows = load(task.signal, labelled)
        held_out = np.isin(windows.subjects, fold.subjects)
        fit = ~held_out & np.isin(windows.subjects, alike) if alike else ~held_out
        baseline = reconstruction.baseline_of(windows.take(np.flatnonzero(fit)))
        parts.append(
            reconstruction_scores.score(
                windows.take(np.flatnonzero(held_out)),
                task.patch,
                predict=functions.predictor(fold.run),
                candidates=baseline.candidates,
                validation=baseline.validation,
                chooser=baseline.chooser,
                seed=settings.seed,
                level=settings.level,
            )
        )
    scores = reconstruction_scores.merge(parts)
    return reconstruction_report.reconstruction_json(
        scores, show_model=not reconstruction_report.why_unscored(scores, folds[0].run.step)
    )


def recorded_alike(folds: Sequence[Fold]) -> list[str]:
    """Return all probed subjects, where every fold leaves enough of them to fit a conditional mean on; else none.

    They were recorded as those who are scored, and a Gaussian of theirs is the stronger baseline: on eegmat among 11
    other corpora 0.63 of the variance at random 0.75, where one of all devices at once explains 0.48.
    """
    sizes = [len(fold.subjects) for fold in folds]
    enough = sum(sizes) - max(sizes) >= ALIKE
    return sorted(s for fold in folds for s in fold.subjects) if enough else []


def cross_fitted_notes(folds: Sequence[Fold], entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return notes on what the numbers of the reconstruction are of."""
    scored = any("model" in entry["r2"] for entry in entries)
    task = capability(folds[0].run.task, Reconstructs, "reconstruct a signal")
    data = task.signal
    notes = [
        f"reconstruction is cross-fitted: each of the {sum(len(f.subjects) for f in folds)} subjects is scored by its "
        f"fold's model, so the numbers are of the recipe; {data.samples} samples at {data.sfreq:g} Hz, "
        f"patch {task.patch}; µV"
    ]
    alike = (
        "the probed subjects of the other folds, recorded alike" if recorded_alike(folds) else "all subjects outside it"
    )
    notes.append(f"the conditional mean of a fold is fitted and chosen on {alike}")
    return notes + ([] if scored else ["the folds' models do not beat the zero predictor: no score is shown for them"])


def labelled_dataset(paths: tuple[str, ...], settings: ProbeSettings) -> str:
    """Return the dataset that has windows of both labels. Raise UserError where none does."""
    candidates = (settings.probe_data,) if settings.probe_data else paths
    for path in candidates:
        if set(settings.probe_labels) <= set(records.load_dataset(path).get("labels", [])):
            return path
    raise UserError(
        f"{', '.join(candidates)}: there are no windows labelled {' and '.join(settings.probe_labels)}; give a dataset "
        "that has them with --probe-data (eegmat, prepared by dreamjax), or name two of its labels with --probe-labels"
    )


def load(data: DataConfig, folder: str) -> WindowSet:
    """Return every split of a dataset, one after the other: splits do not matter to a cross-fitted probe."""
    data = dataclasses.replace(data, path=(folder,), weights=())
    splits = records.load_dataset(folder)["splits"]
    return window_set.concatenate([window_set.load(data, split) for split in splits])


def people(data: DataConfig, folder: str, labels: tuple[str, str]) -> list[str]:
    """Return the subjects who have whole windows of both labels."""
    windows = load(data, folder)
    whole = zip(windows.subjects, windows.labels, windows.whole, strict=True)
    labelled = {(subject, label) for subject, label, ok in whole if ok}
    return sorted(s for s in set(windows.subjects) if all((s, label) in labelled for label in labels))


def score(folds: Sequence[Fold], labelled: str, settings: ProbeSettings) -> dict[str, ProbeScore]:
    """Return name → balanced accuracy by subject, for both questions and each kind of features."""
    accuracy: dict[str, dict[str, float]] = {}
    lacking: dict[str, tuple[str, ...]] = {}
    with progress("probe", len(folds)) as bar:
        for number, fold in enumerate(folds):
            data = load(capability(fold.run.task, Embeds, "be probed").signal, labelled)
            data = data.take(np.flatnonzero(np.isin(data.subjects, fold.subjects) & data.whole))
            subjects = np.array(data.subjects)
            questions = {
                "": condition_labels(data, settings.probe_labels),
                "drift: ": drift(data, settings.probe_labels[0]),
            }
            chosen = {
                q: probe.of_both_classes(labels, subjects, in_words(q, settings)) for q, labels in questions.items()
            }
            for kind, features in features_of(fold, data, number).items():
                for question, (used, lost) in chosen.items():
                    by_subject = probe.leave_subject_out(features[used], questions[question][used], subjects[used])
                    accuracy.setdefault(question + kind, {}).update(by_subject)
                    lacking[question + kind] = lacking.get(question + kind, ()) + lost
            bar.advance(1)
    return {
        name: ProbeScore(
            name, by_subject, UNTRAINED in name or "drift" in name, lacking[name], settings.seed, settings.level
        )
        for name, by_subject in accuracy.items()
    }


def in_words(question: str, settings: ProbeSettings) -> str:
    """Return a question in words."""
    labels = settings.probe_labels
    return f"first against last minute of {labels[0]}" if question else " against ".join(labels[::-1])


def left_out(scores: Mapping[str, ProbeScore], settings: ProbeSettings) -> list[str]:
    """Return a sentence on each question for which subjects got no score, and why."""
    subjects = {"drift: " if name.startswith("drift: ") else "": s.left_out for name, s in scores.items()}
    return [
        f"left out of {in_words(question, settings)}, without windows of both: subject{'s' if len(who) > 1 else ''} "
        f"{', '.join(sorted(who))}"
        for question, who in subjects.items()
        if who
    ]


def features_of(fold: Fold, data: WindowSet, number: int) -> dict[str, np.ndarray]:
    """Return frozen features of a fold's windows: of its encoder, of the same network untrained, and band power."""
    task = capability(fold.run.task, Embeds, "be probed")
    fresh = functions.untrained(fold.run.task, number)
    real = data.real.all(axis=0)
    return {
        ENCODER: _batched(functions.embedder(task, fold.run.params), data),
        UNTRAINED: _batched(functions.embedder(task, fresh), data),
        BANDS: bandpower.band_power(data.seen_microvolts()[:, real], data.sfreq),
    }


def _batched(embed: Callable[..., np.ndarray], data: WindowSet, size: int = 64) -> np.ndarray:
    """Return the features of all windows, in batches of one size (the last is filled up), so that it compiles once."""
    parts = []
    for first in range(0, len(data), size):
        rows = np.minimum(np.arange(first, first + size), len(data) - 1)
        parts.append(embed(data.seen(rows), data.valid[rows])[: len(data) - first])
    return np.concatenate(parts)


def condition_labels(data: WindowSet, labels: tuple[str, str]) -> np.ndarray:
    """Return 0 and 1 for the two labels, -1 for any other."""
    place = {label: i for i, label in enumerate(labels)}
    return np.array([place.get(label, -1) for label in data.labels])


def drift(data: WindowSet, label: str) -> np.ndarray:
    """Return first (0) against last (1) minute of each recording of one condition; -1 elsewhere."""
    out = np.full(len(data), -1)
    recordings, starts = np.array(data.recordings), np.array(data.starts)
    labelled = np.array(data.labels) == label
    for recording in np.unique(recordings[labelled]):
        rows = np.flatnonzero((recordings == recording) & labelled)
        out[rows] = probe.drift_labels(starts[rows], DRIFT_S, data.signal.shape[2] / data.sfreq)
    return out


def _result(
    workdir: str, settings: ProbeSettings, labelled: str, folds: Sequence[Fold], scores: Mapping[str, ProbeScore]
) -> ProbeResult:
    one, two = settings.probe_labels
    summary = probe_report.summary(scores, ENCODER, BANDS, UNTRAINED, settings.probe_labels)
    steps = sorted({fold.run.step for fold in folds})
    sizes = ", ".join(str(len(fold.subjects)) for fold in folds)
    return ProbeResult(
        title=f"Frozen linear probe: {two} against {one}, encoder of {workdir}",
        notes=[
            f"{summary['subjects']} subjects of {labelled} in {len(folds)} folds ({sizes}), all windows of all splits",
            f"each fold's encoder was pretrained {' or '.join(map(str, steps))} steps without its probed subjects "
            "(verified); logistic regression fitted leaving one subject out, its penalty chosen leaving out another",
            "features standardised within each subject, without labels; chance is 0.5",
            f"{100 * settings.level:g} % intervals over subjects in brackets",
            *left_out(scores, settings),
        ],
        statements=summary.pop("statements"),
        run=workdir,
        data=labelled,
        labels=list(settings.probe_labels),
        fold_runs={fold.run.workdir: list(fold.subjects) for fold in folds},
        fold_steps=steps,
        level=settings.level,
        seed=settings.seed,
        probe=summary,
        captions={
            "probe": "Balanced accuracy; dots are subjects, the line is chance",
            "cross_fitted_scores": "Share of variance explained by mask, every subject by a model that never saw it",
        },
    )
