"""Evaluate a system that retrieves: is the target of a held-out example the one most similar to its query?"""

from collections.abc import Mapping

import numpy as np

from dreamjax.errors import UserError
from dreamjax.evaluation import functions, held_out
from dreamjax.evaluation.held_out import ExampleSettings
from dreamjax.evaluation.score_table import Column, ScoreTable
from dreamjax.metrics import retrieval
from dreamjax.metrics.retrieval import Ranks
from dreamjax.reports.image_report import MODEL
from dreamjax.systems.base import Retrieves, capability

SHUFFLED, UNTRAINED = "shuffled targets", "untrained network"
WHAT = {
    SHUFFLED: "the queries of the model, with targets shuffled across examples",
    UNTRAINED: "the queries of the same network with random parameters",
}


def evaluate(workdir: str, settings: ExampleSettings) -> ScoreTable:
    """Score top-1, top-5 and mean rank in closed form, with controls; write the result into `out`."""
    run = settings.open(workdir)
    task = capability(run.task, Retrieves, "score retrieval")
    fresh = functions.untrained(run.task, settings.seed)
    queries = {MODEL: (task.query, run.params), UNTRAINED: (task.query, fresh)}
    examples = held_out.collect(run.task, settings.split, queries)
    bank, untrained = (np.asarray(task.bank(params, settings.split).vectors) for params in (run.params, fresh))
    target = bank_rows(examples.target, len(bank))
    shuffled = np.random.default_rng([settings.seed, 14]).permutation(target)
    ranks = {
        MODEL: retrieval.ranks(examples.outputs[MODEL], bank, target),
        SHUFFLED: retrieval.ranks(examples.outputs[MODEL], bank, shuffled),
        UNTRAINED: retrieval.ranks(examples.outputs[UNTRAINED], untrained, target),
    }
    note = "ties count as the mean over all orders of the equal ones"
    scores = columns(ranks, len(bank))
    return held_out.table("retrieval", run, settings, examples, scores, WHAT, note, {"targets": len(bank)})


def columns(ranks: Mapping[str, Ranks], targets: int) -> list[Column]:
    """Return top-1, top-5 and the rank of every source."""
    tops = [
        Column(f"top-{k}", {name: of.top(k) for name, of in ranks.items()}, retrieval.chance(k, targets))
        for k in (1, 5)
    ]
    return [*tops, Column("rank", {name: of.rank() for name, of in ranks.items()}, (targets + 1) / 2, "lower")]


def bank_rows(target: np.ndarray, targets: int) -> np.ndarray:
    """Return the row of each target in the bank. Raise UserError for one that it does not have."""
    rows = target.reshape(len(target), -1)
    if rows.shape[1] != 1 or target.dtype.kind not in "iu":
        raise UserError("the batch's target is not a number; of a system that retrieves it is a row of the bank")
    if rows.min() < 0 or rows.max() >= targets:
        raise UserError(f"target {rows.max()} is not a row of the bank, which has {targets}")
    return rows[:, 0]
