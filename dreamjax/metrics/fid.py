"""Compare two sets of images as sets, by a network's features or class probabilities.

These scores ignore which image belongs to which trial: images shuffled across trials have the same scores.

FID (Heusel et al. 2017, arXiv 1706.08500): the Fréchet distance of the Gaussians with the features' moments,

    |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½)

It is biased upwards for few images (Bińkowski et al. 2018, section 4; below 10,000 it must not be compared between
sets of different size). KID (the same paper, arXiv 1801.01401, section 3) is an unbiased squared MMD with the kernel
(x·y / d + 1)³. Inception Score (Salimans et al. 2016): exp of the mean KL(p(y | x) ‖ p(y)). Below 2,048 images FID and
KID are marked: the covariance of 2,048 features is singular, and published scores are computed on more images.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from dreamjax.metrics.bootstrap import finite

ENOUGH = 10_000  # images for FID
FEW = 2_048  # images below which the covariance of 2,048 features is singular; FID and KID are marked
FEWEST = 2  # images of a set that has a covariance
WIDTHS = ("2048", "64")  # of the features; "64" is what MinD-Vis and DreamDiffusion call FID
PROBABILITIES = "probabilities"
SUBSETS, SUBSET = 100, 1000  # of KID
ROWS = 1000  # of a kernel at a time

Views = Mapping[str, np.ndarray]  # of a set of images: features by their width, and `PROBABILITIES`


@dataclass(frozen=True)
class SetScore:
    """The score of one set of images; NaN bounds where there is no interval."""

    estimate: float
    low: float = math.nan
    high: float = math.nan
    note: str = ""
    n: int = 0  # images of the set
    m: int | None = None  # images that it is compared with, where it is

    def as_json(self) -> dict[str, object]:
        numbers: dict[str, object] = {name: finite(getattr(self, name)) for name in ("estimate", "low", "high")}
        return numbers | {"note": self.note, "n": self.n} | ({} if self.m is None else {"m": self.m})


@dataclass(frozen=True)
class SetMetric:
    """A metric of sets: the score of every source of images, and (Inception Score) that of the images seen."""

    metric: str
    better: Literal["higher", "lower"]
    scores: Mapping[str, SetScore]
    seen: float | None = None

    def as_json(self) -> dict[str, object]:
        scores = {source: score.as_json() for source, score in self.scores.items()}
        entry: dict[str, object] = {"metric": self.metric, "better": self.better, "scores": scores}
        return entry if self.seen is None else entry | {"seen": self.seen}


def metrics(made: Mapping[str, Views], seen: Views) -> list[SetMetric]:
    """Return FID, KID and Inception Score of every source of generated images against the images seen.

    FID has no interval; that of KID is of its subsets.
    """
    count = len(seen[PROBABILITIES])
    fids: dict[str, dict[str, SetScore]] = {width: {} for width in WIDTHS}
    kids, inception = {}, {}
    for source, views in made.items():
        n = len(views[PROBABILITIES])
        fewer = min(n, count)
        few = f"too few: below {FEW:,}" if fewer < FEW else ""
        note = few or (f"biased below {ENOUGH:,}" if fewer < ENOUGH else "")
        for width in WIDTHS:
            value = fid(views[width], seen[width]) if fewer >= FEWEST else math.nan
            fids[width][source] = SetScore(value, note=note, n=n, m=count)
        interval = kid_interval(views[WIDTHS[0]], seen[WIDTHS[0]]) if fewer >= FEWEST else (math.nan,) * 3
        kids[source] = SetScore(*interval, note=few, n=n, m=count)
        inception[source] = SetScore(inception_score(views[PROBABILITIES]), n=n)
    return [
        *(SetMetric(f"FID, {width} features", "lower", scores) for width, scores in fids.items()),
        SetMetric("KID", "lower", kids),
        SetMetric("Inception Score", "higher", inception, inception_score(seen[PROBABILITIES])),
    ]


def fid(a_nxF: Float[np.ndarray, "n F"], b_mxF: Float[np.ndarray, "m F"]) -> float:
    """Return the Fréchet distance of two sets of features; covariances with n - 1, as published."""
    a, b = (np.asarray(x, np.float64) for x in (a_nxF, b_mxF))
    difference = a.mean(0) - b.mean(0)
    # with Σ = AᵀA, the roots of the eigenvalues of Σ₁ Σ₂ are the singular values of A₁ A₂ᵀ: no matrix root, which
    # fails where there are fewer images than features
    u, v = (_factor(x) for x in (a, b))
    root = np.linalg.svd(u @ v.T, compute_uv=False).sum()
    return float(difference @ difference + np.square(u).sum() + np.square(v).sum() - 2 * root)


def kid(a_nxF: Float[np.ndarray, "n F"], b_mxF: Float[np.ndarray, "m F"]) -> float:
    """Return the unbiased squared MMD of all images at once; may be below 0."""
    a, b = (np.asarray(x, np.float64) for x in (a_nxF, b_mxF))
    n, m = len(a), len(b)
    aa, bb, ab = (_kernel(x, y) for x, y in ((a, a), (b, b), (a, b)))
    within = (aa.sum() - np.trace(aa)) / (n * (n - 1)) + (bb.sum() - np.trace(bb)) / (m * (m - 1))
    return float(within - 2 * ab.mean())


def kid_interval(
    a_nxF: Float[np.ndarray, "n F"], b_mxF: Float[np.ndarray, "m F"], seed: int = 0
) -> tuple[float, float, float]:
    """Return `kid`, and the range of the middle 95 % of the values of `SUBSETS` subsets.

    Each subset has `SUBSET` images of either set, as is published, or half of the smaller one where that is less: the
    spread of halves is the error of the whole (the delete-half jackknife, Shao & Tu 1995, section 2.3). NaN bounds for
    fewer than 4 images.
    """
    a, b = (np.asarray(x, np.float64) for x in (a_nxF, b_mxF))
    n, m = len(a), len(b)
    size = min(SUBSET, n // 2, m // 2)
    if size < 2:
        return kid(a, b), math.nan, math.nan
    rng = np.random.default_rng(seed)
    of_a, of_b = (  # the whole set, then subsets
        np.concatenate([np.ones((1, k)), (rng.random((SUBSETS, k)).argsort(1) < size).astype(float)]) for k in (n, m)
    )
    within = _within(a, of_a) + _within(b, of_b)
    values = within - 2 * _sums(a, b, of_a, of_b) / (of_a.sum(1) * of_b.sum(1))
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return float(values[0]), float(low), float(high)


def inception_score(probability_nxC: Float[np.ndarray, "n C"]) -> float:
    """Return a score from 1 (all images alike) to the number of classes."""
    p = np.asarray(probability_nxC, np.float64)
    marginal = p.mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * (np.log(p) - np.log(marginal)), 0.0)
    return float(np.exp(terms.sum(1).mean()))


def _factor(x_nxF: np.ndarray) -> np.ndarray:
    """Return A, of at most F rows, with AᵀA the covariance."""
    centred = (x_nxF - x_nxF.mean(0)) / np.sqrt(len(x_nxF) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(centred) > centred.shape[1] else centred


def _within(x_nxF: np.ndarray, chosen_sxn: np.ndarray) -> np.ndarray:
    """Return the kernel's mean over pairs of different images, of each choice."""
    diagonal = (np.square(x_nxF).mean(1) + 1) ** 3
    count = chosen_sxn.sum(1)
    return (_sums(x_nxF, x_nxF, chosen_sxn, chosen_sxn) - chosen_sxn @ diagonal) / (count * (count - 1))


def _sums(x: np.ndarray, y: np.ndarray, of_x: np.ndarray, of_y: np.ndarray) -> np.ndarray:
    """Return Σ k(x_i, y_j) over the chosen i and j, for each choice; ROWS of the kernel at a time."""
    parts = (of_x[:, i : i + ROWS] @ _kernel(x[i : i + ROWS], y) for i in range(0, len(x), ROWS))
    return np.asarray((sum(parts) * of_y).sum(1))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3
