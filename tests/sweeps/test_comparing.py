"""Intervals over seeds and subjects, and tests corrected for their number: closed forms, other implementations."""

import math

import numpy as np
import pytest
from scipy import stats

from dreamjax.metrics import crossed, paired
from dreamjax.sweeps import comparing


def test_of_one_seed_it_is_the_t_test_over_subjects():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 1, 9))
    [found] = comparing.against("b", {"a": one, "b": other})
    reference = stats.ttest_rel(one[0], other[0])
    assert found.p == pytest.approx(reference.pvalue)
    low, high = reference.confidence_interval(0.95)
    assert (found.difference.low, found.difference.high) == pytest.approx((low, high))


@pytest.mark.filterwarnings("error")
def test_equal_differences_and_nan_support_no_claim():
    """Two seeds that give the same numbers show nothing of how much seeds vary: p = 0 would be false."""
    same = np.array([[0.5], [0.5]])
    tests = comparing.against("b", {"a": same + 0.1, "b": same, "c": np.full((2, 1), np.nan)})
    for test in tests:
        assert math.isnan(test.p)
        assert not test.resolved
        assert test.says().startswith("not resolved: one seed and one subject, or differences that are all equal")


def test_of_one_subject_it_is_over_seeds():
    scores = np.array([[1.0], [2.0], [4.0]])
    error, df = crossed.standard_error(scores)
    assert (error, df) == (pytest.approx(np.std(scores, ddof=1) / math.sqrt(3)), 2)


def test_both_by_hand():
    """Two seeds, two subjects: MS_a = 4, MS_b = 9, MS_e = 0.25; SE² = (4 + 9 - 0.25) / 4."""
    scores = np.array([[0.0, 3.5], [2.5, 5.0]])
    seeds, subjects = scores.mean(1), scores.mean(0)
    ms_a, ms_b = 2 * np.var(seeds, ddof=1), 2 * np.var(subjects, ddof=1)
    ms_e = ((scores - seeds[:, None] - subjects + scores.mean()) ** 2).sum()
    assert (ms_a, ms_b, ms_e) == pytest.approx((4.0, 9.0, 0.25))
    error, df = crossed.standard_error(scores)
    assert error == pytest.approx(math.sqrt((4 + 9 - 0.25) / 4))
    assert df == pytest.approx((4 + 9 - 0.25) ** 2 / (4**2 + 9**2 + 0.25**2))


@pytest.mark.parametrize(("of_seeds", "of_subjects", "rest"), [(1.0, 1.0, 0.3), (0.0, 1.0, 1.0), (0.3, 1.0, 0.0)])
def test_an_interval_holds_the_truth_as_often_as_it_says(of_seeds, of_subjects, rest):
    """Both drawn anew: 3 seeds and 8 subjects, 2,000 studies."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(2000):
        x = of_seeds * rng.normal(size=(3, 1)) + of_subjects * rng.normal(size=(1, 8)) + rest * rng.normal(size=(3, 8))
        found = comparing.mean(x)
        held += found.low <= 0 <= found.high
    assert 0.925 <= held / 2000 <= 0.995


def test_one_number_has_no_interval_and_resolves_nothing():
    [found] = comparing.against("b", {"a": np.array([[3.0]]), "b": np.array([[1.0]])})
    assert found.difference.estimate == 2
    assert not found.difference.known
    assert not found.resolved
    assert "not resolved" in found.says()


def test_holm_by_hand():
    """Smallest times 3, the next times 2, never falling; what is not known is no test."""
    assert paired.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    found = paired.holm([0.01, math.nan, 0.5])
    assert found[0] == pytest.approx(0.02)
    assert math.isnan(found[1])


def test_equal_points_are_rarely_distinguished():
    """Ten points without an effect, 100 studies: some is called better or worse in about 5 %, and not in 40 %."""
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(100):
        tables = {str(i): rng.normal(size=(3, 8)) for i in range(11)}
        wrong += any(pair.resolved for pair in comparing.against("0", tables))
    assert wrong <= 12  # of a binomial of 0.05, more once in 2,000 times


def test_detects_large_difference_and_reports_the_detectable_one():
    rng = np.random.default_rng(3)
    base = rng.normal(size=(3, 8))
    noise = 0.1 * rng.normal(size=(2, 3, 8))
    found = {
        pair.point: pair
        for pair in comparing.against("base", {"base": base, "far": base + 1 + noise[0], "near": base + noise[1]})
    }
    assert found["far"].says() == "better than base"
    assert "this design could detect ≥" in found["near"].says()
    assert 0 < found["near"].detectable < 0.5
