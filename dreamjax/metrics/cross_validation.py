"""Classification of trials in left-out recordings, one after another, with permutation tests.

For one person with several recordings this is the split that does not leak: neighbouring trials share their drift, so
that training and test trials of one recording are not independent.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from dreamjax.errors import UserError
from dreamjax.metrics import bootstrap, lda
from dreamjax.metrics.bootstrap import Interval
from dreamjax.metrics.classification import auroc, balanced_accuracy
from dreamjax.parallel import environment

Features = Float[np.ndarray, "n F"]
Classes = Int[np.ndarray, "n"]
Scores = Float[np.ndarray, "n K"]
Fit = Callable[[Features, Classes], Callable[[Features], Scores]]  # training trials → scores of others


def shrunk_lda(x: Features, y: Classes) -> Callable[[Features], Scores]:
    """Fit LDA with Ledoit & Wolf's shrinkage, the standard for evoked responses; `y` holds each of 0 … K - 1."""
    weights, bias, _ = lda.fit(x, y, "auto")
    return lambda new: new @ weights + bias


def out_of_recording(x: Features, y: Classes, recording: Int[np.ndarray, "n"], fit: Fit) -> Scores:
    """Return the scores of every trial by a classifier that saw none of its recording. Raise UserError without one."""
    kinds = len(np.unique(y))
    out = np.empty((len(y), kinds))
    if len(np.unique(recording)) < 2:
        raise UserError("there is one recording, and each is classified by classifiers of the others; give two or more")
    with environment.single_blas_thread():  # small matrices: threads would wait for each other longer than they compute
        for held in np.unique(recording):
            test = recording == held
            if len(np.unique(y[~test])) < kinds:
                raise UserError("without one of the recordings, a class has no trial; leave out that one or the class")
            out[test] = fit(x[~test], y[~test])(x[test])
    return out


METRICS: dict[str, Callable[[Scores, Classes], float]] = {
    "balanced accuracy": lambda scores, y: balanced_accuracy(scores.argmax(1), y),
    "AUROC": auroc,
}


@dataclass(frozen=True)
class DecodingScore:
    """By metric: the mean over left-out recordings with its interval, and the permutation test's p."""

    score: dict[str, Interval]
    p: dict[str, float]


def by_recording(scores: Scores, y: Classes, recording: Int[np.ndarray, "n"]) -> dict[str, Float[np.ndarray, "r"]]:
    """Return every metric in each left-out recording."""
    each = [np.flatnonzero(recording == held) for held in np.unique(recording)]
    return {name: np.array([metric(scores[rows], y[rows]) for rows in each]) for name, metric in METRICS.items()}


def scored(
    x: Features, y: Classes, recording: Int[np.ndarray, "n"], fit: Fit, *, permutations: int = 200, seed: int = 0
) -> DecodingScore:
    """Return scores, their intervals over recordings, and p: how often labels shuffled within recordings do as well.

    p = (1 + permutations as good) / (1 + permutations) (Phipson & Smyth 2010), so never 0. Everything is fitted again
    for each.
    """
    actual = by_recording(out_of_recording(x, y, recording, fit), y, recording)
    rng, better = np.random.default_rng([seed, 11]), dict.fromkeys(METRICS, 1)
    for _ in range(permutations):
        shuffled = y.copy()
        for held in np.unique(recording):
            rows = np.flatnonzero(recording == held)
            shuffled[rows] = rng.permutation(y[rows])
        null = by_recording(out_of_recording(x, shuffled, recording, fit), shuffled, recording)
        for name in METRICS:
            better[name] += int(np.nanmean(null[name]) >= np.nanmean(actual[name]))
    return DecodingScore(
        {name: bootstrap.interval(values) for name, values in actual.items()},
        {name: count / (1 + permutations) for name, count in better.items()},
    )
