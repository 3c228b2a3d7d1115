"""A sweep's points and what they would cost, before any of them runs."""

from collections.abc import Sequence
from typing import Any

from dreamjax.console import counted, log
from dreamjax.reports import tables
from dreamjax.sweeps import axes, runs
from dreamjax.sweeps.runs import Place, Point
from dreamjax.sweeps.sweep_config import Sweep


def expand(sweep: Sweep, workdir: str | None) -> list[Point]:
    """The points of a grid, or drawn at random; with as many FLOP as those that `workdir` has."""
    settings, budget = sweep.settings, None if workdir is None else runs.budget(workdir)
    if settings.search == "grid":
        return runs.make(sweep, axes.grid(sweep.axes), budget)
    drawn = list(axes.random(sweep.axes, settings.points, settings.draw_seed))
    if len(drawn) < settings.points:
        log.warning("points is %d, but the axes gave only %d different ones", settings.points, len(drawn))
    return runs.make(sweep, drawn, budget)


def outlook(sweep: Sweep, found: Sequence[Point], workdir: str, coming: Sequence[Point] = ()) -> dict[str, Any]:
    """Points, how many are done, their FLOP; and hours, where a finished point tells how fast this machine is.

    `coming`: in place of those that are still to be chosen, as dear as these.
    """
    scores = [Place.of(workdir, point).score() for point in found]
    costs = [point.cost() for point in found]
    known = [(s["cost"]["flop"], s["cost"]["seconds"]) for s in scores if s is not None and s["cost"].get("flop")]
    spent = sum(seconds for _, seconds in known)
    rate = sum(flop for flop, _ in known) / spent if spent else None
    open_ = [Place.of(workdir, point).open(sweep.settings.retries) for point in found]
    left = [cost for cost, still in zip(costs, open_, strict=True) if still] + [point.cost() for point in coming]
    whole = None if None in left else float(sum(cost for cost in left if cost is not None))
    return {
        "name": sweep.settings.name,
        "axes": {axis.name: list(axis.choices) or list(axis.between or ()) for axis in sweep.axes},
        "seeds": list(sweep.settings.seeds),
        "points": [
            {"name": p.name, "values": dict(p.chosen), "seed": p.seed, "legs": dict(p.legs), "flop": cost}
            for p, cost in zip(found, costs, strict=True)
        ],
        "done": sum(score is not None for score in scores),
        "coming": len(coming) // len(sweep.settings.seeds),
        "cost": {"flop": whole, "hours": whole / rate / 3600 if rate and whole is not None else None},
    }


def text(result: dict[str, Any]) -> str:
    """For people."""
    rows = []
    for one in result["points"]:
        told = ", ".join(f"{name}={value}" for name, value in one["values"].items())
        legs = ", ".join(f"{steps:,}" for steps in sorted(set(one["legs"].values()), reverse=True))
        rows.append([told, str(one["seed"]), legs, "?" if one["flop"] is None else f"{one['flop'] / 1e12:,.1f}"])
    cost = result["cost"]
    whole = "how many FLOP is not known" if cost["flop"] is None else f"{cost['flop'] / 1e15:.3g} PFLOP of training"
    hours = f", about {cost['hours']:.2g} hours here" if cost["hours"] is not None else ""
    return "\n".join(
        [
            f"sweep {result['name']}: {counted(len(result['points']), 'point')}, {result['done']} done",
            *([tables.table(["values", "seed", "steps", "TFLOP"], rows)] if rows else []),
            *(
                [f"{counted(result['coming'], 'point')} to come, each from the scores before it; counted as the base"]
                if result["coming"]
                else []
            ),
            f"left: {whole}{hours}",
            *([f"! as it stands it would not start: {result['obstacle']}"] if result.get("obstacle") else []),
        ]
    )
