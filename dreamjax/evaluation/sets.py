"""A table of how alike made and seen pictures are as sets: FID, KID and Inception Score of every source.

They do not ask whether a picture is that of its trial: pictures dealt out to other trials have the same scores.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dreamjax.evaluation import bootstrap, distribution
from dreamjax.evaluation.decoding import BLOCK, Judge, Pictures, Trials

FEWEST = 2  # pictures of a set that has a covariance
WIDTHS = ("2048", "64")  # of the features; "64" is what MinD-Vis and DreamDiffusion call FID
PROBABILITIES = "probabilities"


def scores(trials: Trials, sources: Mapping[str, Pictures], judges: Sequence[Judge]) -> list[dict[str, Any]]:
    """An entry for each metric of each judge that has `sets`: the score of every source, JSON.

    FID is of all pictures of a source against all that were seen, each of these once, and has no interval; KID's is
    that of its subsets. `n` and `m`: how many were made and seen. `seen`: Inception Score of the pictures seen.
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
        out.append(entry | {"seen": distribution.inception_score(seen[PROBABILITIES])})
    return out


def _views(judge: Judge, shown: np.ndarray) -> dict[str, np.ndarray]:
    assert judge.sets is not None
    parts = [judge.sets(shown[i : i + BLOCK]) for i in range(0, len(shown), BLOCK)]
    return {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}


def _entry(metric: str, better: str, scores: dict[str, Any]) -> dict[str, Any]:
    return {"metric": metric, "better": better, "scores": scores}


def _fid(made: np.ndarray, seen: np.ndarray) -> dict[str, Any]:
    fewer = min(len(made), len(seen))
    value = distribution.fid(made, seen) if fewer >= FEWEST else math.nan
    note = f"biased below {distribution.ENOUGH:,}" if fewer < distribution.ENOUGH else ""
    return _score(value, note=note, n=len(made), m=len(seen))


def _kid(made: np.ndarray, seen: np.ndarray) -> dict[str, Any]:
    if min(len(made), len(seen)) < FEWEST:
        return _score(math.nan, n=len(made), m=len(seen))
    return _score(*distribution.kid_interval(made, seen), n=len(made), m=len(seen))


def _inception(probabilities: np.ndarray) -> dict[str, Any]:
    return _score(distribution.inception_score(probabilities), n=len(probabilities))


def _score(
    estimate: float, low: float = math.nan, high: float = math.nan, note: str = "", **counts: int
) -> dict[str, Any]:
    numbers = {"estimate": estimate, "low": low, "high": high}
    return {name: bootstrap.finite(x) for name, x in numbers.items()} | {"note": note} | counts


def rows(entries: Sequence[Mapping[str, Any]], sources: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """(header, rows), a source a row; no rows where no judge has such scores."""
    if not entries:
        return [], []
    found = [[source, *(_cell(entry["scores"].get(source)) for entry in entries)] for source in sources]
    return ["", *(entry["metric"] for entry in entries)], found


def _cell(score: Mapping[str, Any] | None) -> str:
    """`12.3 (n 1,200; biased below 10,000)`, `0.0123 [0.0110, 0.0135] (n 1,200)`."""
    if score is None or score["estimate"] is None:
        return "–"
    number = f"{score['estimate']:.4g}"
    if score["low"] is not None:
        number += f" [{score['low']:.4g}, {score['high']:.4g}]"
    counted = "n " + " to ".join(f"{score[k]:,}" for k in ("n", "m") if k in score)
    return f"{number} ({'; '.join(filter(None, (counted, score['note'])))})"
