"""Which kind of image was seen, told in recordings that were left out: what everything else has to beat.

shrinkage LDA        on the signal's means over equal spans: the standard for evoked responses
encoder + LDA        on what a pretrained encoder makes of the trial, where one is given
time index           what the time of a trial tells, and nothing of its signal
"""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import Float

from dreamjax.errors import UserError
from dreamjax.metrics import cross_validation, lda
from dreamjax.metrics.cross_validation import METRICS, Result
from dreamjax.objectives import masking
from dreamjax.reports import tables
from dreamjax.signals.datasets import pipeline, records
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.storage import atomic
from dreamjax.systems import masked_pretraining, opening
from dreamjax.systems.masked_pretraining import MaskedPretrainingConfig

LDA, ENCODED, TIME = "shrinkage LDA", "encoder + LDA", "time index"
SPANS = 16  # of time
BATCH = 256  # windows at a time
FEWEST = 5  # trials of a class in all


@dataclass(frozen=True)
class Request:
    """Which trials, and what is tried on them."""

    data: tuple[str, ...]  # dataset folders of trials
    labels: tuple[str, ...] = ()  # classes; empty: all there are
    encoder: str = ""  # run of masked pretraining
    permutations: int = 200
    seed: int = 0


@dataclass(frozen=True)
class _Trials:
    windows: pipeline.WindowExamples
    keys: np.ndarray
    classes: np.ndarray
    recording: np.ndarray
    start: np.ndarray
    names: tuple[str, ...]


def decode(request: Request, out: str | None = None) -> dict[str, Any]:
    """The table; classes.json in `out` where it is given. Raises UserError for trials that cannot be told apart."""
    found = _trials(request)
    ways: dict[str, Callable[[], Float[np.ndarray, "n F"]]] = {LDA: lambda: _binned(found)}
    notes: list[str] = []
    if request.encoder:
        ways[ENCODED] = lambda: _encoded(request, found, notes)
    impossible = {name: why for path in request.data for name, why in records.impossible(path).items()}
    if "time" in impossible:
        notes.append(f"{TIME}: not possible, as {impossible['time']}")
    else:
        ways[TIME] = lambda: _time(found)
    if "block" in impossible:
        notes.append(f"blocks: not possible, as {impossible['block']}")
    results: dict[str, Result] = {}
    for name, features in ways.items():
        results[name] = cross_validation.scored(
            features(),
            found.classes,
            found.recording,
            cross_validation.shrunk_lda,
            permutations=request.permutations,
            seed=request.seed,
        )
    counts = np.bincount(found.classes)
    result = {
        "data": list(request.data),
        "title": (
            f"{', '.join(request.data)}: {len(found.classes)} trials ("
            + ", ".join(f"{n} {name}" for n, name in zip(counts, found.names, strict=True))
            + f") in {len(np.unique(found.recording))} recordings, each told by classifiers of the others"
        ),
        "notes": notes,
        "chance": {"balanced accuracy": 1 / len(found.names), "AUROC": 0.5},
        "permutations": request.permutations,
        "scores": {name: _json(one) for name, one in results.items()},
    }
    if out:
        atomic.write_text(epath.Path(out) / "classes.json", json.dumps(result, indent=1))
    return result


def _json(found: Result) -> dict[str, Any]:
    return {name: found.score[name].as_json() | {"p": found.p[name]} for name in METRICS}


def text(result: dict[str, Any]) -> str:
    """A result for a terminal."""
    header = ["", *(name for metric in METRICS for name in (metric, "p"))]
    rows = [
        [name, *(cell for metric in METRICS for cell in (tables.cell(one[metric]), f"{one[metric]['p']:.3f}"))]
        for name, one in result["scores"].items()
    ]
    rows.append(["chance", *(cell for metric in METRICS for cell in (f"{result['chance'][metric]:.3f}", ""))])
    told = f"intervals over recordings; p by {result['permutations']} permutations of labels within recordings"
    return "\n".join(
        [result["title"], *(f"  {note}" for note in result["notes"]), "", tables.table(header, rows), "", told]
    )


# -------------------------------------------------------------------------------------------------------------- trials
def _trials(request: Request) -> _Trials:
    settings = [records.load_dataset(path).get("settings", {}) for path in request.data]
    shapes = {(s.get("samples"), s.get("sfreq")) for s in settings}
    if len(shapes) > 1:
        raise UserError("the dataset folders hold windows of different lengths or rates; prepare them alike")
    samples, sfreq = shapes.pop() if shapes else (None, None)
    data = DataConfig(
        path=request.data, montage="own", samples=samples or DataConfig().samples, sfreq=sfreq or DataConfig().sfreq
    )
    windows = pipeline.WindowExamples(data, records.ALL, seed=0, training=False)
    told = windows.metadata()
    there = sorted({one["label"] for one in told} - {""})
    names = request.labels or tuple(there)
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{twice[0]} is named twice; name each class once")
    if missing := [name for name in names if name not in there]:
        raise UserError(f"no trial is labelled {missing[0]}; there are {', '.join(there) or 'no labels'}")
    if len(names) < 2:
        raise UserError(f"{', '.join(request.data)}: trials of at least two classes are wanted, there is {len(names)}")
    keys = np.array([i for i, one in enumerate(told) if one["label"] in names])
    classes = np.array([names.index(told[i]["label"]) for i in keys])
    if (fewest := np.bincount(classes, minlength=len(names))).min() < FEWEST:
        raise UserError(
            f"class {names[int(fewest.argmin())]} has {fewest.min()} trials, and at least {FEWEST} are wanted"
        )
    _, recording = np.unique([told[i]["recording"] for i in keys], return_inverse=True)
    return _Trials(windows, keys, classes, recording, np.array([told[i]["start"] for i in keys]), names)


def _rows(windows: pipeline.WindowExamples, keys: Sequence[int] | np.ndarray) -> Any:
    for first in range(0, len(keys), BATCH):
        some: Any = np.asarray(keys[first : first + BATCH])
        yield windows.read(some, some.astype(np.uint64))


def _binned(found: _Trials) -> Float[np.ndarray, "n F"]:
    rows = _rows(found.windows, found.keys)
    parts = [lda.binned(r["signal"], r["valid"], SPANS) for r in rows]
    return np.concatenate(parts).reshape(len(found.keys), -1).astype(np.float64)


def _time(found: _Trials) -> Float[np.ndarray, "n F"]:
    """Powers of the place in the recording: what slow drift of classes in time would give away."""
    t = np.empty(len(found.start))
    for one in np.unique(found.recording):
        rows = found.recording == one
        t[rows] = (found.start[rows] - found.start[rows].min()) / max(float(np.ptp(found.start[rows])), 1e-9)
    return np.stack([t**k for k in (1, 2, 3)], axis=1)


def _encoded(request: Request, found: _Trials, notes: list[str]) -> Float[np.ndarray, "n F"]:
    run = opening.open_run(request.encoder)
    if not isinstance(run.config, MaskedPretrainingConfig):
        raise UserError(f"{request.encoder} is a run of {run.config.system}, not of masked pretraining")
    if run.step == 0:
        raise UserError(f"{request.encoder} is untrained (step 0): no score is shown for it; train it first")
    own = dataclasses.replace(run.config.data, path=request.data, weights=())
    windows = pipeline.WindowExamples(own, records.ALL, seed=0, training=False)
    same = {os.path.abspath(p) for p in request.data} & {os.path.abspath(p) for p in run.config.data.path}
    if same:
        notes.append("the encoder was pretrained on signals of these recordings, without their labels")

    @jax.jit
    def program(params: Any, signal: jax.Array, valid: jax.Array) -> jax.Array:
        tokens = masked_pretraining.features(run.config, params, signal, valid)
        return masked_pretraining.pooled(tokens, masking.patch_valid(valid, run.config.model.patch))

    parts = [np.asarray(program(run.params, r["signal"], r["valid"])) for r in _rows(windows, found.keys)]
    return np.concatenate(parts).astype(np.float64)
