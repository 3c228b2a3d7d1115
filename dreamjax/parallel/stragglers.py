"""Which process the others wait for.

All processes of a run take a step in the same time, as each waits for the slowest where their devices meet. What tells
them apart is the time that a process's own host takes, reading data and dispatching, beside the time it stands waiting
for its devices: the slow one never waits. Each process tells its own to the coordination service at every logged line;
the first one reads what the others said last. Nobody waits for anybody.
"""

import math
from typing import Any

import jax
import numpy as np

from dreamjax.console import log
from dreamjax.parallel import processes

FOLDER = "dreamjax/pace"
FACTOR = 2.0  # of the others' median
SHARE = 0.25  # of a step, that it takes longer at the least
AGAIN = 50  # published lines until the same process is named again


class Pace:
    """`publish` at every logged line, in each process; the first names a straggler on stderr."""

    def __init__(self) -> None:
        self._before: tuple[int, float] | None = None  # step, seconds waited
        self._lines = 0
        self._suspects: set[int] = set()
        self._named: dict[int, int] = {}

    def publish(self, step: int, seconds_per_step: float, waited: float) -> None:
        """`waited`: seconds for the device, since the start of this process."""
        before, self._before = self._before, (step, waited)
        if before is None or step <= before[0] or jax.process_count() == 1:
            return
        idle = (waited - before[1]) / (step - before[0])
        busy = max(seconds_per_step - idle, 0.0)
        processes.tell(f"{FOLDER}/{jax.process_index()}", {"step": step, "busy": busy, "seconds": seconds_per_step})
        self._lines += 1
        if processes.is_first():
            for sentence in self._new(processes.told(FOLDER)):
                log.warning("%s", sentence)

    def _new(self, paces: dict[int, Any]) -> list[str]:
        found = []
        slowest = slow(paces)
        suspects, self._suspects = self._suspects, set(slowest)
        for process, sentence in slowest.items():  # twice in a row: once is no habit
            if process in suspects and self._lines >= self._named.get(process, 0):
                self._named[process] = self._lines + AGAIN
                found.append(sentence)
        return found


def slow(paces: dict[int, Any]) -> dict[int, str]:
    """Process → a sentence, of each whose host takes twice as long as the others' (their median), and that much longer
    that it counts."""
    found = {}
    for process, pace in paces.items():
        others = [other["busy"] for index, other in paces.items() if index != process]
        usual = float(np.median(others)) if others else math.inf
        if pace["busy"] > max(FACTOR * usual, usual + SHARE * pace["seconds"]):
            found[process] = (
                f"process {process} holds the others up: its host takes {pace['busy']:.3g} s a step, theirs "
                f"{usual:.3g} (at step {pace['step']}; look at its data, its processors and what else runs there)"
            )
    return found
