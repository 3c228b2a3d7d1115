"""Metrics of images that were generated from brain signals: the columns of a table whose rows are sources of images.

Trials repeat images and people: intervals are clustered by either, and the wider one is given.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, UInt8

from dreamjax.evaluation.score_table import Column
from dreamjax.metrics import fid, image_similarity, nway, retrieval
from dreamjax.metrics.bootstrap import Direction
from dreamjax.metrics.fid import SetMetric
from dreamjax.reports.image_report import MODEL

Images = UInt8[np.ndarray, "n S H W 3"]
Features = np.ndarray | Mapping[str, np.ndarray]
Comparison = Literal["two-way", "distance", "cosine"]  # of features
PairScore = Callable[[np.ndarray, np.ndarray], np.ndarray]

BLOCK = 256  # trials whose features are held at once
PIXELS = 1 << 25  # values of images that are compared at once
COLUMNS: dict[str, tuple[float | None, Direction]] = {  # of comparisons of features: chance, and which is better
    "two-way": (0.5, "higher"),
    "two-way within class": (0.5, "higher"),
    "distance": (None, "lower"),
    "cosine": (None, "higher"),
}


@dataclass(frozen=True)
class ScoredTrials:
    """What was seen by whom: `image` is the place of each trial's image in `true`, `person` who saw it."""

    true: UInt8[np.ndarray, "m H W 3"]
    group: Int[np.ndarray, "m"]  # class of each image; one for all where there are none
    image: Int[np.ndarray, "n"]
    person: Int[np.ndarray, "n"]

    @property
    def clusters(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what trials are clustered by."""
        return self.person, self.image


@dataclass(frozen=True)
class Judge:
    """A trained network that compares images, uint8 [k, H, W, 3], and its name.

    - `features`: [k, F], or several by the names of their columns. `compares`: by two-way identification; by the
      distance 1 - Pearson's r to the image seen; by the cosine with it.
    - `probabilities` [k, C] make it a classifier.
    - `pair`: of generated and seen images, how different each two are [k].
    - `sets`: what FID, KID and Inception Score are computed from, by name (see `metrics.fid`).
    """

    name: str
    features: Callable[[np.ndarray], Features] | None = None
    probabilities: Callable[[np.ndarray], np.ndarray] | None = None
    compares: tuple[Comparison, ...] = ("two-way",)
    pair: PairScore | None = None
    sets: Callable[[np.ndarray], Mapping[str, np.ndarray]] | None = None

    def views(self, shown: np.ndarray) -> dict[str, np.ndarray]:
        """Return its features by name."""
        assert self.features is not None
        features = self.features(shown)
        named = features if isinstance(features, Mapping) else {self.name: features}
        return {name: np.asarray(value) for name, value in named.items()}

    def classes(self, shown: np.ndarray, among: np.ndarray | None = None) -> Int[np.ndarray, "k"]:
        """Return the likeliest class of each image; of the classes `among`, the place there."""
        assert self.probabilities is not None
        p = np.concatenate([self.probabilities(shown[rows]) for rows in _rows(len(shown), BLOCK)])
        return (p if among is None else p[:, among]).argmax(1)


def columns(
    trials: ScoredTrials, sources: Mapping[str, Images], judges: Sequence[Judge], ways: int | None = None
) -> list[Column]:
    """Return every metric of every source. `ways`: N of the N-way accuracy (all classes of a judge by default).

    Among them are metrics that no trial has a value of, such as two-way identification among one image.
    """
    result = [
        _pairwise("pixel correlation", image_similarity.pixel_correlation, trials, sources),
        _pairwise("PSNR, dB", image_similarity.psnr, trials, sources),
    ]
    if min(trials.true.shape[1:3]) >= 11:
        result.append(_pairwise("SSIM", image_similarity.ssim, trials, sources))
    for judge in (Judge("pixels", features=lambda x: x.reshape(len(x), -1)), *judges):
        if judge.features is not None:
            result += _by_features(judge, trials, sources)
        if judge.pair is not None:
            result.append(_pairwise(judge.name, judge.pair, trials, sources, better="lower"))
        if judge.probabilities is not None:
            result.append(accuracy(judge, trials, sources, ways))
    return result


def _rows(count: int, rows: int) -> Iterator[slice]:
    return (slice(i, i + rows) for i in range(0, count, rows))


def _pairwise(
    name: str, score: PairScore, trials: ScoredTrials, sources: Mapping[str, Images], better: Direction = "higher"
) -> Column:
    """Compare each generated image with the one that was seen."""
    values = {}
    for source, made in sources.items():
        each = [
            np.mean([score(made[i, s], trials.true[trials.image[i]]) for s in range(made.shape[1])], axis=0)
            for i in _rows(len(made), max(1, PIXELS // trials.true[0].size))
        ]
        values[source] = np.concatenate(each)
    return Column(name, values, better=better)


def _by_features(judge: Judge, trials: ScoredTrials, sources: Mapping[str, Images]) -> list[Column]:
    """Return the columns of a judge's every view; its features are computed once and not kept."""
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
    return [
        Column(f"{comparison}, {name}", by_source, *COLUMNS[comparison])
        for (comparison, name), by_source in values.items()
        if grouped or comparison != "two-way within class"
    ]


def _scores(
    judge: Judge, made: np.ndarray, true: Mapping[str, np.ndarray], trials: ScoredTrials, rows: slice
) -> dict[tuple[str, str], np.ndarray]:
    """Return (comparison, view) → the score of each of some trials."""
    scores, image = {}, trials.image[rows]
    for name, features in judge.views(made).items():
        if "two-way" in judge.compares:
            r = retrieval.similarities(features, true[name])
            scores["two-way", name] = retrieval.two_way(r, image)
            scores["two-way within class", name] = retrieval.two_way(r, image, trials.group)
        if "distance" in judge.compares:
            scores["distance", name] = 1 - retrieval.paired(features, true[name][image])
        if "cosine" in judge.compares:
            scores["cosine", name] = retrieval.paired(features, true[name][image], centred=False)
    return scores


def check_ways(judge: Judge, trials: ScoredTrials, ways: int | None) -> None:
    """Raise UserError where a classifier does not have that many classes."""
    assert judge.probabilities is not None
    nway.n_way(np.asarray(judge.probabilities(trials.true[:1])), np.zeros(1, int), ways or 2)


def accuracy(
    judge: Judge, trials: ScoredTrials, sources: Mapping[str, Images], ways: int | None, control: str = ""
) -> Column:
    """Return how often a classifier gives the generated image the class of the image seen, among `ways` of its classes.

    `control`: a further source of this name, the model's images compared with what *other* trials saw: the mean over
    all trials of other images, which is the score of a generator that knows the images but not the trial.
    """
    assert judge.probabilities is not None
    seen, values = judge.classes(trials.true), {}
    for source, made in sources.items():
        each = [np.asarray(judge.probabilities(made[:, s])) for s in range(made.shape[1])]
        n = ways or each[0].shape[1]
        values[source] = np.mean([nway.n_way(p, seen[trials.image], n) for p in each], axis=0)
        if control and source == MODEL:
            values[control] = _others(each, seen, trials, n)
    return Column(f"{n}-way top-1, {judge.name}", values, 1 / n)


def _others(
    each: Sequence[np.ndarray], seen: Int[np.ndarray, "m"], trials: ScoredTrials, ways: int
) -> Float[np.ndarray, "n"]:
    """Return each trial's N-way accuracy with respect to the images of other trials; NaN where all saw the same."""
    shown = np.bincount(trials.image, minlength=len(seen)).astype(float)  # trials of each image
    right = np.zeros((len(trials.image), len(seen)))
    for p in each:
        by_class = {c: nway.n_way(p, np.full(len(p), c), ways) for c in np.unique(seen)}
        right += np.stack([by_class[c] for c in seen], axis=1) / len(each)
    weight = np.where(np.arange(len(seen))[None] == trials.image[:, None], 0.0, shown[None])
    with np.errstate(invalid="ignore"):
        return (right * weight).sum(1) / weight.sum(1)


def set_metrics(trials: ScoredTrials, sources: Mapping[str, Images], judges: Sequence[Judge]) -> list[SetMetric]:
    """Return FID, KID and Inception Score of every source, for each judge that has `sets`; each seen image once."""
    metrics: list[SetMetric] = []
    for judge in judges:
        if (sets := judge.sets) is not None:
            of = {source: made.reshape(-1, *made.shape[2:]) for source, made in sources.items()} | {"": trials.true}
            views = {}
            for source, images in of.items():
                parts = [sets(images[rows]) for rows in _rows(len(images), BLOCK)]
                views[source] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            seen = views.pop("")
            metrics += fid.metrics(views, seen)
    return metrics
