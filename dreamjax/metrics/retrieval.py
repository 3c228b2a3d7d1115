"""Retrieval from a bank: is the right target the one most similar to the query?

With r other targets more similar than the right one, and e exactly as similar, every order of the e + 1 equal ones is
as likely, so that

    P(right one among the k first) = min(max((k - r) / (e + 1), 0), 1)          expected rank = r + 1 + e / 2

Without any information each of the m targets is as likely: chance is k / m, and the mean rank (m + 1) / 2.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from dreamjax.metrics import identification

ROWS = 1024  # queries that are compared with the bank at once


class Ranks(NamedTuple):
    """Each query's number of other targets that are more similar than the right one, and of equally similar ones."""

    above: Int[np.ndarray, "n"]
    equal: Int[np.ndarray, "n"]

    def top(self, k: int) -> Float[np.ndarray, "n"]:
        """Return the probability that the right target is among the first `k`."""
        return np.clip((k - self.above) / (self.equal + 1), 0.0, 1.0)

    def rank(self) -> Float[np.ndarray, "n"]:
        """Return the expected rank of the right target, from 1."""
        return self.above + 1 + self.equal / 2


def ranks(
    query_nxD: Float[np.ndarray, "n D"], bank_mxD: Float[np.ndarray, "m D"], target_n: Int[np.ndarray, "n"]
) -> Ranks:
    """Return the ranks of the bank's rows `target_n` by cosine similarity with the queries."""
    target, counts = np.asarray(target_n), []
    for i in range(0, len(target), ROWS):
        similarity = identification.similarities(query_nxD[i : i + ROWS], bank_mxD, centred=False)
        right = np.take_along_axis(similarity, target[i : i + ROWS, None], axis=1)
        counts.append(((similarity > right).sum(1), (similarity == right).sum(1) - 1))
    above, equal = (np.concatenate(parts) for parts in zip(*counts, strict=True))
    return Ranks(above, equal)


def chance(k: int, targets: int) -> float:
    """Return the chance that the right one of so many targets is among `k` drawn ones."""
    return min(k / targets, 1.0)
