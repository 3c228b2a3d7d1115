"""End a run that hangs although every process is alive: heartbeats go on, and the others would wait for ever.

A thread of each process compares the time since its last step with the usual one. A process that is late publishes its
step; the first process then names the one that is behind, and all end. As long as steps go on nothing is sent.

A single process that waits for its data still has the state of the last step: the loop saves it before it ends. A
computation that hangs has taken the state with it, and so has one of several processes, which wait for each other.
"""

import contextlib
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from dreamjax.console import log
from dreamjax.errors import TryAgain
from dreamjax.parallel import processes
from dreamjax.parallel.environment import RESUME_HINT

FOLDER, VERDICT = "dreamjax/late", "dreamjax/hang"
LAST = 50  # steps whose median is the usual time
FEWEST = 5  # steps before a hang can be noticed
LEAVE_S = 3.0  # for the others to read the verdict before the first process, which keeps it, ends
SAVE_S = 600.0  # for the last save of a run that hangs
TAKEN_S = 10.0  # for the loop, which looks while it waits for data, to take over


class HangWatch:
    """`with HangWatch(100, 600) as watch:`, then `watch.stepped(step)` after each step.

    Args:
        factor: a step that takes this many times the median counts as hanging; 0: never.
        least_s: seconds that a step may always take.
    """

    def __init__(self, factor: float, least_s: float) -> None:
        self.factor, self.least_s = factor, least_s
        self.phase = "step"
        self._durations: deque[float] = deque(maxlen=LAST)
        self._step = 0
        self._since: float | None = None  # None: paused
        self._counts = False  # whether the time since then is that of a single step
        self._ended = threading.Event()
        self._sentence = ""  # with which the run ends
        self._taken = threading.Event()

    def __enter__(self) -> "HangWatch":
        if self.factor:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def stepped(self, step: int) -> None:
        """Note that `step` has been taken."""
        now = time.monotonic()
        if self._since is not None and self._counts:
            self._durations.append(now - self._since)
        self._step, self._since, self._counts, self._sentence = step, now, True, ""

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Do not watch within the block: an evaluation or a save may take any time."""
        self._since = None
        try:
            yield
        finally:
            self._since, self._counts = time.monotonic(), False

    @contextlib.contextmanager
    def within(self, phase: str) -> Iterator[None]:
        """Name what happens within the block `phase` in messages."""
        self.phase = phase
        try:
            yield
        finally:
            self.phase = "step"

    def hung(self) -> bool:
        """Return whether the wait for data counts as a hang; the caller then saves and calls `end`."""
        if self._sentence:
            self._taken.set()
        return bool(self._sentence)

    @contextlib.contextmanager
    def last_save(self) -> Iterator[bool]:
        """Do not watch within the block, which saves before the run ends; yield `hung()`.

        After a hang it may take `SAVE_S`: what does not answer may be the file system of the checkpoints too.
        """
        hung = self.hung()
        late = threading.Timer(SAVE_S, self.end, kwargs={"note": "the last step could not be saved in time"})
        late.daemon = True
        if hung:
            late.start()
        try:
            with self.paused():
                yield hung
        finally:
            late.cancel()

    @property
    def limit_s(self) -> float | None:
        """Return how long a step may take; None while too few were seen."""
        if len(self._durations) < FEWEST:
            return None
        return max(self.factor * statistics.median(tuple(self._durations)), self.least_s)

    def _watch(self) -> None:
        often, asleep = min(1.0, self.least_s / 10), time.monotonic()
        while not self._ended.wait(often):
            now = time.monotonic()
            if now - asleep > 10 * often + 5 and self._since is not None:  # the whole process was suspended
                self._since, self._counts = now, False
            asleep = now
            since, limit = self._since, self.limit_s
            if since is None or limit is None or (late := time.monotonic() - since) < limit / 2:
                continue
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # the coordination service is gone: JAX ends the run
                if (sentence := self._verdict(late, limit)) and not self._left_to_loop(sentence):
                    self.end(sentence)

    def _verdict(self, late: float, limit: float) -> str | None:
        """Return the sentence with which the run ends, or None while it does not."""
        usual = f"{late:.0f} s, and a step usually takes {statistics.median(tuple(self._durations)):.3g} s"
        if not processes.are_several():
            if late < limit:
                return None
            doing = "reads its data" if self.phase == "input" else "computes"
            return f"step {self._step + 1} has been running for {usual}: the process hangs where it {doing}"
        processes.publish(f"{FOLDER}/{jax.process_index()}", {"step": self._step, "phase": self.phase})
        if verdict := processes.published(VERDICT).get(0):
            return str(verdict)
        if late < (limit if processes.is_first() else 1.5 * limit):  # the first process decides, if it can
            return None
        sentence = f"{_behind(processes.published(FOLDER), jax.process_count(), self._step)} for {usual}"
        if processes.is_first():
            processes.publish(f"{VERDICT}/0", sentence)
        return sentence

    def _left_to_loop(self, sentence: str) -> bool:
        """Return whether the loop ends the run, or a batch has come after all."""
        if self.phase != "input" or processes.are_several():
            return False
        step, self._sentence = self._step, sentence
        if self._taken.wait(TAKEN_S):
            return True
        self._sentence = ""
        return self._step != step or self.phase != "input"

    def end(self, sentence: str = "", note: str = "") -> None:
        """End this process with the `sentence`, by default that of `hung`, and a `note` on what is saved."""
        if self._ended.is_set():
            return
        log.error("dreamjax: %s; %s", "; ".join(filter(None, [sentence or self._sentence, note])), RESUME_HINT)
        if processes.are_several() and processes.is_first():
            time.sleep(LEAVE_S)
        os._exit(TryAgain.exit_code)


def _behind(late: Mapping[int, Mapping[str, Any]], count: int, step: int) -> str:
    """Return which of `count` processes the others wait for; `late`: what each has published."""
    silent = [process for process in range(count) if process not in late]
    if silent:
        return f"no answer from {_named(silent)} of {count}"
    least = min(one["step"] for one in late.values())
    last = [process for process, one in late.items() if one["step"] == least]
    reading = [process for process in last if late[process]["phase"] == "input"]
    if reading:
        return f"step {least + 1} has hung in {_named(reading)} of {count} (reading data)"
    if len(last) < count:
        return f"step {least + 1} has hung in {_named(last)} of {count}"
    return f"step {step + 1} has hung on the devices of the {count} processes"


def _named(which: list[int]) -> str:
    several = "processes" if len(which) > 1 else "process"
    return f"{several} {', '.join(map(str, sorted(which)))}"
