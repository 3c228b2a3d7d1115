"""Classification of trials in left-out people, sessions or recordings, one after another, with permutation tests.

Neighbouring trials share their drift, and all trials of a person share that person, so training and test trials of one
recording are not independent. What is left out together, and which labels may be exchanged for a test, is a `Design`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.special import gammaln

from dreamjax.errors import UserError
from dreamjax.metrics import bootstrap, lda
from dreamjax.metrics.bootstrap import Interval
from dreamjax.metrics.classification import auroc, balanced_accuracy
from dreamjax.parallel import environment

Features = Float[np.ndarray, "n F"]
Classes = Int[np.ndarray, "n"]
Groups = Int[np.ndarray, "n"]
Scores = Float[np.ndarray, "n K"]
Fit = Callable[[Features, Classes], Callable[[Features], Scores]]  # training trials → scores of others
LeaveOut = Literal["subject", "recording", "session"]

FEWEST = 2  # training trials of a class, at least: a single one has no spread


def shrunk_lda(x: Features, y: Classes) -> Callable[[Features], Scores]:
    """Fit LDA with Ledoit & Wolf's shrinkage, the standard for evoked responses; `y` holds each of 0 … K - 1."""
    weights, bias, _ = lda.fit(x, y, "auto")
    return lambda new: new @ weights + bias


# --------------------------------------------------------------------------------------------------------------- design
@dataclass(frozen=True)
class Design:
    """What is left out together, and which labels are exchangeable if the classes do not differ.

    Labels that vary within recordings are permuted there. Where each recording holds one class, the labels of whole
    recordings are permuted within their subject; where each subject holds one class, those of whole subjects.
    """

    left_out: Groups  # trials of one group are classified by classifiers trained on the others
    unit: Groups  # trials that keep a common label
    stratum: Groups  # within which the labels of units are permuted
    what: LeaveOut
    permuted: str  # in words

    @classmethod
    def of(cls, y: Classes, recording: Groups, subject: Groups, left_out: Groups, what: LeaveOut) -> "Design":
        """Return the design of these trials. Raise UserError where nothing can be tested."""
        if len(np.unique(left_out)) < 2:
            raise UserError(
                f"there is only one {what}, but each is decoded by classifiers trained on the others; give two or more"
            )
        if _varies(y, recording).any():
            return cls(left_out, np.arange(len(y)), recording, what, "trials within recordings")
        if _varies(y, left_out).any():
            return cls(left_out, recording, left_out, what, f"recordings within {what}s")
        several = len(np.unique(subject)) < len(np.unique(recording))  # recordings of one person
        if several and what != "subject" and len(np.unique(subject)) > 1:
            raise UserError(
                f"each {what} holds one class, and a classifier that saw another {what} of the same person may "
                "recognise the person instead of the class; use --leave-out subject"
            )
        if _varies(y, subject).any():
            return cls(left_out, recording, subject, what, "recordings within subjects")
        people = several or what == "subject"
        return cls(left_out, subject, np.zeros_like(y), what, "subjects" if people else f"{what}s")

    def permute(self, y: Classes, rng: np.random.Generator) -> Classes:
        """Return the labels with those of units permuted within their stratum."""
        _, first, place = np.unique(self.unit, return_index=True, return_inverse=True)
        label, stratum = y[first], self.stratum[first]
        for one in np.unique(stratum):
            rows = np.flatnonzero(stratum == one)
            label[rows] = rng.permutation(label[rows])
        return label[place]

    def arrangements(self, y: Classes) -> float:
        """Return how many different arrangements of the labels there are, including the actual one."""
        _, first = np.unique(self.unit, return_index=True)
        label, stratum = y[first], self.stratum[first]
        log = 0.0
        for one in np.unique(stratum):
            counts = np.bincount(label[stratum == one])
            log += gammaln(counts.sum() + 1) - gammaln(counts + 1).sum()
        return float(np.round(math.exp(min(log, 600.0))))

    def scored(self, y: Classes) -> list[np.ndarray]:
        """Return the rows of each left-out group that has trials of two classes; where none has, all rows together.

        One class alone has no balanced accuracy and no area under the curve.
        """
        varied = _varies(y, self.left_out)
        groups = np.unique(self.left_out)[varied]
        return [np.flatnonzero(self.left_out == held) for held in groups] if len(groups) else [np.arange(len(y))]

    def notes(self, y: Classes, permutations: int) -> list[str]:
        """Return what limits the scores and the test."""
        notes, count, possible = [], len(np.unique(self.left_out)), self.arrangements(y)
        single = count - int(_varies(y, self.left_out).sum())
        if single == count:
            notes.append(
                f"each left-out {self.what} holds one class, so all trials are scored together: there is no interval"
            )
        elif single:
            notes.append(f"{single} of {count} {self.what}s hold one class and are not scored, only trained on")
        if possible <= permutations:
            notes.append(
                f"the labels can be arranged in only {possible:.0f} ways, so p cannot be below {1 / possible:.3f}"
            )
        return notes


def _varies(y: Classes, group: Groups) -> np.ndarray:
    """Return which groups, in order, hold trials of more than one class."""
    return np.array([len(np.unique(y[group == one])) > 1 for one in np.unique(group)])


# --------------------------------------------------------------------------------------------------------------- scores
def out_of_group(x: Features, y: Classes, design: Design, fit: Fit) -> Scores:
    """Return the scores of every trial by a classifier that saw nothing of its group.

    Raise UserError for features that are not finite, and for a class of which too few trials remain.
    """
    kinds = len(np.unique(y))
    out = np.empty((len(y), kinds))
    if broken := int((~np.isfinite(x).all(axis=1)).sum()):
        raise UserError(f"{broken} of {len(x)} trials have features that are not finite, so nothing can be classified")
    with environment.single_blas_thread():  # small matrices: threads would wait for each other longer than they compute
        for held in np.unique(design.left_out):
            test = design.left_out == held
            if np.bincount(y[~test], minlength=kinds).min() < FEWEST:
                raise UserError(
                    f"without one of the {design.what}s a class has at most one trial; leave out that {design.what} or "
                    "the class"
                )
            out[test] = fit(x[~test], y[~test])(x[test])
    return out


METRICS: dict[str, Callable[[Scores, Classes], float]] = {
    "balanced accuracy": lambda scores, y: balanced_accuracy(scores.argmax(1), y),
    "AUROC": auroc,
}


@dataclass(frozen=True)
class DecodingScore:
    """By metric: the mean over left-out groups with its interval, and the permutation test's p (NaN: no statistic)."""

    score: dict[str, Interval]
    p: dict[str, float]


def by_group(scores: Scores, y: Classes, design: Design) -> dict[str, Float[np.ndarray, "r"]]:
    """Return every metric in each left-out group that it can be computed in; see `Design.scored`."""
    each = design.scored(y)
    return {name: np.array([metric(scores[rows], y[rows]) for rows in each]) for name, metric in METRICS.items()}


def scored(
    x: Features, y: Classes, design: Design, fit: Fit, *, permutations: int = 200, seed: int = 0
) -> DecodingScore:
    """Return scores, their intervals over left-out groups, and p: how often permuted labels do as well.

    p = (1 + permutations as good) / (1 + permutations) (Phipson & Smyth 2010), so never 0, and never below one over the
    number of arrangements of the labels. Everything is fitted again for each permutation.
    """
    actual = by_group(out_of_group(x, y, design, fit), y, design)
    rng, better = np.random.default_rng([seed, 11]), dict.fromkeys(METRICS, 1)
    for _ in range(permutations):
        permuted = design.permute(y, rng)
        null = by_group(out_of_group(x, permuted, design, fit), permuted, design)
        for name in METRICS:
            better[name] += int(null[name].mean() >= actual[name].mean())
    least = 1 / design.arrangements(y)
    p = {
        name: max(least, count / (1 + permutations)) if np.isfinite(actual[name]).all() else math.nan
        for name, count in better.items()
    }
    intervals = {name: bootstrap.interval(values).within(0, 1) for name, values in actual.items()}
    return DecodingScore(intervals, p)
