"""Summarise a sweep: every point's score with its interval, the ranking, paired tests, cost and supported claims."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from etils import epath

from dreamjax.console import counted
from dreamjax.metrics.bootstrap import Interval
from dreamjax.signals.recordings import identity
from dreamjax.storage import presence
from dreamjax.sweeps import comparing, power_law
from dreamjax.sweeps.comparing import PairedTest
from dreamjax.sweeps.power_law import SweepLaw
from dreamjax.sweeps.ranking import PointRuns, Ranking, explained, planned, rank_points, read
from dreamjax.sweeps.run_folder import every, read_json

SCORES = {"probe": "balanced accuracy", "reconstruction": "share explained, common masks"}  # of images: the metric
LEGS = {"examples": "at equal examples", "flops": "at equal FLOP"}


# -------------------------------------------------------------------------------------------------------------- result
def _json(value: object) -> object:
    """Return a result for JSON: intervals and tests by their own `as_json`."""
    if isinstance(value, Mapping):
        return {name: _json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_json(one) for one in value]
    return value.as_json() if hasattr(value, "as_json") else value


def _fields(
    result: "RankedPoint | Comparison | SweepSummary", without: Sequence[str], **keys: str
) -> dict[str, object]:
    """Return the fields of a result by their `keys` in JSON, `without` some."""
    return {
        keys.get(one.name, one.name): _json(getattr(result, one.name))
        for one in fields(result)
        if one.name not in without
    }


@dataclass(frozen=True)
class RankedPoint:
    """A point's scores, means over seeds and subjects. `explained`: at its own masks, which cannot be compared."""

    name: str
    values: Mapping[str, str]
    score: Interval
    by_seed: tuple[float, ...]
    masks: Mapping[str, Interval]  # share explained under each common mask
    steps: int
    examples: int
    flop: float | None
    explained: float | None
    accuracy: Interval | None  # of images: how often the class is named
    probe: Interval | None
    test: PairedTest | None  # against the highest; None for the highest

    def as_json(self) -> dict[str, object]:
        unknown = [name for name in ("accuracy", "probe", "test") if getattr(self, name) is None]
        return _fields(self, unknown, name="point", explained="own_explained", test="minus_best")


@dataclass(frozen=True)
class Comparison:
    """A comparison of all points at equal examples, or equal FLOP. `unit`: the unit of scores, such as a subject."""

    what: str
    subjects: int
    unit: str
    metric: str  # in words
    seeds: tuple[int, ...]
    ranking: tuple[RankedPoint, ...]  # the highest first
    untrained: tuple[str, ...]
    untrained_scores: Mapping[str, float]  # their means
    left_out: tuple[str, ...]  # points of which a seed is missing
    baselines: Mapping[str, Mapping[str, float]]  # mask → baseline → mean R² over subjects
    laws: tuple[SweepLaw, ...]
    statements: tuple[str, ...]
    by_unit: bool

    def as_json(self) -> dict[str, object]:
        return _fields(self, ["by_unit", *([] if self.by_unit else ["metric"])], laws="scaling")


@dataclass(frozen=True)
class Cost:
    """The cost of all runs: seconds of training and scoring, FLOP, programs, and how many came from the cache."""

    runs: int
    seconds: float
    scoring: float
    flop: float | None
    programs: int
    from_cache: int
    encoders: int = 0  # that points build on
    encoder_seconds: float = 0

    def as_json(self) -> dict[str, object]:
        without = () if self.encoders else ("encoders", "encoder_seconds")
        return {name: value for name, value in asdict(self).items() if name not in without}


@dataclass(frozen=True)
class SweepSummary:
    """The content of a sweep's tables, figures and pages."""

    name: str
    workdir: str
    split: str
    rank: str
    legs: Mapping[str, Comparison]
    cost: Cost
    unfinished: Mapping[str, str]  # point → why
    commands: Mapping[str, str]  # point and seed → what trains it alone
    files: tuple[str, ...] = ()

    @property
    def first(self) -> Comparison:
        return next(iter(self.legs.values()))

    def statements(self) -> list[str]:
        """Return the statements of all comparisons, each once."""
        return list(dict.fromkeys(line for leg in self.legs.values() for line in leg.statements))

    def as_json(self) -> dict[str, object]:
        """Return report.json."""
        return _fields(self, [] if self.files else ["files"])


def summarise(workdir: str) -> SweepSummary:
    """Summarise the finished points of a sweep's folder. Raise UserError where there is none."""
    sweep, groups = read(workdir)
    rank, along = sweep["score"]["rank"], planned(workdir)["scaling"]
    rankings = {leg: rank_points(groups, leg, rank) for leg in sweep["compare"]}
    return SweepSummary(
        name=sweep["name"],
        workdir=workdir,
        split=sweep["score"]["split"],
        rank=rank,
        legs={leg: _comparison(workdir, ranking, groups, along) for leg, ranking in rankings.items()},
        cost=_cost(workdir, groups),
        unfinished=unfinished(workdir),
        commands={
            f"{group.name}, seed {seed}": "dreamjax train --config "
            f"{epath.Path(workdir) / 'points' / point['name'] / 'config.py'} --workdir RUN"
            for group in groups
            for seed, (point, _) in sorted(group.runs.items())
        },
    )


def _comparison(workdir: str, ranking: Ranking, groups: Sequence[PointRuns], along: str) -> Comparison:
    by_name = {group.name: group for group in groups}
    tests = {test.point: test for test in ranking.pairs}
    first = groups[0].leg(ranking.leg, next(iter(groups[0].runs)))
    by_unit = None if ranking.rank in SCORES else first[ranking.rank]  # one metric by unit (`scoring.UnitScores`)
    unit = by_unit["unit"] if by_unit else identity.ONE_OF[identity.groups(ranking.subjects)]
    laws: list[SweepLaw] = []
    if along and ranking.rank == "reconstruction":
        values = {name: by_name[name].values for name in ranking.tables}
        flops = {name: by_name[name].runs[ranking.seeds[0]][0]["flop_per_example"] for name in ranking.tables}
        laws = power_law.laws(along, ranking.tables, values, flops)
    return Comparison(
        what=LEGS[ranking.leg],
        subjects=len(ranking.subjects),
        unit=unit,
        metric=by_unit["metric"] if by_unit else SCORES[ranking.rank],
        seeds=ranking.seeds,
        ranking=tuple(_ranked(by_name[name], ranking, tests.get(name)) for name in ranking.tables),
        untrained=tuple(ranking.untrained),
        untrained_scores=ranking.untrained,
        left_out=tuple(g.name for g in groups if g.name not in ranking.tables and g.name not in ranking.untrained),
        baselines=baselines(workdir, groups, ranking.leg),
        laws=tuple(laws),
        statements=(*statements(ranking, unit), *_of_laws(ranking, along, laws), *_notes(groups, ranking)),
        by_unit=by_unit is not None,
    )


def _ranked(group: PointRuns, ranking: Ranking, test: PairedTest | None) -> RankedPoint:
    table, legs = ranking.tables[group.name], [group.leg(ranking.leg, seed) for seed in ranking.seeds]
    flop = group.runs[ranking.seeds[0]][0]["flop_per_example"]
    reported = [leg["own"].get("explained") for leg in legs]
    accuracy = probe = None
    if all("images" in leg for leg in legs):
        accuracy = _over_subjects([leg["images"]["accuracy"] for leg in legs], ranking.subjects)
    if all("probe" in leg for leg in legs):
        probe = _over_subjects([leg["probe"] for leg in legs])
    masks = {
        mask: _over_subjects([explained(leg["reconstruction"][mask]) for leg in legs], ranking.subjects)
        for mask in legs[0].get("reconstruction", {})
    }
    return RankedPoint(
        name=group.name,
        values=group.values,
        score=comparing.mean(table).within(
            0 if ranking.rank == "probe" else -math.inf, math.inf if ranking.rank == "held_out" else 1
        ),
        by_seed=tuple(table.mean(1).tolist()),
        masks={mask: interval for mask, interval in masks.items() if interval is not None},
        steps=legs[0]["step"],
        examples=legs[0]["examples"],
        flop=None if flop is None else flop * legs[0]["examples"],
        explained=None if None in reported else float(np.mean(reported)),
        accuracy=accuracy and accuracy.within(0, 1),
        probe=probe and probe.within(0, 1),
        test=test,
    )


def _over_subjects(by_seed: Sequence[Mapping[str, float]], among: Iterable[str] | None = None) -> Interval | None:
    """Return the mean over seeds and common subjects (with `among`, of these); None without a common subject."""
    common = set.intersection(*(set(one) for one in by_seed))
    subjects = [one for one in (sorted(common) if among is None else among) if one in common]
    return comparing.mean(np.array([[one[who] for who in subjects] for one in by_seed])) if subjects else None


def baselines(workdir: str, groups: Sequence[PointRuns], leg: str) -> dict[str, dict[str, float]]:
    """Return mask → baseline → mean R² over subjects, where all points were scored with the same baselines; else {}."""
    files = {run[1]["legs"][leg].get("baselines") for group in groups for run in group.runs.values()}
    if len(files) != 1 or None in files:
        return {}
    stored = read_json(epath.Path(workdir) / "shared" / files.pop(), "masks")
    if stored is None:  # a ranking does without
        return {}
    return {
        mask: {method: float(np.mean(list(explained(one, method).values()))) for method in one["error"]}
        for mask, one in stored["masks"].items()
    }


# ---------------------------------------------------------------------------------------------------------- statements
def statements(ranking: Ranking, unit: str = "subject") -> list[str]:
    """Return the supported claims and their limits; `unit`: the unit of scores."""
    sentences = []
    names, where = list(ranking.tables), LEGS[ranking.leg]
    if ranking.untrained:
        rivals = {"images": "what other trials saw", "retrieval": "chance", "prediction": "chance"}
        rival = rivals.get(ranking.rank, "predicting zero or the mean")
        sentences.append(
            f"{where}: {counted(len(ranking.untrained), 'point')} not better than {rival}, untrained and not ranked: "
            f"{'; '.join(f'{name} ({score:+.3f})' for name, score in ranking.untrained.items())}"
        )
    if not names:
        return [*sentences, f"{where}: no point is trained, so nothing is ranked"]
    resolved = [test.point for test in ranking.pairs if test.resolved]
    if ranking.pairs and not resolved:
        least = max(test.detectable for test in ranking.pairs)
        seen = "" if math.isnan(least) else f"; this design could detect differences of ≥ {least:.2g}"
        sentences.append(f"{where}: no difference from the highest, {names[0]}, is resolved{seen}")
    elif ranking.pairs:
        others = [test.point for test in ranking.pairs if not test.resolved]
        unresolved = f"; not resolved from it: {'; '.join(others)}" if others else ""
        sentences.append(
            f"{where}: {names[0]} is highest, and better than {len(resolved)} of {len(ranking.pairs)} others after "
            f"correction for {len(ranking.pairs)} tests{unresolved}"
        )
    sentences.append(f"the highest score was chosen among these, on these {unit}s, and is therefore optimistic")
    if len(ranking.seeds) == 1:
        sentences.append("one seed: the variation between seeds is unknown, and intervals do not include it")
    if unknown := identity.caveat(ranking.subjects):
        sentences.append(f"{unknown}, also with recordings of training")
    if len(ranking.subjects) < 5:
        sentences.append(f"only {len(ranking.subjects)} {unit}s are scored: intervals are wide")
    return sentences


def _of_laws(ranking: Ranking, along: str, laws: Sequence[SweepLaw]) -> list[str]:
    where = LEGS[ranking.leg]
    if along and not laws:
        return [f"{where}: no power law along {along}, which takes {power_law.FEWEST} sizes that are trained"]
    without = "; without what is untrained" if ranking.untrained else ""
    names = [", ".join(filter(None, (f"along {one.axis}", one.where))) for one in laws]
    return [f"{where}, {name}: {one.law.says()}{without}" for name, one in zip(names, laws, strict=True)]


def _notes(groups: Sequence[PointRuns], ranking: Ranking) -> list[str]:
    """Return the notes of the runs, each with the points that have it."""
    names: dict[str, list[str]] = {}
    for group in groups:
        for note in {note for seed in group.runs for note in group.leg(ranking.leg, seed).get("notes", ())}:
            names.setdefault(note, []).append(group.name)
    return [f"{'; '.join(points)}: {note}" for note, points in names.items()]


# ---------------------------------------------------------------------------------------------------- cost, unfinished
def _cost(workdir: str, groups: Sequence[PointRuns]) -> Cost:
    each = [run[1]["cost"] for group in groups for run in group.runs.values()]
    paths = every(epath.Path(workdir) / "shared" / "encoders", "seconds.json")
    encoders = [stored["seconds"] for path in paths if (stored := read_json(path, "seconds"))]
    total = {name: sum(one[name] for one in each) for name in ("seconds", "scoring", "programs", "from_cache")}
    flop = [one["flop"] for one in each]
    whole = None if None in flop else sum(flop)
    return Cost(runs=len(each), flop=whole, encoders=len(encoders), encoder_seconds=sum(encoders), **total)


def unfinished(workdir: str) -> dict[str, str]:
    """Return the points that are not done, with the reason: the last failure, stopped early, interrupted, not begun."""
    begun = {path.parent.name: path.parent for path in every(epath.Path(workdir) / "points", "point.json")}
    reasons = {name: "not begun" for name in planned(workdir)["points"] if name not in begun}
    for name, folder in sorted(begun.items()):
        if presence.exists(folder / "score.json"):
            continue
        if stopped := read_json(folder / "stopped.json", "steps"):
            reasons[name] = f"stopped early, after {counted(stopped['steps'], 'step')}"
        else:
            failed = read_json(folder / "failed.json", "sentences")
            reasons[name] = failed["sentences"][-1] if failed else "interrupted"
    return reasons
