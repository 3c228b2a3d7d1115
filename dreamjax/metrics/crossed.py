"""Intervals for scores of people who saw the same images: both are samples, of other people and of other images.

With x_pi the score of person p for image i (P people, I images, n scores; NaN where there is none) and μ their mean
(Cornfield & Tukey, Ann. Math. Stat. 1956; for missing scores the sums of two-way clustering, Cameron, Gelbach & Miller
2011),

    V_p = P/(P-1) Σ_p [Σ_i (x_pi - μ) / n]²,    V_i likewise,    V_e = Σ e_pi² / (n - P - I + 1) / n
    SE² = V_p + V_i - V_e,                      e_pi = x_pi - x_p. - x_.i + μ

never below V_p or V_i, with Satterthwaite's degrees of freedom. The bootstrap draws people and images independently,
each with replacement (the pigeonhole bootstrap: Owen, Ann. Appl. Stat. 2007). The interval is the wider of the two.
With one person, or one image, it is over the other factor alone. The same holds for seeds and subjects.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from jaxtyping import Float
from scipy import stats

from dreamjax.metrics import bootstrap, paired
from dreamjax.metrics.averaging import averaged
from dreamjax.metrics.bootstrap import ALIKE, DRAWS, LEVEL, TINY, Interval
from dreamjax.metrics.paired import PairedTest

Scores = Float[np.ndarray, "people images"]
Samples = tuple[Float[np.ndarray, "draws people"], Float[np.ndarray, "draws images"]]


def table(values_n: Float[np.ndarray, "n"], person_n: np.ndarray, image_n: np.ndarray) -> Scores:
    """Return the mean score of every person for every image, over trials and seeds, both sorted; NaN without any."""
    means = averaged(values_n, person_n, image_n)
    (people, p), (images, i) = (np.unique(label, return_inverse=True) for label in means.labels)
    scores = np.full((len(people), len(images)), np.nan)
    scores[p, i] = means.values
    return scores


def interval(scores: Scores, *, draws: int = DRAWS, seed: int = 0, level: float = LEVEL) -> Interval:
    """Return the mean score with its interval over people and images; `n` is the number of people.

    Its bounds are NaN for a single score, and where fewer than `bootstrap.ALIKE` people or images all score the same.
    """
    estimate, (error, df) = _mean(scores), standard_error(scores)
    n = len(scores)
    drawn = [size for size in scores.shape if size > 1]
    if not df or (error <= TINY * max(1.0, abs(estimate)) and min(drawn) < ALIKE):
        return Interval(estimate, math.nan, math.nan, n, level)
    half = float(stats.t.ppf((1 + level) / 2, df)) * error
    low, high = np.nanquantile(_drawn(scores, draws, seed), [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, min(float(low), estimate - half), max(float(high), estimate + half), n, level, error)


def standard_error(scores: Float[np.ndarray, "a b"]) -> tuple[float, float]:
    """Return (SE, degrees of freedom) of the mean; (NaN, 0) of a single score."""
    known, sizes = np.isfinite(scores), scores.shape
    n = int(known.sum())
    if n < 2:
        return math.nan, 0.0
    away = np.where(known, scores - _mean(scores), 0.0)
    rest, terms = away, []
    for axis, size in enumerate(sizes):
        sums = away.sum(1 - axis, keepdims=True)
        rest = rest - sums / np.maximum(known.sum(1 - axis, keepdims=True), 1)
        if size > 1:
            terms.append((size / (size - 1) * float(((sums / n) ** 2).sum()), size - 1))
    variance, df = max(terms)
    if len(terms) > 1:
        rest_df = max(1, n - sum(sizes) + 1)
        terms.append((float((rest[known] ** 2).sum()) / rest_df / n, rest_df))
        if (both := terms[0][0] + terms[1][0] - terms[2][0]) > variance:
            variance, df = both, both**2 / sum(one**2 / of for one, of in terms)
    return math.sqrt(variance), df


def against(reference: str, tables: Mapping[str, Scores]) -> list[PairedTest]:
    """Return every other system minus the reference, person by person and image by image, in the order of `tables`.

    Raise ValueError for tables of other people or images.
    """
    if len({scores.shape for scores in tables.values()}) > 1:
        raise ValueError("systems are compared on the same people and images")
    differences = {name: scores - tables[reference] for name, scores in tables.items() if name != reference}
    return paired.tests(reference, {name: (interval(one), *standard_error(one)) for name, one in differences.items()})


def _mean(scores: Scores) -> float:
    known = np.isfinite(scores)
    return float(scores[known].mean()) if known.any() else math.nan


def _drawn(scores: Scores, draws: int, seed: int) -> Float[np.ndarray, "draws"]:
    """Return the means of samples of people and images, each drawn with replacement; a factor of one is kept."""
    known = np.isfinite(scores)
    values = np.where(known, scores, 0.0)
    means = []
    for people, images in _samples(scores.shape, draws, seed):
        sums, counts = (((people @ x) * images).sum(1) for x in (values, known.astype(float)))
        means.append(np.divide(sums, counts, out=np.full(len(people), np.nan), where=counts > 0))
    return np.concatenate(means)


def _samples(sizes: tuple[int, ...], draws: int, seed: int) -> Iterable[Samples]:
    """Return how often each person and each image is drawn, some draws at a time."""
    small = draws * max(sizes) <= bootstrap.CHUNK
    return _kept_samples(sizes, draws, seed) if small else _new_samples(sizes, draws, seed)


def _new_samples(sizes: tuple[int, ...], draws: int, seed: int) -> Iterator[Samples]:
    rng, step = np.random.default_rng(seed), max(1, bootstrap.CHUNK // max(sizes))
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        people, images = (rng.multinomial(size, np.full(size, 1 / size), rows) for size in sizes)
        yield people, images


@functools.lru_cache(maxsize=2)  # a table of scores has many intervals over the same people and images
def _kept_samples(sizes: tuple[int, ...], draws: int, seed: int) -> tuple[Samples, ...]:
    return tuple((people.astype(float), images.astype(float)) for people, images in _new_samples(sizes, draws, seed))
