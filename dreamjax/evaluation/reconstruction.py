"""`dreamjax evaluate`: a run opened, its held-out windows, baselines fitted on training subjects, scores, a report."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from etils import epath

from dreamjax import __version__
from dreamjax.console import counted, log
from dreamjax.errors import UserError
from dreamjax.evaluation import reconstruction_plot, reconstruction_report, reconstruction_scores
from dreamjax.evaluation import window_set as windows
from dreamjax.evaluation.window_set import WindowSet
from dreamjax.metrics import bootstrap, conditional_mean, leakage
from dreamjax.parallel import environment
from dreamjax.reports import tables
from dreamjax.runs import provenance
from dreamjax.signals.datasets import records
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.systems import masked_pretraining, opening

FIT_WINDOWS = 4000  # training windows that the Gaussian is fitted on, spread evenly
SHOWN = ("random 0.75", "gap 250 ms")


@dataclass(frozen=True)
class Request:
    """What to measure, and how."""

    data: tuple[str, ...] = ()  # dataset folders; empty: those of the run
    split: str = "test"
    step: int | None = None
    best: bool = False
    windows: int | None = None  # at most so many; None: all that fit in memory
    seed: int = 0  # of masks, bootstrap and the shown window
    level: float = bootstrap.LEVEL
    out: str | None = None  # None: WORKDIR/evaluation


def evaluate(workdir: str, request: Request) -> dict[str, Any]:
    """Masked reconstruction of a run on a split that its training never saw; a JSON-able result, and files in `out`.

    Raises UserError for a missing run or dataset, for a split that holds a subject of training, and for a system or
    target that predicts no signal.
    """
    run = opening.open_run(workdir, request.step, request.best)
    config = masked_config(run)
    if request.split == "train":
        raise UserError("split train is what the run learned from; score it on --split test (or val)")
    folders = request.data or config.data.path
    check = leakage.refuse_overlap(
        provenance.trained_on(config.data.path, workdir),
        provenance.held_out(folders, request.split),
        request.split,
        workdir,
    )
    held_out = windows.load(_data(config.data, folders), request.split, request.windows)
    baseline = baseline_data(config.data, folders, request.split)
    predict = predictor(run)
    scores = reconstruction_scores.score(
        held_out,
        config.model.patch,
        predict=predict if run.step else None,
        candidates=baseline.candidates,
        validation=baseline.validation,
        chooser=baseline.chooser,
        seed=request.seed,
        level=request.level,
    )
    if not scores:
        raise UserError(f"{', '.join(folders)}: split {request.split} has no window long enough for any mask")
    standing = reconstruction_report.standing(scores, run.step)
    result = _result(
        run, request, held_out, scores, standing, [check, *baseline.notes, *clipping(held_out), *caveats(config.data)]
    )
    figures: dict[str, Any] = {
        "reconstruction_scores": reconstruction_report.reconstruction_figure(result["reconstruction"])
    }
    if not standing:
        figures["reconstruction"] = _image(run, held_out, scores, baseline, predict, request.seed)
    out = request.out or str(epath.Path(workdir) / "evaluation")
    return result | {
        "files": tables.write(
            result, reconstruction_report.tables(result), figures, out, f"reconstruction-{request.split}"
        )
    }


def masked_config(run: opening.Run) -> masked_pretraining.MaskedPretrainingConfig:
    """The run's config. Raises UserError where its system is not one that reconstructs."""
    if not isinstance(run.config, masked_pretraining.MaskedPretrainingConfig):
        raise UserError(f"{run.workdir} is a run of {run.config.system}, which reconstructs no signal")
    return run.config


def predictor(run: opening.Run) -> reconstruction_scores.Predict:
    """A run as the function that evaluation asks for."""
    config = masked_config(run)
    compiled = jax.jit(lambda p, x, m, v: masked_pretraining.reconstruct(config, p, x, m, v))
    return lambda signal, hidden, valid: np.asarray(compiled(run.params, signal, hidden, valid))


def featurizer(config: masked_pretraining.MaskedPretrainingConfig, params: Any) -> Callable[..., np.ndarray]:
    """`(signal (B, C, T), valid (B, T)) → (B, D)`: the mean of the encoder's tokens, nothing hidden."""
    compiled = _features(config.model, config.data.samples)
    return lambda signal, valid: np.asarray(compiled(params, signal, valid.astype(np.float32)))


def fresh_params(config: masked_pretraining.MaskedPretrainingConfig, seed: int) -> Any:
    """Parameters of the same network that nothing has trained."""
    return _init(config.model, config.data.samples)(jax.random.fold_in(jax.random.key(config.seed), seed))


def _sizes_alone(
    model: masked_pretraining.MaskedModelConfig, samples: int
) -> masked_pretraining.MaskedPretrainingConfig:
    return masked_pretraining.MaskedPretrainingConfig(model=model, data=DataConfig(samples=samples))


@functools.lru_cache(maxsize=4)
def _features(model: masked_pretraining.MaskedModelConfig, samples: int) -> Any:
    config = _sizes_alone(model, samples)

    def pooled(params: Any, signal: jax.Array, valid: jax.Array) -> jax.Array:
        tokens = masked_pretraining.features(config, params, signal, valid)
        whole = valid.reshape(valid.shape[0], -1, model.patch).min(axis=2) > 0
        return masked_pretraining.pooled(tokens, whole)

    return jax.jit(pooled)


@functools.lru_cache(maxsize=4)
def _init(model: masked_pretraining.MaskedModelConfig, samples: int) -> Any:
    config = _sizes_alone(model, samples)
    return jax.jit(lambda key: masked_pretraining.init_params(config, key))


# ------------------------------------------------------------------------------------------------------------ baselines
@dataclass(frozen=True)
class Baseline:
    """What the conditional mean is fitted and chosen on; None where the datasets hold nobody for it."""

    candidates: conditional_mean.Candidates | None
    validation: WindowSet | None
    notes: tuple[str, ...]
    chooser: conditional_mean.Candidates | None = (
        None  # fitted without `validation`, where `candidates` are fitted on it too
    )


def _data(config: DataConfig, folders: tuple[str, ...]) -> DataConfig:
    return replace(config, path=tuple(folders), weights=())


def baseline_data(config: DataConfig, folders: tuple[str, ...], split: str) -> Baseline:
    """Training subjects to fit a Gaussian on, and validation subjects to choose it on; never the scored ones."""
    with_train = tuple(f for f in folders if "train" in records.load_dataset(f)["splits"])
    if not with_train:
        return Baseline(None, None, ("no conditional mean: the datasets have no split train to fit it on",))
    fit = windows.load(_data(config, with_train), "train", FIT_WINDOWS)
    with_val = tuple(f for f in folders if "val" in records.load_dataset(f)["splits"])
    if with_val and split != "val":
        chosen, source = windows.load(_data(config, with_val), "val", FIT_WINDOWS), "split val"
    else:
        return baseline_of(fit)
    return _baseline(fit, chosen, source)


def baseline_of(training: WindowSet) -> Baseline:
    """No validation subjects: chosen on every second training subject among fits to the others, then fitted on all.

    Half of the people, as what shrinkage has to survive is that people differ.
    """
    people = sorted(set(training.subjects))
    if len(people) < 2:
        return Baseline(None, None, ("no conditional mean: nobody is left to choose its shrinkage on",))
    mine = np.isin(training.subjects, people[::2])
    fit, chosen = training.take(np.flatnonzero(~mine)), training.take(np.flatnonzero(mine))
    with environment.single_blas_thread():
        chooser = conditional_mean.Candidates(fit.seen_microvolts(), fit.valid)
    found = _baseline(training, chosen, "those, held out for it")
    return replace(found, chooser=chooser)


def _baseline(fit: WindowSet, chosen: WindowSet, source: str) -> Baseline:
    note = (
        f"conditional mean: fitted on {len(fit)} windows of {len(set(fit.subjects))} training subjects, chosen on "
        f"{len(set(chosen.subjects))} subject(s) of {source}"
    )
    with environment.single_blas_thread():
        return Baseline(conditional_mean.Candidates(fit.seen_microvolts(), fit.valid), chosen, (note,))


def clipping(held_out: WindowSet) -> list[str]:
    """That some samples reach the model, and the baselines, clipped; nothing where none does."""
    share = held_out.clipped_share
    if not share:
        return []
    return [
        f"{100 * share:.2g} % of the samples lie beyond data.clip = {held_out.clip:g}: model and baselines see them "
        "clipped, and are scored on them as recorded"
    ]


def caveats(config: DataConfig) -> list[str]:
    """What makes the scores of such a model hard to compare."""
    found = []
    if config.scaling == "zscore":
        found.append(
            "scaling zscore: the model is told the mean and standard deviation of the whole window, hidden part "
            "included, which the baselines are not"
        )
    if config.stretch or config.sfreq != 256.0:
        how = f"at {config.sfreq:g} Hz" + (", stretched in time" if config.stretch else "")
        found.append(f"not comparable with scores at 256 Hz: this model works {how}")
    return found


# --------------------------------------------------------------------------------------------------------------- result
def described(held_out: WindowSet, patch: int) -> str:
    """What was scored, in a line."""
    subjects = len(set(held_out.subjects))
    thinned = f" (an even choice of {held_out.available})" if len(held_out) < held_out.available else ""
    return (
        f"{len(held_out)} windows{thinned} of {counted(subjects, 'held-out subject')}, "
        f"{_channels(held_out)} real channels, {held_out.signal.shape[2]} samples at {held_out.sfreq:g} Hz, "
        f"patch {patch}; µV"
    )


def _result(
    run: opening.Run,
    request: Request,
    held_out: WindowSet,
    scores: list[reconstruction_scores.MaskScore],
    standing: str,
    notes: list[str],
) -> dict[str, Any]:
    entries = reconstruction_report.reconstruction_json(scores, show_model=not standing)
    subjects = len(set(held_out.subjects))
    config = masked_config(run)
    first = described(held_out, config.model.patch)
    seen = "averaged parameters" if run.averaged else "parameters"
    optimistic = chosen_on(request, config)
    mark = ", on which the step was chosen (optimistic)" if optimistic else ""
    return {
        "title": f"Masked reconstruction: {run.workdir}, step {run.step}, split {request.split}{mark}",
        "notes": [first, f"{100 * request.level:g} % intervals over subjects in brackets; {seen} of the run", *notes],
        "statements": [*([standing] if standing else []), *optimistic, *findings(entries), *_few(subjects)],
        "run": run.workdir,
        "step": run.step,
        "examples": run.examples,
        "split": request.split,
        "data": list(request.data or config.data.path),
        "subjects": subjects,
        "windows": len(held_out),
        "sfreq": held_out.sfreq,
        "patch": config.model.patch,
        "level": request.level,
        "seed": request.seed,
        "scored": not standing,
        "reconstruction": entries,
        "captions": {
            "reconstruction_scores": "Share of variance explained by mask; dots are subjects",
            "reconstruction": "One held-out window, drawn at random",
        },
        "method": reconstruction_report.METHOD.format(draws=bootstrap.DRAWS),
        "version": __version__,
    }


def chosen_on(request: Request, config: masked_pretraining.MaskedPretrainingConfig) -> list[str]:
    """That the split which is scored is the one by which the best step was chosen; nothing where it is not."""
    folders = set(request.data or config.data.path)
    if not (request.best and request.split == "val" and folders & set(config.data.path)):
        return []
    metric = config.train.checkpoint.best_metric
    return [
        f"the step was chosen among those saved by its {metric} on split val, so its scores there are optimistic; "
        "--split test is held out"
    ]


def _channels(held_out: WindowSet) -> str:
    counts = held_out.real.sum(axis=1)
    return f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"


def _few(subjects: int) -> list[str]:
    if subjects == 1:
        return ["one subject is held out: there is no interval, and nothing can be said about other people"]
    return [f"only {subjects} subjects are held out: intervals are wide"] if subjects < 5 else []


def findings(entries: list[dict[str, Any]]) -> list[str]:
    """The signed distance to the strong baseline, mask by mask, as sentences."""
    found = []
    for entry in entries:
        d = entry.get("model_minus", {}).get("conditional mean")
        if d:
            found.append(f"{entry['mask']}: model minus conditional mean {tables.cell(d, signed=True)}; {d['says']}")
    return found


def _image(
    run: opening.Run,
    held_out: WindowSet,
    scores: list[reconstruction_scores.MaskScore],
    baseline: Baseline,
    predict: reconstruction_scores.Predict,
    seed: int,
) -> Any:
    row = reconstruction_plot.draw_row(held_out, seed)
    patch = masked_config(run).model.patch
    panels = []
    for s in scores:
        if s.task.name in SHOWN:
            fitted = None
            if baseline.candidates is not None and s.choice:
                fitted = baseline.candidates.make(s.choice["basis"], s.choice["covariance"], s.choice["shrinkage"])
            panels.append(reconstruction_plot.panel(held_out, row, s.task, patch, predict, fitted, seed))
    log.info("image: window at %g s of a recording of subject %s", held_out.starts[row], held_out.subjects[row])
    caption = "a held-out subject's window, drawn at random; R² over the hidden samples of all its channels"
    return reconstruction_plot.figure(panels, caption=caption)
