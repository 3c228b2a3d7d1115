"""Compare the scores of points over seeds and subjects: intervals over both, paired tests corrected for their number.

Subjects and seeds are crossed: every seed's model is scored on every subject. With x_sk the score of seed s on subject
k (S seeds, K subjects), both drawn from populations (Cornfield & Tukey, Ann. Math. Stat. 1956),

    x_sk = m + a_s + b_k + e_sk,      SE² = (MS_a + MS_b - MS_e) / (S K),

with Satterthwaite's degrees of freedom. With one seed, or one subject, SE is over the other factor alone, and the
report states that the variation between seeds is unknown.
"""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from scipy import stats

from dreamjax.metrics import bootstrap, paired
from dreamjax.metrics.bootstrap import LEVEL, Interval
from dreamjax.metrics.crossed import standard_error
from dreamjax.metrics.paired import PairedTest

Scores = Float[np.ndarray, "seeds subjects"]


def mean(scores: Scores) -> Interval:
    """Return the mean over seeds and subjects with its interval.

    Its bounds are NaN where there is one of each, and where all scores are equal: these do not show how far others
    spread.
    """
    error, df = standard_error(scores)
    estimate, n = float(scores.mean()), scores.shape[1]
    if not df or not error > bootstrap.TINY * max(1.0, abs(estimate)):
        return Interval(estimate, math.nan, math.nan, n)
    half = float(stats.t.ppf((1 + LEVEL) / 2, df)) * error
    return Interval(estimate, estimate - half, estimate + half, n, error=error)


def against(reference: str, tables: Mapping[str, Scores]) -> list[PairedTest]:
    """Return every other point minus the reference, seed by seed and subject by subject, in the order of `tables`.

    Raise ValueError for tables of other seeds or subjects.
    """
    if len({scores.shape for scores in tables.values()}) > 1:
        raise ValueError("points are compared on the same seeds and subjects")
    differences = {name: scores - tables[reference] for name, scores in tables.items() if name != reference}
    return paired.tests(reference, {name: (mean(one), *standard_error(one)) for name, one in differences.items()})
