"""Ranks in a bank: enumeration of all orders of ties, chance in closed form, a planted signal."""

import itertools

import numpy as np
import pytest

from dreamjax.errors import UserError
from dreamjax.metrics import retrieval


def test_ties_are_counted_as_the_mean_over_all_orders():
    bank = np.array([[1.0, 0], [2.0, 0], [0, 1.0], [3.0, 0], [-1.0, 0]])  # rows 0, 1 and 3 point the same way
    ranks = retrieval.ranks(np.array([[1.0, 0.1]]), bank, np.array([1]))
    assert (ranks.above.tolist(), ranks.equal.tolist()) == ([0], [2])
    places = [order.index(1) + 1 for order in itertools.permutations([0, 1, 3])]
    for k in (1, 2, 3, 5):
        assert ranks.top(k)[0] == pytest.approx(np.mean([place <= k for place in places]))
    assert ranks.rank()[0] == np.mean(places)


def test_constant_queries_are_at_chance():
    bank = np.random.default_rng(0).normal(size=(40, 8))
    ranks = retrieval.ranks(np.zeros((3, 8)), bank, np.array([0, 5, 39]))
    assert ranks.top(5) == pytest.approx(retrieval.chance(5, 40))
    assert ranks.rank() == pytest.approx(41 / 2)
    assert retrieval.chance(5, 3) == 1


def test_ranks_equal_sorting_by_cosine(monkeypatch):
    rng = np.random.default_rng(0)
    query, bank, target = rng.normal(size=(50, 6)), rng.normal(size=(30, 6)), rng.integers(30, size=50)
    cosine = (query / np.linalg.norm(query, axis=1)[:, None]) @ (bank / np.linalg.norm(bank, axis=1)[:, None]).T
    order = (-cosine).argsort(1)
    expected = [row.tolist().index(t) + 1 for row, t in zip(order, target, strict=True)]
    assert retrieval.ranks(query, bank, target).rank().tolist() == expected
    monkeypatch.setattr(retrieval, "ROWS", 7)
    assert retrieval.ranks(query, bank, target).rank().tolist() == expected


def test_vectors_that_are_not_finite_are_refused():
    """NaN is neither above nor equal, so that the right target would be counted as the first."""
    bank = np.random.default_rng(0).normal(size=(4, 3))
    with pytest.raises(UserError, match="not finite, so nothing can be ranked"):
        retrieval.ranks(np.full((2, 3), np.nan), bank, np.array([0, 1]))
