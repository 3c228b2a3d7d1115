"""Galleries of other sizes, reciprocal ranks, distractors, hubs and whitening: enumeration and closed forms."""

import itertools
import time

import numpy as np
import pytest

from dreamjax.errors import UserError
from dreamjax.metrics import crossed, permutation, retrieval, transductive
from dreamjax.metrics.averaging import averaged

RNG = np.random.default_rng(0)
TIED = RNG.integers(4, size=(5, 7)).astype(float)  # similarities with many ties
TARGET = np.array([0, 1, 2, 3, 6])


def ranks_in_all_orders(row, target, others):
    """Ranks of the target in a gallery of it and `others`, for each order of equal ones."""
    above = sum(row[j] > row[target] for j in others)
    equal = sum(row[j] == row[target] for j in others)
    return [above + 1 + place for place in range(equal + 1)]


@pytest.mark.parametrize(("ways", "top"), [(2, 1), (3, 1), (3, 2), (5, 3), (7, 1), (7, 4), (4, 4)])
def test_n_way_accuracy_is_the_mean_over_all_galleries(ways, top):
    expected = []
    for row, target in zip(TIED, TARGET, strict=True):
        galleries = itertools.combinations(set(range(7)) - {int(target)}, ways - 1)
        expected.append(np.mean([np.mean(np.array(ranks_in_all_orders(row, target, g)) <= top) for g in galleries]))
    ranks = retrieval.ranks_in(TIED, TARGET)
    assert ranks.n_way(7, ways, top) == pytest.approx(np.array(expected), abs=1e-12)
    if ways == 7:
        assert ranks.n_way(7, 7, top) == pytest.approx(ranks.top(top), abs=1e-12)


@pytest.mark.parametrize("ways", [2, 10, 50, 200, 300, 2400])
def test_n_way_accuracy_without_information_is_chance(ways):
    """Over all targets of one row the mean is 1 / N, with and without ties; of a constant row each one is."""
    rows = np.stack([RNG.normal(size=2400), np.zeros(2400), RNG.integers(30, size=2400)])
    scores = retrieval.ranks_of_all(rows).n_way(2400, ways)
    assert scores.mean(1) == pytest.approx(1 / ways)
    assert scores[1] == pytest.approx(1 / ways)


def test_two_way_accuracy_is_that_of_pairs():
    assert retrieval.ranks_in(TIED, TARGET).n_way(7, 2) == pytest.approx(retrieval.two_way(TIED, TARGET))


@pytest.mark.parametrize(("ways", "top"), [(8, 1), (2, 3), (5, 0)])
def test_refuses_more_ways_than_targets_and_more_first_ones_than_ways(ways, top):
    with pytest.raises(UserError, match=rf"{ways}-way top-{top} needs 1 ≤ K ≤ N ≤ targets, and the gallery has 7"):
        retrieval.ranks_in(TIED, TARGET).n_way(7, ways, top)


def test_reciprocal_rank_is_the_mean_over_all_orders_of_ties():
    expected = [
        np.mean(1 / np.array(ranks_in_all_orders(row, t, set(range(7)) - {int(t)})))
        for row, t in zip(TIED, TARGET, strict=True)
    ]
    assert retrieval.ranks_in(TIED, TARGET).reciprocal() == pytest.approx(np.array(expected))


def test_ranks_of_all_columns_are_those_of_each():
    every = retrieval.ranks_of_all(TIED)
    for column in range(7):
        one = retrieval.ranks_in(TIED, np.full(5, column))
        assert np.array_equal(every.above[:, column], one.above)
        assert np.array_equal(every.equal[:, column], one.equal)
    some = retrieval.ranks_of_all(TIED, np.array([5, 2]))
    assert np.array_equal(some.above, every.above[:, [5, 2]])


def test_distractors_can_only_lower_the_rank():
    query, bank, distractors = RNG.normal(size=(20, 6)), RNG.normal(size=(20, 6)), RNG.normal(size=(50, 6))
    alone = retrieval.ranks(query, bank, np.arange(20))
    among = retrieval.ranks(query, np.concatenate([bank, distractors]), np.arange(20))
    more = (
        retrieval.similarities(query, distractors, centred=False)
        > retrieval.paired(query, bank, centred=False)[:, None]
    ).sum(1)
    assert np.array_equal(among.above, alone.above + more)


def test_relative_median_rank_is_one_half_without_information():
    ranks = retrieval.ranks_in(np.zeros((9, 200)), np.arange(9))
    assert retrieval.relative_median_rank(ranks, 200) == pytest.approx(201 / 400)
    perfect = retrieval.ranks_in(np.eye(50), np.arange(50))
    assert retrieval.relative_median_rank(perfect, 50) == 1 / 50


def test_csls_takes_the_mean_of_the_nearest_from_both_sides():
    """By hand, k = 2: rows' means are 0.85, 0.45; columns' are 0.7, 0.45, 0.15."""
    similarity = np.array([[0.9, 0.8, 0.1], [0.5, 0.1, 0.2]])
    corrected = transductive.csls(similarity, 2)
    rows, columns = np.array([0.85, 0.35]), np.array([0.7, 0.45, 0.15])
    assert corrected == pytest.approx(2 * similarity - rows[:, None] - columns)
    order = RNG.permutation(3)
    assert transductive.csls(similarity[:, order], 2) == pytest.approx(corrected[:, order])
    with pytest.raises(UserError, match="neighbours is 3, but it must be from 1 to 2"):
        transductive.csls(similarity, 3)


def test_csls_lowers_a_hub():
    """Target 0 is nearest to all queries; each query has a weaker neighbour that is its alone."""
    similarity = 0.5 * np.eye(6)
    similarity[:, 0] = 0.6
    target = np.arange(6)
    assert retrieval.ranks_in(similarity, target).top(1).mean() == pytest.approx(1 / 6)
    assert retrieval.ranks_in(transductive.csls(similarity, 5), target).top(1).mean() == 1


def test_whitened_features_have_the_identity_as_covariance():
    x = RNG.normal(size=(300, 4)) @ RNG.normal(size=(4, 4)) + 5
    white = transductive.whitened(x, 1e-9)
    assert white.mean(0) == pytest.approx(0, abs=1e-9)
    assert white.T @ white / 300 == pytest.approx(np.eye(4), abs=1e-5)
    a, covariance = 0.2, np.cov(x.T, bias=True)
    values, axes = np.linalg.eigh((1 - a) * covariance + a * np.trace(covariance) / 4 * np.eye(4))
    assert transductive.whitened(x, a) == pytest.approx((x - x.mean(0)) @ axes / np.sqrt(values) @ axes.T)
    same = retrieval.similarities(x - x.mean(0), x, centred=False)
    assert transductive.whitened_similarities(x, x, 1.0) == pytest.approx(same)
    with pytest.raises(UserError, match="shrinkage is 0, but it must be above 0"):
        transductive.whitened(x, 0)


def test_whitening_takes_more_features_than_queries_and_equal_rows():
    assert np.isfinite(transductive.whitened(RNG.normal(size=(5, 40)))).all()
    assert not transductive.whitened(np.ones((5, 3))).any()


def test_averages_over_repetitions_per_person_and_over_people():
    subject, image = np.array(["b", "a", "b", "b"]), np.array([1, 1, 0, 1])
    values = np.array([[1.0, 2], [3, 4], [5, 6], [3, 0]])
    of_each = averaged(values, subject, image)
    assert of_each.values.tolist() == [[3, 4], [5, 6], [2, 1]]
    assert [label.tolist() for label in of_each.labels] == [["a", "b", "b"], [1, 0, 1]]
    assert of_each.rows.tolist() == [1, 1, 2]
    assert averaged(values[:, 0], image).values == pytest.approx([5, 7 / 3])


def test_evaluation_of_ten_people_and_three_seeds_takes_less_than_two_seconds():
    """Similarities, ranks, N-way accuracies, per person, interval over people and images, and p by permutation."""
    query = RNG.normal(size=(3 * 10 * 200, 512)).astype(np.float32)
    bank = RNG.normal(size=(200, 512)).astype(np.float32)
    image, person = np.tile(np.arange(200), 30), np.tile(np.repeat(np.arange(10), 200), 3)
    query += 0.05 * bank[image]
    start = time.process_time()
    similarity = retrieval.similarities(query, bank, centred=False)
    ranks = retrieval.ranks_in(similarity, image)
    accuracy = {(n, k): ranks.n_way(200, n, k).mean() for n in (2, 10, 50, 200) for k in (1, 5, 10) if k < n}
    per_person = averaged(ranks.top(1), person).values
    interval = crossed.interval(crossed.table(ranks.top(1), person, image))
    test = permutation.permutation_test(retrieval.ranks_of_all(similarity).top(1), image)
    seconds = time.process_time() - start
    assert interval.low < per_person.mean() < interval.high
    assert interval.estimate == pytest.approx(accuracy[200, 1]) == test.observed
    assert test.p < 0.001
    assert seconds < 2
