"""What a point is measured by: the same windows and the same masks for every point, whatever its own masks are.

A run's own held-out loss is at its own mask ratio, and says nothing beside that of another ratio: it is kept and shown,
and nothing is ranked by it.
"""

import dataclasses
import functools
import hashlib
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from dreamjax.errors import UserError
from dreamjax.evaluation import reconstruction, reconstruction_scores, window_set
from dreamjax.evaluation.window_set import WindowSet
from dreamjax.metrics import leakage, probe
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel import threads
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.runs import provenance
from dreamjax.signals.datasets import records
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.storage import atomic
from dreamjax.sweeps.sweep_config import ScoreConfig
from dreamjax.systems import opening
from dreamjax.systems.masked_pretraining import MaskedPretrainingConfig
from dreamjax.training.metrics import means, read
from dreamjax.training.task import State

MASK_SEED = 0  # of the evaluation masks, whatever the run's seed


def measure(workdir: str, score: ScoreConfig, shared: epath.PathLike) -> dict[str, Any]:
    """A run's newest step → JSON-able scores by subject. `shared`: folder of what all points of a sweep have in common.

    Raises UserError where a scored subject was trained on, or the run predicts no signal and has no probe.
    """
    run = opening.open_run(workdir)
    config = reconstruction.masked_config(run)
    check = leakage.refuse_overlap(
        provenance.trained_on(config.data.path, workdir),
        provenance.held_out(config.data.path, score.split),
        score.split,
        workdir,
    )
    held_out = _windows(config.data, score)
    found: dict[str, Any] = {
        "step": run.step,
        "examples": run.examples,
        "split": score.split,
        "windows": len(held_out),
        "check": check,
    }
    if config.loss.target == "raw":
        patch = score.patch or config.model.patch
        scores = reconstruction_scores.score(
            held_out, patch, predict=_predictor(run, patch), simple=False, seed=MASK_SEED
        )
        found["reconstruction"] = {one.task.name: _rows(one, ("model", "zero")) for one in scores}
        if score.baselines:
            found["baselines"] = baselines(config.data, patch, score, shared)
    found["own"] = _own(run, score)
    if score.labels:
        found["probe"] = _probe(run, config, held_out, score)
    return found


def _predictor(run: opening.Run, patch: int) -> reconstruction_scores.Predict:
    """The run's, of masks whose patches have `patch` samples, a multiple of its own."""
    predict, each = reconstruction.predictor(run), patch // run.config.model.patch
    return lambda signal, hidden, valid: predict(signal, np.repeat(hidden, each, axis=1), valid)


def _own(run: opening.Run, score: ScoreConfig) -> dict[str, float]:
    """What the run says of itself on the same split: at its own masks and with its own loss."""
    state = State(step=jnp.int32(run.step), params=run.params)
    with jax.set_mesh(meshes.make(MeshConfig(data=1), jax.local_devices()[:1])):
        found = means(read(run.task.evaluate(state, run.task.data(score.split).stream)))
    return {name: value for name, value in found.items() if math.isfinite(value)}


def check(config: Any, score: ScoreConfig) -> None:
    """Raises UserError, before anything is trained, where a run of this config could not be scored."""
    if not isinstance(config, MaskedPretrainingConfig):
        raise UserError(f"a sweep scores runs of masked_pretraining, and this is one of {config.system}")
    if not config.data.path:
        raise UserError("the base config has no data: give --config.base.data.path=SHARDS")
    if config.loss.target != "raw" and score.rank == "reconstruction":
        raise UserError("a model of normalised targets predicts no signal; set --config.score.rank=probe")
    patch = score.patch or config.model.patch
    if patch % config.model.patch or config.data.samples % patch:
        raise UserError(
            f"score.patch is {patch}, but model.patch = {config.model.patch} must divide it, and it data.samples = "
            f"{config.data.samples}"
        )
    held_out = _windows(config.data, score)
    if score.labels:
        _labelled(held_out, score)


def seen_alike(config: Any) -> Any:
    """What must be equal for points to be scored on the same windows."""
    return as_scored(config.data)


def _rows(one: reconstruction_scores.MaskScore, methods: tuple[str, ...]) -> dict[str, Any]:
    """(squared error, variance) by subject and method."""
    values = {method: one.sums[method].rows() for method in methods if method in one.sums}
    variance = next(iter(values.values()))[:, 1]
    return {
        "subjects": list(one.subjects),
        "variance": variance.tolist(),
        "error": {method: rows[:, 0].tolist() for method, rows in values.items()},
    }


def _probe(run: opening.Run, config: Any, held_out: WindowSet, score: ScoreConfig) -> dict[str, float]:
    """Subject → balanced accuracy of a linear probe that was fitted on the other scored subjects."""
    labels, keep = _labelled(held_out, score)
    features = reconstruction.featurizer(config, run.params)
    cuts = [slice(i, i + reconstruction_scores.BATCH) for i in range(0, len(held_out), reconstruction_scores.BATCH)]
    parts = [features(held_out.seen(cut), held_out.valid[cut]) for cut in cuts]
    with threads.single():
        return probe.leave_subject_out(np.concatenate(parts)[keep], labels[keep], np.array(held_out.subjects)[keep])


def _labelled(held_out: WindowSet, score: ScoreConfig) -> tuple[np.ndarray, np.ndarray]:
    """(labels, which windows have one and a subject with both). Raises UserError for fewer than three subjects."""
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


# --------------------------------------------------------------------------------------------------- what points share
def _windows(data: DataConfig, score: ScoreConfig) -> WindowSet:
    """Read once for all points of one process that look at the recordings alike."""
    return _loaded(as_scored(data), score.split, score.windows)


@functools.lru_cache(maxsize=2)
def _loaded(data: DataConfig, split: str, limit: int | None) -> WindowSet:
    return window_set.load(data, split, limit)


def as_scored(data: DataConfig) -> DataConfig:
    """Without what concerns training alone, so that points which differ in that share their windows."""
    fresh = DataConfig()
    training = (
        "weights",
        "fraction",
        "shift",
        "flip_polarity",
        "reverse_time",
        "amplitude_jitter",
        "workers",
        "prefetch",
    )
    known = {field.name for field in dataclasses.fields(data)}
    return dataclasses.replace(data, **{name: getattr(fresh, name) for name in training if name in known})


def baselines(data: DataConfig, patch: int, score: ScoreConfig, shared: epath.PathLike) -> str:
    """The name of a file in `shared` that has every baseline under every mask; computed by the first who asks."""
    about = {
        "data": dataclasses.asdict(as_scored(data)),
        "shards": [sorted(records.load_dataset(path)["shards"].items()) for path in data.path],
        "patch": patch,
        "split": score.split,
        "windows": score.windows,
    }
    mark = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:12]
    path = epath.Path(shared) / f"baselines-{mark}.json"
    if not path.exists():
        baseline = reconstruction.baseline_data(data, data.path, score.split)
        scores = reconstruction_scores.score(
            _windows(data, score),
            patch,
            candidates=baseline.candidates,
            validation=baseline.validation,
            chooser=baseline.chooser,
            seed=MASK_SEED,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        found = {one.task.name: _rows(one, tuple(one.sums)) for one in scores}
        atomic.write_text(path, json.dumps({"notes": list(baseline.notes), "masks": found}, indent=1))
    return path.name
