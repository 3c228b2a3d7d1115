"""N-way top-K accuracy, exact: does a classifier give the generated image the class of the true one?

As MinD-Vis (arXiv 2211.06956, section 4.3) and DreamDiffusion measure it: the class c of the true image is what
the classifier predicts for it; N - 1 other classes are drawn without replacement; a success is p(c) of the generated
image among the K largest of the N. They draw and average. But with r of the C - 1 other classes above p(c), the number
of those that are drawn is hypergeometric, and

    P(success) = Σ_{j<K} C(r, j) · C(C - 1 - r, N - 1 - j) / C(C - 1, N - 1)

is the limit of their average, without sampling noise.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from dreamjax.errors import UserError


def n_way(
    probability_nxC: Float[np.ndarray, "n C"], target_n: Int[np.ndarray, "n"], ways: int, top: int = 1
) -> Float[np.ndarray, "n"]:
    """Return the probability of success of each image; its mean is the accuracy. Chance is `top` / `ways`.

    Of equal probabilities each order is as likely. Raise UserError where the classifier has fewer than `ways` classes.
    """
    p, target = np.asarray(probability_nxC, np.float64), np.asarray(target_n)
    classes = p.shape[1]
    if not 1 <= top < ways <= classes:
        raise UserError(f"{ways}-way top-{top} needs 1 ≤ K < N ≤ classes, and the classifier has {classes}")
    right = np.take_along_axis(p, target[:, None], axis=1)
    above, equal = (p > right).sum(1), (p == right).sum(1) - 1  # without the class itself
    cases, place = np.unique(np.stack([above, equal], axis=1), axis=0, return_inverse=True)
    shares = [stats.hypergeom.cdf(top - 1, classes - 1, r + np.arange(ties + 1), ways - 1).mean() for r, ties in cases]
    return np.asarray(shares)[place.reshape(-1)]
