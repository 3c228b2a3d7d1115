"""Paired tests of several systems or settings against one reference, corrected for their number (Holm 1979)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from dreamjax.metrics import bootstrap
from dreamjax.metrics.bootstrap import LEVEL, Interval, finite


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


def tests(reference: str, differences: Mapping[str, tuple[Interval, float, float]]) -> list[PairedTest]:
    """Return a t test of each difference from the reference: its interval, standard error and degrees of freedom."""
    strict = 1 - (1 - LEVEL) / max(1, len(differences))  # threshold for the smallest of these p values
    ps, leasts = [], []
    for interval, error, df in differences.values():
        ps.append(_p(interval, error, df))
        # the smallest difference as of a paired t test of df + 1 clusters with this standard error
        n = max(2, round(df) + 1)
        leasts.append(bootstrap.smallest_detectable(error * math.sqrt(n), n, level=strict) if df else math.nan)
    return [
        PairedTest(name, reference, interval, p, corrected, least)
        for (name, (interval, *_)), p, corrected, least in zip(differences.items(), ps, holm(ps), leasts, strict=True)
    ]


def _p(interval: Interval, error: float, df: float) -> float:
    """Return the two-sided p value of a difference; NaN without an interval."""
    if not interval.known:
        return math.nan
    if error > 0:
        return float(2 * stats.t.sf(abs(interval.estimate) / error, df))
    return 1.0 if interval.estimate == 0 else 2.0 ** (1 - interval.n)  # all differences are equal: a sign test


def holm(ps: Sequence[float]) -> list[float]:
    """Return p values corrected for their number, stepwise: the smallest times n, the next n - 1; never falling."""
    out, largest, known = [math.nan] * len(ps), 0.0, [i for i, p in enumerate(ps) if not math.isnan(p)]
    for rank, i in enumerate(sorted(known, key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(known) - rank) * ps[i]))
        out[i] = largest
    return out
