"""Confusions of a classifier between generated images and the images shown, and what failures resemble.

The classes are those that the classifier sees in the images shown; of a made image, the likeliest of them counts, so
that guessing is right once in N. A failure is a generated image in which another class is seen. Is it at least near in
colour, or in shape? For a shown class c and a drawn class d, d's rank among the N - 1 classes other than c (1: the
nearest) would be N / 2 on average if every other class were drawn as often. But some classes are drawn more often than
others whatever is shown, and may lie near: so the same drawn classes shuffled across trials are given too. Distances:

    colour   mean over red, green, blue of ∫ |F_c(v) - F_d(v)| dv, with F the distribution of the pixels' values in
             [0, 1]: the Wasserstein-1 distance, 0 for equal colours and 1 for black from white
    shape    1 - Pearson's r of the mean edge maps: lengths of the gradient of grey, on a grid of 32 x 32
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy import stats

from dreamjax.evaluation import score_table
from dreamjax.evaluation.image_scores import Images, Judge, ScoredTrials
from dreamjax.metrics import classification, image_similarity, retrieval
from dreamjax.storage.image_files import pillow

GRID, LEVELS = 32, 64  # of edge maps; of colours' values
MOST = 10  # confusions that are listed


def table(judge: Judge, trials: ScoredTrials, sources: Mapping[str, Images]) -> dict[str, object]:
    """JSON: `classes`; of each source the `counts` [N, N] (shown by row, drawn by column) and its `failures`.

    `failures`: how many of how many images; mean rank by colour and by shape with intervals over trials that failed,
    clustered by people and images; the share in which the nearest class was drawn; the most frequent confusions.
    `chance`: that mean rank and share if the other classes were drawn equally often; `dealt`: if the drawn ones were
    shuffled across trials. Empty where only one class was seen.
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
    """Return the length of the gradient of grey, by central differences, on a grid that each cell's mean fills."""
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
            scores[name] = score_table.interval(values, trials.clusters).as_json()
    return scores


def _shuffled(rank_NxN: np.ndarray, counts_NxN: np.ndarray) -> dict[str, float | None]:
    """Return what is expected of pairs of different classes, drawn as often as they were, whatever was shown."""
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
