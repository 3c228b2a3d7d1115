"""Evaluate a system that predicts vectors: correlation and R² of each dimension over held-out examples."""

import numpy as np

from dreamjax.errors import UserError
from dreamjax.evaluation import functions, held_out
from dreamjax.evaluation.held_out import ExampleSettings
from dreamjax.evaluation.score_table import Column, ScoreTable
from dreamjax.metrics import bootstrap, regression
from dreamjax.reports.image_report import MODEL
from dreamjax.systems.base import Predicts, capability

SHUFFLED, UNTRAINED, MEAN = "shuffled targets", "untrained network", "mean of the targets"
WHAT = {
    SHUFFLED: "the predictions of the model, with targets shuffled across examples",
    UNTRAINED: "the predictions of the same network with random parameters",
    MEAN: "the mean of the scored targets for every example",
}


def evaluate(workdir: str, settings: ExampleSettings) -> ScoreTable:
    """Score the correlation and R² of every dimension, with controls; write the result into `out`."""
    run = settings.open(workdir)
    task = capability(run.task, Predicts, "score predictions")
    fresh = functions.untrained(run.task, settings.seed)
    predictions = {MODEL: (task.predict, run.params), UNTRAINED: (task.predict, fresh)}
    examples = held_out.collect(run.task, settings.split, predictions)
    target = examples.target.reshape(len(examples.target), -1)
    model, untrained = (examples.outputs[name].reshape(len(target), -1) for name in (MODEL, UNTRAINED))
    if model.shape != target.shape:
        raise UserError(f"predictions have {model.shape[1]} dimensions, but targets {target.shape[1]}")
    shuffled = target[np.random.default_rng([settings.seed, 15]).permutation(len(target))]
    fits = {
        MODEL: regression.fit(model, target),
        SHUFFLED: regression.fit(model, shuffled),
        UNTRAINED: regression.fit(untrained, target),
        MEAN: regression.fit(np.broadcast_to(target.mean(0), target.shape), target),
    }
    columns = [
        Column("correlation", {name: fit.correlation_n for name, fit in fits.items()}, 0.0),
        Column("R²", {name: fit.r2_n for name, fit in fits.items()}, 0.0),
    ]
    each = {name: [bootstrap.finite(x) for x in getattr(fits[MODEL], name)] for name in ("correlation", "r2")}
    details = {"dimensions": target.shape[1], "by_dimension": each}
    note = "scores are means over the dimensions that vary"
    return held_out.table("prediction", run, settings, examples, columns, WHAT, note, details)
