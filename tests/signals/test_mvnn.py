"""Multivariate noise normalisation: as scikit-learn's shrinkage and as the released code of THINGS-EEG2."""

import numpy as np
import pytest
from scipy import linalg
from sklearn.covariance import ledoit_wolf
from sklearn.preprocessing import StandardScaler

from dreamjax.signals.preparation import mvnn

RNG = np.random.default_rng(0)
MIXING = RNG.standard_normal((6, 6)) * [1, 5, 0.1, 1, 2, 1]


def released(samples):
    """scikit-learn's `discriminant_analysis._cov(samples, shrinkage="auto")`."""
    scaler = StandardScaler()
    covariance = ledoit_wolf(scaler.fit_transform(samples))[0]
    return scaler.scale_[:, None] * covariance * scaler.scale_[None, :]


@pytest.mark.parametrize("samples", [2, 7, 300])
def test_shrinks_as_scikit_learn(samples):
    x = RNG.standard_normal((3, samples, 6)) @ MIXING + 4
    x[1, :, 2] = 1.0  # a constant channel
    for one, covariance in zip(x, mvnn.shrunk_covariance(x), strict=True):
        np.testing.assert_allclose(covariance, released(one), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("over", ["epochs", "time"])
def test_averages_as_the_released_code(over):
    conditions = RNG.standard_normal((5, 4, 6, 30))
    wanted = np.mean(
        [
            np.mean(
                [released(c[r].T) for r in range(4)] if over == "epochs" else [released(c[:, :, t]) for t in range(30)],
                axis=0,
            )
            for c in conditions
        ],
        axis=0,
    )
    ours = mvnn.noise_covariance(iter(conditions), over)
    np.testing.assert_allclose(ours, wanted, rtol=1e-9)
    np.testing.assert_allclose(mvnn.whitener([ours]), linalg.fractional_matrix_power(wanted, -0.5), rtol=1e-6)


def test_whitened_noise_is_white():
    trials = np.einsum("dc,irdt->irct", MIXING, RNG.standard_normal((20, 2, 6, 4000)))
    white = mvnn.whitener([mvnn.noise_covariance(trials)]) @ trials
    covariance = np.einsum("irct,irdt->cd", white, white) / (20 * 2 * 4000)
    np.testing.assert_allclose(covariance, np.eye(6), atol=0.05)
