"""What a sweep shows: every point's score with its interval, the ranking, paired tests, cost; read from its folder.

A point (a combination of values) is scored on the same windows and masks by the runs of all its seeds. Its score on a
subject is the share of variance explained, averaged over the masks; or the probe's balanced accuracy.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath

from dreamjax.console import counted
from dreamjax.errors import UserError
from dreamjax.sweeps import comparing, scaling
from dreamjax.sweeps.comparing import Scores

RANKS = {"probe": "balanced accuracy", "reconstruction": "share explained, common masks"}  # of pictures: the metric
LEGS = {"examples": "at equal examples", "flops": "at equal FLOP"}


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
    """A leg's answer. `tables`: of the groups that are ranked, best first; `untrained`: those no better than zero."""

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
    if not (folder / "sweep.json").exists():
        raise UserError(f"{workdir} holds no sweep (no sweep.json): give the --workdir of dreamjax sweep")
    found: dict[str, dict[int, tuple[dict[str, Any], dict[str, Any]]]] = {}
    for path in sorted((folder / "points").glob("*/score.json")):
        about = _json(path.parent / "point.json")
        name = ", ".join(f"{axis}={value}" for axis, value in about["values"].items()) or "base"
        found.setdefault(name, {})[about["seed"]] = (about, _json(path))
    if not found:
        raise UserError(f"{workdir}: no point of this sweep is done yet; run dreamjax sweep on it first")
    groups = [Group(name, next(iter(runs.values()))[0]["values"], runs) for name, runs in found.items()]
    return _json(folder / "sweep.json"), groups


def _planned(workdir: str) -> dict[str, Any]:
    """What the sweep's last call meant to run; of a folder that says nothing of it, nothing."""
    path = epath.Path(workdir) / "planned.json"
    return _json(path) if path.exists() else {"points": [], "scaling": ""}


def _json(path: epath.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as problem:
        raise UserError(f"{path} is missing or damaged; delete it, and dreamjax sweep makes it again") from problem


# -------------------------------------------------------------------------------------------------------------- scores
def explained(one: Mapping[str, Any], method: str = "model") -> dict[str, float]:
    """Subject → R² under one mask."""
    rows = zip(one["subjects"], one["error"][method], one["variance"], strict=True)
    return {subject: 1 - error / variance for subject, error, variance in rows if variance > 0}


def by_subject(leg: Mapping[str, Any], rank: str, method: str = "model") -> dict[str, float]:
    """Subject → score; of the reconstruction, the mean over all masks of those who have them all."""
    if rank == "pictures":
        return dict(leg["pictures"]["scores"])
    if rank == "probe":
        return dict(leg["probe"])
    masks = [explained(one, method) for one in leg["reconstruction"].values()]
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
    untrained = {g.name: float(tables[g.name].mean()) for g in whole if not _beats_zero(g, leg, seeds)}
    ranked = sorted((n for n in tables if n not in untrained), key=lambda n: -tables[n].mean())
    kept = {name: tables[name] for name in ranked}
    pairs = tuple(comparing.against(ranked[0], kept)) if ranked else ()
    return Finding(leg, rank, people, seeds, kept, untrained, pairs)


def _beats_zero(group: Group, leg: str, seeds: Sequence[int]) -> bool:
    """Whether the squared errors of its runs, over all masks, are below those of predicting zero.

    Of pictures, whether they are named rather as what was seen than as what other trials saw, by an interval.
    """
    model = zero = 0.0
    made = [group.leg(leg, seed)["pictures"]["scores"] for seed in seeds if "pictures" in group.leg(leg, seed)]
    if made:
        found = comparing.mean(np.array([[one[name] for name in sorted(made[0])] for one in made]))
        return found.low > 0 if found.known else found.estimate > 0
    for seed in seeds:
        for one in group.leg(leg, seed).get("reconstruction", {}).values():
            variance = np.array(one["variance"])
            model += float((np.array(one["error"]["model"]) / variance).sum())
            zero += float((np.array(one["error"]["zero"]) / variance).sum())
    if not zero:  # normalised targets, which no common mask scores: as the run says of itself
        return float(np.mean([group.leg(leg, seed)["own"].get("explained", 1.0) for seed in seeds])) > 0
    return model < zero


# -------------------------------------------------------------------------------------------------------------- result
def report(workdir: str) -> dict[str, Any]:
    """One JSON-able dict: everything that tables and pictures are made of."""
    sweep, groups = read(workdir)
    rank, legs = sweep["score"]["rank"], sweep["compare"]
    found = {leg: find(groups, leg, rank) for leg in legs}
    return {
        "name": sweep["name"],
        "workdir": workdir,
        "split": sweep["score"]["split"],
        "rank": rank,
        "legs": {leg: _leg(workdir, finding, groups, _planned(workdir)["scaling"]) for leg, finding in found.items()},
        "cost": cost(groups) | _of_encoders(workdir),
        "unfinished": unfinished(workdir),
        "commands": {
            f"{group.name}, seed {seed}": f"dreamjax train --config {_file(workdir, about)} --workdir RUN"
            for group in groups
            for seed, (about, _) in sorted(group.runs.items())
        },
    }


def _file(workdir: str, about: Mapping[str, Any]) -> str:
    return str(epath.Path(workdir) / "points" / about["name"] / "config.py")


def _leg(workdir: str, found: Finding, groups: Sequence[Group], along: str) -> dict[str, Any]:
    by_name = {group.name: group for group in groups}
    pairs = {pair.point: pair for pair in found.pairs}
    rows = []
    for name, table in found.tables.items():
        group, pair = by_name[name], pairs.get(name)
        row: dict[str, Any] = {
            "point": name,
            "values": dict(group.values),
            "score": _interval(comparing.mean(table).within(0 if found.rank == "probe" else -math.inf, 1)),
            "by_seed": table.mean(1).tolist(),
            "masks": _masks(group, found),
            **_own(group, found),
        }
        if pair is not None:
            row["minus_best"] = _interval(pair.difference) | {
                "p": _finite(pair.p),
                "corrected": _finite(pair.corrected),
                "resolved": pair.resolved,
                "says": pair.says(),
            }
        rows.append(row)
    values = {name: by_name[name].values for name in found.tables}
    flops = {name: by_name[name].runs[found.seeds[0]][0]["flop_per_example"] for name in found.tables}
    kind = _kind(groups, found.leg)
    laws = scaling.laws(along, found.tables, values, flops) if along and found.rank == "reconstruction" else []
    return {
        "what": LEGS[found.leg],
        "subjects": len(found.subjects),
        **kind,
        "seeds": list(found.seeds),
        "ranking": rows,
        "untrained": list(found.untrained),
        "untrained_scores": dict(found.untrained),
        "left_out": [g.name for g in groups if g.name not in found.tables and g.name not in found.untrained],
        "baselines": baselines(workdir, groups, found.leg),
        "scaling": laws,
        "statements": [*statements(found, kind["unit"]), *_of_laws(found, along, laws), *_notes(groups, found)],
    }


def metric(result: Mapping[str, Any]) -> str:
    """What scores are, in words."""
    return RANKS.get(result["rank"]) or next(iter(result["legs"].values()))["metric"]


def _kind(groups: Sequence[Group], leg: str) -> dict[str, Any]:
    """Of what scores are, and of pictures which metric."""
    group = groups[0]
    one = group.leg(leg, next(iter(group.runs))).get("pictures")
    return {"unit": "subject"} if one is None else {"unit": one["unit"], "metric": one["metric"]}


def _of_laws(found: Finding, along: str, laws: Sequence[Mapping[str, Any]]) -> list[str]:
    leg = found.leg
    if along and not laws:
        return [f"{LEGS[leg]}: no power law along {along}, which takes {scaling.FEWEST} sizes that are trained"]
    if laws and found.untrained:
        laws = [{**one, "says": f"{one['says']}; without what is untrained"} for one in laws]
    told = [", ".join(filter(None, (f"along {one['axis']}", one["where"]))) for one in laws]
    return [f"{LEGS[leg]}, {what}: {one['says']}" for what, one in zip(told, laws, strict=True)]


def _notes(groups: Sequence[Group], found: Finding) -> list[str]:
    """What runs say of themselves, with whose runs do."""
    said: dict[str, list[str]] = {}
    for group in groups:
        for note in {note for seed in group.runs for note in group.leg(found.leg, seed).get("notes", ())}:
            said.setdefault(note, []).append(group.name)
    return [f"{'; '.join(names)}: {note}" for note, names in said.items()]


def _masks(group: Group, found: Finding) -> dict[str, Any]:
    out = {}
    for mask in group.leg(found.leg, found.seeds[0]).get("reconstruction", {}):
        each = [explained(group.leg(found.leg, seed)["reconstruction"][mask]) for seed in found.seeds]
        people = [who for who in found.subjects if all(who in one for one in each)]
        if people:
            out[mask] = _interval(comparing.mean(np.array([[one[who] for who in people] for one in each])))
    return out


def _own(group: Group, found: Finding) -> dict[str, Any]:
    """Steps, FLOP and what a run says of itself at its own masks, which cannot be compared; means over seeds."""
    legs = [group.leg(found.leg, seed) for seed in found.seeds]
    about = group.runs[found.seeds[0]][0]
    flop = about["flop_per_example"]
    own = [leg["own"].get("explained") for leg in legs]
    out = {
        "steps": legs[0]["step"],
        "examples": legs[0]["examples"],
        "flop": None if flop is None else flop * legs[0]["examples"],
        "own_explained": None if None in own else float(np.mean([x for x in own if x is not None])),
    }
    if all("pictures" in leg for leg in legs):
        named = np.array([[leg["pictures"]["accuracy"][who] for who in found.subjects] for leg in legs])
        out["accuracy"] = _interval(comparing.mean(named).within(0, 1))
    if all("probe" in leg for leg in legs):
        people = sorted(set.intersection(*(set(leg["probe"]) for leg in legs)))
        if people:
            probed = np.array([[leg["probe"][who] for who in people] for leg in legs])
            out["probe"] = _interval(comparing.mean(probed).within(0, 1))
    return out


def baselines(workdir: str, groups: Sequence[Group], leg: str) -> dict[str, dict[str, float]]:
    """Mask → baseline → mean R² over subjects, where all points were scored beside the same ones; else {}."""
    files = {run[1]["legs"][leg].get("baselines") for group in groups for run in group.runs.values()}
    if len(files) != 1 or None in files:
        return {}
    path = epath.Path(workdir) / "shared" / files.pop()
    if not path.exists():  # a ranking does without
        return {}
    found = _json(path)["masks"]
    return {
        mask: {method: float(np.mean(list(explained(one, method).values()))) for method in one["error"]}
        for mask, one in found.items()
    }


def statements(found: Finding, unit: str = "subject") -> list[str]:
    """What may be said, and what not; `unit`: of what scores are by."""
    said = []
    names, where = list(found.tables), LEGS[found.leg]
    if found.untrained:
        rival = "what other trials saw" if found.rank == "pictures" else "the zero predictor"
        said.append(
            f"{where}: {counted(len(found.untrained), 'point')} not better than {rival}, untrained and not ranked: "
            f"{'; '.join(f'{name} ({score:+.3f})' for name, score in found.untrained.items())}"
        )
    if not names:
        return [*said, f"{where}: no point is trained, so nothing is ranked"]
    resolved = [pair.point for pair in found.pairs if pair.resolved]
    if found.pairs and not resolved:
        least = max((pair.detectable for pair in found.pairs), default=math.nan)
        seen = "" if math.isnan(least) else f"; this design could detect differences of ≥ {least:.2g}"
        said.append(f"{where}: no point is told apart from the highest, {names[0]}{seen}")
    elif found.pairs:
        kept = [pair.point for pair in found.pairs if not pair.resolved]
        beside = f"; not told apart from it: {'; '.join(kept)}" if kept else ""
        said.append(
            f"{where}: {names[0]} is highest, and better than {len(resolved)} of {len(found.pairs)} others after "
            f"correction for {len(found.pairs)} tests{beside}"
        )
    said.append(f"the highest score was chosen among these, on these {unit}s, and is therefore optimistic")
    if len(found.seeds) == 1:
        said.append("one seed: how much another one would change is not known, and intervals do not have it")
    if len(found.subjects) < 5:
        said.append(f"only {len(found.subjects)} {unit}s are scored: intervals are wide")
    return said


def cost(groups: Sequence[Group]) -> dict[str, Any]:
    """Of all runs: seconds, FLOP, programs, and those that were found compiled."""
    each = [run[1]["cost"] for group in groups for run in group.runs.values()]
    flop = [one["flop"] for one in each]
    return {
        "runs": len(each),
        "seconds": sum(one["seconds"] for one in each),
        "scoring": sum(one["scoring"] for one in each),
        "flop": None if None in flop else sum(flop),
        "programs": sum(one["programs"] for one in each),
        "from_cache": sum(one["from_cache"] for one in each),
    }


def _of_encoders(workdir: str) -> dict[str, Any]:
    """Of what points of stage B build on, where they do: how many, and their seconds."""
    each = [_json(path)["seconds"] for path in (epath.Path(workdir) / "shared" / "encoders").glob("*/seconds.json")]
    return {"encoders": len(each), "encoder_seconds": sum(each)} if each else {}


def unfinished(workdir: str) -> dict[str, str]:
    """Points that are not done: their last sentence, or when a search stopped them, that they were interrupted, or
    that nobody has begun them."""
    begun = {path.parent.name for path in (epath.Path(workdir) / "points").glob("*/point.json")}
    found = {name: "not begun" for name in _planned(workdir)["points"] if name not in begun}
    for path in sorted((epath.Path(workdir) / "points").glob("*/point.json")):
        if not (path.parent / "score.json").exists():
            failed, stopped = path.parent / "failed.json", path.parent / "stopped.json"
            if stopped.exists():
                found[path.parent.name] = f"stopped early, after {counted(_json(stopped)['steps'], 'step')}"
            else:
                found[path.parent.name] = _json(failed)["sentences"][-1] if failed.exists() else "interrupted"
    return found


def table(workdir: str) -> str:
    """CSV: a row a run and leg."""
    about, groups = read(workdir)
    axes = sorted({axis for group in groups for axis in group.values})
    masks = sorted(
        {
            m
            for g in groups
            for r in g.runs.values()
            for m in next(iter(r[1]["legs"].values())).get("reconstruction", {})
        }
    )
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [*axes, "seed", "compared", "steps", "examples", "score", *masks, "own_explained", "seconds", "flop"]
    )
    for group in groups:
        for seed, (_, score) in sorted(group.runs.items()):
            for name, leg in score["legs"].items():
                values = by_subject(leg, about["score"]["rank"]).values()
                each = [
                    np.mean(list(explained(leg["reconstruction"][m]).values()))
                    if m in leg.get("reconstruction", {})
                    else ""
                    for m in masks
                ]
                writer.writerow(
                    [
                        *(group.values.get(axis, "") for axis in axes),
                        seed,
                        name,
                        leg["step"],
                        leg["examples"],
                        *[_short(x) for x in (np.mean(list(values)), *each, leg["own"].get("explained", ""))],
                        round(score["cost"]["seconds"], 2),
                        score["cost"]["flop"],
                    ]
                )
    return out.getvalue()


def _short(x: Any) -> Any:
    return x if x == "" else float(f"{x:.6g}")


def _interval(one: Any) -> dict[str, Any]:
    return one.as_json()


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
