"""Multivariate noise normalisation (Guggenmos et al. 2018): signals times Σ^(-1/2), Σ the noise of a session.

Σ is the mean over image conditions of a condition's covariance of channels, each shrunk after Ledoit & Wolf (2004) with
the channels standardised, as scikit-learn's discriminant analysis does. A condition's covariance is the mean of

epochs   over repetitions: that of a repetition's samples
time     over samples: that of the repetitions at a sample
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

SMALLEST = 1e-10  # of the eigenvalues, relative to the largest


def shrunk_covariance(
    x_BxNxC: Float[np.ndarray, "batch samples channels"],
) -> Float[np.ndarray, "batch channels channels"]:
    """Return the Ledoit-Wolf covariance of each of several sets of samples, whose channels are standardised for it."""
    x = x_BxNxC - x_BxNxC.mean(axis=1, keepdims=True)
    scale = x.std(axis=1)
    scale = np.where(scale == 0, 1.0, scale)
    x = x / scale[:, None]
    n, p = x.shape[1:]
    empirical = np.swapaxes(x, 1, 2) @ x / n
    squared = np.square(empirical).sum(axis=(1, 2))
    mean = np.trace(empirical, axis1=1, axis2=2) / p
    spread = np.square(np.square(x).sum(axis=2)).sum(axis=1) / n
    distance = (squared - p * np.square(mean)) / p
    error = np.minimum((spread - squared) / (p * n), distance)
    share = np.where(error > 0, error / np.where(distance > 0, distance, 1.0), 0.0)[:, None, None]
    shrunk = (1 - share) * empirical + share * mean[:, None, None] * np.eye(p)
    return scale[:, :, None] * shrunk * scale[:, None, :]


def condition_covariance(
    trials: Float[np.ndarray, "repetitions channels samples"], over: Literal["epochs", "time"] = "epochs"
) -> Float[np.ndarray, "channels channels"]:
    """Return the covariance of a condition."""
    order = (0, 2, 1) if over == "epochs" else (2, 0, 1)
    return shrunk_covariance(np.asarray(trials, np.float64).transpose(order)).mean(axis=0)


def noise_covariance(
    conditions: Iterable[Float[np.ndarray, "repetitions channels samples"]], over: Literal["epochs", "time"] = "epochs"
) -> Float[np.ndarray, "channels channels"]:
    """Return the mean of the covariances of conditions, which are taken one at a time. At least one is needed."""
    total, count = np.zeros(()), 0
    for trials in conditions:
        total, count = total + condition_covariance(trials, over), count + 1
    return total / count


def whitener(covariances: Sequence[Float[np.ndarray, "channels channels"]]) -> Float[np.ndarray, "channels channels"]:
    """Return Σ^(-1/2) for Σ the mean of `covariances`: of training trials, or as released of test trials too."""
    values, vectors = np.linalg.eigh(np.mean(covariances, axis=0))
    values = np.maximum(values, SMALLEST * values.max())
    return (vectors / np.sqrt(values)) @ vectors.T
