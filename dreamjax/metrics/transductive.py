"""Re-score similarities with knowledge of *all* test queries, or of the whole gallery: transductive, so reported apart.

CSLS (Lample et al. 2018, arXiv 1710.04087, section 2.3) lowers the similarity of hubs, targets that are near to many
queries. With r(u) the mean similarity of query u with its k nearest targets, and r(v) that of target v with its k
nearest queries,

    CSLS(u, v) = 2 s(u, v) - r(u) - r(v)

Whitening subtracts the mean of the test features and multiplies by Σ'^(-1/2), of their covariance shrunk towards a
multiple of the identity: Σ' = (1 - a) Σ + a tr(Σ) / D · I. (SATTC whitens the queries of each person with a = 0.2, then
applies CSLS with k = 12.)
"""

import numpy as np
from jaxtyping import Float

from dreamjax.errors import UserError
from dreamjax.metrics import retrieval

NEIGHBOURS = 12
SHRINKAGE = 0.2


def csls(similarity_nxm: Float[np.ndarray, "n m"], neighbours: int = NEIGHBOURS) -> Float[np.ndarray, "n m"]:
    """Return the similarities corrected for hubs. Raise UserError for more neighbours than queries or targets."""
    similarity = np.asarray(similarity_nxm, np.float64)
    if not 1 <= neighbours <= min(similarity.shape):
        raise UserError(
            f"neighbours is {neighbours}, but it must be from 1 to {min(similarity.shape)}, "
            f"as there are {similarity.shape[0]} queries and {similarity.shape[1]} targets"
        )
    near = [
        np.partition(similarity, -neighbours, axis=axis).take(range(-neighbours, 0), axis=axis).mean(axis)
        for axis in (0, 1)
    ]
    return 2 * similarity - near[1][:, None] - near[0][None]


def whitened_similarities(
    query_nxD: Float[np.ndarray, "n D"],
    bank_mxD: Float[np.ndarray, "m D"],
    shrinkage: float = SHRINKAGE,
    *,
    bank_too: bool = False,
) -> Float[np.ndarray, "n m"]:
    """Return cosines after the queries (and the bank, each by its moments) are whitened; queries are of one person."""
    query = whitened(query_nxD, shrinkage)
    return retrieval.similarities(query, whitened(bank_mxD, shrinkage) if bank_too else bank_mxD, centred=False)


def whitened(x_nxD: Float[np.ndarray, "n D"], shrinkage: float = SHRINKAGE) -> Float[np.ndarray, "n D"]:
    """Return the rows without their mean, times Σ'^(-1/2), in float64. Raise UserError for a shrinkage outside (0, 1].

    Directions are those of the features (ZCA), so that they can still be compared with vectors that are not whitened.
    """
    if not 0 < shrinkage <= 1:
        raise UserError(f"shrinkage is {shrinkage}, but it must be above 0 and at most 1")
    x = np.asarray(x_nxD, np.float64)
    x = x - x.mean(0)
    _, size, axes = np.linalg.svd(x, full_matrices=False)  # Σ = axesᵀ size² axes / n; other directions have variance 0
    variance = size**2 / len(x)
    floor = shrinkage * variance.sum() / x.shape[1]
    if floor == 0:
        return x  # all rows are equal
    along = x @ axes.T
    return along / np.sqrt((1 - shrinkage) * variance + floor) @ axes
