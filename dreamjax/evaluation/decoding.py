"""Scores of pictures that were made from brain signals, beside controls and baselines, in one table.

Rows are sources of pictures, columns are metrics. Every source answers the same trials, so that differences are paired.
Trials repeat pictures and people: intervals are clustered by either, and the wider one is given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from dreamjax.evaluation import bootstrap, identification, pixels, semantic
from dreamjax.evaluation.bootstrap import Interval

Pictures = UInt8[np.ndarray, "n S H W 3"]


@dataclass(frozen=True)
class Trials:
    """What was seen by whom. `own` is the place of each trial's picture in `true`, `person` who saw it."""

    true: UInt8[np.ndarray, "m H W 3"]
    group: Int[np.ndarray, "m"]  # class of each picture; one for all where there are none
    own: Int[np.ndarray, "n"]
    person: Int[np.ndarray, "n"]


@dataclass(frozen=True)
class Judge:
    """A trained network's view of pictures: `features` [k, F] of uint8 [k, H, W, 3], and what it is called.

    `probabilities` [k, C] make it a classifier.
    """

    name: str
    features: Any = None
    probabilities: Any = None


@dataclass(frozen=True)
class Column:
    """A metric's value for each trial of each source, the mean over its samples; and what guessing would get."""

    name: str
    values: Mapping[str, Float[np.ndarray, "n"]]
    chance: float | None = None


def columns(
    trials: Trials, sources: Mapping[str, Pictures], judges: Sequence[Judge], ways: int | None = None
) -> list[Column]:
    """Every metric of every source. `ways`: N of the N-way accuracy (all classes of a judge by default)."""
    found = [
        _pixelwise("pixel correlation", pixels.pixel_correlation, trials, sources),
        _pixelwise("PSNR, dB", pixels.psnr, trials, sources),
    ]
    if min(trials.true.shape[1:3]) >= 11:
        found.append(_pixelwise("SSIM", pixels.ssim, trials, sources))
    found += _identified("pixels", lambda x: x.reshape(len(x), -1), trials, sources)
    for judge in judges:
        if judge.features is not None:
            found += _identified(judge.name, judge.features, trials, sources)
        if judge.probabilities is not None:
            found += _classified(judge, trials, sources, ways)
    return found


def _pixelwise(name: str, score: Any, trials: Trials, sources: Mapping[str, Pictures]) -> Column:
    true = trials.true[trials.own]
    values = {
        source: np.mean([score(made[:, s], true) for s in range(made.shape[1])], axis=0)
        for source, made in sources.items()
    }
    return Column(name, values)


def _identified(name: str, features: Any, trials: Trials, sources: Mapping[str, Pictures]) -> list[Column]:
    true = np.asarray(features(trials.true))
    between: dict[str, np.ndarray] = {}
    within: dict[str, np.ndarray] = {}
    for source, made in sources.items():
        each = [identification.correlations(features(made[:, s]), true) for s in range(made.shape[1])]
        between[source] = np.mean([identification.two_way(r, trials.own) for r in each], axis=0)
        within[source] = np.mean([identification.two_way(r, trials.own, trials.group) for r in each], axis=0)
    found = [Column(f"two-way, {name}", between, 0.5)]
    if len(np.unique(trials.group)) > 1:
        found.append(Column(f"two-way within class, {name}", within, 0.5))
    return found


def _classified(judge: Judge, trials: Trials, sources: Mapping[str, Pictures], ways: int | None) -> list[Column]:
    target = np.asarray(judge.probabilities(trials.true)).argmax(1)[trials.own]
    values = {}
    for source, made in sources.items():
        each = [np.asarray(judge.probabilities(made[:, s])) for s in range(made.shape[1])]
        classes = each[0].shape[1]
        values[source] = np.mean([semantic.n_way(p, target, ways or classes) for p in each], axis=0)
    n = ways or classes
    return [Column(f"{n}-way top-1, {judge.name}", values, 1 / n)]


# ----------------------------------------------------------------------------------------------------------- intervals
def interval(values_n: Float[np.ndarray, "n"], trials: Trials) -> Interval:
    """The mean over trials; clustered by people or by pictures, whichever is wider. NaN trials are left out."""
    counted = np.isfinite(values_n)
    found = [
        bootstrap.interval(_sums(values_n[counted], cluster[counted]), _ratio)
        for cluster in (trials.person, trials.own)
    ]
    known = [one for one in found if one.known]
    return max(known, key=lambda one: one.high - one.low) if known else found[0]


def _sums(values_n: np.ndarray, cluster_n: np.ndarray) -> Float[np.ndarray, "clusters 2"]:
    _, place = np.unique(cluster_n, return_inverse=True)
    return np.stack([np.bincount(place, values_n), np.bincount(place)], axis=1)


def _ratio(rows: np.ndarray) -> np.ndarray:
    return rows[..., 0].sum(-1) / rows[..., 1].sum(-1)


def scores_json(found: Sequence[Column], trials: Trials, model: str) -> list[dict[str, Any]]:
    """Every column: each source's score with its interval, and the model's paired difference from every other."""
    out = []
    for column in found:
        entry: dict[str, Any] = {"metric": column.name, "chance": column.chance}
        entry["scores"] = {s: interval(v, trials).as_json() for s, v in column.values.items()}
        differences = {}
        for source, values in column.values.items():
            if source != model and model in column.values:
                d = interval(column.values[model] - values, trials)
                resolved = {} if d.excludes(0) else {"detectable": bootstrap.finite(d.detectable())}
                differences[source] = d.as_json() | resolved | {"says": bootstrap.verdict(d, model, source)}
        out.append(entry | {"model_minus": differences})
    return out
