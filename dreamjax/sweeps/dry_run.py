"""What a sweep would run and cost, before any of it runs."""

from dataclasses import dataclass

from dreamjax.console import counted
from dreamjax.reports import tables
from dreamjax.sweeps import runs as runs_
from dreamjax.sweeps.axes import Axis
from dreamjax.sweeps.runs import SweepRun
from dreamjax.sweeps.sampler import Sampler


@dataclass(frozen=True)
class DryRun:
    """`flop`, `hours`: of what is left; None: unknown. `coming`: trials that are still to be chosen."""

    name: str
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    runs: tuple[SweepRun, ...]
    done: int
    coming: int
    flop: float | None
    hours: float | None
    obstacle: str | None  # why it would not start as it is

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "axes": {axis.name: list(axis.between or axis.choices) for axis in self.axes},
            "seeds": list(self.seeds),
            "points": [
                {"name": r.name, "values": dict(r.values), "seed": r.seed, "legs": r.legs, "flop": r.cost()}
                for r in self.runs
            ],
            "done": self.done,
            "coming": self.coming,
            "cost": {"flop": self.flop, "hours": self.hours},
            "obstacle": self.obstacle,
        }

    def text(self) -> str:
        rows = []
        for run in self.runs:
            values = ", ".join(f"{name}={value}" for name, value in run.values.items())
            legs = ", ".join(f"{steps:,}" for steps in reversed(run.steps))
            cost = run.cost()
            rows.append([values, str(run.seed), legs, "?" if cost is None else f"{cost / 1e12:,.1f}"])
        lines = [f"sweep {self.name}: {counted(len(rows), 'run')}, {self.done} done"]
        if rows:
            lines.append(tables.Table(["values", "seed", "steps", "TFLOP"], rows).text())
        if self.coming:
            lines.append(
                f"{counted(self.coming, 'trial')} to come, chosen by the scores so far; each counted as the base"
            )
        work = "unknown FLOP" if self.flop is None else f"{self.flop / 1e15:.3g} PFLOP of training"
        lines.append(f"left: {work}" + (f", about {self.hours:.2g} hours here" if self.hours is not None else ""))
        return "\n".join(lines + ([f"! it would not start: {self.obstacle}"] if self.obstacle else []))


def dry_run(sampler: Sampler) -> DryRun:
    """Return the runs, how many are done, the FLOP of the others; and hours, by the speed of those that are done.

    Trials that are still to be chosen are as expensive as the base.
    """
    study = sampler.study
    runs, coming, sweep = sampler.runs(), sampler.coming(), study.sweep
    costs = [score["cost"] for run in runs if (score := study.folder(run).score()) is not None]
    known = [(cost["flop"], cost["seconds"]) for cost in costs if cost.get("flop")]
    seconds = sum(one for _, one in known)
    rate = sum(flop for flop, _ in known) / seconds if seconds else None
    base = runs_.make(sweep, [{}], study.budget()) if coming else []
    left = [run.cost() for run in runs if study.is_open(run)] + coming * [run.cost() for run in base]
    flop = None if None in left else float(sum(cost for cost in left if cost is not None))
    hours = flop / rate / 3600 if rate and flop is not None else None
    obstacle = study.obstacle(sampler.sample())
    seeds = sweep.settings.seeds
    return DryRun(sweep.settings.name, sweep.axes, seeds, tuple(runs), len(costs), coming, flop, hours, obstacle)
