"""Intervals for scores whose samples come in clusters: windows of one subject are not independent, subjects are.

Clusters are drawn with replacement, each with all that it holds (Field & Welsh, JRSS B 2007, "the cluster bootstrap");
bounds are percentiles or BCa (Efron 1987). Both are too narrow for a handful of clusters, so `interval` also takes
Student's t with the jackknife's standard error and n - 1 degrees of freedom, on a scale where the score is unbounded
(`LINKS`), and gives the wider of the two.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy import special, stats

Rows = Float[np.ndarray, "*draws clusters values"]
Statistic = Callable[[np.ndarray], np.ndarray]  # (..., clusters, values) → (...)
Method = Literal["percentile", "bca"]
Direction = Literal["higher", "lower"]  # which values of a score are the better ones

DRAWS = 4000
LEVEL = 0.95
POWER = 0.8
CHUNK = 1 << 22  # numbers held at once while drawing
TINY = 1e-12

# scale on which a score is unbounded → (to it, back)
LINKS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "identity": (lambda x: x, lambda y: y),
    "share": (lambda x: -np.log(np.maximum(1 - x, TINY)), lambda y: 1 - np.exp(-y)),  # at most 1
    "correlation": (lambda x: np.arctanh(np.clip(x, TINY - 1, 1 - TINY)), np.tanh),  # Fisher's z
}


@dataclass(frozen=True)
class Interval:
    """An estimate and the range that holds the truth with probability `level`; NaN bounds where n < 2."""

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
        """Whether `value` lies outside; never where there is no interval."""
        return self.known and not self.low <= value <= self.high

    def within(self, least: float, most: float) -> "Interval":
        """The same, of a quantity that has these bounds."""
        return replace(self, low=max(self.low, least), high=min(self.high, most)) if self.known else self

    def detectable(self, power: float = POWER) -> float:
        """The smallest true difference that this design finds with probability `power`; NaN where n < 2."""
        return smallest_detectable(self.error * math.sqrt(self.n), self.n, power=power, level=self.level)

    def as_json(self) -> dict[str, Any]:
        """Numbers for JSON, None where there is none."""
        return {name: finite(getattr(self, name)) for name in ("estimate", "low", "high")} | {"subjects": self.n}


def finite(x: float) -> float | None:
    """`x`, or None where it is NaN or infinite: JSON has neither."""
    return float(x) if math.isfinite(x) else None


def mean(rows: Rows) -> np.ndarray:
    """The mean over clusters of their first value: the statistic for one score per cluster."""
    return rows[..., 0].mean(axis=-1)


def jackknife(rows: Float[np.ndarray, "clusters values"], statistic: Statistic) -> Float[np.ndarray, "clusters"]:
    """The statistic with each cluster left out in turn."""
    n = len(rows)
    kept = np.arange(n - 1)
    step = max(1, CHUNK // max(rows.size, 1))
    parts = []
    for i in range(0, n, step):
        left_out = np.arange(i, min(i + step, n))[:, None]
        parts.append(statistic(rows[kept + (kept >= left_out)]))
    return np.concatenate(parts)


def draw(
    rows: Float[np.ndarray, "clusters values"], statistic: Statistic, draws: int = DRAWS, seed: int = 0
) -> Float[np.ndarray, "draws"]:
    """The statistic of `draws` samples of n clusters, drawn with replacement."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(rows), (draws, len(rows)))
    step = max(1, CHUNK // max(rows.size, 1))
    return np.concatenate([statistic(rows[picks[i : i + step]]) for i in range(0, draws, step)])


def bounds(
    rows: Float[np.ndarray, "clusters values"],
    statistic: Statistic,
    *,
    method: Method = "percentile",
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> tuple[float, float]:
    """Bootstrap bounds alone. BCa: bias z0 from the share of draws below the estimate, acceleration by jackknife."""
    samples = draw(rows, statistic, draws, seed)
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca":
        estimate = float(statistic(rows))
        share = (np.mean(samples < estimate) + np.mean(samples <= estimate)) / 2
        left_out = jackknife(rows, statistic)
        away = left_out.mean() - left_out
        spread = float((away**2).sum()) ** 1.5
        acceleration = float((away**3).sum()) / (6 * spread) if spread else 0.0
        if 0 < share < 1:
            z0, z = special.ndtri(share), special.ndtri(tails)
            tails = special.ndtr(z0 + (z0 + z) / (1 - acceleration * (z0 + z)))
    low, high = np.quantile(samples, tails)
    return float(low), float(high)


def interval(
    rows: Float[np.ndarray, "clusters values"],
    statistic: Statistic = mean,
    *,
    link: str = "identity",
    method: Method = "percentile",
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """The statistic with its interval: bootstrap over clusters, or jackknife and Student's t where that is wider."""
    rows = np.asarray(rows, np.float64)
    rows = rows[:, None] if rows.ndim == 1 else rows
    n, estimate = len(rows), float(statistic(rows))
    if n < 2:
        return Interval(estimate, math.nan, math.nan, n, level)
    left_out = jackknife(rows, statistic)
    to, back = LINKS[link]
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * _jackknife_error(to(left_out))
    low, high = bounds(rows, statistic, method=method, draws=draws, seed=seed, level=level)
    low, high = min(low, float(back(to(estimate) - half))), max(high, float(back(to(estimate) + half)))
    return Interval(estimate, low, high, n, level, _jackknife_error(left_out))


def _jackknife_error(left_out: Float[np.ndarray, "clusters"]) -> float:
    n = len(left_out)
    return math.sqrt((n - 1) / n * float(((left_out - left_out.mean()) ** 2).sum()))


def smallest_detectable(sd: float, n: int, *, power: float = POWER, level: float = LEVEL) -> float:
    """The mean paired difference that a two-sided one-sample t test of n clusters finds with probability `power`.

    `sd` is the standard deviation of the difference between clusters. Exact power (Cohen 1988, section 2.4): with
    S = sqrt(χ²_df / df), the probability that a noncentral t exceeds c is E[1 - Φ(c S - δ √n / sd)]; the expectation is
    taken over quantiles of S, as SciPy's noncentral t is NaN for few degrees of freedom.
    """
    if n < 2 or not math.isfinite(sd):
        return math.nan
    from scipy.optimize import brentq

    df = n - 1
    quantiles = (np.arange(4000) + 0.5) / 4000
    bound = float(stats.t.ppf((1 + level) / 2, df)) * np.sqrt(stats.chi2.ppf(quantiles, df) / df)

    def lacking(shift: float) -> float:
        return float(np.mean(special.ndtr(shift - bound) + special.ndtr(-shift - bound))) - power

    upper = 2.0
    while lacking(upper) < 0:
        upper *= 2
    return float(brentq(lacking, 0.0, upper)) * sd / math.sqrt(n)


def verdict(difference: Interval, what: str, than: str, unit: str = "", better: Direction = "higher") -> str:
    """A sentence about a paired difference: better, worse, or not resolved with what could have been detected."""
    if not difference.known:
        return f"not resolved: an interval takes at least two subjects, there {_are(difference.n)}"
    if difference.excludes(0):
        wins = (difference.estimate > 0) == (better == "higher")
        return f"{what} is {'better' if wins else 'worse'} than {than}"
    return f"not resolved; this design could detect ≥ {difference.detectable():.2g}{unit}"


def _are(n: int) -> str:
    return "is one" if n == 1 else f"are {n}"
