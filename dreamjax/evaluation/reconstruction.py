"""Evaluate masked reconstruction of a run on held-out windows, with baselines fitted on training subjects."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.evaluation import reconstruction_plot, reconstruction_report, reconstruction_scores, window_set
from dreamjax.evaluation.reconstruction_report import PageResult
from dreamjax.evaluation.reconstruction_scores import Baseline, MaskScore, Predict
from dreamjax.evaluation.score_table import ExampleSettings, refuse_training_split
from dreamjax.evaluation.window_set import WindowSet
from dreamjax.metrics import bootstrap, leakage
from dreamjax.metrics.conditional_mean import Candidates
from dreamjax.parallel import environment
from dreamjax.reports import tables
from dreamjax.runs import provenance
from dreamjax.signals.datasets import copied, records
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.signals.recordings import identity
from dreamjax.systems import opening
from dreamjax.systems.base import Reconstructs, Run, capability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIT_WINDOWS = 4000  # training windows that the Gaussian is fitted on, spread evenly
SHOWN = ("random 0.75", "gap 250 ms")
MEANS = ("zero", "channel mean")
WHY_WORSE = {  # baselines that can be worse than a mean, and why
    "conditional mean": (
        "the covariance of the people it was fitted on does not hold for these, and a difference from it says little "
        "about the model"
    ),
    "linear interpolation": "a line through the nearest samples does not follow what oscillates between them",
}


@dataclass(frozen=True)
class ReconstructionSettings(ExampleSettings):
    """The settings of masked reconstruction."""

    data: tuple[str, ...] = ()  # dataset folders; empty: those of the run
    windows: int | None = None  # at most this many; None: all that fit in memory
    level: float = bootstrap.LEVEL


@dataclass(frozen=True, kw_only=True)
class ReconstructionResult(PageResult):
    """Scores of masked reconstruction."""

    step: int
    examples: int  # consumed by training
    split: str
    data: Sequence[str]
    subjects: int  # known subjects
    recordings_of_unknown_subjects: int = 0
    windows: int
    sfreq: float
    patch: int
    scored: bool  # whether the model gets a score
    reconstruction: Sequence[Mapping[str, Any]]  # of every mask


def evaluate(workdir: str, settings: ReconstructionSettings) -> PageResult:
    """Score masked reconstruction on a split that training never saw; write the result into `out`.

    Raise UserError for a missing run or dataset, for a split that holds a subject of training, and for a system or
    target that predicts no signal.
    """
    run = opening.open_run(workdir, settings.step, settings.best)
    task = reconstructs(run)
    refuse_training_split(settings.split)
    folders = settings.data or task.signal.path
    trained_on = provenance.trained_on(task.signal.path, workdir)
    scored_on = provenance.held_out(folders, settings.split)
    check = leakage.refuse_overlap(trained_on, scored_on, settings.split, workdir)
    windows = window_set.load(_data(task.signal, folders), settings.split, settings.windows)
    baseline = baseline_data(task.signal, folders, settings.split)
    predict = predictor(run)
    scores = reconstruction_scores.score(
        windows,
        task.patch,
        predict=predict if run.step else None,
        baseline=baseline,
        seed=settings.seed,
        level=settings.level,
    )
    if not scores:
        raise UserError(f"{', '.join(folders)}: split {settings.split} has no window long enough for any mask")
    unscored = reconstruction_report.why_unscored(scores, run.step)
    entries = reconstruction_report.reconstruction_json(scores, show_model=not unscored)
    optimistic = chosen_on(settings, run)
    mark = ", on which the step was chosen (optimistic)" if optimistic else ""
    parameters = "averaged parameters" if run.averaged else "parameters"
    units = set(windows.subjects)
    unknown = identity.unknown_units(units)
    result = ReconstructionResult(
        title=f"Masked reconstruction: {workdir}, step {run.step}, split {settings.split}{mark}",
        notes=[
            _summary(windows, task.patch),
            f"{100 * settings.level:g} % intervals over {identity.groups(units)} in brackets; {parameters} of the run",
            *(check, *copied.notes(windows.copies), *baseline.notes, *_caveats(windows, task.signal)),
        ],
        statements=[*([unscored] if unscored else []), *optimistic, *findings(entries), *_few(units)],
        run=workdir,
        step=run.step,
        examples=run.examples,
        split=settings.split,
        data=list(folders),
        subjects=len(units) - unknown,
        recordings_of_unknown_subjects=unknown,
        windows=len(windows),
        sfreq=windows.sfreq,
        patch=task.patch,
        level=settings.level,
        seed=settings.seed,
        scored=not unscored,
        reconstruction=entries,
        captions={
            "reconstruction_scores": "Share of variance explained by mask; dots are subjects",
            "reconstruction": "One held-out window, drawn at random",
        },
    )
    figures = {"reconstruction_scores": reconstruction_report.reconstruction_figure(entries)}
    if not unscored:
        figures["reconstruction"] = _figure(windows, scores, baseline, predict, task.patch, settings.seed)
    return result.written(figures, settings.folder(workdir), f"reconstruction-{settings.split}")


def reconstructs(run: Run) -> Reconstructs:
    """Return the run's system. Raise UserError for one that does not reconstruct."""
    return capability(run.task, Reconstructs, "reconstruct a signal")


def predictor(run: Run) -> Predict:
    """Return (signal, hidden patches, valid samples) → reconstruction, compiled once."""
    compiled = jax.jit(reconstructs(run).reconstruct)
    return lambda signal, hidden, valid: np.asarray(compiled(run.params, signal, hidden, valid))


# ------------------------------------------------------------------------------------------------------------ baselines
def _data(config: DataConfig, folders: Sequence[str]) -> DataConfig:
    return replace(config, path=tuple(folders), weights=())


def baseline_data(config: DataConfig, folders: Sequence[str], split: str) -> Baseline:
    """Return training subjects to fit a Gaussian on, and validation subjects to choose it on; never the scored ones."""
    with_train, with_val = (
        [folder for folder in folders if name in records.load_dataset(folder)["splits"]] for name in ("train", "val")
    )
    if not with_train:
        return Baseline(notes=("no conditional mean: the datasets have no split train to fit it on",))
    fit = window_set.load(_data(config, with_train), "train", FIT_WINDOWS)
    if not with_val or split == "val":
        return baseline_of(fit)
    return _baseline(fit, window_set.load(_data(config, with_val), "val", FIT_WINDOWS), "split val")


def baseline_of(training: WindowSet) -> Baseline:
    """Return a baseline without validation subjects.

    It is chosen on every second training subject among fits to the others, then fitted on all. Half of the subjects are
    left out, because the shrinkage has to generalise across subjects.
    """
    people = sorted(set(training.subjects))
    if len(people) < 2:
        return Baseline(notes=("no conditional mean: no subject is left to choose its shrinkage on",))
    left_out = np.isin(training.subjects, people[::2])
    baseline = _baseline(training, training.where(left_out), "those, held out for it")
    return replace(baseline, chooser=_candidates(training.where(~left_out)))


def _baseline(fit: WindowSet, chosen: WindowSet, source: str) -> Baseline:
    note = (
        f"conditional mean: fitted on {len(fit)} windows of {identity.in_words(fit.subjects, 'training subject')}, "
        f"chosen on {identity.in_words(chosen.subjects)} of {source}"
    )
    return Baseline(_candidates(fit), chosen, (note,))


def _candidates(windows: WindowSet) -> Candidates:
    with environment.single_blas_thread():
        return Candidates(windows.seen_microvolts(), windows.valid)


# --------------------------------------------------------------------------------------------------------------- notes
def _summary(windows: WindowSet, patch: int) -> str:
    """Return one line on what was scored."""
    people, counts = identity.in_words(windows.subjects, "held-out subject"), windows.real.sum(axis=1)
    channels = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    thinned = f" (an even choice of {windows.available})" if len(windows) < windows.available else ""
    return (
        f"{len(windows)} windows{thinned} of {people}, {channels} real channels, "
        f"{windows.signal.shape[2]} samples at {windows.sfreq:g} Hz, patch {patch}; µV"
    )


def _caveats(windows: WindowSet, config: DataConfig) -> list[str]:
    """Return notes on clipped samples, and on settings that make the scores hard to compare."""
    notes = []
    if share := windows.clipped_share:
        notes.append(
            f"{100 * share:.2g} % of the samples lie beyond data.clip = {windows.clip:g}: model and baselines see them "
            "clipped, and are scored on them as recorded"
        )
    if config.scaling == "zscore":
        notes.append(
            "scaling zscore: the model is given the mean and standard deviation of the whole window, hidden part "
            "included, which the baselines are not"
        )
    if config.stretch or config.sfreq != 256.0:
        how = f"at {config.sfreq:g} Hz" + (", stretched in time" if config.stretch else "")
        notes.append(f"not comparable with scores at 256 Hz: this model works {how}")
    return notes


def chosen_on(settings: ReconstructionSettings, run: Run) -> list[str]:
    """Return a note where the scored split is the one by which the best step was chosen."""
    folders = reconstructs(run).signal.path
    shared = {os.path.abspath(path) for path in settings.data or folders} & {os.path.abspath(path) for path in folders}
    if not (settings.best and settings.split == "val" and shared):
        return []
    metric = run.config.train.checkpoint.best_metric
    return [
        f"the step was chosen among those saved by its {metric} on split val, so its scores there are optimistic; "
        "--split test is held out"
    ]


def _few(units: set[str]) -> list[str]:
    """Return what limits the conclusions: unknown subjects, and few units."""
    unknown = identity.caveat(units)
    notes = [f"{unknown}, also with recordings of training: no conclusion about other people"] if unknown else []
    if len(units) == 1:
        one = "recording" if unknown else "subject"
        return [*notes, f"one {one} is held out: there is no interval, and no conclusion about other people"]
    return [*notes, *([f"only {identity.in_words(units)} are held out: intervals are wide"] if len(units) < 5 else [])]


def findings(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each mask, the signed difference from the strongest baseline, and those on bad baselines.

    Without a conditional mean there is no sentence on a difference.
    """
    sentences = []
    for entry in entries:
        differences = entry.get("model_minus", {})
        if "conditional mean" in differences:
            other = max(differences, key=lambda name: _share(entry, name))
            d = differences[other]
            line = f"{entry['mask']}: model minus {other} {tables.cell(d, signed=True)}; {d['says']}"
            sentences.append(line + ("" if other == "conditional mean" else " (here the strongest baseline)"))
    return sentences + _worse_than_mean(entries)


def _worse_than_mean(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each baseline that explains less than predicting zero or the channel mean under a mask."""
    sentences = []
    for name, why in WHY_WORSE.items():
        worse = [
            f"{entry['mask']} ({tables.number(_share(entry, name))})"
            for entry in entries
            if name in entry["r2"] and _share(entry, name) < max(_share(entry, m) for m in MEANS if m in entry["r2"])
        ]
        if worse:
            sentences.append(f"worse than predicting the mean: {name} under {', '.join(worse)}; the reason: {why}")
    return sentences


def _share(entry: Mapping[str, Any], method: str) -> float:
    """Return the share of variance that a method explains; -inf where it is unknown."""
    estimate = entry["r2"][method]["estimate"]
    return -math.inf if estimate is None else float(estimate)


def _figure(
    windows: WindowSet, scores: Sequence[MaskScore], baseline: Baseline, predict: Predict, patch: int, seed: int
) -> "Figure":
    row = reconstruction_plot.draw_row(windows, seed)
    log.info("image: window at %g s of a recording of subject %s", windows.starts[row], windows.subjects[row])
    shown = [
        reconstruction_plot.masked_window(
            windows, row, s.task, patch, predict, baseline.fitted(s.choice[0] if s.choice else None), seed
        )
        for s in scores
        if s.task.name in SHOWN
    ]
    return reconstruction_plot.figure(shown)
