"""Which runs come next: the sampler protocol, and the sampler of sweeps whose runs are known beforehand.

`search` is grid, list or random (`KnownRuns`, of the combinations that `axes` makes), or tpe (`tpe.TPESampler`).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from dreamjax.errors import UserError
from dreamjax.sweeps import batched_runs, partition
from dreamjax.sweeps.batched_runs import Pack
from dreamjax.sweeps.runs import SweepRun
from dreamjax.sweeps.study import Study
from dreamjax.sweeps.sweep_config import Sweep


@dataclass(frozen=True)
class Proposal:
    """Packs to train and score next, at every length up to `until` steps."""

    packs: Sequence[Pack]
    until: float = math.inf

    @property
    def runs(self) -> list[SweepRun]:
        return [run for pack in self.packs for run in pack.runs]


@dataclass(frozen=True)
class SweepCounts:
    """How many runs of a sweep, or trials of a search, there are, are done, failed, and are left."""

    points: int
    done: int
    failed: int
    left: int
    stopped_early: int | None = None  # of a search


class Sampler(Protocol):
    """Proposes the runs of a study."""

    @property
    def study(self) -> Study: ...

    def runs(self) -> list[SweepRun]:
        """Return the runs that are known so far, of the study's part."""

    def sample(self) -> list[SweepRun]:
        """Return the runs of all parts, or some that may come, to be checked before anything is trained."""

    def coming(self) -> int:
        """Return how many trials are still to be chosen."""

    def propose(self) -> Proposal | None:
        """Return what to train next; None where there is nothing for now."""

    def observe(self, proposal: Proposal) -> int:
        """Take in the scores of what was proposed, which the study has; return how many runs or trials have ended."""

    def counts(self) -> SweepCounts:
        """Return how far the sweep is."""

    def failures(self) -> dict[str, str]:
        """Return run → the last sentence with which it failed."""


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
    from dreamjax.sweeps.tpe import TPESampler  # which builds on this module

    check_search(study.sweep, study.workdir, parts or (study.part.count if study.part else 1))
    return TPESampler(study)


def check_search(sweep: Sweep, workdir: str, parts: int) -> None:
    """Raise UserError for what cannot be searched there, or not by so many parts."""
    if "://" in workdir:
        raise UserError(f"search=tpe keeps a journal, which {workdir} cannot hold: choose a --workdir on a disk")
    if sweep.pretrain is not None and parts > 1:
        raise UserError(f"a search over pretrain runs as one part, not {parts}: they would train one encoder at once")
