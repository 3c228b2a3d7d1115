"""Score any system: by held-out examples that it retrieves or predicts, or by a metric that the run itself reports.

Retrieval: the probability that the right target ranks first, minus chance. Prediction: the correlation with the target,
averaged over its dimensions. Both are by subject, or by group for examples without subjects, and are 0 without any
information. A run's own metric (held_out) is only for runs in which it is comparable: with the same data, and a loss
that no axis changes.
"""

import json

import numpy as np
from etils import epath

from dreamjax.errors import UserError
from dreamjax.evaluation import held_out
from dreamjax.evaluation.held_out import ScoredExamples, bank_rows
from dreamjax.metrics import regression, retrieval
from dreamjax.reports.image_report import MODEL
from dreamjax.signals.recordings import identity
from dreamjax.sweeps.scoring import RunScore, UnitScores
from dreamjax.sweeps.sweep_config import RunConfig, ScoreConfig
from dreamjax.systems import opening
from dreamjax.systems.base import Predicts, Retrieves, Run, capability


def measure(workdir: str, score: ScoreConfig, shared: epath.Path) -> RunScore:
    """Return the scores of a run's newest step by subject, or the metric of its last evaluation."""
    del shared
    if score.rank == "held_out":
        return _reported(workdir, score)
    run = opening.open_run(workdir)
    metric, values, examples = (_retrieval if score.rank == "retrieval" else _prediction)(run, score.split)
    by_unit = {str(unit): float(values[examples.cluster == unit].mean()) for unit in np.unique(examples.cluster)}
    scores = UnitScores(metric, identity.ONE_OF.get(examples.clusters, "group of examples"), by_unit)
    return RunScore(run.step, run.examples, score.split, len(values), details={score.rank: scores.as_json()})


def _retrieval(run: Run, split: str) -> tuple[str, np.ndarray, ScoredExamples]:
    task = capability(run.task, Retrieves, "retrieve targets")
    examples = held_out.collect(run.task, split, {MODEL: (task.query, run.params)})
    bank = np.asarray(task.bank(run.params, split).vectors)
    ranks = retrieval.ranks(examples.outputs[MODEL], bank, bank_rows(examples.target, len(bank)))
    chance = retrieval.chance(1, len(bank))
    return f"top-1 of {len(bank)} targets, minus chance", ranks.top(1) - chance, examples


def _prediction(run: Run, split: str) -> tuple[str, np.ndarray, ScoredExamples]:
    task = capability(run.task, Predicts, "predict vectors")
    examples = held_out.collect(run.task, split, {MODEL: (task.predict, run.params)})
    count = len(examples.target)
    fit = regression.fit(examples.outputs[MODEL].reshape(count, -1), examples.target.reshape(count, -1))
    return "correlation with the target", fit.correlation_n, examples


def _reported(workdir: str, score: ScoreConfig) -> RunScore:
    lines = (epath.Path(workdir) / "metrics.jsonl").read_text().splitlines()
    records = [record for line in lines if (record := json.loads(line))["split"] == "val"]
    if not records:
        raise UserError(f"{workdir} was not evaluated while it was trained: set --config.base.train.eval_every")
    last = {name: value for name, value in records[-1].items() if name not in ("step", "split")}
    if not isinstance(value := last.get(score.metric), int | float):
        raise UserError(f"score.metric is {score.metric}, but {workdir} reports {', '.join(sorted(last))}")
    sign, name = (-1, f"minus {score.metric}") if score.better == "lower" else (1, score.metric)
    scores = UnitScores(f"{name}, as the run reports it of split val", "run", {"all": sign * float(value)})
    step = int(records[-1]["step"])
    config = json.loads((epath.Path(workdir) / "config.json").read_text())
    examples = step * config["train"]["batch_size"]
    return RunScore(step, examples, score.split, reported=last, details={"held_out": scores.as_json()})


def check(config: RunConfig, score: ScoreConfig) -> None:
    """Raise UserError where runs are ranked by their held-out metric but not evaluated during training."""
    if score.rank != "held_out":
        return  # training finds what is wrong with its data
    if not config.train.eval_every:
        raise UserError("score.rank=held_out takes the evaluation of training: set --config.base.train.eval_every")
    if score.split != "val":
        raise UserError(f"score.split is {score.split}, but training evaluates split val; set score.split=val")


def seen_alike(config: RunConfig) -> object:
    """Return the folders and the preparation of the data, as text."""
    return repr(getattr(config, "data", None))
