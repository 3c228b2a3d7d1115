"""Is the right target the one most similar to the query? Retrieval from a bank, and two-way identification.

Retrieval. With r other targets more similar than the right one, and e exactly as similar, every order of the e + 1
equal ones is as likely, so that

    P(right one among the k first) = min(max((k - r) / (e + 1), 0), 1)          expected rank = r + 1 + e / 2

Without any information each of the m targets is as likely: chance is k / m, and the mean rank (m + 1) / 2. N-way
accuracy is that of a gallery of the right target and N - 1 of the m - 1 others, over all such galleries
(dreamjax/metrics/nway.py). Distractors are targets that nothing was recorded for: rows that are appended to the bank.

Two-way identification (Takagi & Nishimoto 2023; Ozcelik & VanRullen 2023, "Brain-Diffuser"). For features u_i of the
image made from trial i and v_j of the true images, by Pearson's r over the features:

    score_i = share of the other true images j with r(u_i, v_i) > r(u_i, v_j)          (an equal one counts half)

Chance is 1/2; within classes also for a generator that merely knows the class.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from dreamjax.errors import UserError
from dreamjax.metrics import nway

ROWS = 1024  # queries that are compared with the bank at once
SORTED = 1 << 21  # similarities that are sorted at once
HELD = 1 << 29  # bytes of centred features at once


class Ranks(NamedTuple):
    """Each query's number of other targets that are more similar than the right one, and of equally similar ones."""

    above: Int[np.ndarray, "*n"]
    equal: Int[np.ndarray, "*n"]

    def top(self, k: int) -> Float[np.ndarray, "*n"]:
        """Return the probability that the right target is among the first `k`."""
        return np.clip((k - self.above) / (self.equal + 1), 0.0, 1.0)

    def rank(self) -> Float[np.ndarray, "*n"]:
        """Return the expected rank of the right target, from 1."""
        return self.above + 1 + self.equal / 2

    def reciprocal(self) -> Float[np.ndarray, "*n"]:
        """Return the expected value of 1 / rank; its mean is the mean reciprocal rank."""
        sums = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, 2 + np.max(self.above + self.equal, initial=0)))])
        return (sums[self.above + self.equal + 1] - sums[self.above]) / (self.equal + 1)

    def n_way(self, size: int, ways: int, top: int = 1) -> Float[np.ndarray, "*n"]:
        """Return the probability that the right one of `size` targets is among the `top` first of `ways` of them.

        Raise UserError for more ways than targets.
        """
        if not 1 <= top <= ways <= size:
            raise UserError(f"{ways}-way top-{top} needs 1 ≤ K ≤ N ≤ targets, and the gallery has {size}")
        return nway.of_counts(self.above, self.equal, size, ways, top)


def ranks(
    query_nxD: Float[np.ndarray, "n D"], bank_mxD: Float[np.ndarray, "m D"], target_n: Int[np.ndarray, "n"]
) -> Ranks:
    """Return the ranks of the bank's rows `target_n` by cosine similarity with the queries.

    Raise UserError for vectors that are not finite: a number compared with NaN is neither above nor equal.
    """
    target, counts = np.asarray(target_n), []
    for i in range(0, len(target), ROWS):
        similarity = similarities(query_nxD[i : i + ROWS], bank_mxD, centred=False)
        counts.append(ranks_in(similarity, target[i : i + ROWS]))
    above, equal = (np.concatenate(parts) for parts in zip(*counts, strict=True))
    return Ranks(above, equal)


def ranks_in(similarity_nxm: Float[np.ndarray, "n m"], target_n: Int[np.ndarray, "n"]) -> Ranks:
    """Return the ranks of the columns `target_n`. Raise UserError for similarities that are not finite."""
    similarity = _finite(similarity_nxm)
    right = np.take_along_axis(similarity, np.asarray(target_n)[:, None], axis=1)
    return Ranks((similarity > right).sum(1), (similarity == right).sum(1) - 1)


def ranks_of_all(similarity_nxm: Float[np.ndarray, "n m"], columns_c: Int[np.ndarray, "c"] | None = None) -> Ranks:
    """Return the ranks, n × c, that each column would have as the right target of each row (default: all columns)."""
    similarity = _finite(similarity_nxm)
    columns = np.arange(similarity.shape[1]) if columns_c is None else np.asarray(columns_c)
    above, equal = (np.empty((len(similarity), len(columns)), np.int64) for _ in range(2))
    place, step = np.arange(similarity.shape[1]), max(1, SORTED // max(1, similarity.shape[1]))
    for i in range(0, len(similarity), step):
        rows = slice(i, i + step)
        order = np.argsort(-similarity[rows], axis=1)
        falling = np.take_along_axis(similarity[rows], order, axis=1)
        begins = np.diff(falling, axis=1, prepend=np.inf) != 0  # of runs of equal similarities
        ends = np.diff(falling, axis=1, append=-np.inf) != 0
        first = np.maximum.accumulate(np.where(begins, place, 0), axis=1)
        last = np.minimum.accumulate(np.where(ends, place, len(place))[:, ::-1], axis=1)[:, ::-1]
        for out, values in ((above, first), (equal, last - first)):
            by_column = np.empty_like(order)
            np.put_along_axis(by_column, order, values, axis=1)
            out[rows] = by_column[:, columns]
    return Ranks(above, equal)


def relative_median_rank(ranks: Ranks, size: int) -> float:
    """Return the median over queries of rank / size, the rank from 1 (Benchetrit et al. 2024, arXiv 2310.19812).

    From 1 / size to 1; chance is about 1/2, exactly (size + 1) / (2 size).
    """
    return float(np.median(ranks.rank() / size))


def _finite(similarity: np.ndarray) -> np.ndarray:
    if not np.isfinite(similarity).all():
        raise UserError("the vectors to compare hold numbers that are not finite, so nothing can be ranked")
    return similarity


def chance(k: int, targets: int) -> float:
    """Return the probability that the right one of `targets` targets is among `k` random ones."""
    return min(k / targets, 1.0)


def two_way(
    similarity_nxm: Float[np.ndarray, "n m"],
    true_n: Int[np.ndarray, "n"],
    groups_m: Int[np.ndarray, "m"] | None = None,
) -> Float[np.ndarray, "n"]:
    """Return the score of each generated image; NaN without another image to compare with.

    Args:
        true_n: which of the m true images belongs to each.
        groups_m: only true images of the same group are compared.
    """
    similarity, true = np.asarray(similarity_nxm, np.float64), np.asarray(true_n)
    right = np.take_along_axis(similarity, true[:, None], axis=1)
    other = np.arange(similarity.shape[1])[None] != true[:, None]
    if groups_m is not None:
        groups = np.asarray(groups_m)
        other &= groups[None] == groups[true][:, None]
    won = ((right > similarity) + 0.5 * (right == similarity)) * other
    with np.errstate(invalid="ignore"):
        return np.where(other.any(1), won.sum(1) / other.sum(1), np.nan)


def similarities(
    made_nxF: Float[np.ndarray, "n F"], true_mxF: Float[np.ndarray, "m F"], centred: bool = True
) -> Float[np.ndarray, "n m"]:
    """Return Pearson's r of every row with every other's; the cosine where not `centred`; 0 for a row without variance.

    Of float64 features in float64, of others in float32; rows at a time, so that nothing is held twice.
    """
    made, true = np.asarray(made_nxF), np.asarray(true_mxF)
    kind = _kind(made, true)
    table = np.empty((len(made), len(true)))
    for i in _blocks(made, kind):
        rows = _unit(made[i], kind, centred)
        for j in _blocks(true, kind):
            table[i, j] = rows @ _unit(true[j], kind, centred).T
    return table


def paired(made: Float[np.ndarray, "n F"], true: Float[np.ndarray, "n F"], centred: bool = True) -> np.ndarray:
    """Return Pearson's r of each image's features with those of its true image; the cosine where not `centred`."""
    made, true = np.asarray(made), np.asarray(true)
    kind, scores = _kind(made, true), np.empty(len(made))
    for i in _blocks(made, kind):
        scores[i] = (_unit(made[i], kind, centred) * _unit(true[i], kind, centred)).sum(1, dtype=np.float64)
    return scores


def _kind(*features: np.ndarray) -> type[np.floating]:
    return np.float64 if np.float64 in [x.dtype for x in features] else np.float32


def _blocks(x: np.ndarray, kind: type[np.floating]) -> Iterator[slice]:
    rows = max(1, HELD // (np.dtype(kind).itemsize * max(1, x[:1].size)))
    return (slice(i, i + rows) for i in range(0, len(x), rows))


def _unit(x: np.ndarray, kind: type[np.floating], centred: bool) -> np.ndarray:
    """Return rows of length 1, without their mean where `centred`; 0 for a row without variance."""
    values = x.astype(kind)
    if centred:
        varies = np.ptp(values, axis=1, keepdims=True) > 0
        values -= values.mean(1, keepdims=True, dtype=np.float64).astype(kind)
        values *= varies
    length = np.sqrt(np.square(values).sum(1, keepdims=True, dtype=np.float64))
    values /= np.where(length > 0, length, 1).astype(kind)
    return values
