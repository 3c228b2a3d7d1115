"""A sweep's points as their folder has them: scores by person and seed, who is trained, who ranks where.

A point (a combination of values) is scored on the same windows and masks by the runs of all its seeds. Its score on a
subject is the share of variance explained, averaged over the masks; or the probe's balanced accuracy; or how much
oftener its images are named as what was seen than as what others saw.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath

from dreamjax.errors import UserError
from dreamjax.sweeps import comparing
from dreamjax.sweeps.comparing import Scores
from dreamjax.sweeps.run_folder import read_json


@dataclass(frozen=True)
class Group:
    """All runs of one combination of values: seed → (point.json, score.json)."""

    name: str
    values: Mapping[str, Any]
    runs: Mapping[int, tuple[dict[str, Any], dict[str, Any]]]

    def leg(self, leg: str, seed: int) -> dict[str, Any]:
        return self.runs[seed][1]["legs"][leg]


@dataclass(frozen=True)
class Finding:
    """A leg's answer. `tables`: of the groups that are ranked, best first; `untrained`: no better than a constant."""

    leg: str
    rank: str
    subjects: tuple[str, ...]
    seeds: tuple[int, ...]
    tables: Mapping[str, Scores]
    untrained: Mapping[str, float]  # their mean scores, for the eye alone
    pairs: tuple[comparing.Paired, ...]  # of each other one against the best


def read(workdir: str) -> tuple[dict[str, Any], list[Group]]:
    """(sweep.json, groups in the order of their names). Raises UserError where there is no finished point."""
    folder = epath.Path(workdir)
    sweep = read_json(folder / "sweep.json", "name", "score", "compare")
    if sweep is None:
        raise UserError(f"{workdir} holds no sweep (no sweep.json): give the --workdir of dreamjax sweep")
    found: dict[str, dict[int, tuple[dict[str, Any], dict[str, Any]]]] = {}
    for path in sorted((folder / "points").glob("*/score.json")):
        about = read_json(path.parent / "point.json", "name", "values", "seed", "config")
        if about is None:
            raise UserError(f"{path.parent} has no point.json; dreamjax sweep on the same folder makes it again")
        name = ", ".join(f"{axis}={value}" for axis, value in about["values"].items()) or "base"
        found.setdefault(name, {})[about["seed"]] = (about, read_json(path, "legs", "cost") or {})
    if not found:
        raise UserError(f"{workdir}: no point of this sweep is done yet; run dreamjax sweep on it first")
    groups = [Group(name, next(iter(runs.values()))[0]["values"], runs) for name, runs in found.items()]
    return sweep, groups


def planned(workdir: epath.PathLike) -> dict[str, Any]:
    """What the sweep's last call meant to run; of a folder that says nothing of it, nothing."""
    found = read_json(epath.Path(workdir) / "planned.json", "points", "scaling")
    return found or {"points": [], "scaling": ""}


# -------------------------------------------------------------------------------------------------------------- scores
def explained(one: Mapping[str, Any], method: str = "model") -> dict[str, float]:
    """Subject → R² under one mask."""
    rows = zip(one["subjects"], one["error"][method], one["variance"], strict=True)
    return {subject: 1 - error / variance for subject, error, variance in rows if variance > 0}


def by_subject(leg: Mapping[str, Any], rank: str) -> dict[str, float]:
    """Subject → score; of the reconstruction, the mean over all masks of those who have them all."""
    if rank == "probe":
        return dict(leg["probe"])
    if rank != "reconstruction":  # one metric by unit (`run_score.UnitScores`)
        return dict(leg[rank]["scores"])
    masks = [explained(one) for one in leg["reconstruction"].values()]
    people = set.intersection(*(set(one) for one in masks)) if masks else set()
    return {subject: float(np.mean([one[subject] for one in masks])) for subject in sorted(people)}


def find(groups: Sequence[Group], leg: str, rank: str) -> Finding:
    """The ranking of the groups whose runs have every seed that any has, on the subjects that all have."""
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
    return Finding(leg, rank, people, seeds, kept, untrained, pairs)


def _is_trained(group: Group, leg: str, seeds: Sequence[int]) -> bool:
    """Whether the squared errors of its runs, over all masks, are below those of predicting zero, and of the mean.

    Zero alone is a low bar where recordings have an offset: a constant passes it. Of
    images, whether they are named rather as what was seen than as what other trials saw, by an interval.
    """
    model = zero = mean = 0.0
    made = [group.leg(leg, seed)["images"]["scores"] for seed in seeds if "images" in group.leg(leg, seed)]
    if made:
        found = comparing.mean(np.array([[one[name] for name in sorted(made[0])] for one in made]))
        return found.low > 0 if found.known else found.estimate > 0
    for seed in seeds:
        for one in group.leg(leg, seed).get("reconstruction", {}).values():
            variance = np.array(one["variance"])
            model += float((np.array(one["error"]["model"]) / variance).sum())
            zero += float((np.array(one["error"]["zero"]) / variance).sum())
            mean += len(variance)
    if not zero:  # normalised targets, which no common mask scores: as the run says of itself
        return float(np.mean([group.leg(leg, seed)["own"].get("explained", 1.0) for seed in seeds])) > 0
    return model < min(zero, mean)
