"""Two-way identification (Takagi & Nishimoto 2023; Ozcelik & VanRullen 2023, "Brain-Diffuser").

For features u_i of the image made from trial i and v_j of the true images, by Pearson's r over the features:

    score_i = share of the other true images j with r(u_i, v_i) > r(u_i, v_j)          (an equal one counts half)

Chance is 1/2. `within` classes only images of the same class are compared, so that a generator that merely knows the
class scores 1/2.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

HELD = 1 << 29  # bytes of centred features at once


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


def _unit(x: np.ndarray, kind: type[np.floating], centred: bool = True) -> np.ndarray:
    """Rows of length 1, without their mean where `centred`; 0 for a row without variance."""
    values = x.astype(kind)
    if centred:
        varies = np.ptp(values, axis=1, keepdims=True) > 0
        values -= values.mean(1, keepdims=True, dtype=np.float64).astype(kind)
        values *= varies
    length = np.sqrt(np.square(values).sum(1, keepdims=True, dtype=np.float64))
    values /= np.where(length > 0, length, 1).astype(kind)
    return values


def two_way(
    similarity_nxm: Float[np.ndarray, "n m"],
    true_n: Int[np.ndarray, "n"],
    groups_m: Int[np.ndarray, "m"] | None = None,
) -> Float[np.ndarray, "n"]:
    """Return the score of each generated image; NaN where there is no other image to compare with.

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
