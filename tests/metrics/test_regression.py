"""Correlation and R² of predicted vectors: scikit-learn, closed forms, intervals of the right width."""

import numpy as np
import pytest
from sklearn.metrics import r2_score

from dreamjax.metrics import bootstrap, regression


def test_scores_equal_numpy_and_scikit_learn():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(80, 5))
    predicted = 0.7 * true + rng.normal(size=(80, 5)) + 0.2
    fit = regression.fit(predicted, true)
    np.testing.assert_allclose(fit.correlation, [np.corrcoef(predicted[:, d], true[:, d])[0, 1] for d in range(5)])
    np.testing.assert_allclose(fit.r2, r2_score(true, predicted, multioutput="raw_values"))
    assert fit.correlation_n.mean() == pytest.approx(fit.correlation.mean())
    assert fit.r2_n.mean() == pytest.approx(fit.r2.mean())


def test_constant_prediction_explains_nothing_and_constant_truth_does_not_count():
    true = np.random.default_rng(0).normal(size=(50, 3))
    true[:, 2] = 4.0
    fit = regression.fit(np.tile(true.mean(0), (50, 1)), true)
    assert fit.correlation[:2] == pytest.approx(0)
    assert fit.r2[:2] == pytest.approx(0)
    assert np.isnan(fit.correlation[2])
    assert np.isnan(fit.r2[2])
    assert np.isfinite(fit.r2_n).all()
    assert np.isnan(regression.fit(true[:, 2:], true[:, 2:]).r2_n).all()


def test_contributions_have_the_spread_of_the_score():
    """The standard error of the mean contribution is that of the score over fresh samples."""
    rng = np.random.default_rng(1)
    scores, errors = [], []
    for _ in range(400):
        true = rng.normal(size=(200, 1))
        fit = regression.fit(true + rng.normal(size=(200, 1)), true)
        scores.append((fit.correlation[0], fit.r2[0]))
        errors.append((fit.correlation_n.std() / 200**0.5, fit.r2_n.std() / 200**0.5))
    np.testing.assert_allclose(np.mean(errors, 0), np.std(scores, 0), rtol=0.15)


def test_clustered_interval_equals_that_of_cluster_means_of_equal_size():
    values, cluster = np.random.default_rng(0).normal(size=60), np.repeat(np.arange(12), 5)
    ours = bootstrap.clustered(values, cluster)
    theirs = bootstrap.interval(values.reshape(12, 5).mean(1))
    assert (ours.estimate, ours.low, ours.high, ours.n) == pytest.approx(
        (theirs.estimate, theirs.low, theirs.high, theirs.n)
    )
    assert bootstrap.clustered(np.full(3, np.nan), np.arange(3)).n == 0


def test_two_examples_have_no_correlation():
    """It would be 1 or -1 whatever is predicted."""
    fit = regression.fit(np.array([[0.0], [1.0]]), np.array([[5.0], [7.0]]))
    assert np.isnan(fit.correlation).all()
    assert np.isnan(fit.correlation_n).all()
