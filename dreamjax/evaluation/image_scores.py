"""Scores of images that were made from brain signals, beside controls and baselines, in one table.

Rows are sources of images, columns are metrics. Every source answers the same trials, so that differences are paired.
Trials repeat images and people: intervals are clustered by either, and the wider one is given.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, UInt8

from dreamjax.metrics import bootstrap, identification, image_similarity, nway
from dreamjax.metrics.bootstrap import Direction, Interval
from dreamjax.reports.image_report import MODEL

Images = UInt8[np.ndarray, "n S H W 3"]
Asked = Literal["two-way", "distance", "cosine"]  # of features

BLOCK = 256  # trials whose features are held at once
PIXELS = 1 << 25  # values of images that are compared at once


@dataclass(frozen=True)
class Trials:
    """What was seen by whom. `own` is the place of each trial's image in `true`, `person` who saw it."""

    true: UInt8[np.ndarray, "m H W 3"]
    group: Int[np.ndarray, "m"]  # class of each image; one for all where there are none
    own: Int[np.ndarray, "n"]
    person: Int[np.ndarray, "n"]


@dataclass(frozen=True)
class Judge:
    """A trained network's view of images, uint8 [k, H, W, 3], and what it is called.

    - `features`: [k, F], or several by the names that their columns shall have. `asks`: two-way identification; the
      distance 1 - Pearson's r to what was seen; the cosine with it.
    - `probabilities` [k, C] make it a classifier.
    - `pair`: of made and seen images, how different each two are [k].
    - `sets`: what FID, KID and Inception Score are made of, by name (see `sets`).
    """

    name: str
    features: Callable[[np.ndarray], Any] | None = None
    probabilities: Callable[[np.ndarray], Any] | None = None
    asks: tuple[Asked, ...] = ("two-way",)
    pair: Callable[[np.ndarray, np.ndarray], Any] | None = None
    sets: Callable[[np.ndarray], Mapping[str, Any]] | None = None

    def views(self, shown: np.ndarray) -> dict[str, np.ndarray]:
        """Its features by name."""
        assert self.features is not None
        found = self.features(shown)
        named = found if isinstance(found, Mapping) else {self.name: found}
        return {name: np.asarray(value) for name, value in named.items()}


@dataclass(frozen=True)
class Column:
    """A metric's value for each trial of each source, the mean over its samples; and what guessing would get."""

    name: str
    values: Mapping[str, Float[np.ndarray, "n"]]
    chance: float | None = None
    better: Direction = "higher"

    def score(self, source: str, trials: Trials) -> Interval:
        """The mean over trials with its interval, which for a share does not leave 0 to 1."""
        found = interval(self.values[source], trials)
        return found.within(0, 1) if self.chance is not None and 0 < self.chance < 1 else found


def columns(
    trials: Trials, sources: Mapping[str, Images], judges: Sequence[Judge], ways: int | None = None
) -> list[Column]:
    """Every metric of every source. `ways`: N of the N-way accuracy (all classes of a judge by default).

    Among them are metrics that no trial has a value of, such as two-way identification among one image.
    """
    found = [
        _pairwise("pixel correlation", image_similarity.pixel_correlation, trials, sources),
        _pairwise("PSNR, dB", image_similarity.psnr, trials, sources),
    ]
    if min(trials.true.shape[1:3]) >= 11:
        found.append(_pairwise("SSIM", image_similarity.ssim, trials, sources))
    found += _by_features(Judge("pixels", features=lambda x: x.reshape(len(x), -1)), trials, sources)
    for judge in judges:
        if judge.features is not None:
            found += _by_features(judge, trials, sources)
        if judge.pair is not None:
            found.append(_pairwise(judge.name, judge.pair, trials, sources, better="lower"))
        if judge.probabilities is not None:
            found.append(named(judge, trials, sources, ways))
    return found


def _rows(count: int, rows: int) -> Iterator[slice]:
    return (slice(i, i + rows) for i in range(0, count, rows))


def _pairwise(
    name: str, score: Any, trials: Trials, sources: Mapping[str, Images], better: Direction = "higher"
) -> Column:
    """What each made image has in common with its own true one."""
    rows = max(1, PIXELS // trials.true[0].size)
    values = {}
    for source, made in sources.items():
        each = [
            np.mean([score(made[i, s], trials.true[trials.own[i]]) for s in range(made.shape[1])], axis=0)
            for i in _rows(len(made), rows)
        ]
        values[source] = np.concatenate(each)
    return Column(name, values, better=better)


# -------------------------------------------------------------------------------------------------------- by features
def _by_features(judge: Judge, trials: Trials, sources: Mapping[str, Images]) -> list[Column]:
    """The columns of a judge's every view; its features are computed once and not kept."""
    true = judge.views(trials.true)
    values: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for source, made in sources.items():
        samples = []
        for s in range(made.shape[1]):
            blocks = [_scores(judge, made[i, s], true, trials, i) for i in _rows(len(made), BLOCK)]
            samples.append({key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]})
        for key in samples[0]:
            values.setdefault(key, {})[source] = np.mean([sample[key] for sample in samples], axis=0)
    grouped = len(np.unique(trials.group)) > 1
    known: dict[str, tuple[float | None, Direction]] = {
        "two-way": (0.5, "higher"),
        "two-way within class": (0.5, "higher"),
        "distance": (None, "lower"),
        "cosine": (None, "higher"),
    }
    return [
        Column(f"{asked}, {name}", found, *known[asked])
        for (asked, name), found in values.items()
        if grouped or asked != "two-way within class"
    ]


def _scores(
    judge: Judge, made: np.ndarray, true: Mapping[str, np.ndarray], trials: Trials, rows: slice
) -> dict[tuple[str, str], np.ndarray]:
    """(what is asked, view) → the score of each of some trials."""
    found, own = {}, trials.own[rows]
    for name, features in judge.views(made).items():
        if "two-way" in judge.asks:
            r = identification.correlations(features, true[name])
            found["two-way", name] = identification.two_way(r, own)
            found["two-way within class", name] = identification.two_way(r, own, trials.group)
        if "distance" in judge.asks:
            found["distance", name] = 1 - identification.paired(features, true[name][own])
        if "cosine" in judge.asks:
            found["cosine", name] = identification.paired(features, true[name][own], centred=False)
    return found


def check_ways(judge: Judge, trials: Trials, ways: int | None) -> None:
    """Raises UserError where a classifier does not have that many classes."""
    assert judge.probabilities is not None
    nway.n_way(np.asarray(judge.probabilities(trials.true[:1])), np.zeros(1, int), ways or 2)


def named(judge: Judge, trials: Trials, sources: Mapping[str, Images], ways: int | None, control: str = "") -> Column:
    """How often a classifier names what was made as it names what was seen, among `ways` of its classes.

    `control`: a further source by this name, the same images of the model held against what *other* trials saw: the
    mean over all trials of other images, which a painter gets who knows the images but not the trial.
    """
    assert judge.probabilities is not None
    seen = np.asarray(judge.probabilities(trials.true)).argmax(1)
    target = seen[trials.own]
    values = {}
    for source, made in sources.items():
        each = [np.asarray(judge.probabilities(made[:, s])) for s in range(made.shape[1])]
        classes = each[0].shape[1]
        values[source] = np.mean([nway.n_way(p, target, ways or classes) for p in each], axis=0)
    n = ways or classes
    if control:
        values[control] = _others(judge, trials, sources[MODEL], seen, n)
    return Column(f"{n}-way top-1, {judge.name}", values, 1 / n)


def _others(
    judge: Judge, trials: Trials, made: Images, seen: Int[np.ndarray, "m"], ways: int
) -> Float[np.ndarray, "n"]:
    """Each trial's N-way accuracy held against the images of the other trials; NaN where all saw the same."""
    assert judge.probabilities is not None
    shown = np.bincount(trials.own, minlength=len(seen)).astype(float)  # trials of each image
    each = np.zeros((len(made), len(seen)))
    for s in range(made.shape[1]):
        p = np.asarray(judge.probabilities(made[:, s]))
        by_class = {c: nway.n_way(p, np.full(len(p), c), ways) for c in np.unique(seen)}
        each += np.stack([by_class[c] for c in seen], axis=1) / made.shape[1]
    weight = np.where(np.arange(len(seen))[None] == trials.own[:, None], 0.0, shown[None])
    with np.errstate(invalid="ignore"):
        return (each * weight).sum(1) / weight.sum(1)


# ----------------------------------------------------------------------------------------------------------- intervals
def interval(values_n: Float[np.ndarray, "n"], trials: Trials) -> Interval:
    """The mean over trials; clustered by people or by images, whichever is wider. NaN trials are left out."""
    counted = np.isfinite(values_n)
    if not counted.any():
        return Interval(np.nan, np.nan, np.nan, 0)
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
    """Every column: each source's score with its interval, and the model's paired difference from every other.

    A difference is signed as it is; what it `says` knows which values of the metric are the better ones.
    """
    out = []
    for column in found:
        entry: dict[str, Any] = {"metric": column.name, "chance": column.chance, "better": column.better}
        entry["scores"] = {s: column.score(s, trials).as_json() for s in column.values}
        differences = {}
        for source, values in column.values.items():
            if source != model and model in column.values:
                d = interval(column.values[model] - values, trials)
                says = bootstrap.verdict(d, model, source, better=column.better)
                resolved = {} if d.excludes(0) else {"detectable": bootstrap.finite(d.detectable())}
                differences[source] = d.as_json() | resolved | {"says": says}
        out.append(entry | {"model_minus": differences})
    return out
