"""N-way top-K accuracy, exact: is the right one among the K first of itself and N - 1 others, drawn at random?

As MinD-Vis (arXiv 2211.06956, section 4.3) and DreamDiffusion measure it: the class c of the true image is what
the classifier predicts for it; N - 1 other classes are drawn without replacement; a success is p(c) of the generated
image among the K largest of the N. They draw and average. But with r of the C - 1 other classes above p(c), the number
of those that are drawn is hypergeometric, and

    P(success) = Σ_{j<K} C(r, j) · C(C - 1 - r, N - 1 - j) / C(C - 1, N - 1)

is the limit of their average, without sampling noise. Of classes with equal p each order is as likely: with e of them,
P is the mean for r, r + 1, …, r + e. The same holds for images in place of classes, and similarities in place of p.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from dreamjax.errors import UserError


def n_way(
    probability_nxC: Float[np.ndarray, "n C"], target_n: Int[np.ndarray, "n"], ways: int, top: int = 1
) -> Float[np.ndarray, "n"]:
    """Return the probability of success of each image; its mean is the accuracy. Chance is `top` / `ways`.

    Raise UserError where the classifier has fewer than `ways` classes.
    """
    p, target = np.asarray(probability_nxC, np.float64), np.asarray(target_n)
    classes = p.shape[1]
    if not 1 <= top < ways <= classes:
        raise UserError(f"{ways}-way top-{top} needs 1 ≤ K < N ≤ classes, and the classifier has {classes}")
    right = np.take_along_axis(p, target[:, None], axis=1)
    return of_counts((p > right).sum(1), (p == right).sum(1) - 1, classes, ways, top)


def of_counts(
    above: Int[np.ndarray, "*n"], equal: Int[np.ndarray, "*n"], size: int, ways: int, top: int
) -> Float[np.ndarray, "*n"]:
    """Return the probability of success, given how many of the `size` - 1 others are above the right one, or equal."""
    r = np.arange(size)
    of_r = sum((stats.hypergeom.pmf(j, size - 1, r, ways - 1) for j in range(min(top, ways))), np.zeros(size))
    sums = np.concatenate([[0.0], np.cumsum(of_r)])
    return np.clip((sums[above + equal + 1] - sums[above]) / (equal + 1), 0.0, 1.0)
