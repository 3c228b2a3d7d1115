"""Scores of class decisions: balanced accuracy, area under the ROC curve, confusions."""

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata


def balanced_accuracy(predicted_n: Int[np.ndarray, "n"], true_n: Int[np.ndarray, "n"], classes: int = 1) -> float:
    """Return the mean of the classes' recalls: chance is 1/K whatever the classes' sizes. NaN without trials.

    Raises:
        ValueError: fewer than `classes` classes occur in `true_n`.
    """
    present = np.unique(true_n)
    if len(true_n) > 0 and len(present) < classes:
        raise ValueError(f"balanced accuracy takes trials of {'both' if classes == 2 else classes} classes")
    return float(np.mean([(predicted_n[true_n == k] == k).mean() for k in present])) if len(true_n) else float("nan")


def auroc(scores_nxK: Float[np.ndarray, "n K"], true_n: Int[np.ndarray, "n"]) -> float:
    """Return the probability that a trial of a class scores higher for it than one of another class.

    This is the area under the ROC curve (Mann & Whitney); ties count half, chance is 1/2. For more than two classes it
    is the mean over classes, each against the rest.
    """
    if scores_nxK.shape[1] == 2:
        return _binary_auroc(scores_nxK[:, 1] - scores_nxK[:, 0], true_n == 1)
    return float(np.mean([_binary_auroc(scores_nxK[:, k], true_n == k) for k in np.unique(true_n)]))


def _binary_auroc(score_n: Float[np.ndarray, "n"], positive_n: np.ndarray) -> float:
    n = int(positive_n.sum())
    if n in (0, len(score_n)):
        return float("nan")
    return float((rankdata(score_n)[positive_n].sum() - n * (n + 1) / 2) / (n * (len(score_n) - n)))


def confusion(
    predicted_n: Int[np.ndarray, "n"], target_n: Int[np.ndarray, "n"], classes: int
) -> Int[np.ndarray, "C C"]:
    """Return how often class `row` was predicted as class `column`."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (np.asarray(target_n), np.asarray(predicted_n)), 1)
    return counts
