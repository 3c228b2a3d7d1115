"""Account for a run's wall time over all its attempts: goodput.json.

    ledger = Ledger(path)
    with ledger.on("checkpoint"): …
    summary(read(path))

Within an attempt every second is of one kind: `start` (until the first step is dispatched), `compile` (that step, until
its metrics are read), `input` (waiting for a batch), `checkpoint` and `evaluation` (while training pauses for them) or
`step`, which is the rest. Between attempts it is `restart`. Steps that had to be computed again, after a kill or a
rollback, count as `lost` and not as `step`. Goodput is the share of `step`.
"""

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypedDict

from etils import epath

from dreamjax.console import log
from dreamjax.storage import atomic, presence
from dreamjax.training.logging import LogWriteErrors

KINDS = ("start", "compile", "input", "step", "checkpoint", "evaluation", "lost", "restart")
EVERY_S = 10.0  # how old the file is at most, and so what a kill leaves unknown


class RunAttempt(TypedDict):
    """One attempt: when it ran (UNIX time), which steps it took, and its seconds by kind."""

    began: float
    ended: float
    from_step: int
    to_step: int
    seconds: dict[str, float]


class GoodputSummary(TypedDict):
    """Share of time in steps (None before any time was counted), wall seconds, and seconds by kind, of all attempts."""

    goodput: float | None
    wall: float
    attempts: int
    seconds: dict[str, float]


class Ledger:
    """Count one attempt's time. Only the first process (`active`) writes the file, every 10 s and at `write`."""

    def __init__(self, path: epath.PathLike, active: bool = True) -> None:
        self.path, self.active = epath.Path(path), active
        self._log_errors = LogWriteErrors(self.path)
        self._before = read(path) if active else []
        self._kinds = ["start"]
        self._seconds = dict.fromkeys(KINDS, 0.0)
        self._began = time.time()
        self._mark = self._written = time.monotonic()
        self._from = self._step = 0

    def start_at(self, step: int) -> None:
        """Set the step after which this attempt begins."""
        self._from = self._step = step

    @contextmanager
    def on(self, kind: str) -> Iterator[None]:
        """Count the time inside the block as this kind."""
        self._settle()
        self._kinds.append(kind)
        try:
            yield
        finally:
            self._settle()
            self._kinds.pop()

    def becomes(self, kind: str) -> None:
        """Count time outside of blocks as this kind from now on."""
        self._settle()
        self._kinds[0] = kind

    def _settle(self) -> None:
        now = time.monotonic()
        self._seconds[self._kinds[-1]] += now - self._mark
        self._mark = now

    def stepped(self, step: int) -> None:
        """Record that the run is at `step`; writes the file every 10 s."""
        self._step = step
        if time.monotonic() - self._written > EVERY_S:
            self.write()

    def rolled_back(self, step: int, seconds: float) -> None:
        """Record a return to an earlier `step`: the `seconds` that the steps after it took are lost."""
        self._settle()
        seconds = min(seconds, self._seconds["step"])
        self._seconds["step"] -= seconds
        self._seconds["lost"] += seconds
        self._step = step

    @property
    def seconds_per_step(self) -> float:
        """Return the mean seconds of a step of this attempt; 0 before the first."""
        done = self._step - self._from
        return self._seconds["step"] / done if done > 0 else 0.0

    def attempts(self) -> list[RunAttempt]:
        """Return the attempts of the file, and this one so far."""
        self._settle()
        current: RunAttempt = {
            "began": round(self._began, 3),
            "ended": round(time.time(), 3),
            "from_step": self._from,
            "to_step": self._step,
            "seconds": {kind: round(value, 3) for kind, value in self._seconds.items() if value},
        }
        return [*self._before, current]

    def write(self) -> None:
        """Write the file."""
        self._written = time.monotonic()
        if self.active:
            with self._log_errors:
                atomic.write_text(self.path, json.dumps({"attempts": self.attempts()}, indent=1))


def read(path: epath.PathLike) -> list[RunAttempt]:
    """Return the attempts of a file; none where it is missing or damaged."""
    path = epath.Path(path)
    try:
        attempts = json.loads(path.read_text())["attempts"] if presence.exists(path) else []
        summary(attempts)
    except (ValueError, KeyError, TypeError, AttributeError):
        log.warning("%s is damaged; times are counted from here on", path)
        return []
    return attempts


def summary(attempts: Sequence[RunAttempt]) -> GoodputSummary:
    """Summarise all attempts together."""
    seconds = dict.fromkeys(KINDS, 0.0)
    for attempt in attempts:
        for kind, value in attempt["seconds"].items():
            seconds[kind] += value
    for before, after in itertools.pairwise(attempts):
        seconds["restart"] += max(0.0, after["began"] - before["ended"])
        again = before["to_step"] - max(after["from_step"], before["from_step"])
        done = before["to_step"] - before["from_step"]
        if again > 0:
            lost = before["seconds"].get("step", 0.0) * again / done
            seconds["step"] -= lost
            seconds["lost"] += lost
    wall = sum(seconds.values())
    return {
        "goodput": round(seconds["step"] / wall, 4) if wall else None,
        "wall": round(wall, 2),
        "attempts": len(attempts),
        "seconds": {kind: round(value, 2) for kind, value in seconds.items() if value},
    }


def one_line(result: GoodputSummary) -> str:
    """Return one line: `88% of 124.0 s in 2 attempts were steps; the rest, in seconds: compile 9.1, restart 5.8`."""
    rest = [f"{kind} {value:.1f}" for kind, value in result["seconds"].items() if kind != "step" and value >= 0.05]
    tries = f" in {result['attempts']} attempts" if result["attempts"] > 1 else ""
    others = f"; the rest, in seconds: {', '.join(rest)}" if rest else ""
    return f"{result['goodput'] or 0:.0%} of {result['wall']:.1f} s{tries} were steps{others}"
