"""Evaluate masked reconstruction of a run on held-out windows, with baselines fitted on training subjects."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from dreamjax import __version__
from dreamjax.console import counted, log
from dreamjax.errors import UserError
from dreamjax.evaluation import functions, reconstruction_plot, reconstruction_report, reconstruction_scores, window_set
from dreamjax.evaluation.reconstruction_scores import MaskScore, Predict
from dreamjax.evaluation.window_set import WindowSet
from dreamjax.metrics import bootstrap, conditional_mean, leakage
from dreamjax.parallel import environment
from dreamjax.reports import pages, tables
from dreamjax.runs import provenance
from dreamjax.signals.datasets import records
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.systems import opening
from dreamjax.systems.base import Reconstructs, Run, capability
from dreamjax.typing import JsonDict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIT_WINDOWS = 4000  # training windows that the Gaussian is fitted on, spread evenly
SHOWN = ("random 0.75", "gap 250 ms")


@dataclass(frozen=True)
class ReconstructionSettings:
    """What to score, and how."""

    data: tuple[str, ...] = ()  # dataset folders; empty: those of the run
    split: str = "test"
    step: int | None = None
    best: bool = False
    windows: int | None = None  # at most so many; None: all that fit in memory
    seed: int = 0  # of masks, bootstrap and the shown window
    level: float = bootstrap.LEVEL
    out: str | None = None  # None: RUN/evaluation


@dataclass(frozen=True, kw_only=True)
class PageResult:
    """What a result page shows; a subclass has the numbers."""

    title: str
    notes: Sequence[str]
    statements: Sequence[str]
    run: str
    level: float
    seed: int
    captions: Mapping[str, str]
    method: str = reconstruction_report.METHOD.format(draws=bootstrap.DRAWS)
    version: str = __version__
    files: Sequence[str] = ()

    def as_json(self) -> JsonDict:
        return {name: value for name, value in asdict(self).items() if value is not None}

    def text(self) -> str:
        """Return the tables for a terminal."""
        result = self.as_json()
        return pages.of_result(result, reconstruction_report.tables(result)).text(self.files)

    def written(self, figures: "Mapping[str, Figure]", out: str, stem: str) -> "PageResult":
        """Write the page, its figures and the JSON; return the result with the names of the files."""
        result = self.as_json()
        result.pop("files")
        return replace(self, files=pages.write(result, reconstruction_report.tables(result), figures, out, stem))


@dataclass(frozen=True, kw_only=True)
class ReconstructionResult(PageResult):
    """Scores of masked reconstruction."""

    step: int
    examples: int  # consumed by training
    split: str
    data: Sequence[str]
    subjects: int
    windows: int
    sfreq: float
    patch: int
    scored: bool  # whether the model earned a score
    reconstruction: Sequence[Mapping[str, Any]]  # of every mask


def evaluate(workdir: str, settings: ReconstructionSettings) -> PageResult:
    """Score masked reconstruction on a split that training never saw; write the result into `out`.

    Raise UserError for a missing run or dataset, for a split that holds a subject of training, and for a system or
    target that predicts no signal.
    """
    run = opening.open_run(workdir, settings.step, settings.best)
    task = capability(run.task, Reconstructs, "reconstruct a signal")
    if settings.split == "train":
        raise UserError("split train is what the run learned from; score it on --split test (or val)")
    folders = settings.data or task.signal.path
    check = leakage.refuse_overlap(
        provenance.trained_on(task.signal.path, workdir),
        provenance.held_out(folders, settings.split),
        settings.split,
        workdir,
    )
    held_out = window_set.load(_data(task.signal, folders), settings.split, settings.windows)
    baseline = baseline_data(task.signal, folders, settings.split)
    predict = functions.predictor(run)
    scores = reconstruction_scores.score(
        held_out,
        task.patch,
        predict=predict if run.step else None,
        candidates=baseline.candidates,
        validation=baseline.validation,
        chooser=baseline.chooser,
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
    subjects = len(set(held_out.subjects))
    result = ReconstructionResult(
        title=f"Masked reconstruction: {workdir}, step {run.step}, split {settings.split}{mark}",
        notes=[
            _summary(held_out, task.patch),
            f"{100 * settings.level:g} % intervals over subjects in brackets; {parameters} of the run",
            *(check, *baseline.notes, *clipping(held_out), *caveats(task.signal)),
        ],
        statements=[*([unscored] if unscored else []), *optimistic, *findings(entries), *_few(subjects)],
        run=workdir,
        step=run.step,
        examples=run.examples,
        split=settings.split,
        data=list(folders),
        subjects=subjects,
        windows=len(held_out),
        sfreq=held_out.sfreq,
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
        figures["reconstruction"] = _figure(held_out, scores, baseline, predict, task.patch, settings.seed)
    out = settings.out or str(epath.Path(workdir) / "evaluation")
    return result.written(figures, out, f"reconstruction-{settings.split}")


# ------------------------------------------------------------------------------------------------------------ baselines
@dataclass(frozen=True)
class Baseline:
    """What the conditional mean is fitted and chosen on; None where the datasets hold no subjects for it."""

    candidates: conditional_mean.Candidates | None
    validation: WindowSet | None
    notes: tuple[str, ...]
    # fitted without `validation`, where `candidates` are fitted on it too
    chooser: conditional_mean.Candidates | None = None


def _data(config: DataConfig, folders: tuple[str, ...]) -> DataConfig:
    return replace(config, path=tuple(folders), weights=())


def baseline_data(config: DataConfig, folders: tuple[str, ...], split: str) -> Baseline:
    """Return training subjects to fit a Gaussian on, and validation subjects to choose it on; never the scored ones."""
    with_train = tuple(f for f in folders if "train" in records.load_dataset(f)["splits"])
    if not with_train:
        return Baseline(None, None, ("no conditional mean: the datasets have no split train to fit it on",))
    fit = window_set.load(_data(config, with_train), "train", FIT_WINDOWS)
    with_val = tuple(f for f in folders if "val" in records.load_dataset(f)["splits"])
    if not with_val or split == "val":
        return baseline_of(fit)
    return _baseline(fit, window_set.load(_data(config, with_val), "val", FIT_WINDOWS), "split val")


def baseline_of(training: WindowSet) -> Baseline:
    """Return a baseline without validation subjects.

    It is chosen on every second training subject among fits to the others, then fitted on all. Half of the people are
    left out, because shrinkage has to hold across people.
    """
    people = sorted(set(training.subjects))
    if len(people) < 2:
        return Baseline(None, None, ("no conditional mean: no subject is left to choose its shrinkage on",))
    left_out = np.isin(training.subjects, people[::2])
    fit, chosen = training.take(np.flatnonzero(~left_out)), training.take(np.flatnonzero(left_out))
    with environment.single_blas_thread():
        chooser = conditional_mean.Candidates(fit.seen_microvolts(), fit.valid)
    return replace(_baseline(training, chosen, "those, held out for it"), chooser=chooser)


def _baseline(fit: WindowSet, chosen: WindowSet, source: str) -> Baseline:
    note = (
        f"conditional mean: fitted on {len(fit)} windows of {len(set(fit.subjects))} training subjects, chosen on "
        f"{len(set(chosen.subjects))} subject(s) of {source}"
    )
    with environment.single_blas_thread():
        return Baseline(conditional_mean.Candidates(fit.seen_microvolts(), fit.valid), chosen, (note,))


def clipping(held_out: WindowSet) -> list[str]:
    """Return a note where samples reach the model, and the baselines, clipped."""
    share = held_out.clipped_share
    if not share:
        return []
    return [
        f"{100 * share:.2g} % of the samples lie beyond data.clip = {held_out.clip:g}: model and baselines see them "
        "clipped, and are scored on them as recorded"
    ]


def caveats(config: DataConfig) -> list[str]:
    """Return notes on what makes the scores of such a model hard to compare."""
    notes = []
    if config.scaling == "zscore":
        notes.append(
            "scaling zscore: the model is given the mean and standard deviation of the whole window, hidden part "
            "included, which the baselines are not"
        )
    if config.stretch or config.sfreq != 256.0:
        how = f"at {config.sfreq:g} Hz" + (", stretched in time" if config.stretch else "")
        notes.append(f"not comparable with scores at 256 Hz: this model works {how}")
    return notes


# --------------------------------------------------------------------------------------------------------------- notes
def _summary(held_out: WindowSet, patch: int) -> str:
    """Return what was scored, in a line."""
    subjects, counts = len(set(held_out.subjects)), held_out.real.sum(axis=1)
    channels = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    thinned = f" (an even choice of {held_out.available})" if len(held_out) < held_out.available else ""
    return (
        f"{len(held_out)} windows{thinned} of {counted(subjects, 'held-out subject')}, {channels} real channels, "
        f"{held_out.signal.shape[2]} samples at {held_out.sfreq:g} Hz, patch {patch}; µV"
    )


def chosen_on(settings: ReconstructionSettings, run: Run) -> list[str]:
    """Return a note where the scored split is the one by which the best step was chosen."""
    folders = capability(run.task, Reconstructs, "reconstruct a signal").signal.path
    shared = {os.path.abspath(path) for path in settings.data or folders} & {os.path.abspath(path) for path in folders}
    if not (settings.best and settings.split == "val" and shared):
        return []
    metric = run.config.train.checkpoint.best_metric
    return [
        f"the step was chosen among those saved by its {metric} on split val, so its scores there are optimistic; "
        "--split test is held out"
    ]


def _few(subjects: int) -> list[str]:
    if subjects == 1:
        return ["one subject is held out: there is no interval, and no conclusion about other people"]
    return [f"only {subjects} subjects are held out: intervals are wide"] if subjects < 5 else []


def findings(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the signed distance to the strong baseline, mask by mask, as sentences."""
    differences = {entry["mask"]: entry.get("model_minus", {}).get("conditional mean") for entry in entries}
    return [
        f"{mask}: model minus conditional mean {tables.cell(d, signed=True)}; {d['says']}"
        for mask, d in differences.items()
        if d
    ]


def _figure(
    held_out: WindowSet, scores: Sequence[MaskScore], baseline: Baseline, predict: Predict, patch: int, seed: int
) -> "Figure":
    row = reconstruction_plot.draw_row(held_out, seed)
    windows = []
    for s in scores:
        if s.task.name in SHOWN:
            fitted = None
            choice = s.choice[0] if s.choice else None
            if baseline.candidates is not None and choice is not None:
                fitted = baseline.candidates.make(choice.basis, choice.covariance, choice.shrinkage)
            windows.append(reconstruction_plot.masked_window(held_out, row, s.task, patch, predict, fitted, seed))
    log.info("image: window at %g s of a recording of subject %s", held_out.starts[row], held_out.subjects[row])
    caption = "a held-out subject's window, drawn at random; R² over the hidden samples of all its channels"
    return reconstruction_plot.figure(windows, caption=caption)
