"""Classify the image that was seen in a trial by small classifiers, as controls and as the baseline.

A classifier is linear discriminant analysis with a shrunk covariance on the signal's means over equal spans of time,
the usual one for evoked responses (Blankertz et al. 2011, NeuroImage 56, section 4). Spans and shrinkage are chosen on
validation trials, never on those that are scored.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import cho_factor, cho_solve

from dreamjax.errors import missing_package
from dreamjax.metrics.classification import balanced_accuracy
from dreamjax.parallel import environment

BINS = 32  # spans of time in which trials are kept; the classifier joins them to fewer
JOINED = (1, 2, 4)  # spans joined to one
SHRINKAGE = (0.02, 0.1, 0.4)  # of the covariance towards a multiple of the identity
WIDEST = 2048  # features of a classifier
NEIGHBOURS = (1, 3, 9, 27)  # trials close in time that vote
HELD_OUT = 3  # every third window of a pseudo-block
FEWEST = 2 * HELD_OUT  # windows of a pseudo-block

BinnedTrials = Float[np.ndarray, "n C bins"]
Classes = Int[np.ndarray, "n"]


def binned(
    signal: Float[np.ndarray, "n C T"], valid: Float[np.ndarray, "n T"], bins: int = BINS
) -> Float[np.ndarray, "n C bins"]:
    """Return the mean of each channel over `bins` spans of equal length, of valid samples; 0 where there is none."""
    edges = np.linspace(0, signal.shape[-1], min(bins, signal.shape[-1]) + 1).astype(int)
    sums = np.add.reduceat(signal * valid[:, None], edges[:-1], axis=-1)
    counts = np.add.reduceat(valid, edges[:-1], axis=-1)[:, None]
    return np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)


@dataclass(frozen=True)
class LinearClassifier:
    """A fitted classifier: class scores are `x @ weights + bias` of features `joined` spans wide."""

    joined: int
    shrinkage: float
    weights: Float[np.ndarray, "F K"]
    bias: Float[np.ndarray, "K"]
    classes: Classes
    validation: float  # balanced accuracy on the trials that it was chosen by

    def __call__(self, x: BinnedTrials) -> Classes:
        return self.classes[(_features(x, self.joined) @ self.weights + self.bias).argmax(1)]

    def refitted(self, x: BinnedTrials, y: Classes) -> "LinearClassifier":
        """Return the same choice, fitted on other trials."""
        fitted = fit(_features(x, self.joined), y, self.shrinkage)
        return LinearClassifier(self.joined, self.shrinkage, *fitted, self.validation)


def _features(x: BinnedTrials, joined: int) -> Float[np.ndarray, "n F"]:
    spans = x.shape[2] // joined
    return x[:, :, : spans * joined].reshape(len(x), x.shape[1], spans, joined).mean(-1).reshape(len(x), -1)


def tuned(train: tuple[BinnedTrials, Classes], val: tuple[BinnedTrials, Classes]) -> LinearClassifier:
    """Return the classifier fitted on `train` that is best on `val`."""
    models = []
    for joined in JOINED:
        features = train[0].shape[1] * (train[0].shape[2] // joined)
        if 0 < features <= WIDEST or joined == max(JOINED):
            for shrinkage in SHRINKAGE:
                fitted = fit(_features(train[0], joined), train[1], shrinkage)
                model = LinearClassifier(joined, shrinkage, *fitted, validation=float("nan"))
                models.append(replace(model, validation=balanced_accuracy(model(val[0]), val[1])))
    return max(models, key=lambda one: one.validation)


def fit(
    x: Float[np.ndarray, "n F"], y: Classes, shrinkage: float | Literal["auto"]
) -> tuple[Float[np.ndarray, "F K"], Float[np.ndarray, "K"], Classes]:
    """Return (weights, bias, classes) of linear discriminant analysis; equal priors, so that none is favoured.

    "auto": Ledoit and Wolf's shrinkage of each class's standardised features. What scikit-learn's classifier computes,
    by Cholesky's factors in place of a singular value decomposition: a shrunk covariance has them.
    """
    classes = np.unique(y)
    means = np.stack([x[y == k].mean(0) for k in classes])
    with environment.single_blas_thread():  # threads would wait for each other longer than they compute
        covariance = np.mean([_covariance(x[y == k], shrinkage) for k in classes], axis=0)
        covariance[np.diag_indices_from(covariance)] += 1e-9 * max(covariance.trace() / len(covariance), 1e-30)
        weights = cho_solve(cho_factor(covariance, lower=True), means.T)
    return weights, -0.5 * (means.T * weights).sum(0), classes


def _covariance(x: Float[np.ndarray, "n F"], shrinkage: float | Literal["auto"]) -> Float[np.ndarray, "F F"]:
    """Return the covariance of the trials of one class, shrunk towards a multiple of the identity."""
    try:
        from sklearn.covariance import empirical_covariance, ledoit_wolf, shrunk_covariance
    except ImportError as e:
        raise missing_package("scikit-learn", "data", "classifiers of trials") from e
    if shrinkage != "auto":
        return shrunk_covariance(empirical_covariance(x), shrinkage)
    deviation = x.std(0)
    spread = np.where(deviation > 0, deviation, 1.0)
    return ledoit_wolf((x - x.mean(0)) / spread)[0] * np.outer(spread, spread)


# ------------------------------------------------------------------------------------------------------------ time only
@dataclass(frozen=True)
class TrialTimes:
    """The times of trials: the `recording` of each, and the `start` of its window, s since the recording's."""

    recording: Sequence[str]
    start: Float[np.ndarray, "n"]
    classes: Classes


def by_time(train: TrialTimes, asked: TrialTimes, neighbours: int) -> Classes:
    """Return the most frequent class of the `neighbours` training trials closest in time, without the signal.

    Of the same recording where training has it, else of all. Ties go to the nearest.
    """
    recordings = np.asarray(train.recording)
    out = np.empty(len(asked.start), train.classes.dtype)
    for recording in set(asked.recording):
        rows = np.flatnonzero(np.asarray(asked.recording) == recording)
        known = np.flatnonzero(recordings == recording)
        known = known if len(known) else np.arange(len(recordings))
        gaps = np.abs(asked.start[rows, None] - train.start[known])
        near = train.classes[known][np.argsort(gaps, axis=1, kind="stable")[:, :neighbours]]
        votes = (near[:, :, None] == near[:, None]).sum(1)  # for the class of each neighbour
        first = (votes == votes.max(1, keepdims=True)).argmax(1)
        out[rows] = near[np.arange(len(rows)), first]
    return out


def tuned_by_time(train: TrialTimes, val: TrialTimes) -> Callable[[TrialTimes], Classes]:
    """Return `by_time` with the number of neighbours that is best on `val`."""
    best = max(NEIGHBOURS, key=lambda k: balanced_accuracy(by_time(train, val, k), val.classes))
    return lambda asked: by_time(train, asked, best)


# -------------------------------------------------------------------------------------------------------- pseudo-blocks
class PseudoBlocks(NamedTuple):
    """Stimulus-free windows with classes assigned by their time alone, and the classes predicted from them."""

    true: Classes  # of each held-out window
    predicted: Classes  # by a classifier of its recording
    recordings: int


def pseudo_blocks(x: BinnedTrials, times: TrialTimes, classes: int, seed: int) -> PseudoBlocks | None:
    """Cut each recording's windows, in order, into `classes` blocks of one pseudo-class each, and classify.

    As in a block design, training and held-out windows come from the same blocks, so that slow drift alone tells the
    class. None where no recording is long enough. `times.classes` is not looked at.
    """
    true, predicted = [], []
    for number, recording in enumerate(sorted(set(times.recording))):
        rows = np.flatnonzero(np.asarray(times.recording) == recording)
        rows = rows[np.argsort(times.start[rows], kind="stable")]
        if len(rows) < classes * FEWEST:
            continue
        block = np.arange(len(rows)) * classes // len(rows)
        pseudo = np.random.default_rng([seed, 6, number]).permutation(classes)[block]
        within = np.arange(len(rows)) - np.searchsorted(block, block)  # place in its block
        held, chosen = within % HELD_OUT == 1, within % HELD_OUT == 2
        fitted = ~held & ~chosen
        model = tuned((x[rows[fitted]], pseudo[fitted]), (x[rows[chosen]], pseudo[chosen]))
        true.append(pseudo[held])
        # the third that it was chosen by is trained on as well
        predicted.append(model.refitted(x[rows[~held]], pseudo[~held])(x[rows[held]]))
    return PseudoBlocks(np.concatenate(true), np.concatenate(predicted), len(true)) if true else None
