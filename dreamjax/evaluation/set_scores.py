"""A table of how alike made and seen images are as sets: FID, KID and Inception Score of every source.

They do not ask whether an image is that of its trial: images dealt out to other trials have the same scores.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dreamjax.evaluation.image_scores import BLOCK, Images, Judge, Trials
from dreamjax.metrics import bootstrap, fid

FEWEST = 2  # images of a set that has a covariance
WIDTHS = ("2048", "64")  # of the features; "64" is what MinD-Vis and DreamDiffusion call FID
PROBABILITIES = "probabilities"


def scores(trials: Trials, sources: Mapping[str, Images], judges: Sequence[Judge]) -> list[dict[str, Any]]:
    """An entry for each metric of each judge that has `sets`: the score of every source, JSON.

    FID is of all images of a source against all that were seen, each of these once, and has no interval; KID's is
    that of its subsets. `n` and `m`: how many were made and seen. `seen`: Inception Score of the images seen.
    """
    out = []
    for judge in judges:
        if judge.sets is None:
            continue
        seen = _views(judge, trials.true)
        made = {source: _views(judge, x.reshape(-1, *x.shape[2:])) for source, x in sources.items()}
        for width in WIDTHS:
            out.append(
                _entry(f"FID, {width} features", "lower", {s: _fid(v[width], seen[width]) for s, v in made.items()})
            )
        out.append(_entry("KID", "lower", {s: _kid(v["2048"], seen["2048"]) for s, v in made.items()}))
        entry = _entry("Inception Score", "higher", {s: _inception(v[PROBABILITIES]) for s, v in made.items()})
        out.append(entry | {"seen": fid.inception_score(seen[PROBABILITIES])})
    return out


def _views(judge: Judge, shown: np.ndarray) -> dict[str, np.ndarray]:
    assert judge.sets is not None
    parts = [judge.sets(shown[i : i + BLOCK]) for i in range(0, len(shown), BLOCK)]
    return {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}


def _entry(metric: str, better: str, scores: dict[str, Any]) -> dict[str, Any]:
    return {"metric": metric, "better": better, "scores": scores}


def _fid(made: np.ndarray, seen: np.ndarray) -> dict[str, Any]:
    fewer = min(len(made), len(seen))
    value = fid.fid(made, seen) if fewer >= FEWEST else math.nan
    note = f"biased below {fid.ENOUGH:,}" if fewer < fid.ENOUGH else ""
    return _score(value, note=note, n=len(made), m=len(seen))


def _kid(made: np.ndarray, seen: np.ndarray) -> dict[str, Any]:
    if min(len(made), len(seen)) < FEWEST:
        return _score(math.nan, n=len(made), m=len(seen))
    return _score(*fid.kid_interval(made, seen), n=len(made), m=len(seen))


def _inception(probabilities: np.ndarray) -> dict[str, Any]:
    return _score(fid.inception_score(probabilities), n=len(probabilities))


def _score(
    estimate: float, low: float = math.nan, high: float = math.nan, note: str = "", **counts: int
) -> dict[str, Any]:
    numbers = {"estimate": estimate, "low": low, "high": high}
    return {name: bootstrap.finite(x) for name, x in numbers.items()} | {"note": note} | counts
