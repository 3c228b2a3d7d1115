"""Split-half reliability: how well do repetitions of the same image agree? The ceiling of what a model can predict.

The repetitions are split into two halves at random; r is the correlation over images of the halves' means. For the
mean of n times as many repetitions, by Spearman-Brown (Brit. J. Psychol. 1910),

    reliability = n r / (1 + (n - 1) r),              n = repetitions / repetitions of a half (2 for an even number)

A model that is perfect correlates with the mean of all repetitions by √reliability.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dreamjax.errors import UserError
from dreamjax.metrics.bootstrap import TINY

SPLITS = 100


class Reliability(NamedTuple):
    """Reliability of the mean over repetitions, by unit, averaged over splits; and the ceiling √reliability."""

    reliability: Float[np.ndarray, "units"]
    half: Float[np.ndarray, "units"]  # correlation of the halves
    splits: int
    exact: bool  # whether these are all splits

    @property
    def ceiling(self) -> Float[np.ndarray, "units"]:
        """Return the largest correlation of a prediction with the mean response; 0 for a reliability below 0."""
        return np.sqrt(np.maximum(self.reliability, 0))


def spearman_brown(r: Float[np.ndarray, "*n"], times: float = 2.0) -> Float[np.ndarray, "*n"]:
    """Return the reliability of a mean over `times` as many repetitions as that of reliability r."""
    return times * r / (1 + (times - 1) * r)


def split_half(
    responses: Float[np.ndarray, "repetitions images units"], *, splits: int = SPLITS, seed: int = 0
) -> Reliability:
    """Return the reliability of each unit's mean response.

    All splits are used where there are at most `splits`, otherwise so many random ones; of an odd number of repetitions
    each split leaves one out. Missing repetitions are NaN; an image that has none in a half counts nothing in that
    split. NaN for a unit that does not respond differently. Raise UserError for fewer than two repetitions.
    """
    responses = np.asarray(responses, np.float64)
    R = len(responses)
    if R < 2:
        raise UserError(f"there is {R} repetition of each image, but split-half reliability needs at least 2")
    half = R // 2
    number = math.comb(R, half) * math.comb(R - half, half) // 2
    if exact := number <= splits:
        pairs = [
            (first, second)
            for first in itertools.combinations(range(R), half)
            for second in itertools.combinations(sorted(set(range(R)) - set(first)), half)
            if first < second
        ]
    else:
        orders = (np.random.default_rng(seed).permuted(np.tile(np.arange(R), (splits, 1)), axis=1)).tolist()
        pairs = [(tuple(order[:half]), tuple(order[half : 2 * half])) for order in orders]
    halves = np.stack([_correlation(*(_mean(responses[list(part)]) for part in pair)) for pair in pairs])
    return Reliability(spearman_brown(halves, R / half).mean(0), halves.mean(0), len(pairs), exact)


def _mean(x: Float[np.ndarray, "half images units"]) -> Float[np.ndarray, "images units"]:
    """Return the mean over the repetitions that there are; NaN without one."""
    known = np.isfinite(x)
    with np.errstate(invalid="ignore"):
        return np.where(known, x, 0).sum(0) / known.sum(0)


def _correlation(a: Float[np.ndarray, "n units"], b: Float[np.ndarray, "n units"]) -> Float[np.ndarray, "units"]:
    """Return Pearson's r over rows where both are known; NaN without variance."""
    known = np.isfinite(a) & np.isfinite(b)
    n = np.maximum(known.sum(0), 1)
    a, b = (np.where(known, x, 0) for x in (a, b))
    a, b = (np.where(known, x - x.sum(0) / n, 0) for x in (a, b))
    scale = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return np.divide((a * b).sum(0), scale, out=np.full(scale.shape, np.nan), where=scale > TINY)
