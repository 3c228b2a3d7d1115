"""Choose the sampler of a study by its `search`: `KnownRuns` of a grid, a list or random samples, or `tpe.TPESampler`.

`dry_run` returns what a sampler would run, and its cost, before anything runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from dreamjax.console import counted
from dreamjax.errors import UserError
from dreamjax.reports import tables
from dreamjax.sweeps import batched_runs, partition
from dreamjax.sweeps import runs as runs_
from dreamjax.sweeps.batched_runs import Proposal
from dreamjax.sweeps.runs import SweepRun
from dreamjax.sweeps.study import Study, SweepCounts
from dreamjax.sweeps.sweep_config import Sweep
from dreamjax.sweeps.tpe import TPESampler


@dataclass(frozen=True)
class KnownRuns:
    """The sampler of a grid, a list or random samples. `TPESampler` has the same methods."""

    study: Study

    @cached_property
    def every(self) -> list[SweepRun]:
        return self.study.expand()

    @cached_property
    def _proposals(self) -> Iterator[Proposal]:
        packs = batched_runs.unfinished(self.study.workdir, self.runs(), self.study.sweep.settings.together)
        return (Proposal([pack]) for pack in packs)

    def runs(self) -> list[SweepRun]:
        """Return the runs that are known so far, of the study's part."""
        return partition.runs_of(self.every, self.study.sweep.settings.together, self.study.part)

    def sample(self) -> list[SweepRun]:
        """Return the runs of all parts, or some that may come, to be checked before anything is trained."""
        return self.every

    def coming(self) -> int:
        """Return how many trials are still to be chosen."""
        return 0

    def propose(self) -> Proposal | None:
        """Return what to train next; None if there is nothing at the moment."""
        return next(self._proposals, None)

    def observe(self, proposal: Proposal) -> int:
        """Update the sampler with the scores of a proposal; return how many runs or trials have ended."""
        return len(proposal.runs)

    def counts(self) -> SweepCounts:
        """Return the progress of the sweep."""
        runs = self.runs()
        done, left = sum(map(self.study.is_done, runs)), sum(map(self.study.is_open, runs))
        return SweepCounts(len(runs), done, len(runs) - done - left, left)

    def failures(self) -> dict[str, str]:
        """Return run → the last sentence with which it failed."""
        return self.study.failures(self.runs())


Sampler = KnownRuns | TPESampler


def of(study: Study, parts: int | None = None) -> Sampler:
    """Return the sampler of a study that runs in `parts` parts. Raise UserError where it cannot search there."""
    if study.sweep.settings.search != "tpe":
        return KnownRuns(study)
    check_search(study.sweep, study.workdir, parts or (study.part.count if study.part else 1))
    return TPESampler(study)


def check_search(sweep: Sweep, workdir: str, parts: int) -> None:
    """Raise UserError for a search that is impossible there, or by this number of parts."""
    if "://" in workdir:
        raise UserError(f"search=tpe keeps a journal, which {workdir} cannot hold: choose a --workdir on a disk")
    if sweep.pretrain is not None and parts > 1:
        raise UserError(f"a search over pretrain runs as one part, not {parts}: they would train one encoder at once")


# ------------------------------------------------------------------------------------------------------------- dry run
@dataclass(frozen=True)
class DryRun:
    """The runs and their cost. `flop`, `hours`: remaining; None: unknown. `coming`: trials not yet chosen."""

    sweep: Sweep
    runs: list[SweepRun]
    done: int
    coming: int
    flop: float | None
    hours: float | None
    obstacle: str | None  # why it would not start

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.sweep.settings.name,
            "axes": {axis.name: list(axis.between or axis.choices) for axis in self.sweep.axes},
            "seeds": list(self.sweep.settings.seeds),
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
            legs, cost = ", ".join(f"{steps:,}" for steps in reversed(run.steps)), run.cost()
            rows.append([values, str(run.seed), legs, "?" if cost is None else f"{cost / 1e12:,.1f}"])
        lines = [f"sweep {self.sweep.settings.name}: {counted(len(rows), 'run')}, {self.done} done"]
        if rows:
            lines.append(tables.Table(["values", "seed", "steps", "TFLOP"], rows).text())
        if self.coming:
            trials = counted(self.coming, "trial")
            lines.append(f"{trials} to come, chosen by the scores so far; each counted as the base")
        work = "unknown FLOP" if self.flop is None else f"{self.flop / 1e15:.3g} PFLOP of training"
        lines.append(f"left: {work}" + (f", about {self.hours:.2g} hours here" if self.hours is not None else ""))
        return "\n".join(lines + ([f"! it would not start: {self.obstacle}"] if self.obstacle else []))


def dry_run(sampler: Sampler) -> DryRun:
    """Return the runs, how many are done, the FLOP of the others; and hours, by the speed of those that are done.

    Trials that are still to be chosen are as expensive as the base.
    """
    study, runs, coming = sampler.study, sampler.runs(), sampler.coming()
    costs = [score["cost"] for run in runs if (score := study.folder(run).score()) is not None]
    known = [(cost["flop"], cost["seconds"]) for cost in costs if cost.get("flop")]
    seconds = sum(one for _, one in known)
    base = runs_.make(study.sweep, [{}], study.budget()) if coming else []
    left = [run.cost() for run in runs if study.is_open(run)] + coming * [run.cost() for run in base]
    flop = None if None in left else float(sum(cost for cost in left if cost is not None))
    rate = sum(flop for flop, _ in known) / seconds if seconds else None
    hours = flop / rate / 3600 if rate and flop is not None else None
    return DryRun(study.sweep, runs, len(costs), coming, flop, hours, study.obstacle(sampler.sample()))
