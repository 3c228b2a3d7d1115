"""Could the scores arise if brain signals were independent of the images? A test that permutes whole images.

Let c_tj be what trial t would score if image j were the right one, and g(t) the image that was seen. A permutation π
of the images gives trial t the image π(g(t)): all repetitions, people and seeds of an image go together, as they are
not independent. With C_gj = Σ_{t: g(t)=g} c_tj the score is Σ_g C_g,π(g) / n, and its mean over all π is Σ C / (n G),
exactly. The p value is the share of permutations that score at least as well, of all G! where these are few, or

    p = (1 + draws that score at least as well) / (1 + draws)        (Phipson & Smyth 2010, arXiv 1603.05766)
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from dreamjax.metrics.bootstrap import TINY, Direction

DRAWS = 10_000
CHUNK = 1 << 21  # permuted numbers held at once


@dataclass(frozen=True)
class PermutationTest:
    """A score, its mean if images were assigned at random, and the one-sided p value."""

    observed: float
    expected: float
    p: float
    permutations: int
    exact: bool  # whether these are all permutations


def permutation_test(
    score_nxG: Float[np.ndarray, "n G"],
    image_n: Int[np.ndarray, "n"],
    *,
    better: Direction = "higher",
    draws: int = DRAWS,
    seed: int = 0,
) -> PermutationTest:
    """Return the test of the mean score of n trials.

    Args:
        score_nxG: the score of each trial if column j were its image, such as `ranks_of_all(similarity).top(1)`.
        image_n: the column of the image that was seen.
        better: "lower" for ranks.
    """
    score, image = np.asarray(score_nxG, np.float64), np.asarray(image_n)
    trials, G = score.shape
    if not trials:
        return PermutationTest(math.nan, math.nan, math.nan, 0, exact=False)
    shown = np.unique(image)  # only images that were seen are exchanged
    sums = np.zeros((G, G))
    np.add.at(sums, image, score)
    sums = sums[np.ix_(shown, shown)] / trials
    G, sign = len(shown), 1.0 if better == "higher" else -1.0
    observed, places = float(np.trace(sums)), np.arange(G)
    limit = sign * observed - TINY * max(1.0, abs(observed))

    def at_least(orders: Int[np.ndarray, "k G"]) -> int:
        return int((sign * sums[places, orders].sum(1) >= limit).sum())

    if exact := math.factorial(G) <= draws:
        draws = math.factorial(G)
        p = at_least(np.array(list(itertools.permutations(range(G))))) / draws
    else:
        rng, step, better_ones = np.random.default_rng(seed), max(1, CHUNK // G), 0
        for start in range(0, draws, step):
            orders = np.broadcast_to(places, (min(step, draws - start), G))
            better_ones += at_least(rng.permuted(orders, axis=1))
        p = (1 + better_ones) / (1 + draws)
    return PermutationTest(observed, float(sums.sum() / G), p, draws, exact)
