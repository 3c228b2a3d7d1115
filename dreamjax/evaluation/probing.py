"""Evaluate a system by a frozen linear probe of its embeddings, with controls and the claims that they permit."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from dreamjax.console import progress
from dreamjax.errors import UserError
from dreamjax.evaluation import cross_fitting, held_out, reconstruction, reconstruction_scores, window_set
from dreamjax.evaluation.cross_fitting import Fold
from dreamjax.evaluation.reconstruction_report import (
    PageResult,
    reconstruction_figure,
    reconstruction_json,
    why_unscored,
)
from dreamjax.evaluation.window_set import WindowSet
from dreamjax.metrics import bootstrap, probe
from dreamjax.metrics.probe import CHANCE, ProbeScore
from dreamjax.parallel import environment
from dreamjax.reports import figures as drawing
from dreamjax.reports import palette
from dreamjax.reports.tables import cell, number
from dreamjax.signals.datasets import copied, records
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.signals.recordings import identity
from dreamjax.systems import opening
from dreamjax.training.task import PyTree
from dreamjax.typing import JsonDict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENCODER, UNTRAINED, BANDS = "pretrained encoder", "untrained encoder", "band power"
COLOURS = {ENCODER: palette.MODEL, BANDS: palette.REFERENCE, UNTRAINED: palette.WEAK}
DRIFT = "drift: "  # prefix of the names of features that classify the first against the last minute
DRIFT_S = 60.0  # first against last minute of rest
ALIKE = 4  # people, at least, that a conditional mean is fitted and chosen on
BATCH = 64  # windows per call of an encoder


@dataclass(frozen=True)
class ProbeSettings:
    """The settings of a probe: which data, and which encoders."""

    probe: bool = True
    probe_data: str | None = None  # the labelled dataset; None: the one of the run's that has both labels
    probe_labels: tuple[str, str] = ("rest", "arithmetic")  # drift is measured in the first
    folds: int = 3
    fold_runs: tuple[str, ...] = ()  # trained already; empty: train them
    with_reconstruction: bool = False  # also masked reconstruction, every subject by its fold's model
    probe_steps: int | None = None  # of each fold's pretraining; None: as the run
    seed: int = 0
    level: float = bootstrap.LEVEL
    out: str | None = None  # None: RUN/evaluation; the runs of the folds are in it too

    def in_words(self, question: str) -> str:
        """Return the name of a classification: the labels, or DRIFT."""
        one, two = self.probe_labels
        return f"first against last minute of {one}" if question else f"{two} against {one}"


@dataclass(frozen=True, kw_only=True)
class ProbeResult(PageResult):
    """Scores of a probe, and of masked reconstruction where it was asked for."""

    data: str
    copies: int = 0  # recordings left out, as they repeat others
    labels: Sequence[str]
    fold_runs: Mapping[str, Sequence[str]]  # run → subjects
    fold_steps: Sequence[int]
    probe: Mapping[str, Any]  # see `summary`
    reconstruction: Sequence[Mapping[str, Any]] | None = None


def evaluate(workdir: str, settings: ProbeSettings) -> PageResult:
    """Pretrain without each fold's subjects (or open given fold runs) and probe; write the result into `out`."""
    config = opening.config_of(workdir)
    data = cross_fitting.signal_of(config)
    out = settings.out or f"{workdir}/evaluation"
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
    figures = {"probe": figure(list(scores.values()))}
    if settings.with_reconstruction:
        entries = reconstruct(folds, labelled, settings)
        result = dataclasses.replace(
            result,
            reconstruction=entries,
            notes=[*result.notes, *_cross_fitted_notes(folds, entries)],
            statements=[*result.statements, *reconstruction.findings(entries)],
        )
        figures["cross_fitted_scores"] = reconstruction_figure(entries)
    return result.written(figures, out, "probe")


def labelled_dataset(paths: tuple[str, ...], settings: ProbeSettings) -> str:
    """Return the dataset that has windows of both labels. Raise UserError if none has."""
    candidates = (settings.probe_data,) if settings.probe_data else paths
    for path in candidates:
        if set(settings.probe_labels) <= set(records.load_dataset(path).get("labels", [])):
            return path
    raise UserError(
        f"{', '.join(candidates)}: there are no windows labelled {' and '.join(settings.probe_labels)}; give a dataset "
        "that has them with --probe-data (eegmat, prepared by dreamjax), or name two of its labels with --probe-labels"
    )


def load(data: DataConfig, folder: str) -> WindowSet:
    """Return every split of a dataset, one after the other, without copies: a cross-fitted probe ignores splits."""
    data = dataclasses.replace(data, path=(folder,), weights=())
    return window_set.concatenate([window_set.load(data, split) for split in records.load_dataset(folder)["splits"]])


def people(data: DataConfig, folder: str, labels: tuple[str, str]) -> list[str]:
    """Return the subjects who have whole windows of both labels."""
    windows = load(data, folder)
    whole = zip(windows.subjects, windows.labels, windows.whole, strict=True)
    labelled = {(subject, label) for subject, label, ok in whole if ok}
    return sorted(s for s in set(windows.subjects) if all((s, label) in labelled for label in labels))


def score(folds: Sequence[Fold], labelled: str, settings: ProbeSettings) -> dict[str, ProbeScore]:
    """Return name → balanced accuracy by subject, for both classifications and each kind of features."""
    accuracy: dict[str, dict[str, float]] = {}
    lacking: dict[str, tuple[str, ...]] = {}
    with progress("probe", len(folds)) as bar:
        for place, fold in enumerate(folds):
            data = load(fold.task.signal, labelled)
            data = data.where(np.isin(data.subjects, fold.subjects) & data.whole)
            subjects, numbers = np.array(data.subjects), {label: i for i, label in enumerate(settings.probe_labels)}
            condition = np.array([numbers.get(label, -1) for label in data.labels])
            questions = {"": condition, DRIFT: drift(data, settings.probe_labels[0])}
            chosen = {
                question: probe.of_both_classes(labels, subjects, settings.in_words(question))
                for question, labels in questions.items()
            }
            for kind, features in features_of(fold, data, place).items():
                for question, (used, lost) in chosen.items():
                    by_subject = probe.leave_subject_out(features[used], questions[question][used], subjects[used])
                    accuracy.setdefault(question + kind, {}).update(by_subject)
                    lacking[question + kind] = lacking.get(question + kind, ()) + lost
            bar.advance(1)
    return {
        name: ProbeScore(
            name, by_subject, UNTRAINED in name or DRIFT in name, lacking[name], settings.seed, settings.level
        )
        for name, by_subject in accuracy.items()
    }


def features_of(fold: Fold, data: WindowSet, number: int) -> dict[str, np.ndarray]:
    """Return frozen features of a fold's windows: of its encoder, of the same network untrained, and band power."""
    real = data.real.all(axis=0)

    def embedded(params: PyTree) -> np.ndarray:
        embed = held_out.embedder(fold.task, params)
        return data.mapped(lambda rows: embed(data.seen(rows), data.valid[rows]), BATCH)

    return {
        ENCODER: embedded(fold.run.params),
        UNTRAINED: embedded(held_out.untrained(fold.run.task, number)),
        BANDS: probe.band_power(data.seen_microvolts()[:, real], data.sfreq),
    }


def drift(data: WindowSet, label: str) -> np.ndarray:
    """Return first (0) against last (1) minute of each recording of one condition; -1 elsewhere."""
    out = np.full(len(data), -1)
    recordings, starts = np.array(data.recordings), np.array(data.starts)
    labelled = np.array(data.labels) == label
    for recording in np.unique(recordings[labelled]):
        rows = np.flatnonzero((recordings == recording) & labelled)
        out[rows] = probe.drift_labels(starts[rows], DRIFT_S, data.signal.shape[2] / data.sfreq)
    return out


# ------------------------------------------------------------------------------------------------------- reconstruction
def reconstruct(folds: Sequence[Fold], labelled: str, settings: ProbeSettings) -> list[JsonDict]:
    """Score masked reconstruction where every subject is held out once: by the encoder of its fold.

    The conditional mean of a fold is fitted and chosen on subjects outside it, whom the encoder trained on too.
    """
    parts = []
    alike = recorded_alike(folds)
    for fold in folds:
        task = reconstruction.reconstructs(fold.run)
        windows = load(task.signal, labelled)
        scored = np.isin(windows.subjects, fold.subjects)
        fit = ~scored & np.isin(windows.subjects, alike) if alike else ~scored
        parts.append(
            reconstruction_scores.score(
                windows.where(scored),
                task.patch,
                predict=reconstruction.predictor(fold.run),
                baseline=reconstruction.baseline_of(windows.where(fit)),
                seed=settings.seed,
                level=settings.level,
            )
        )
    scores = reconstruction_scores.merge(parts)
    unscored = why_unscored(scores, folds[0].run.step)
    return reconstruction_json(scores, show_model=not unscored)


def recorded_alike(folds: Sequence[Fold]) -> list[str]:
    """Return all probed subjects, if every fold leaves enough of them to fit a conditional mean; else none.

    They were recorded in the same way as the scored subjects, so their Gaussian is the stronger baseline: on eegmat,
    among 11 other corpora, it explains 0.63 of the variance at random 0.75, and a Gaussian of all devices 0.48.
    """
    sizes = [len(fold.subjects) for fold in folds]
    enough = sum(sizes) - max(sizes) >= ALIKE
    return sorted(s for fold in folds for s in fold.subjects) if enough else []


def _cross_fitted_notes(folds: Sequence[Fold], entries: Sequence[Mapping[str, Any]]) -> list[str]:
    task = reconstruction.reconstructs(folds[0].run)
    data, alike = task.signal, recorded_alike(folds)
    fitted_on = "the probed subjects of the other folds, recorded alike" if alike else "all subjects outside it"
    scored = identity.in_words(subject for fold in folds for subject in fold.subjects)
    notes = [
        f"reconstruction is cross-fitted: each of {scored} is scored by its fold's model, so "
        f"the numbers are of the recipe; {data.samples} samples at {data.sfreq:g} Hz, "
        f"patch {task.patch}; µV",
        f"the conditional mean of a fold is fitted and chosen on {fitted_on}",
    ]
    if not any("model" in entry["r2"] for entry in entries):
        notes.append("the folds' models do not beat the zero predictor: no score is shown for them")
    return notes


# --------------------------------------------------------------------------------------------------------------- result
def _result(
    workdir: str, settings: ProbeSettings, labelled: str, folds: Sequence[Fold], scores: Mapping[str, ProbeScore]
) -> ProbeResult:
    copies = copied.Copied.of([labelled]).recordings
    result = summary(scores, settings.probe_labels)
    units = scores[ENCODER].by_subject
    steps = sorted({fold.run.step for fold in folds})
    sizes = ", ".join(str(len(fold.subjects)) for fold in folds)
    left_out = [
        f"left out of {settings.in_words(question)}, without windows of both: subject{'s' if len(lost) > 1 else ''} "
        f"{', '.join(sorted(lost))}"
        for question in ("", DRIFT)
        if (lost := scores[question + ENCODER].left_out)
    ]
    return ProbeResult(
        title=f"Frozen linear probe: {settings.in_words('')}, encoder of {workdir}",
        notes=[
            f"{identity.in_words(units)} of {labelled} in {len(folds)} folds ({sizes}), all windows of all splits",
            f"each fold's encoder was pretrained {' or '.join(map(str, steps))} steps without its probed subjects "
            "(verified); logistic regression fitted leaving one subject out, its penalty chosen leaving out another",
            "features standardised within each subject, without labels; chance is 0.5",
            f"{100 * settings.level:g} % intervals over {identity.groups(units)} in brackets",
            *filter(None, [identity.caveat(units)]),
            *copied.notes(copies),
            *left_out,
        ],
        statements=result.pop("statements"),
        run=workdir,
        data=labelled,
        copies=len(copies),
        labels=list(settings.probe_labels),
        fold_runs={fold.run.workdir: list(fold.subjects) for fold in folds},
        fold_steps=steps,
        level=settings.level,
        seed=settings.seed,
        probe=result,
        captions={
            "probe": "Balanced accuracy; dots are subjects, the line is chance",
            "cross_fitted_scores": "Share of variance explained by mask, every subject by a model that never saw it",
        },
    )


def summary(scores: Mapping[str, ProbeScore], labels: tuple[str, str]) -> JsonDict:
    """Return scores, paired differences, both as tables, and statements that the intervals support."""
    comparisons = {f"{ENCODER} minus {other}": scores[ENCODER].minus(scores[other]) for other in (BANDS, UNTRAINED)}
    for name in (ENCODER, BANDS):
        comparisons[f"{name}: {labels[1]} minus drift"] = scores[name].minus(scores[DRIFT + name])
    differences, rows, claims, first = {}, {}, {}, []
    for name, d in comparisons.items():
        says = "higher" if d.estimate > 0 else "lower"
        differences[name] = d.difference_json(says if d.excludes(0) else bootstrap.unresolved(d, ".3f"))
    for name, one in scores.items():
        accuracy, d = one.accuracy(), one.minus_chance()
        detectable, claims[name] = bootstrap.finite(d.detectable()), probe.claim(d)
        rows[name] = {
            "balanced_accuracy": accuracy.as_json(),
            "minus_chance": d.as_json() | {"detectable": detectable, "says": claims[name]},
            "by_subject": {k: round(v, 5) for k, v in one.by_subject.items()},
            "control": one.control,
        }
        first.append([one.label, cell(accuracy), cell(d, signed=True), number(detectable), claims[name]])
    second = [[name, cell(d, signed=True), number(d["detectable"]), d["says"]] for name, d in differences.items()]
    tables = [
        {
            "title": "Balanced accuracy on left-out subjects",
            "header": ["features", "balanced accuracy", "minus chance", "detectable", ""],
            "rows": first,
        },
        {"title": "Paired differences", "header": ["", "difference", "detectable", ""], "rows": second},
    ]
    return {
        "subjects": len(scores[ENCODER].by_subject),
        "chance": CHANCE,
        "scores": rows,
        "differences": differences,
        "tables": tables,
        "statements": _statements(claims, differences, labels),
    }


def _statements(claims: Mapping[str, str], differences: Mapping[str, JsonDict], labels: tuple[str, str]) -> list[str]:
    sentences = [f"{labels[1]} against {labels[0]} from the encoder: {claims[ENCODER]}"]
    gain, beyond = differences[f"{ENCODER} minus {UNTRAINED}"], differences[f"{ENCODER}: {labels[1]} minus drift"]
    if claims[ENCODER] == "above chance":
        if gain["says"] == "higher":
            sentences.append("pretraining helps: the encoder is above the same network untrained")
        else:
            unresolved = f"not resolved (encoder minus untrained {cell(gain, signed=True)})"
            contradicted = "contradicted: the untrained network scores higher"
            sentences.append(f"that pretraining is the cause is {contradicted if gain['resolved'] else unresolved}")
    if claims[DRIFT + ENCODER] == "above chance":
        more = "; the conditions differ by more than that" if beyond["says"] == "higher" else ""
        drifts = "first and last minute of rest can be distinguished too, so part of the score may be drift over time"
        sentences.append(drifts + more)
    return [
        *sentences,
        f"the two conditions are two recordings: whatever differs between recordings counts as {labels[1]}",
    ]


def figure(scores: Sequence[ProbeScore]) -> "Figure":
    """Draw balanced accuracy with intervals, a row for each kind of features and question; every subject a dot."""
    fig, axis = drawing.single(8, 0.55 * len(scores) + 1.1)
    rng = np.random.default_rng(0)
    for row, score in enumerate(scores):
        colour = COLOURS[score.name.removeprefix(DRIFT)]
        value, each = score.accuracy(), np.array(list(score.by_subject.values()))
        axis.plot(each, row + rng.uniform(-0.18, 0.18, len(each)), ".", color=colour, alpha=0.4, ms=6, mew=0)
        if value.known:
            axis.plot([value.low, value.high], [row, row], color=colour, lw=2)
        axis.plot(value.estimate, row, "o", color=colour, ms=7, mfc=colour if not score.control else "white")
    axis.axvline(CHANCE, color=palette.QUIET, lw=0.9, ls="--", zorder=0)
    axis.set_yticks(range(len(scores)), [score.label for score in scores])
    axis.invert_yaxis()
    axis.set_xlim(-0.02, 1.02)
    axis.set_xlabel("balanced accuracy on left-out subjects")
    return fig
