"""Score images that were generated from brain signals: the columns of a table whose rows are sources of images.

Trials repeat images and people: intervals are clustered by each of them, and the wider one is given.

Confusions are between the N classes that a classifier predicts for the images shown. A generated image has the most
probable of these N classes, so that chance is 1/N. A failure is a generated image of another class. Two distances
measure whether its class is at least near in colour or in shape. For a shown class c and a generated class d, the rank
of d among the N - 1 classes other than c (1: the nearest) would be N / 2 on average if the others were generated
equally often. A generator may favour some classes whatever is shown, so the same ranks are also given for the
generated classes shuffled across trials. Distances:

    colour   mean over red, green, blue of ∫ |F_c(v) - F_d(v)| dv, with F the cumulative distribution of the pixel
             values in [0, 1]: the Wasserstein-1 distance, 0 for equal colours and 1 between black and white
    shape    1 - Pearson's r of the mean edge maps: magnitudes of the grey image's gradient, on a grid of 32 x 32
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy import stats

from dreamjax.evaluation.score_table import Column, interval
from dreamjax.metrics import classification, fid, image_similarity, nway, retrieval
from dreamjax.metrics.bootstrap import Direction
from dreamjax.metrics.fid import SetMetric
from dreamjax.reports.image_report import MODEL
from dreamjax.storage.image_files import pillow

Images = UInt8[np.ndarray, "n S H W 3"]
Features = np.ndarray | Mapping[str, np.ndarray]
Comparison = Literal["two-way", "distance", "cosine"]  # of features
PairScore = Callable[[np.ndarray, np.ndarray], np.ndarray]

BLOCK = 256  # trials whose features are held at once
PIXELS = 1 << 25  # values of images that are compared at once
GRID, LEVELS = 32, 64  # of edge maps; of colours' values
MOST = 10  # confusions that are listed
COLUMNS: dict[str, tuple[float | None, Direction]] = {  # of comparisons of features: chance, and which is better
    "two-way": (0.5, "higher"),
    "two-way within class": (0.5, "higher"),
    "distance": (None, "lower"),
    "cosine": (None, "higher"),
}


@dataclass(frozen=True)
class ScoredTrials:
    """The scored trials: `image` is the index of each trial's image in `true`, `person` the person who saw it."""

    true: UInt8[np.ndarray, "m H W 3"]
    group: Int[np.ndarray, "m"]  # class of each image; all the same where classes are unknown
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
    - `pair`: (generated, seen) → the distance of each pair [k].
    - `sets`: the features from which FID, KID and Inception Score are computed, by name (see `metrics.fid`).
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
        """Return the most probable class of each image; with `among`, the index of the class in it."""
        assert self.probabilities is not None
        p = np.concatenate([self.probabilities(shown[rows]) for rows in _rows(len(shown), BLOCK)])
        return (p if among is None else p[:, among]).argmax(1)


def columns(
    trials: ScoredTrials, sources: Mapping[str, Images], judges: Sequence[Judge], ways: int | None = None
) -> list[Column]:
    """Return every metric of every source. `ways`: N of the N-way accuracy (default: all classes of a judge).

    A metric may have no value for any trial, such as two-way identification with one image.
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

    `control`: the name of a further source, the model's images scored against the images of *other* trials: the mean
    over all trials with another image, which is the score of a generator that knows the images but not the trial.
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
    classes, place = np.unique(seen, return_inverse=True)
    right = np.zeros((len(trials.image), len(classes)))
    for p in each:
        right += np.stack([nway.n_way(p, np.full(len(p), c), ways) for c in classes], axis=1) / len(each)
    weight = np.tile(np.bincount(place, shown), (len(trials.image), 1))  # trials of each class with another image
    weight[np.arange(len(weight)), place[trials.image]] -= shown[trials.image]
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


# ----------------------------------------------------------------------------------------------------------- confusions
def confusions(judge: Judge, trials: ScoredTrials, sources: Mapping[str, Images]) -> dict[str, object]:
    """Return JSON: `classes`, and for each source `counts` [N, N] (row: shown, column: generated) and `failures`.

    `failures`: their number and that of all images; mean rank by colour and by shape, with intervals over failed trials
    that are clustered by people and images; the share with the nearest class; the most frequent confusions. `chance`:
    mean rank and share if the other classes were generated equally often; the key `dealt`: with the generated classes
    shuffled across trials. The result is empty where only one class was seen.
    """
    classes, place_m = np.unique(judge.classes(trials.true), return_inverse=True)
    if (count := len(classes)) < 2:
        return {}
    by = {
        "colour": ranks(colour_distances(trials.true, place_m, count)),
        "shape": ranks(shape_distances(trials.true, place_m, count)),
    }
    out: dict[str, object] = {}
    for source, made in sources.items():
        place_nxS = judge.classes(made.reshape(-1, *made.shape[2:]), classes).reshape(made.shape[:2])
        target_nxS = np.broadcast_to(place_m[trials.image][:, None], place_nxS.shape)
        counts = classification.confusion(place_nxS.ravel(), target_nxS.ravel(), count)
        wrong = place_nxS != target_nxS
        near = {
            name: _near(rank[target_nxS, place_nxS], wrong, trials) | {"dealt": _shuffled(rank, counts)}
            for name, rank in by.items()
        }
        failures = {"n": int(wrong.sum()), "of": wrong.size, **near, "most": _most(counts, by, classes)}
        out[source] = {"counts": counts.tolist(), "failures": failures}
    chance = {"rank": count / 2, "nearest": 1 / (count - 1)}
    return {"judge": judge.name, "classes": classes.tolist(), "chance": chance, "sources": out}


def colour_distances(
    images: UInt8[np.ndarray, "m H W 3"], place_m: Int[np.ndarray, "m"], count: int
) -> Float[np.ndarray, "N N"]:
    """Return the distances between the classes' mean distributions of red, green and blue."""
    shares = np.zeros((count, 3, LEVELS))
    for image, place in zip(images, place_m, strict=True):
        levels = image.reshape(-1, 3) // (256 // LEVELS)
        for colour in range(3):
            shares[place, colour] += np.bincount(levels[:, colour], minlength=LEVELS) / len(levels)
    shares /= np.bincount(place_m, minlength=count)[:, None, None]
    below = shares.cumsum(2)[..., :-1]  # at the LEVELS - 1 inner bounds
    return np.stack([np.abs(below - one).mean((1, 2)) for one in below])


def shape_distances(
    images: UInt8[np.ndarray, "m H W 3"], place_m: Int[np.ndarray, "m"], count: int
) -> Float[np.ndarray, "N N"]:
    """Return the distances between the classes' mean edge maps."""
    edges = np.zeros((count, GRID * GRID))
    for image, place in zip(images, place_m, strict=True):
        edges[place] += edge_map(image).ravel()
    return 1 - retrieval.similarities(edges, edges)


def edge_map(image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "32 32"]:
    """Return the gradient magnitude of the grey image, by central differences, averaged in the cells of a grid."""
    grey = pillow().fromarray((image_similarity.in_unit(image) @ image_similarity.GREY).astype(np.float32))
    down, right = np.gradient(np.asarray(grey.resize((GRID, GRID), pillow().Resampling.BOX), np.float64))
    return np.hypot(down, right)


def ranks(distance_NxN: Float[np.ndarray, "N N"]) -> Float[np.ndarray, "N N"]:
    """Return the rank of each class (column) among those other than the row's, from 1; ties share their mean rank."""
    others = np.array(distance_NxN, np.float64)
    np.fill_diagonal(others, np.inf)
    table = stats.rankdata(others, axis=1)
    np.fill_diagonal(table, np.nan)
    return table


def _near(rank_nxS: np.ndarray, wrong_nxS: np.ndarray, trials: ScoredTrials) -> dict[str, object]:
    """Return the mean over the failures of each trial, then over trials."""
    scores: dict[str, object] = {"rank": None, "nearest": None}
    if wrong_nxS.any():
        weight = wrong_nxS / np.maximum(wrong_nxS.sum(1, keepdims=True), 1)
        for name, value in (("rank", rank_nxS), ("nearest", rank_nxS == 1)):
            mean = (np.where(wrong_nxS, value, 0.0) * weight).sum(1)
            values = np.where(wrong_nxS.any(1), mean, np.nan)
            scores[name] = interval(values, trials.clusters).as_json()
    return scores


def _shuffled(rank_NxN: np.ndarray, counts_NxN: np.ndarray) -> dict[str, float | None]:
    """Return the expected rank of failures if generated classes kept their frequencies but ignored the image shown."""
    often = np.outer(counts_NxN.sum(1), counts_NxN.sum(0)).astype(float)
    np.fill_diagonal(often, 0)
    if not often.any():
        return {"rank": None, "nearest": None}
    rank = np.nan_to_num(rank_NxN)
    return {name: float((often * x).sum() / often.sum()) for name, x in (("rank", rank), ("nearest", rank == 1))}


def _most(counts: np.ndarray, by: Mapping[str, np.ndarray], classes: np.ndarray) -> list[dict[str, object]]:
    wrong = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST]
    return [
        {"shown": int(classes[true]), "drawn": int(classes[drawn]), "times": int(wrong[true, drawn])}
        | {f"{name} rank": float(rank[true, drawn]) for name, rank in by.items()}
        for true, drawn in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[true, drawn]
    ]
