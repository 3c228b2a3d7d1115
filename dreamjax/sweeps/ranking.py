"""Read a sweep's points from its folder: scores by subject and seed, trained or untrained, and their ranking.

A point (a combination of values) is scored on the same windows and masks by the runs of all its seeds. Its score on a
subject is the share of variance explained, averaged over the masks; or the probe's balanced accuracy; or the N-way
accuracy of its images minus that for the images of other trials.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath

from dreamjax.errors import UserError
from dreamjax.sweeps import comparing
from dreamjax.sweeps.comparing import Scores
from dreamjax.sweeps.run_folder import every, read_json
from dreamjax.typing import JsonDict

MINUS_CHANCE = ("images", "retrieval", "prediction")  # ranks whose score is 0 without any information


@dataclass(frozen=True)
class PointRuns:
    """All runs of one combination of values: seed → (point.json, score.json)."""

    name: str
    values: Mapping[str, str]
    runs: Mapping[int, tuple[dict[str, Any], dict[str, Any]]]

    def leg(self, leg: str, seed: int) -> JsonDict:
        return self.runs[seed][1]["legs"][leg]


@dataclass(frozen=True)
class Ranking:
    """The ranking of a leg. `tables`: scores of ranked points, best first; `untrained`: no better than a constant."""

    leg: str
    rank: str
    subjects: tuple[str, ...]
    seeds: tuple[int, ...]
    tables: Mapping[str, Scores]
    untrained: Mapping[str, float]  # their mean scores, which are not compared
    pairs: tuple[comparing.PairedTest, ...]  # of each other one against the best


def read(workdir: str) -> tuple[JsonDict, list[PointRuns]]:
    """Return (sweep.json, the points by name). Raise UserError if no point is finished."""
    folder = epath.Path(workdir)
    sweep = read_json(folder / "sweep.json", "name", "score", "compare")
    if sweep is None:
        raise UserError(f"{workdir} holds no sweep (no sweep.json): give the --workdir of dreamjax sweep")
    runs: dict[str, dict[int, tuple[dict[str, Any], dict[str, Any]]]] = {}
    for path in every(folder / "points", "score.json"):
        about = read_json(path.parent / "point.json", "name", "values", "seed", "config")
        if about is None:
            raise UserError(f"{path.parent} has no point.json; dreamjax sweep on the same folder makes it again")
        name = ", ".join(f"{axis}={value}" for axis, value in about["values"].items()) or "base"
        runs.setdefault(name, {})[about["seed"]] = (about, read_json(path, "legs", "cost") or {})
    if not runs:
        raise UserError(f"{workdir}: no point of this sweep is done yet; run dreamjax sweep on it first")
    groups = [PointRuns(name, next(iter(seeds.values()))[0]["values"], seeds) for name, seeds in runs.items()]
    return sweep, groups


def planned(workdir: epath.PathLike) -> JsonDict:
    """Return which points the sweep's last call planned; none where the folder has no record."""
    return read_json(epath.Path(workdir) / "planned.json", "points", "scaling") or {"points": [], "scaling": ""}


# -------------------------------------------------------------------------------------------------------------- scores
def explained(one: Mapping[str, Any], method: str = "model") -> dict[str, float]:
    """Return subject → R² under one mask."""
    rows = zip(one["subjects"], one["error"][method], one["variance"], strict=True)
    return {subject: 1 - error / variance for subject, error, variance in rows if variance > 0}


def by_subject(leg: Mapping[str, Any], rank: str) -> dict[str, float]:
    """Return subject → score; for reconstruction, the mean over all masks for subjects that have them all."""
    if rank == "probe":
        return dict(leg["probe"])
    if rank != "reconstruction":  # one metric by unit (`scoring.UnitScores`)
        return dict(leg[rank]["scores"])
    masks = [explained(one) for one in leg["reconstruction"].values()]
    people = set.intersection(*(set(one) for one in masks)) if masks else set()
    return {subject: float(np.mean([one[subject] for one in masks])) for subject in sorted(people)}


def rank_points(groups: Sequence[PointRuns], leg: str, rank: str) -> Ranking:
    """Return the ranking of the points whose runs have every seed that any has, on the subjects that all have."""
    seeds = tuple(sorted({seed for group in groups for seed in group.runs}))
    whole = [group for group in groups if set(group.runs) == set(seeds)]
    if not whole:  # some seed failed everywhere: those that are everywhere
        seeds = tuple(sorted(set.intersection(*(set(group.runs) for group in groups))))
        whole = list(groups) if seeds else []
    if not whole:
        raise UserError("no seed of this sweep is done for all points; let dreamjax sweep finish")
    scores = {(g.name, s): by_subject(g.leg(leg, s), rank) for g in whole for s in seeds}
    people = tuple(sorted(set.intersection(*(set(one) for one in scores.values()))))
    tables = {g.name: np.array([[scores[g.name, s][who] for who in people] for s in seeds]) for g in whole}
    untrained = {g.name: float(tables[g.name].mean()) for g in whole if not _is_trained(g, leg, seeds)}
    ranked = sorted((n for n in tables if n not in untrained), key=lambda n: -tables[n].mean())
    kept = {name: tables[name] for name in ranked}
    pairs = tuple(comparing.against(ranked[0], kept)) if ranked else ()
    return Ranking(leg, rank, people, seeds, kept, untrained, pairs)


def _is_trained(group: PointRuns, leg: str, seeds: Sequence[int]) -> bool:
    """Return whether a point's squared errors, over all masks, are below those of predicting zero and the mean.

    Zero alone is a low bar where recordings have an offset, as a constant is better. For a score that is 0 without any
    information: whether its interval is above 0.
    """
    legs = [group.leg(leg, seed) for seed in seeds]
    by_unit = [one[rank]["scores"] for one in legs for rank in MINUS_CHANCE if rank in one]
    if by_unit:
        score = comparing.mean(np.array([[one[name] for name in sorted(by_unit[0])] for one in by_unit]))
        return score.low > 0 if score.known else score.estimate > 0
    model = zero = mean = 0.0
    for one in (mask for scores in legs for mask in scores.get("reconstruction", {}).values()):
        variance = np.array(one["variance"])
        model += float((np.array(one["error"]["model"]) / variance).sum())
        zero += float((np.array(one["error"]["zero"]) / variance).sum())
        mean += len(variance)
    if not zero:  # normalised targets, which common masks cannot score: by the run's own metric
        return float(np.mean([one["own"].get("explained", 1.0) for one in legs])) > 0
    return model < min(zero, mean)
