"""Training of retrieval systems with the data on the device: of one seed, and of several as one program.

The networks are float32 on both sides, whose products a GPU computes in TF32.
"""

import time
from typing import Any, ClassVar

import retrieval_sides as sides

from gpu import jobs, work

CHECKED, STEPS = 8, 8  # examples of the check; batches of an epoch, which is one program


class Retrieval:
    """A system at its published sizes."""

    name: ClassVar[str]
    most = work.MOST
    dtype = "float32"

    def __init__(self, smoke: bool, batch: int | None):
        published = (sides.SMALLEST if smoke else sides.PUBLISHED)[self.name]
        self.sizes = sides.replace(published, batch=batch or published.batch)
        self.batch, self.steps, self.smoke = self.sizes.batch, 1 if smoke else STEPS, smoke

    def _task(self, sizes: sides.Sizes, seed: int = 0) -> Any:
        return sides.task_of(self.name, sizes, seed, small=self.smoke)

    def ours(self, seeds: int = 1) -> work.Ours:
        at, started = work.device(), time.monotonic()
        tasks = [self._task(self.sizes, seed) for seed in range(seeds)]
        epoch = sides.Ours(tasks, self.sizes, self.steps, work.options(at))
        parameters = sides.our_parameters(epoch.state.params) // seeds
        return work.Ours(epoch.run, epoch.compiled, time.monotonic() - started, parameters, self.steps * seeds)

    def together(self) -> work.Ours:
        return self.ours(jobs.SEEDS)

    def flops(self) -> float:
        return self.batch * sides.flops_of(self._task(self.sizes))

    def check(self) -> dict[str, float]:
        small = sides.replace(self.sizes, batch=min(CHECKED, self.batch))
        return work.compared(lambda _: (self._task(small), sides.batch_of(small)), self.dtype)

    def theirs(self, mode: str | None, *, compiled: bool) -> work.Theirs:
        twin = sides.Theirs(self._task(self.sizes), self.sizes, self.steps, compiled=compiled, mode=mode)
        return work.Theirs(twin.run, twin.parameters, self.steps)


class Nice(Retrieval):
    name = "nice"


class Atm(Retrieval):
    name = "atm"


class BrainModule(Retrieval):
    name = "brain_module"
