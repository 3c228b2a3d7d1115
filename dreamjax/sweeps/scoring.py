"""Score a system that reads signals, on the same windows and masks for every run, whatever its own masks.

A run's own held-out loss is at its own mask ratio and cannot be compared with that of another ratio: it is kept and
shown, and nothing is ranked by it.
"""

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from dreamjax.errors import UserError
from dreamjax.evaluation import reconstruction, reconstruction_scores, window_set
from dreamjax.evaluation.window_set import WindowSet
from dreamjax.metrics import leakage, probe
from dreamjax.parallel import environment
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.runs import provenance
from dreamjax.signals.datasets import records
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.storage import manifest, presence
from dreamjax.sweeps.sweep_config import RunConfig, ScoreConfig
from dreamjax.systems import opening, registry
from dreamjax.systems.base import Embeds, Reconstructs, Run, Signals, capability, offered
from dreamjax.training.step_metrics import means, read
from dreamjax.training.task import State, Task

MASK_SEED = 0  # of the evaluation masks, whatever the run's seed


@dataclass(frozen=True)
class RunScore:
    """The score of a run, as every scorer returns it. `details`: by the name of the rank (`ranking.by_subject`)."""

    step: int
    examples: int
    split: str
    windows: int | None = None
    reported: Mapping[str, float] = field(default_factory=dict)  # its own held-out metrics, which are not compared
    details: Mapping[str, object] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        values = {name: getattr(self, name) for name in ("step", "examples", "split", "windows")}
        return values | {"own": dict(self.reported), **self.details}


@dataclass(frozen=True)
class UnitScores:
    """A score for each unit (person, image, …) of a rank that has one metric; higher is better."""

    metric: str
    unit: str
    scores: Mapping[str, float]
    chance: float | None = None
    accuracy: Mapping[str, float] = field(default_factory=dict)  # of images, not compared with a control

    def as_json(self) -> dict[str, object]:
        accuracy = {"accuracy": dict(self.accuracy)} if self.accuracy else {}
        about = {"metric": self.metric, "chance": self.chance, "unit": self.unit}
        return {**about, **accuracy, "scores": dict(self.scores)}


def measure(workdir: str, score: ScoreConfig, shared: epath.Path) -> RunScore:
    """Return the scores of a run's newest step by subject. `shared`: folder of what all runs of a sweep have in common.

    Raise UserError where a scored subject was trained on.
    """
    run = opening.open_run(workdir)
    data = cast(Signals, run.task).signal
    trained_on = provenance.trained_on(data.path, workdir)
    check = leakage.refuse_overlap(trained_on, provenance.held_out(data.path, score.split), score.split, workdir)
    held_out = _windows(data, score)
    details: dict[str, object] = {"check": check}
    if (task := _reconstructs(run.task)) is not None:
        patch = score.patch or task.patch
        scores = reconstruction_scores.score(
            held_out, patch, predict=_predictor(task, run.params, patch), simple=False, seed=MASK_SEED
        )
        details["reconstruction"] = {one.task.name: _rows(one, ("model", "zero")) for one in scores}
        if score.baselines:
            details["baselines"] = baselines(data, patch, score, shared)
    if score.labels:
        details["probe"] = _probe(run, held_out, score)
    return RunScore(run.step, run.examples, score.split, len(held_out), _reported(run, score), details)


def _reconstructs(task: Task) -> Reconstructs | None:
    """Return the task if it predicts the signal itself: normalised targets have lost the scale."""
    loss = getattr(getattr(task, "config"), "loss", None)  # noqa: B009
    return offered(task, Reconstructs) if getattr(loss, "target", "raw") == "raw" else None


def _predictor(task: Reconstructs, params: Any, patch: int) -> reconstruction_scores.Predict:
    """Return the run's predictor for masks whose patches have `patch` samples, a multiple of its own patch."""
    compiled, each = jax.jit(task.reconstruct), patch // task.patch
    return lambda signal, hidden, valid: np.asarray(compiled(params, signal, np.repeat(hidden, each, axis=1), valid))


def _reported(run: Run, score: ScoreConfig) -> dict[str, float]:
    """Return the run's own metrics on the same split: at its own masks and with its own loss."""
    state = State(step=jnp.int32(run.step), params=run.params)
    with jax.set_mesh(meshes.make(MeshConfig(data=1), jax.local_devices()[:1])):
        values = means(read(run.task.evaluate(state, run.task.data(score.split).stream)))
    return {name: value for name, value in values.items() if math.isfinite(value)}


def check(config: RunConfig, score: ScoreConfig) -> None:
    """Raise UserError where a run of this config could not be scored."""
    built = registry.build(config)
    data, task = cast(Signals, built).signal, _reconstructs(built)
    if task is None and score.rank == "reconstruction":
        raise UserError("a model of normalised targets predicts no signal; set --config.score.rank=probe")
    if task is not None:
        patch = score.patch or task.patch
        if patch % task.patch or data.samples % patch:
            raise UserError(
                f"score.patch is {patch}, but model.patch = {task.patch} must divide it, and it data.samples = "
                f"{data.samples}"
            )
    held_out = _windows(data, score)
    if score.labels:
        _labelled(held_out, score)


def seen_alike(config: RunConfig) -> object:
    """Return the data config without settings that affect only training."""
    return as_scored(cast(Signals, registry.build(config)).signal)


def _rows(one: reconstruction_scores.MaskScore, methods: tuple[str, ...]) -> dict[str, object]:
    """Return (squared error, variance) by subject and method."""
    values = {method: one.sums[method].rows() for method in methods if method in one.sums}
    variance = next(iter(values.values()))[:, 1]
    return {
        "subjects": list(one.subjects),
        "variance": variance.tolist(),
        "error": {method: rows[:, 0].tolist() for method, rows in values.items()},
    }


def _probe(run: Run, held_out: WindowSet, score: ScoreConfig) -> dict[str, float]:
    """Return subject → balanced accuracy of a linear probe that was fitted on the other scored subjects."""
    labels, keep = _labelled(held_out, score)
    embed = jax.jit(capability(run.task, Embeds, "turn signals into features").embed)
    cuts = [slice(i, i + reconstruction_scores.BATCH) for i in range(0, len(held_out), reconstruction_scores.BATCH)]
    parts = [embed(run.params, held_out.seen(cut), held_out.valid[cut].astype(np.float32)).pooled for cut in cuts]
    with environment.single_blas_thread():
        return probe.leave_subject_out(np.concatenate(parts)[keep], labels[keep], np.array(held_out.subjects)[keep])


def _labelled(held_out: WindowSet, score: ScoreConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return (labels, the labelled windows of subjects with both). Raise UserError for fewer than three subjects."""
    labels = np.array([score.labels.index(one) if one in score.labels else -1 for one in held_out.labels])
    keep, lacking = probe.with_both(labels, held_out.subjects)
    both = len(set(held_out.subjects)) - len(lacking)
    if both < probe.FEWEST:
        raise UserError(
            f"split {score.split} has {both} subjects with windows of both {' and '.join(score.labels)}, and a "
            f"probe takes at least {probe.FEWEST}; prepare a larger share of the subjects for it, or leave "
            "score.labels out"
        )
    return labels, keep


# --------------------------------------------------------------------------------------------------- what runs share
def _windows(data: DataConfig, score: ScoreConfig) -> WindowSet:
    """Return the windows, read once for all runs of a process with the same preprocessing."""
    return _loaded(as_scored(data), score.split, score.windows)


@functools.lru_cache(maxsize=2)
def _loaded(data: DataConfig, split: str, limit: int | None) -> WindowSet:
    return window_set.load(data, split, limit)


def as_scored(data: DataConfig) -> DataConfig:
    """Return the data config without settings that affect only training, so that such runs share their windows."""
    augmentation = ("shift", "flip_polarity", "reverse_time", "amplitude_jitter")
    training = (*augmentation, "weights", "fraction", "workers", "prefetch")
    defaults = DataConfig()
    known = {one.name for one in fields(data)}
    return replace(data, **{name: getattr(defaults, name) for name in training if name in known})


def baselines(data: DataConfig, patch: int, score: ScoreConfig, shared: epath.PathLike) -> str:
    """Return the name of a file in `shared` with every baseline under every mask; computed at the first call."""
    about = {
        "data": asdict(as_scored(data)),
        "shards": [sorted(records.load_dataset(path)["shards"].items()) for path in data.path],
        "patch": patch,
        "split": score.split,
        "windows": score.windows,
    }
    mark = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:12]
    path = epath.Path(shared) / f"baselines-{mark}.json"
    if not presence.exists(path):
        baseline = reconstruction.baseline_data(data, data.path, score.split)
        scores = reconstruction_scores.score(
            _windows(data, score),
            patch,
            baseline=baseline,
            seed=MASK_SEED,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        masks = {one.task.name: _rows(one, tuple(one.sums)) for one in scores}
        manifest.write_json(path, {"notes": list(baseline.notes), "masks": masks})
    return path.name
