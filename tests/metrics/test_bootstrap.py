"""Intervals over clusters: closed forms, scipy, G*Power, and coverage by simulation."""

import numpy as np
import pytest
from scipy import stats

from dreamjax.metrics import bootstrap
from dreamjax.metrics.bootstrap import Interval


@pytest.fixture(scope="module")
def skewed():
    return np.random.default_rng(3).gamma(1.5, size=24)


def test_bounds_agree_with_scipy(skewed):
    low, high = bootstrap.bounds(skewed[:, None], bootstrap.mean, draws=40_000)
    rng = np.random.default_rng(1)
    reference = stats.bootstrap((skewed,), np.mean, method="percentile", n_resamples=40_000, rng=rng)
    spread = skewed.std() / np.sqrt(len(skewed))
    assert low == pytest.approx(reference.confidence_interval.low, abs=0.03 * spread)
    assert high == pytest.approx(reference.confidence_interval.high, abs=0.03 * spread)


def test_the_jackknife_error_of_a_mean_is_the_standard_error(skewed):
    assert bootstrap.interval(skewed).error == pytest.approx(stats.sem(skewed), rel=1e-12)


def test_a_statistic_additive_is_left_out_by_subtraction():
    """The same interval, and no number is given to the statistic as often as there are clusters."""
    rows, given = np.random.default_rng(0).gamma(2, size=(300, 2)), []

    def ratio(x):
        given.append(x.size)
        return x[..., 0].sum(-1) / x[..., 1].sum(-1)

    slow = bootstrap.interval(rows, ratio, draws=10)
    quadratic, given[:] = sum(given), []
    fast = bootstrap.interval(rows, ratio, draws=10, additive=True)
    assert sum(given) <= 13 * rows.size < quadratic / 20
    assert [fast.low, fast.high, fast.error] == pytest.approx([slow.low, slow.high, slow.error], rel=1e-9)
    means = bootstrap.clustered(rows[:, 0], np.arange(300))
    assert means.error == pytest.approx(stats.sem(rows[:, 0]), rel=1e-9)


def test_few_clusters_get_students_interval():
    values = np.array([0.1, 0.4, 0.7])
    found = bootstrap.interval(values)
    low, high = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_one_cluster_has_no_interval_and_supports_no_claim():
    alone = bootstrap.interval(np.array([0.9]))
    assert alone.estimate == 0.9
    assert not alone.known
    assert not alone.excludes(0)
    assert alone.as_json() == {"estimate": 0.9, "low": None, "high": None, "subjects": 1}
    assert "not resolved" in bootstrap.verdict(alone, "a", "b")


def test_a_share_stays_below_one_and_a_correlation_within_its_range():
    rows = np.array([0.999, 0.90, 0.96])
    assert bootstrap.interval(rows, link="share").high <= 1
    low_high = bootstrap.interval(np.array([-0.9, 0.99, 0.95]), link="correlation")
    assert -1 <= low_high.low < low_high.high <= 1


def test_the_same_seed_gives_the_same_interval(skewed):
    assert bootstrap.interval(skewed, seed=5) == bootstrap.interval(skewed, seed=5)


def simulated(rng: np.random.Generator, subjects: int, windows: int) -> np.ndarray:
    """Windows whose mean differs by subject as much as windows differ within one; the true mean is 0."""
    return rng.normal(size=(subjects, 1)) + rng.normal(size=(subjects, windows))


@pytest.mark.parametrize("subjects", [4, 12])
def test_nine_hundred_and_fifty_in_a_thousand_intervals_hold_the_truth(subjects):
    """Coverage over subjects is 0.95 within simulation error (Clopper-Pearson of 400 runs: 0.925 to 0.97)."""
    rng = np.random.default_rng(subjects)
    covered = 0
    for _ in range(400):
        found = bootstrap.interval(simulated(rng, subjects, 10).mean(1), draws=400)
        covered += not found.excludes(0)
    assert 0.925 <= covered / 400 <= 0.985


def test_resampling_windows_instead_of_subjects_would_claim_too_much():
    """The control of the test above: windows treated as independent hold the truth far less often than promised."""
    rng = np.random.default_rng(0)
    covered = sum(not bootstrap.interval(simulated(rng, 4, 10).ravel(), draws=200).excludes(0) for _ in range(100))
    assert covered / 100 < 0.75


def test_smallest_detectable_difference_against_g_power():
    """G*Power 3.1, paired t test, two tails, d = 0.5, α 0.05, power 0.8: 34 pairs; with 33 it is not reached."""
    assert bootstrap.smallest_detectable(1.0, 34) < 0.5 < bootstrap.smallest_detectable(1.0, 33)


def test_smallest_detectable_difference_is_found_with_the_promised_power():
    delta = bootstrap.smallest_detectable(2.0, 8, power=0.8)
    draws = np.random.default_rng(1).normal(delta, 2.0, size=(20_000, 8))
    assert (stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.012)


@pytest.mark.parametrize("n", [2, 3])
def test_power_is_right_for_the_fewest_subjects_too(n):
    delta = bootstrap.smallest_detectable(1.0, n, power=0.8)
    draws = np.random.default_rng(2).normal(delta, 1.0, size=(40_000, n))
    assert (stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.01)


def test_a_verdict_is_never_equal():
    unresolved = Interval(0.01, -0.02, 0.04, 6, error=0.012)
    assert bootstrap.verdict(unresolved, "the model", "zero").startswith("not resolved; this design could detect ≥ 0.0")
    assert bootstrap.verdict(Interval(0.2, 0.1, 0.3, 6), "the model", "zero") == "the model is better than zero"
    assert bootstrap.verdict(Interval(-0.2, -0.3, -0.1, 6), "the model", "zero") == "the model is worse than zero"


def test_the_jackknife_leaves_each_cluster_out_in_turn_whatever_it_holds_at_once(monkeypatch):
    x = np.random.default_rng(0).normal(size=(13, 1))
    expected = (x.sum() - x[:, 0]) / 12
    for numbers_at_once in (1, 40, 1 << 22):
        monkeypatch.setattr(bootstrap, "CHUNK", numbers_at_once)
        np.testing.assert_allclose(bootstrap.jackknife(x, bootstrap.mean), expected, rtol=1e-12)


@pytest.mark.parametrize("values", [[0.5, 0.5], [1.0, 1.0, 1.0]], ids=["two at chance", "three without an error"])
def test_a_few_equal_values_have_no_interval_and_support_no_claim(values):
    """Two people with a score of 1 do not show that nobody scores less: by a sign test p is 1/2."""
    alike = bootstrap.interval(np.array(values))
    assert not alike.known
    assert not alike.excludes(0)
    assert np.isnan(alike.detectable())
    says = bootstrap.verdict(alike, "the model", "zero")
    assert says == f"not resolved: the difference is the same in all {len(values)} subjects, so its spread is unknown"
    assert bootstrap.interval(np.ones(6)).excludes(0)


def test_a_score_that_is_nan_has_no_interval_and_supports_no_claim():
    for values in (np.array([np.nan, 0.3, 0.4]), np.empty(0)):
        unknown = bootstrap.interval(values)
        assert unknown.as_json() == {"estimate": None, "low": None, "high": None, "subjects": len(values)}
        assert bootstrap.verdict(unknown, "a", "b") == "not resolved: there is no difference to compute"
