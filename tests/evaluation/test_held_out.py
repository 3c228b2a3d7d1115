"""Scores of held-out examples: padding does not count, subjects are clusters, planted answers score as they should."""

from dataclasses import dataclass

import numpy as np
import pytest

from dreamjax.errors import UserError
from dreamjax.evaluation import held_out
from dreamjax.evaluation.score_table import interval
from dreamjax.metrics.retrieval import ranks
from dreamjax.signals.datasets.arrays import open_arrays
from dreamjax.training.task import BatchSpec


@dataclass(frozen=True)
class FakeTask:
    """Five examples in batches of four, so that three rows of the second batch are padding."""

    arrays: dict

    def data(self, split):
        return BatchSpec(open_arrays(self.arrays, seed=0, endless=False), 4)


X = np.arange(5, dtype=np.float32)[:, None]


def double(params, batch):
    return params * batch["x"]


def test_every_example_counts_once_without_padding():
    examples = held_out.collect(
        FakeTask({"x": X, "target": X}), "test", {"twice": (double, 2.0), "thrice": (double, 3.0)}
    )
    np.testing.assert_array_equal(examples.outputs["twice"], 2 * X)
    np.testing.assert_array_equal(examples.outputs["thrice"], 3 * X)
    np.testing.assert_array_equal(examples.target, X)
    assert (len(np.unique(examples.cluster)), examples.clusters) == (5, "examples")


def test_subjects_are_clusters_where_batches_carry_them(monkeypatch):
    arrays = {"x": X, "target": X, "subject": np.array([0, 0, 1, 1, 1], np.int32)}
    examples = held_out.collect(FakeTask(arrays), "test", {"model": (double, 1.0)})
    assert (examples.cluster.tolist(), examples.clusters) == ([0, 0, 1, 1, 1], "subjects")
    assert interval(np.arange(5.0), [examples.cluster]).n == 2
    monkeypatch.setattr(held_out, "MOST_GROUPS", 2)
    grouped = held_out.collect(FakeTask({"x": X, "target": X}), "test", {"model": (double, 1.0)})
    assert (grouped.cluster.tolist(), grouped.clusters) == ([0, 0, 0, 1, 1], "groups of examples")


def test_reports_examples_without_targets():
    with pytest.raises(UserError, match="the examples of split test have no target"):
        held_out.collect(FakeTask({"x": X}), "test", {"model": (double, 1.0)})


def test_outputs_and_targets_that_are_not_finite_are_refused():
    broken = np.where(X == 3, np.nan, X)
    with pytest.raises(UserError, match="the output of the model is not finite in 1 of 5 examples"):
        held_out.collect(FakeTask({"x": broken, "target": X}), "test", {"model": (double, 1.0)})
    with pytest.raises(UserError, match="the target is not finite in 1 of 5 examples"):
        held_out.collect(FakeTask({"x": X, "target": broken}), "test", {"model": (double, 1.0)})


def test_one_subject_is_named_where_intervals_are_over_its_examples():
    arrays = {"x": X, "target": X, "subject": np.zeros(5, np.int32)}
    assert held_out.collect(FakeTask(arrays), "test", {"model": (double, 1.0)}).clusters == "examples of one subject"


def test_a_score_that_is_certain_is_left_out():
    """Of three targets the right one is always among the first five."""
    by_source = {"model": ranks(np.eye(3), np.eye(3), np.arange(3))}
    assert [column.name for column in held_out.rank_columns(by_source, 3)] == ["top-1", "rank"]


def test_planted_targets_are_retrieved_and_shuffled_ones_are_at_chance():
    rng = np.random.default_rng(0)
    bank, target = rng.normal(size=(50, 16)), rng.integers(50, size=2000)
    query = bank[target] + 0.1 * rng.normal(size=(2000, 16))
    by_source = {"model": ranks(query, bank, target), "shuffled": ranks(query, bank, rng.permutation(target))}
    top1, top5, rank = held_out.rank_columns(by_source, len(bank))
    everyone = [np.arange(2000)]
    assert top1.score("model", everyone).estimate > 0.99
    for column in (top1, top5, rank):
        shuffled = column.score("shuffled", everyone)
        assert not shuffled.excludes(column.chance), column.name
    entry = rank.as_json(everyone)
    assert entry["model_minus"]["shuffled"]["says"] == "model is better than shuffled"
