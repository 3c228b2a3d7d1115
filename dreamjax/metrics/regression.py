"""Prediction of vectors: correlation and R² of each dimension over examples.

    r_d  = cov(y_d, ŷ_d) / (sd(y_d) sd(ŷ_d))               0 for a constant prediction
    R²_d = 1 - Σ_i (y_id - ŷ_id)² / Σ_i (y_id - ȳ_d)²      at most 1; 0 for the mean of the scored examples

The mean over dimensions is also split into one number an example, whose mean is the score and whose spread is that of
the score (by its influence function), so that an interval needs no second pass over the dimensions.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

TINY = 1e-12  # of a dimension's power: less is a constant
FEWEST = 3  # examples: with two, the correlation is 1 or -1 whatever is predicted


class RegressionScores(NamedTuple):
    """Scores of each dimension, and each example's contribution to their mean over dimensions that vary."""

    correlation: Float[np.ndarray, "D"]
    r2: Float[np.ndarray, "D"]
    correlation_n: Float[np.ndarray, "n"]
    r2_n: Float[np.ndarray, "n"]


def fit(predicted_nxD: Float[np.ndarray, "n D"], true_nxD: Float[np.ndarray, "n D"]) -> RegressionScores:
    """Return the scores of a prediction; NaN for fewer than `FEWEST` examples.

    A dimension whose truth does not vary is NaN and does not count.
    """
    predicted, true = (np.asarray(x, np.float64) for x in (predicted_nxD, true_nxD))
    y, p = true - true.mean(0), predicted - predicted.mean(0)
    power_y, power_p = np.square(y).mean(0), np.square(p).mean(0)
    varies = power_y > TINY * np.square(true).mean(0)
    if len(true) < FEWEST or not varies.any():
        nothing = np.full(true.shape[1], np.nan)
        return RegressionScores(nothing, nothing, np.full(len(true), np.nan), np.full(len(true), np.nan))
    constant = power_p <= TINY * np.square(predicted).mean(0)
    zy = y / np.sqrt(np.where(varies, power_y, 1))
    zp = np.where(constant, 0, p / np.sqrt(np.where(constant, 1, power_p)))
    r = (zy * zp).mean(0)
    error = np.square(true - predicted) / np.where(varies, power_y, 1)
    r2 = 1 - error.mean(0)
    # influence functions of r and of a ratio of means, added to the score itself
    of_r = r + zy * zp - r * (np.square(zy) + np.square(zp)) / 2
    of_r2 = r2 - (error - (1 - r2) * np.square(zy))
    unknown = np.where(varies, 0.0, np.nan)
    return RegressionScores(r + unknown, r2 + unknown, of_r[:, varies].mean(1), of_r2[:, varies].mean(1))
