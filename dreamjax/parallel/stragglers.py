"""Detect the process that the others wait for.

All processes of a run take the same time per step, as each waits for the slowest where their devices communicate. They
differ in how long their host is busy, reading data and dispatching, instead of waiting for its devices: the slow one
never waits. Each process publishes its busy time at every logged line; the first process reads the latest values.
No process waits for another.
"""

import math
from collections.abc import Mapping

import jax
import numpy as np

from dreamjax.console import log
from dreamjax.parallel import processes

FOLDER = "dreamjax/pace"
FACTOR = 2.0  # of the others' median
SHARE = 0.25  # of a step, the least difference that counts
REPEAT = 50  # published lines until the same process is named again


class StragglerMonitor:
    """`publish` at every logged line, in each process; the first process logs the stragglers."""

    def __init__(self) -> None:
        self._before: tuple[int, float] | None = None  # step, seconds waited
        self._lines = 0
        self._suspects: set[int] = set()
        self._named: dict[int, int] = {}

    def publish(self, step: int, seconds_per_step: float, waited: float) -> None:
        """Publish this process's pace; `waited` counts seconds of waiting for the device since its start."""
        before, self._before = self._before, (step, waited)
        if before is None or step <= before[0] or jax.process_count() == 1:
            return
        idle = (waited - before[1]) / (step - before[0])
        busy = max(seconds_per_step - idle, 0.0)
        processes.publish(f"{FOLDER}/{jax.process_index()}", {"step": step, "busy": busy, "seconds": seconds_per_step})
        self._lines += 1
        if processes.is_first():
            for sentence in self._new(processes.published(FOLDER)):
                log.warning("%s", sentence)

    def _new(self, paces: Mapping[int, Mapping[str, float]]) -> list[str]:
        slowest = slow(paces)
        suspects, self._suspects = self._suspects, set(slowest)  # of two lines in a row
        new = [p for p in slowest if p in suspects and self._lines >= self._named.get(p, 0)]
        self._named |= dict.fromkeys(new, self._lines + REPEAT)
        return [slowest[process] for process in new]


def slow(paces: Mapping[int, Mapping[str, float]]) -> dict[int, str]:
    """Return a sentence for each process whose host is busy twice as long as the median of the others, and by `SHARE`
    of a step longer.
    """
    sentences = {}
    for process, pace in paces.items():
        others = [other["busy"] for index, other in paces.items() if index != process]
        usual = float(np.median(others)) if others else math.inf
        if pace["busy"] > max(FACTOR * usual, usual + SHARE * pace["seconds"]):
            sentences[process] = (
                f"process {process} slows the others down: its host is busy for {pace['busy']:.3g} s per step, theirs "
                f"for {usual:.3g} (at step {pace['step']}; check its data, its processors and what else runs there)"
            )
    return sentences
