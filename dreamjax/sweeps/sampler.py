"""Which runs come next: the protocol of samplers. `samplers` and `tpe` implement it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dreamjax.sweeps.batched_runs import Pack
from dreamjax.sweeps.runs import SweepRun
from dreamjax.sweeps.study import Study


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
