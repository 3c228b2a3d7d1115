"""How long a step takes on a GPU in the order in which its compiled program starts kernels and transfers.

Kernels run one after another in one stream, transfers between GPUs in another. A transfer starts after all kernels and
transfers before it in the program, without delay, and the kernels behind its end wait for it. So a transfer that no
kernel hides counts in full.
"""

from collections.abc import Iterable, Mapping, Sequence

from dreamjax.pods import gpus, roofline
from dreamjax.pods import kernels as models
from dreamjax.pods.collectives import KINDS, Collective
from dreamjax.pods.hlo import Computation, HloProgram
from dreamjax.pods.kernels import WORSE, Kernel
from dreamjax.pods.topologies import Pod


def of_gpus(
    program: HloProgram,
    kernels: Sequence[Kernel],
    collectives: Iterable[Collective],
    pod: Pod,
    places: Sequence[Sequence[int]],
) -> tuple[float, tuple[float, float]]:
    """Return the seconds of the kernels alone, at best, and (best, worst) of the step."""
    multiprocessors = gpus.TARGETS[pod.chip.name].multiprocessors
    spans = {one.name: models.once(one, pod.chip, multiprocessors) for one in kernels}
    transfers: dict[str, float] = {}
    for one in collectives:
        took = roofline.seconds(one, pod, places) / one.times
        transfers[one.name] = transfers.get(one.name, 0.0) + took
    best = seconds(program, {name: low for name, (low, _) in spans.items()}, transfers)
    slower = {name: took / WORSE for name, took in transfers.items()}
    worst = seconds(program, {name: high for name, (_, high) in spans.items()}, slower)
    computing = models.seconds(kernels, pod.chip, multiprocessors)[0]
    return computing, (best, worst)


def seconds(program: HloProgram, kernels: Mapping[str, float], transfers: Mapping[str, float]) -> float:
    """Return the seconds of a step. `kernels`, `transfers`: name of an instruction → seconds of one run of it."""
    timeline = _Timeline(program, kernels, transfers)
    timeline.run(program.computations[program.entry])
    return max(timeline.computed, timeline.transferred)


class _Timeline:
    def __init__(self, program: HloProgram, kernels: Mapping[str, float], transfers: Mapping[str, float]):
        self.program, self.kernels, self.transfers = program, kernels, transfers
        self.trips = {loop.name: 1 if trips is None else trips for loop, trips in program.loops()}
        self.computed = self.transferred = 0.0  # when each stream is free, s
        self.ends: dict[str, float] = {}  # of the transfers that were started

    def run(self, computation: Computation) -> None:
        for one in computation.instructions.values():
            kind = one.opcode.removesuffix("-start").removesuffix("-done")
            if one.opcode in ("while", "call", "conditional"):
                called = [self.program.computations[name] for how, name in one.called if how != "condition"]
                for _ in range(self.trips.get(one.name, 1)):
                    for inner in called:
                        self.run(inner)
            elif kind not in KINDS:
                self.computed += self.kernels.get(one.name, 0.0)
            elif one.opcode.endswith("-done"):
                self.computed = max([self.computed, *(self.ends.get(name, 0.0) for name in one.operands)])
            else:
                begin = max(self.computed, self.transferred)
                self.ends[one.name] = self.transferred = begin + self.transfers.get(one.name, 0.0)
                if not one.opcode.endswith("-start"):
                    self.computed = self.transferred
