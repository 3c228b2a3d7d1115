"""What a sweep shows: every point's score with its interval, the ranking, paired tests, cost, what may be said."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from dreamjax.console import counted
from dreamjax.sweeps import comparing, power_law
from dreamjax.sweeps.ranking import Finding, Group, by_subject, explained, find, planned, read
from dreamjax.sweeps.run_folder import read_json

RANKS = {"probe": "balanced accuracy", "reconstruction": "share explained, common masks"}  # of images: the metric
LEGS = {"examples": "at equal examples", "flops": "at equal FLOP"}


# -------------------------------------------------------------------------------------------------------------- result
def report(workdir: str) -> dict[str, Any]:
    """One JSON-able dict: everything that tables and images are made of."""
    sweep, groups = read(workdir)
    rank, legs = sweep["score"]["rank"], sweep["compare"]
    found = {leg: find(groups, leg, rank) for leg in legs}
    return {
        "name": sweep["name"],
        "workdir": workdir,
        "split": sweep["score"]["split"],
        "rank": rank,
        "legs": {leg: _leg(workdir, finding, groups, planned(workdir)["scaling"]) for leg, finding in found.items()},
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
            "score": _interval(
                comparing.mean(table).within(
                    0 if found.rank == "probe" else -math.inf, math.inf if found.rank == "held_out" else 1
                )
            ),
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
    kind = _kind(groups, found)
    laws = power_law.laws(along, found.tables, values, flops) if along and found.rank == "reconstruction" else []
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


def _kind(groups: Sequence[Group], found: Finding) -> dict[str, Any]:
    """Of what scores are, and of images which metric."""
    group = groups[0]
    one = group.leg(found.leg, next(iter(group.runs))).get(found.rank, {})
    return {"unit": "subject"} if found.rank in RANKS else {"unit": one["unit"], "metric": one["metric"]}


def _of_laws(found: Finding, along: str, laws: Sequence[Mapping[str, Any]]) -> list[str]:
    leg = found.leg
    if along and not laws:
        return [f"{LEGS[leg]}: no power law along {along}, which takes {power_law.FEWEST} sizes that are trained"]
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
    if all("images" in leg for leg in legs):
        named = np.array([[leg["images"]["accuracy"][who] for who in found.subjects] for leg in legs])
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
    found = read_json(epath.Path(workdir) / "shared" / files.pop(), "masks")
    if found is None:  # a ranking does without
        return {}
    return {
        mask: {method: float(np.mean(list(explained(one, method).values()))) for method in one["error"]}
        for mask, one in found["masks"].items()
    }


def statements(found: Finding, unit: str = "subject") -> list[str]:
    """What may be said, and what not; `unit`: of what scores are by."""
    said = []
    names, where = list(found.tables), LEGS[found.leg]
    if found.untrained:
        rival = "what other trials saw" if found.rank == "images" else "predicting zero or the mean"
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
    places = (epath.Path(workdir) / "shared" / "encoders").glob("*/seconds.json")
    each = [found["seconds"] for path in places if (found := read_json(path, "seconds"))]
    return {"encoders": len(each), "encoder_seconds": sum(each)} if each else {}


def unfinished(workdir: str) -> dict[str, str]:
    """Points that are not done: their last sentence, or when a search stopped them, that they were interrupted, or
    that nobody has begun them."""
    begun = {path.parent.name: path.parent for path in (epath.Path(workdir) / "points").glob("*/point.json")}
    found = {name: "not begun" for name in planned(workdir)["points"] if name not in begun}
    for name, folder in sorted(begun.items()):
        if (folder / "score.json").exists():
            continue
        if stopped := read_json(folder / "stopped.json", "steps"):
            found[name] = f"stopped early, after {counted(stopped['steps'], 'step')}"
        else:
            failed = read_json(folder / "failed.json", "sentences")
            found[name] = failed["sentences"][-1] if failed else "interrupted"
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
