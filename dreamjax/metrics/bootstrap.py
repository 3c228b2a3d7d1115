"""Intervals for scores of clustered samples: windows of one subject are not independent, subjects are.

Clusters are drawn with replacement, each with all its samples (Field & Welsh, JRSS B 2007, "the cluster bootstrap");
bounds are percentiles. They are too narrow for a handful of clusters, so `interval` also takes Student's t with the
jackknife's standard error and n - 1 degrees of freedom, on a scale where the score is unbounded (`LINKS`), and gives
the wider of the two.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy import optimize, special, stats

from dreamjax.typing import JsonDict

Number = float | np.ndarray
Rows = Float[np.ndarray, "*draws clusters values"]
Statistic = Callable[[np.ndarray], np.ndarray]  # (..., clusters, values) → (...)
Direction = Literal["higher", "lower"]  # which values of a score are the better ones

DRAWS = 4000
LEVEL = 0.95
POWER = 0.8
CHUNK = 1 << 22  # numbers held at once while drawing
TINY = 1e-12
ALIKE = 6  # the fewest equal values that count as evidence: fewer are not significant by a sign test (2 / 2^n > 0.05)

# scale on which a score is unbounded → (to it, back)
LINKS: dict[str, tuple[Callable[[Number], Number], Callable[[Number], Number]]] = {
    "identity": (lambda x: x, lambda y: y),
    "share": (lambda x: -np.log(np.maximum(1 - x, TINY)), lambda y: 1 - np.exp(-y)),  # at most 1
    "correlation": (lambda x: np.arctanh(np.clip(x, TINY - 1, 1 - TINY)), np.tanh),  # Fisher's z
}


@dataclass(frozen=True)
class Interval:
    """An estimate and the range that holds the truth with probability `level`; NaN bounds where that is unknown.

    It is unknown for fewer than 2 clusters, for an estimate that is NaN, and for fewer than `ALIKE` clusters whose
    values are all equal: these do not show how far others spread.
    """

    estimate: float
    low: float
    high: float
    n: int  # clusters
    level: float = LEVEL
    error: float = math.nan  # standard error by the jackknife

    @property
    def known(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    def excludes(self, value: float) -> bool:
        """Return whether `value` lies outside the interval; False without one."""
        return self.known and not self.low <= value <= self.high

    def within(self, least: float, most: float) -> "Interval":
        """Return the interval limited to these bounds."""
        return replace(self, low=max(self.low, least), high=min(self.high, most)) if self.known else self

    def detectable(self) -> float:
        """Return the smallest true difference that this design finds with probability `POWER`; NaN where n < 2."""
        return smallest_detectable(self.error * math.sqrt(self.n), self.n, level=self.level)

    def as_json(self) -> dict[str, object]:
        """Return the numbers for JSON; unknown ones are None."""
        bounds: dict[str, object] = {name: finite(getattr(self, name)) for name in ("estimate", "low", "high")}
        return bounds | {"subjects": self.n}

    def difference_json(self, says: str) -> JsonDict:
        """Return the numbers of a difference for JSON, with its verdict in words."""
        return self.as_json() | {"resolved": self.excludes(0), "detectable": finite(self.detectable()), "says": says}


def finite(x: float) -> float | None:
    """Return `x`, or None where it is NaN or infinite: JSON has neither."""
    return float(x) if math.isfinite(x) else None


def mean(rows: Rows) -> np.ndarray:
    """Return the mean over clusters of their first value: the statistic for one score per cluster."""
    return rows[..., 0].mean(axis=-1)


def jackknife(rows: Float[np.ndarray, "clusters values"], statistic: Statistic) -> Float[np.ndarray, "clusters"]:
    """Return the statistic with each cluster left out in turn."""
    kept, left_out = np.arange(len(rows) - 1), np.arange(len(rows))[:, None]
    step = max(1, CHUNK // max(rows.size, 1))
    parts = (left_out[i : i + step] for i in range(0, len(rows), step))
    return np.concatenate([statistic(rows[kept + (kept >= part)]) for part in parts])


def bounds(
    rows: Float[np.ndarray, "clusters values"],
    statistic: Statistic,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> tuple[float, float]:
    """Return the percentiles of the bootstrap alone: of `draws` samples of n clusters, drawn with replacement."""
    picks = np.random.default_rng(seed).integers(0, len(rows), (draws, len(rows)))
    step = max(1, CHUNK // max(rows.size, 1))
    values = np.concatenate([statistic(rows[picks[i : i + step]]) for i in range(0, draws, step)])
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def interval(
    rows: Float[np.ndarray, "clusters values"],
    statistic: Statistic = mean,
    *,
    link: str = "identity",
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
    additive: bool = False,
) -> Interval:
    """Return the statistic with its interval: bootstrap over clusters, or jackknife and Student's t if wider.

    `additive`: the statistic depends on the sums over clusters alone, so each cluster is left out by a subtraction, in
    linear time. Rows have to be of similar size, as scores in [0, 1] are: a sum loses what is far below its largest
    row.
    """
    rows = np.asarray(rows, np.float64)
    rows = rows[:, None] if rows.ndim == 1 else rows
    n = len(rows)
    estimate = float(statistic(rows)) if n else math.nan
    if n < 2 or not math.isfinite(estimate):
        return Interval(estimate, math.nan, math.nan, n, level)
    left_out = statistic((rows.sum(0) - rows)[:, None]) if additive else jackknife(rows, statistic)
    if n < ALIKE and np.ptp(left_out) <= TINY * max(1.0, abs(estimate)):
        return Interval(estimate, math.nan, math.nan, n, level)
    to, back = LINKS[link]
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * _jackknife_error(np.asarray(to(left_out)))
    low, high = bounds(rows, statistic, draws=draws, seed=seed, level=level)
    low, high = min(low, float(back(to(estimate) - half))), max(high, float(back(to(estimate) + half)))
    return Interval(estimate, low, high, n, level, _jackknife_error(left_out))


def clustered(values_n: Float[np.ndarray, "n"], cluster_n: np.ndarray) -> Interval:
    """Return the mean over values that are not NaN, with its interval over their clusters."""
    known = np.isfinite(values_n)
    if not known.any():
        return Interval(math.nan, math.nan, math.nan, 0)
    _, place = np.unique(np.asarray(cluster_n)[known], return_inverse=True)
    sums = np.stack([np.bincount(place, np.asarray(values_n)[known]), np.bincount(place)], axis=1)
    return interval(sums, lambda rows: rows[..., 0].sum(-1) / rows[..., 1].sum(-1), additive=True)


def _jackknife_error(left_out: Float[np.ndarray, "clusters"]) -> float:
    n = len(left_out)
    return math.sqrt((n - 1) / n * float(((left_out - left_out.mean()) ** 2).sum()))


def smallest_detectable(sd: float, n: int, *, power: float = POWER, level: float = LEVEL) -> float:
    """Return the mean paired difference that a two-sided t test of n clusters finds with probability `power`.

    `sd` is the standard deviation of the difference between clusters. Exact power (Cohen 1988, section 2.4): with
    S = sqrt(χ²_df / df), the probability that a noncentral t exceeds c is E[1 - Φ(c S - δ √n / sd)]; the expectation is
    taken over quantiles of S, as SciPy's noncentral t is NaN for few degrees of freedom.
    """
    if n < 2 or not math.isfinite(sd) or sd <= TINY:  # without spread a design would seem to detect everything
        return math.nan
    df = n - 1
    quantiles = (np.arange(4000) + 0.5) / 4000
    bound = float(stats.t.ppf((1 + level) / 2, df)) * np.sqrt(stats.chi2.ppf(quantiles, df) / df)

    def lacking(shift: float) -> float:
        return float(np.mean(special.ndtr(shift - bound) + special.ndtr(-shift - bound))) - power

    upper = 2.0
    while lacking(upper) < 0:
        upper *= 2
    return float(optimize.brentq(lacking, 0.0, upper)) * sd / math.sqrt(n)


def verdict(difference: Interval, what: str, than: str, better: Direction = "higher") -> str:
    """Return a sentence about a paired difference: better, worse, or not resolved, with the detectable size."""
    if difference.excludes(0):
        wins = (difference.estimate > 0) == (better == "higher")
        return f"{what} is {'better' if wins else 'worse'} than {than}"
    return unresolved(difference)


def unresolved(difference: Interval, form: str = ".2g", than: str = "") -> str:
    """Return why a difference whose interval does not exclude 0 supports no claim, with the detectable size."""
    if math.isnan(difference.estimate):
        return "not resolved: there is no difference to compute"
    if difference.n < 2:
        there = "is one" if difference.n == 1 else "is none"
        return f"not resolved: an interval needs at least two subjects, there {there}"
    if math.isnan(least := difference.detectable()):
        return f"not resolved: the difference is the same in all {difference.n} subjects, so its spread is unknown"
    return f"not resolved; this design could detect ≥ {least:{form}}{than}"
