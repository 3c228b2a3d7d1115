"""Average values that belong together: repetitions of an image, trials of a person, predictions of several people."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Averaged(NamedTuple):
    """Means over the rows that share all labels, in the sorted order of the labels."""

    values: Float[np.ndarray, "g *D"]
    labels: tuple[np.ndarray, ...]  # one array of g labels for each that was given
    rows: Int[np.ndarray, "g"]  # how many of each


def averaged(values: Float[np.ndarray, "n *D"], *labels: np.ndarray) -> Averaged:
    """Return the means of rows with equal labels, in float64.

    Example:
        averaged(predictions, subject, image)  # over the repetitions of an image, for every person
        averaged(predictions, image)           # over people too: all trials count the same
        averaged(top_1, subject)               # the accuracy of every person
    """
    codes = [np.unique(np.asarray(label), return_inverse=True) for label in labels]
    place = np.ravel_multi_index([inverse.reshape(-1) for _, inverse in codes], [len(unique) for unique, _ in codes])
    order = np.argsort(place, kind="stable")
    _, first, count = np.unique(place[order], return_index=True, return_counts=True)
    sums = np.add.reduceat(np.asarray(values, np.float64)[order], first, axis=0)
    return Averaged(
        sums / count.reshape(-1, *[1] * (sums.ndim - 1)),
        tuple(np.asarray(label)[order[first]] for label in labels),
        count,
    )
