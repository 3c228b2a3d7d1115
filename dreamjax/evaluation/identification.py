"""Two-way identification (Takagi & Nishimoto 2023; Ozcelik & VanRullen 2023, "Brain-Diffuser").

For features u_i of the picture made from trial i and v_j of the true pictures, by Pearson's r over the features:

    score_i = share of the other true pictures j with r(u_i, v_i) > r(u_i, v_j)          (an equal one counts half)

Chance is 1/2. `within` classes only pictures of the same class are compared, so that a generator that merely knows the
class scores 1/2.
"""

import numpy as np
from jaxtyping import Float, Int

from dreamjax.evaluation.pixels import standardised


def correlations(made_nxF: Float[np.ndarray, "n F"], true_mxF: Float[np.ndarray, "m F"]) -> Float[np.ndarray, "n m"]:
    """Pearson's r of every made with every true picture's features; 0 for features without variance."""
    return standardised(made_nxF) @ standardised(true_mxF).T


def two_way(
    similarity_nxm: Float[np.ndarray, "n m"],
    own_n: Int[np.ndarray, "n"],
    groups_m: Int[np.ndarray, "m"] | None = None,
) -> Float[np.ndarray, "n"]:
    """The score of each made picture. `own`: which true picture is its own; `groups`: only true pictures of the same
    group are compared. NaN where there is none to compare with.
    """
    similarity, own = np.asarray(similarity_nxm, np.float64), np.asarray(own_n)
    mine = np.take_along_axis(similarity, own[:, None], axis=1)
    other = np.arange(similarity.shape[1])[None] != own[:, None]
    if groups_m is not None:
        groups = np.asarray(groups_m)
        other &= groups[None] == groups[own][:, None]
    won = ((mine > similarity) + 0.5 * (mine == similarity)) * other
    with np.errstate(invalid="ignore"):
        return np.where(other.any(1), won.sum(1) / other.sum(1), np.nan)
