"""The score of a system that retrieves or predicts, by subject of the held-out examples: 0 without any information.

Retrieval: the probability that the right target is the first one, minus chance. Prediction: the correlation with the
target, the mean over its dimensions. Examples without subjects are scored in groups.
"""

import numpy as np
from etils import epath

from dreamjax.evaluation import held_out
from dreamjax.evaluation.held_out import ScoredExamples
from dreamjax.evaluation.retrieval import bank_rows
from dreamjax.metrics import regression, retrieval
from dreamjax.reports.image_report import MODEL
from dreamjax.sweeps.run_score import RunScore, UnitScores
from dreamjax.sweeps.sweep_config import RunConfig, ScoreConfig
from dreamjax.systems import opening
from dreamjax.systems.base import Predicts, Retrieves, Run, capability


def measure(workdir: str, score: ScoreConfig, shared: epath.Path) -> RunScore:
    """Return the scores of a run's newest step by subject."""
    del shared
    run = opening.open_run(workdir)
    metric, values, examples = (_retrieval if score.rank == "retrieval" else _prediction)(run, score.split)
    by_unit = {str(unit): float(values[examples.cluster == unit].mean()) for unit in np.unique(examples.cluster)}
    scores = UnitScores(metric, "subject" if examples.clusters == "subjects" else "group of examples", by_unit)
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


def check(config: RunConfig, score: ScoreConfig) -> None:
    """Accept every config: training finds what is wrong with its data."""


def seen_alike(config: RunConfig) -> object:
    """Return the folders and the preparation of the data, as text."""
    return repr(getattr(config, "data", None))
