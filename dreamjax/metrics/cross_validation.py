"""Classes of trials told in recordings that were left out, one after another, with permutation tests.

For one person with several recordings this is the split that does not leak: neighbouring trials share their drift, so
that training and test trials of one recording are no independent ones.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata

from dreamjax.errors import UserError
from dreamjax.metrics import bootstrap, lda
from dreamjax.metrics.bootstrap import Interval
from dreamjax.parallel import environment

Features = Float[np.ndarray, "n F"]
Classes = Int[np.ndarray, "n"]
Scores = Float[np.ndarray, "n K"]
Fit = Callable[[Features, Classes], Callable[[Features], Scores]]  # training trials → scores of others


def shrunk_lda(x: Features, y: Classes) -> Callable[[Features], Scores]:
    """Linear discriminant analysis with Ledoit & Wolf's shrinkage, the standard for evoked responses (Blankertz et al.
    2011). `y` holds 0 … K - 1, each at least once.
    """
    weights, bias, _ = lda.fit(x, y, "auto")
    return lambda new: new @ weights + bias


def out_of_recording(x: Features, y: Classes, recording: Int[np.ndarray, "n"], fit: Fit) -> Scores:
    """The scores of every trial by a classifier that saw none of its recording.

    Raises UserError where there is one recording, or one whose rest lacks a class.
    """
    kinds = len(np.unique(y))
    out = np.empty((len(y), kinds))
    if len(np.unique(recording)) < 2:
        raise UserError("there is one recording, and each is told by classifiers of the others; give at least two")
    with environment.single_blas_thread():  # small matrices: threads would wait for each other longer than they compute
        for held in np.unique(recording):
            test = recording == held
            if len(np.unique(y[~test])) < kinds:
                raise UserError("without one of the recordings, a class has no trial; leave out that one or the class")
            out[test] = fit(x[~test], y[~test])(x[test])
    return out


def balanced_accuracy(scores: Scores, y: Classes) -> float:
    """The mean of the classes' recalls; chance is 1/K whatever the classes' sizes."""
    return lda.balanced_accuracy(scores.argmax(1), y)


def auroc(scores: Scores, y: Classes) -> float:
    """The probability that a trial of a class scores higher for it than one of another class does (Mann & Whitney),
    ties counting half; for more than two classes the mean over classes, each against the rest. Chance is 1/2.
    """
    if scores.shape[1] == 2:
        return _auroc(scores[:, 1] - scores[:, 0], y == 1)
    return float(np.mean([_auroc(scores[:, k], y == k) for k in np.unique(y)]))


def _auroc(score: Float[np.ndarray, "n"], positive: np.ndarray) -> float:
    n = int(positive.sum())
    if n in (0, len(score)):
        return float("nan")
    return float((rankdata(score)[positive].sum() - n * (n + 1) / 2) / (n * (len(score) - n)))


METRICS: dict[str, Callable[[Scores, Classes], float]] = {"balanced accuracy": balanced_accuracy, "AUROC": auroc}


@dataclass(frozen=True)
class Result:
    """By metric: the mean over left-out recordings with its interval, and the permutation test's p."""

    score: dict[str, Interval]
    p: dict[str, float]
    trials: int
    recordings: int


def by_recording(scores: Scores, y: Classes, recording: Int[np.ndarray, "n"]) -> dict[str, Float[np.ndarray, "r"]]:
    """Every metric in each left-out recording."""
    each = [np.flatnonzero(recording == held) for held in np.unique(recording)]
    return {name: np.array([metric(scores[rows], y[rows]) for rows in each]) for name, metric in METRICS.items()}


def scored(
    x: Features, y: Classes, recording: Int[np.ndarray, "n"], fit: Fit, *, permutations: int = 200, seed: int = 0
) -> Result:
    """Scores, their intervals over recordings, and p: how often labels dealt out within each recording do as well.

    p = (1 + permutations as good) / (1 + permutations) (Phipson & Smyth 2010), so never 0. Everything is fitted anew
    for each.
    """
    own = by_recording(out_of_recording(x, y, recording, fit), y, recording)
    rng, better = np.random.default_rng([seed, 11]), dict.fromkeys(METRICS, 1)
    for _ in range(permutations):
        dealt = y.copy()
        for held in np.unique(recording):
            rows = np.flatnonzero(recording == held)
            dealt[rows] = rng.permutation(y[rows])
        null = by_recording(out_of_recording(x, dealt, recording, fit), dealt, recording)
        for name in METRICS:
            better[name] += int(np.nanmean(null[name]) >= np.nanmean(own[name]))
    return Result(
        {name: bootstrap.interval(values[:, None], bootstrap.mean) for name, values in own.items()},
        {name: count / (1 + permutations) for name, count in better.items()},
        len(y),
        len(np.unique(recording)),
    )
