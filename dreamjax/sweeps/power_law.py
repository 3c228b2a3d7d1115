"""Fit power laws to a sweep's points: how an error falls with size, with intervals over people and seeds.

    error = a x^-b            (Kaplan et al. 2020, arXiv 2001.08361, section 1.2)
    error = floor + a x^-b    (Hoffmann et al. 2022, arXiv 2203.15556, section 3.3)

The first is a straight line in logarithms and can always be fitted; a floor is identified only where the curve bends
within the sizes that were tried, so both are given. Intervals are computed as for other scores of a sweep
(`comparing`): to first order b is a mean over seeds and people of

    b + Σ_i (∂b / ∂ log e_i) (e_isk / e_i - 1),        e_isk the error at size i of seed s on person k, e_i its mean.
"""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import optimize

from dreamjax.metrics.bootstrap import Interval
from dreamjax.sweeps import comparing

STEP = 1e-3  # of a logarithm, for a difference in place of a derivative
FEWEST = 3  # sizes, for a line with a residual
FLOORED = 4  # sizes, for a curve of three numbers with one
OPERATIONS = "operations an example"


@dataclass(frozen=True)
class PowerLaw:
    """A fitted law. `exponent`: b without a floor; `floored`: (b, floor) with one, None for too few sizes."""

    exponent: Interval
    factor: float
    residual: float  # largest |log error - fit| of the line
    floored: tuple[Interval, Interval] | None

    def says(self) -> str:
        """Return the law in words, with what is not identified."""
        b = self.exponent
        interval = f" [{-b.high:.3f}, {-b.low:.3f}]" if b.known else ", no interval known,"
        text = (
            f"error {'falls' if b.estimate > 0 else 'rises'} as size^{-b.estimate:.3f}{interval} between the sizes "
            f"that were tried; farthest point {100 * math.expm1(self.residual):.1f} % from the line"
        )
        if self.floored is None:
            return text
        b, floor = self.floored
        if not b.known or b.high > 4 * max(b.estimate, 1e-9) or floor.low < 0.01:
            return f"{text}; a floor is not identified by these sizes"
        return (
            f"{text}; with a floor of {floor.estimate:.3f} [{floor.low:.3f}, {floor.high:.3f}] as size^-"
            f"{b.estimate:.3f} [{b.low:.3f}, {b.high:.3f}]"
        )


def fit(sizes: Float[np.ndarray, "n"], errors: Float[np.ndarray, "n seeds people"]) -> PowerLaw:
    """Fit a law. Raise ValueError for fewer than three sizes, and for errors that are not positive."""
    if len(set(sizes.tolist())) < FEWEST or not (sizes > 0).all():
        raise ValueError(f"a power law takes at least {FEWEST} positive sizes")
    means = errors.mean((1, 2))
    if not (means > 0).all():
        raise ValueError("a power law is of positive errors")
    slope, offset = line(sizes, means)
    residual = float(np.abs(np.log(means) - offset + slope * np.log(sizes)).max())
    apart = np.log(sizes) - np.log(sizes).mean()
    exponent = _interval(slope, -apart / (apart @ apart), errors)
    floored = None
    if len(set(sizes.tolist())) >= FLOORED:
        steps = STEP * np.eye(len(sizes))  # for derivatives with respect to the logarithm of each error
        ends = [(curve(sizes, means * np.exp(step)), curve(sizes, means * np.exp(-step))) for step in steps]
        gradient = np.array([(np.array(up) - np.array(down)) / (2 * STEP) for up, down in ends])
        b, floor = curve(sizes, means)
        floored = _interval(b, gradient[:, 0], errors), _interval(floor, gradient[:, 1], errors)
    return PowerLaw(exponent, math.exp(offset), residual, floored)


def line(sizes: Float[np.ndarray, "n"], errors: Float[np.ndarray, "n"]) -> tuple[float, float]:
    """Return (b, log a) by least squares in logarithms."""
    x, y = np.log(sizes), np.log(errors)
    apart = x - x.mean()
    b = -float(y @ apart / (apart @ apart))
    return b, float(y.mean() + b * x.mean())


def curve(sizes: Float[np.ndarray, "n"], errors: Float[np.ndarray, "n"]) -> tuple[float, float]:
    """Return (b, floor) by least squares of log error, floor from 0 to below the smallest error, b from 0 to 5."""
    x, y = np.log(sizes / sizes.min()), np.log(errors)

    def misses(p: np.ndarray) -> np.ndarray:
        return np.log(p[2] + np.exp(p[0] - p[1] * x)) - y

    b, _ = line(sizes, errors)
    least = float(errors.min())
    start = [math.log(float(errors.max())), min(max(b, 1e-3), 4.9), 0.1 * least]
    _, exponent, floor = optimize.least_squares(misses, start, bounds=([-50, 0, 0], [50, 5, least])).x
    return float(exponent), float(floor)


def _interval(
    estimate: float, gradient: Float[np.ndarray, "n"], errors: Float[np.ndarray, "n seeds people"]
) -> Interval:
    apart = errors / errors.mean((1, 2), keepdims=True) - 1
    return comparing.mean(estimate + np.tensordot(gradient, apart, axes=1))


@dataclass(frozen=True)
class SweepLaw:
    """A law along one axis of a sweep. `where`: the other axes' values."""

    axis: str
    where: str
    sizes: tuple[float, ...]
    errors: tuple[float, ...]  # means over seeds and people
    law: PowerLaw

    def as_json(self) -> dict[str, object]:
        law, measured = self.law, {"sizes": list(self.sizes), "errors": list(self.errors), "factor": self.law.factor}
        floored = None if law.floored is None else [one.as_json() for one in law.floored]
        fitted = {"exponent": law.exponent.as_json(), "floored": floored, "says": law.says()}
        return {"axis": self.axis, "where": self.where, **measured, **fitted}


def laws(
    axis: str,
    tables: Mapping[str, Float[np.ndarray, "seeds people"]],
    values: Mapping[str, Mapping[str, object]],
    flops: Mapping[str, float | None],
) -> list[SweepLaw]:
    """Return a law for each combination of the other axes' values, of error = 1 - score along `axis`.

    `tables`, `values`, `flops`: by point, in any order. Where the axis has names and not numbers, a point's size is its
    operations an example. Combinations of fewer than three sizes have none.
    """
    named = any(number(one[axis]) is None for name, one in values.items() if name in tables and axis in one)
    along: dict[str, list[tuple[float, str]]] = {}
    for name in tables:
        if axis not in values[name]:
            continue
        size = flops[name] if named else number(values[name][axis])
        if size is not None and size > 0:
            where = ", ".join(f"{k}={v}" for k, v in values[name].items() if k != axis)
            along.setdefault(where, []).append((size, name))
    fitted = []
    for where, points in along.items():
        points.sort()
        sizes = np.array([size for size, _ in points])
        errors = np.stack([1 - tables[name] for _, name in points])
        title, means = OPERATIONS if named else axis, errors.mean((1, 2)).tolist()
        with contextlib.suppress(ValueError):  # too few sizes, or errors that are not positive
            fitted.append(SweepLaw(title, where, tuple(sizes.tolist()), tuple(means), fit(sizes, errors)))
    return fitted


def number(value: object) -> float | None:
    """Return the number that a label of an axis is; None for a name."""
    try:
        return float(str(value))
    except ValueError:
        return None
