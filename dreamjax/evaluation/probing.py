"""`dreamjax evaluate --probe`: the frozen linear probe of a system, its controls and what may be claimed."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath

from dreamjax import __version__
from dreamjax.console import progress
from dreamjax.errors import UserError
from dreamjax.evaluation import (
    cross_fitting,
    probe_report,
    reconstruction,
    reconstruction_report,
    reconstruction_scores,
    window_set,
)
from dreamjax.evaluation.cross_fitting import Fold
from dreamjax.evaluation.window_set import WindowSet
from dreamjax.metrics import bandpower, bootstrap, probe
from dreamjax.metrics.probe import ProbeScore
from dreamjax.parallel import environment
from dreamjax.reports import tables
from dreamjax.signals.datasets import records
from dreamjax.systems import masked_pretraining, opening

ENCODER, UNTRAINED, BANDS = "pretrained encoder", "untrained encoder", "band power"
DRIFT_S = 60.0  # first against last minute of rest
ALIKE = 4  # people, at least, that a conditional mean is fitted and chosen on


@dataclass(frozen=True)
class ProbeRequest:
    """What to probe, and with which encoders."""

    data: str | None = None  # the labelled dataset; None: the one of the run's that has both labels
    labels: tuple[str, str] = ("rest", "arithmetic")  # drift is looked for in the first
    folds: int = 3
    fold_runs: tuple[str, ...] = ()  # trained already; empty: train them
    reconstruct: bool = False  # also masked reconstruction, every subject by its fold's model
    steps: int | None = None  # of each fold's pretraining; None: as the run
    seed: int = 0
    level: float = bootstrap.LEVEL
    out: str | None = None  # None: WORKDIR/evaluation; the folds' runs lie in it too


def evaluate(workdir: str, request: ProbeRequest) -> dict[str, Any]:
    """Cross-fitted pretraining (or given fold runs), the probe with its baselines and controls, a report in `out`."""
    config = opening.config_of(workdir)
    if not isinstance(config, masked_pretraining.MaskedPretrainingConfig):
        raise UserError(f"{workdir} is a run of {config.system}, which has no features to probe")
    out = request.out or str(epath.Path(workdir) / "evaluation")
    labelled = labelled_dataset(config.data.path, request)
    subjects = people(config, labelled, request.labels)
    if request.fold_runs:
        folds = cross_fitting.open_folds(request.fold_runs, labelled, subjects)
    else:
        where = str(epath.Path(out) / "probe")
        folds = cross_fitting.train_folds(config, labelled, subjects, request.folds, where, request.steps)
    if untrained := [fold.run.workdir for fold in folds if fold.run.step == 0]:
        raise UserError(f"{untrained[0]} is untrained (step 0), and an untrained encoder is a control, not a result")
    with environment.single_blas_thread():
        scores = score(folds, labelled, request)
    result = _result(workdir, request, labelled, folds, scores)
    figures = {"probe": probe_report.figure(list(scores.values()))}
    if request.reconstruct:
        found = reconstruct(folds, labelled, request)
        result["reconstruction"] = found
        result["notes"] += cross_fitted_notes(folds, found, config)
        result["statements"] += reconstruction.findings(found)
        figures["cross_fitted_scores"] = reconstruction_report.reconstruction_figure(found)
    return result | {"files": tables.write(result, reconstruction_report.tables(result), figures, out, "probe")}


def reconstruct(folds: list[Fold], labelled: str, request: ProbeRequest) -> list[dict[str, Any]]:
    """Masked reconstruction where every subject is held out once: by the encoder of its fold.

    The conditional mean of a fold is fitted and chosen on subjects outside it, whom the encoder trained on too.
    """
    parts = []
    alike = recorded_alike(folds)
    for fold in folds:
        data = load(fold.run.config, labelled)
        mine = np.isin(data.subjects, fold.subjects)
        fit = ~mine & np.isin(data.subjects, alike) if alike else ~mine
        baseline = reconstruction.baseline_of(data.take(np.flatnonzero(fit)))
        parts.append(
            reconstruction_scores.score(
                data.take(np.flatnonzero(mine)),
                reconstruction.masked_config(fold.run).model.patch,
                predict=reconstruction.predictor(fold.run),
                candidates=baseline.candidates,
                validation=baseline.validation,
                chooser=baseline.chooser,
                seed=request.seed,
                level=request.level,
            )
        )
    scores = reconstruction_scores.merge(parts)
    return reconstruction_report.reconstruction_json(
        scores, show_model=not reconstruction_report.standing(scores, folds[0].run.step)
    )


def recorded_alike(folds: list[Fold]) -> list[str]:
    """All probed subjects, where every fold leaves enough of them to fit a conditional mean on; else nobody.

    They were recorded as those who are scored, and a Gaussian of theirs is the stronger baseline: on eegmat among 11
    other corpora 0.63 of the variance at random 0.75, where one of all devices at once explains 0.48.
    """
    sizes = [len(fold.subjects) for fold in folds]
    enough = sum(sizes) - max(sizes) >= ALIKE
    return sorted(s for fold in folds for s in fold.subjects) if enough else []


def cross_fitted_notes(folds: list[Fold], found: list[dict[str, Any]], config: Any) -> list[str]:
    """What the reconstruction's numbers are of."""
    scored = any("model" in entry["r2"] for entry in found)
    told = [
        f"reconstruction is cross-fitted: each of the {sum(len(f.subjects) for f in folds)} subjects is scored by its "
        f"fold's model, so the numbers are of the recipe; {config.data.samples} samples at {config.data.sfreq:g} Hz, "
        f"patch {config.model.patch}; µV"
    ]
    alike = (
        "the probed subjects of the other folds, recorded alike" if recorded_alike(folds) else "all subjects outside it"
    )
    told.append(f"the conditional mean of a fold is fitted and chosen on {alike}")
    return told + ([] if scored else ["the folds' models do not beat the zero predictor: no score is shown for them"])


def labelled_dataset(paths: tuple[str, ...], request: ProbeRequest) -> str:
    """The dataset that has windows of both labels. Raises UserError where none does."""
    candidates = (request.data,) if request.data else paths
    for path in candidates:
        if set(request.labels) <= set(records.load_dataset(path).get("labels", [])):
            return path
    raise UserError(
        f"{', '.join(candidates)}: there are no windows labelled {' and '.join(request.labels)}; give --probe-data a "
        "dataset that has them (eegmat, prepared by dreamjax), or name two of its labels with --probe-labels"
    )


def load(config: Any, folder: str) -> WindowSet:
    """Every split of a dataset, one after the other: who was in which split does not matter to a cross-fitted probe."""
    data = dataclasses.replace(config.data, path=(folder,), weights=())
    splits = records.load_dataset(folder)["splits"]
    return window_set.concatenate([window_set.load(data, split) for split in splits])


def people(config: Any, folder: str, labels: tuple[str, str]) -> list[str]:
    """The subjects who have whole windows of both labels."""
    data = load(config, folder)
    having = [
        {s for s, found, ok in zip(data.subjects, data.labels, data.whole, strict=True) if ok and found == label}
        for label in labels
    ]
    return sorted(having[0] & having[1])


def score(folds: list[Fold], labelled: str, request: ProbeRequest) -> dict[str, ProbeScore]:
    """Name → balanced accuracy by subject, for both questions and each kind of features."""
    found: dict[str, dict[str, float]] = {}
    lacking: dict[str, tuple[str, ...]] = {}
    with progress("probe", len(folds)) as bar:
        for number, fold in enumerate(folds):
            data = load(fold.run.config, labelled)
            mine = np.isin(data.subjects, fold.subjects) & data.whole
            data = data.take(np.flatnonzero(mine))
            subjects = np.array(data.subjects)
            questions = {"": condition_labels(data, request.labels), "drift: ": drift(data, request.labels[0])}
            chosen = {q: probe.of_both_classes(labels, subjects, asked(q, request)) for q, labels in questions.items()}
            for kind, features in features_of(fold, data, number).items():
                for question, (used, lost) in chosen.items():
                    by_subject = probe.leave_subject_out(features[used], questions[question][used], subjects[used])
                    found.setdefault(question + kind, {}).update(by_subject)
                    lacking[question + kind] = lacking.get(question + kind, ()) + lost
            bar.advance(1)
    return {
        name: ProbeScore(
            name, by_subject, UNTRAINED in name or "drift" in name, lacking[name], request.seed, request.level
        )
        for name, by_subject in found.items()
    }


def asked(question: str, request: ProbeRequest) -> str:
    """A question in words."""
    return f"first against last minute of {request.labels[0]}" if question else " against ".join(request.labels[::-1])


def left_out(scores: dict[str, ProbeScore], request: ProbeRequest) -> list[str]:
    """Who got no score in which question, and why; a sentence each."""
    found = {"" if not name.startswith("drift: ") else "drift: ": s.left_out for name, s in scores.items()}
    return [
        f"left out of {asked(question, request)}, without windows of both: subject{'s' if len(who) > 1 else ''} "
        f"{', '.join(sorted(who))}"
        for question, who in found.items()
        if who
    ]


def features_of(fold: Fold, data: WindowSet, number: int) -> dict[str, np.ndarray]:
    """Frozen features of a fold's windows: of its encoder, of the same network untrained, and band power."""
    config = fold.run.config
    fresh = reconstruction.fresh_params(config, number)
    real = data.real.all(axis=0)
    return {
        ENCODER: _batched(reconstruction.featurizer(config, fold.run.params), data),
        UNTRAINED: _batched(reconstruction.featurizer(config, fresh), data),
        BANDS: bandpower.band_power(data.seen_microvolts()[:, real], data.sfreq),
    }


def _batched(featurize: Callable[..., np.ndarray], data: WindowSet, size: int = 64) -> np.ndarray:
    """Batches of one size, so that the encoder compiles once; the last is filled up."""
    parts = []
    for first in range(0, len(data), size):
        rows = np.minimum(np.arange(first, first + size), len(data) - 1)
        parts.append(featurize(data.seen(rows), data.valid[rows])[: len(data) - first])
    return np.concatenate(parts)


def condition_labels(data: WindowSet, labels: tuple[str, str]) -> np.ndarray:
    """0 and 1 for the two labels, -1 for any other."""
    place = {label: i for i, label in enumerate(labels)}
    return np.array([place.get(label, -1) for label in data.labels])


def drift(data: WindowSet, label: str) -> np.ndarray:
    """First (0) against last (1) minute of each recording of one condition; -1 elsewhere."""
    out = np.full(len(data), -1)
    recordings, starts = np.array(data.recordings), np.array(data.starts)
    for recording in sorted({r for r, found in zip(data.recordings, data.labels, strict=True) if found == label}):
        rows = np.flatnonzero((recordings == recording) & (np.array(data.labels) == label))
        out[rows] = probe.drift_labels(starts[rows], DRIFT_S, data.signal.shape[2] / data.sfreq)
    return out


def _result(
    workdir: str, request: ProbeRequest, labelled: str, folds: list[Fold], scores: dict[str, ProbeScore]
) -> dict[str, Any]:
    one, two = request.labels
    part = probe_report.summary(scores, ENCODER, BANDS, UNTRAINED, request.labels)
    steps = sorted({fold.run.step for fold in folds})
    sizes = ", ".join(str(len(fold.subjects)) for fold in folds)
    return {
        "title": f"Frozen linear probe: {two} against {one}, encoder of {workdir}",
        "notes": [
            f"{part['subjects']} subjects of {labelled} in {len(folds)} folds ({sizes}), every window of every split",
            f"each fold's encoder was pretrained {' or '.join(map(str, steps))} steps without its probed subjects "
            "(verified); logistic regression fitted leaving one subject out, its penalty chosen leaving out another",
            "features standardised within each subject, without labels; chance is 0.5",
            f"{100 * request.level:g} % intervals over subjects in brackets",
            *left_out(scores, request),
        ],
        "statements": part.pop("statements"),
        "run": workdir,
        "data": labelled,
        "labels": list(request.labels),
        "fold_runs": {fold.run.workdir: list(fold.subjects) for fold in folds},
        "fold_steps": steps,
        "level": request.level,
        "seed": request.seed,
        "probe": part,
        "captions": {
            "probe": "Balanced accuracy; dots are subjects, the line is chance",
            "cross_fitted_scores": "Share of variance explained by mask, every subject by a model that never saw it",
        },
        "method": reconstruction_report.METHOD.format(draws=bootstrap.DRAWS),
        "version": __version__,
    }
