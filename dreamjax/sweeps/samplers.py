"""The sampler of a study by its `search`: `KnownRuns` of a grid, a list or random draws, or `tpe.TPESampler`."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from dreamjax.errors import UserError
from dreamjax.sweeps import batched_runs, partition
from dreamjax.sweeps.batched_runs import Pack
from dreamjax.sweeps.runs import SweepRun
from dreamjax.sweeps.sampler import Proposal, Sampler, SweepCounts
from dreamjax.sweeps.study import Study
from dreamjax.sweeps.sweep_config import Sweep
from dreamjax.sweeps.tpe import TPESampler


@dataclass(frozen=True)
class KnownRuns:
    """The sampler of a grid, a list or random draws."""

    study: Study

    @cached_property
    def every(self) -> list[SweepRun]:
        return self.study.expand()

    @cached_property
    def _packs(self) -> Iterator[Pack]:
        return iter(batched_runs.unfinished(self.study.workdir, self.runs(), self.study.sweep.settings.together))

    def runs(self) -> list[SweepRun]:
        return partition.runs_of(self.every, self.study.sweep.settings.together, self.study.part)

    def sample(self) -> list[SweepRun]:
        return self.every

    def coming(self) -> int:
        return 0

    def propose(self) -> Proposal | None:
        pack = next(self._packs, None)
        return None if pack is None else Proposal([pack])

    def observe(self, proposal: Proposal) -> int:
        return len(proposal.runs)

    def counts(self) -> SweepCounts:
        runs = self.runs()
        done, left = sum(map(self.study.is_done, runs)), sum(map(self.study.is_open, runs))
        return SweepCounts(len(runs), done, len(runs) - done - left, left)

    def failures(self) -> dict[str, str]:
        return self.study.failures(self.runs())


def of(study: Study, parts: int | None = None) -> Sampler:
    """Return the sampler of a study that runs in so many parts. Raise UserError where it cannot search there."""
    if study.sweep.settings.search != "tpe":
        return KnownRuns(study)
    check_search(study.sweep, study.workdir, parts or (study.part.count if study.part else 1))
    return TPESampler(study)


def check_search(sweep: Sweep, workdir: str, parts: int) -> None:
    """Raise UserError for what cannot be searched there, or not by so many parts."""
    if "://" in workdir:
        raise UserError(f"search=tpe keeps a journal, which {workdir} cannot hold: choose a --workdir on a disk")
    if sweep.pretrain is not None and parts > 1:
        raise UserError(f"a search over pretrain runs as one part, not {parts}: they would train one encoder at once")
