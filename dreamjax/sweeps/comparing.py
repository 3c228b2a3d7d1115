"""Compare the scores of points over seeds and subjects: intervals over both, paired tests corrected for their number.

Subjects and seeds are crossed: every seed's model is scored on every subject. With x_sk the score of seed s on subject
k (S seeds, K subjects), both drawn from populations (Cornfield & Tukey, Ann. Math. Stat. 1956),

    x_sk = m + a_s + b_k + e_sk,      SE² = (MS_a + MS_b - MS_e) / (S K),

with Satterthwaite's degrees of freedom. With one seed, or one subject, SE is over the other factor alone, and the
report states that the variation between seeds is unknown.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from dreamjax.metrics import bootstrap
from dreamjax.metrics.bootstrap import LEVEL, Interval, finite

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


def standard_error(scores: Scores) -> tuple[float, float]:
    """Return (SE, degrees of freedom) of the grand mean; (NaN, 0) of a single number.

    SE² is never below that over subjects alone or over seeds alone: its estimate may be too small, or negative, where
    the two hardly differ.
    """
    S, K = scores.shape
    if S == 1 and K == 1:
        return math.nan, 0.0
    seeds, subjects, grand = scores.mean(1), scores.mean(0), scores.mean()
    ms_a = K * float(((seeds - grand) ** 2).sum()) / (S - 1) if S > 1 else 0.0
    ms_b = S * float(((subjects - grand) ** 2).sum()) / (K - 1) if K > 1 else 0.0
    if S == 1:
        return math.sqrt(ms_b / (S * K)), K - 1
    if K == 1:
        return math.sqrt(ms_a / (S * K)), S - 1
    rest = scores - seeds[:, None] - subjects[None] + grand
    ms_e = float((rest**2).sum()) / ((S - 1) * (K - 1))
    both = ms_a + ms_b - ms_e
    if both <= max(ms_a, ms_b):
        return (math.sqrt(ms_b / (S * K)), K - 1) if ms_b >= ms_a else (math.sqrt(ms_a / (S * K)), S - 1)
    spread = ms_a**2 / (S - 1) + ms_b**2 / (K - 1) + ms_e**2 / ((S - 1) * (K - 1))
    return math.sqrt(both / (S * K)), both**2 / spread


@dataclass(frozen=True)
class PairedTest:
    """Compare one point with another. `p`: two-sided; `corrected`: for the number of tests made (Holm 1979)."""

    point: str
    other: str
    difference: Interval
    p: float
    corrected: float
    detectable: float  # the smallest true difference detected after correction with probability 0.8; NaN where unknown

    @property
    def resolved(self) -> bool:
        return self.corrected < 1 - self.difference.level

    def says(self) -> str:
        """Return which is better, or the detectable difference; never that they are equal."""
        if not self.difference.known:
            return "not resolved: one seed and one subject, or differences that are all equal, have no interval"
        if self.resolved:
            return f"{'better' if self.difference.estimate > 0 else 'worse'} than {self.other}"
        return f"not resolved; this design could detect ≥ {self.detectable:.2g}"

    def as_json(self) -> dict[str, object]:
        """Return the difference, its p values and the verdict."""
        values = {"p": finite(self.p), "corrected": finite(self.corrected), "resolved": self.resolved}
        return self.difference.as_json() | values | {"says": self.says()}


def against(reference: str, tables: Mapping[str, Scores]) -> list[PairedTest]:
    """Return every other point minus the reference, seed by seed and subject by subject, in the order of `tables`.

    Raise ValueError for tables of other seeds or subjects.
    """
    if len({scores.shape for scores in tables.values()}) > 1:
        raise ValueError("points are compared on the same seeds and subjects")
    differences, ps = [], []
    strict = 1 - (1 - LEVEL) / max(1, len(tables) - 1)  # threshold for the smallest of these p values
    for name, scores in tables.items():
        if name == reference:
            continue
        difference = scores - tables[reference]
        error, df = standard_error(difference)
        interval = mean(difference)
        p = float(2 * stats.t.sf(abs(interval.estimate) / error, df)) if interval.known else math.nan
        # the smallest difference as of a paired t test of df + 1 clusters with this standard error
        n = max(2, round(df) + 1)
        least = bootstrap.smallest_detectable(error * math.sqrt(n), n, level=strict) if df else math.nan
        differences.append((name, interval, p, least))
        ps.append(p)
    return [
        PairedTest(name, reference, interval, p, corrected, least)
        for (name, interval, p, least), corrected in zip(differences, holm(ps), strict=True)
    ]


def holm(ps: Sequence[float]) -> list[float]:
    """Return p values corrected for their number, stepwise: the smallest times n, the next n - 1; never falling."""
    out, largest, known = [math.nan] * len(ps), 0.0, [i for i, p in enumerate(ps) if not math.isnan(p)]
    for rank, i in enumerate(sorted(known, key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(known) - rank) * ps[i]))
        out[i] = largest
    return out
