"""Split a sweep into parts that run at once: each process has its own runs, fixed beforehand without communication.

Part I of N is run by the I-th of N processes: here (`start`), as the I-th task of a SLURM array, or on another machine.
They share only the work directory. A part that is killed is started again (`crash_markers`). Parts of a search take
their runs from its journal.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType

from dreamjax import config as configs
from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.sweeps import batched_runs, crash_markers
from dreamjax.sweeps.run_folder import RunFolder
from dreamjax.sweeps.runs import SweepRun
from dreamjax.training import preemption

PARENT = "DREAMJAX_SWEEP_PARENT"  # the process that started this part


@dataclass(frozen=True)
class Part:
    """Part `index` of `count`."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse(text: str) -> Part:
    """Return the part that `2/8` names: the third of eight. Raise UserError."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not int(match[1]) < int(match[2]):
        raise UserError(f"--part is {text}, but it must be I/N, with I from 0 to N - 1")
    return Part(int(match[1]), int(match[2]))


def runs_of(runs: Sequence[SweepRun], together: int, part: Part | None) -> list[SweepRun]:
    """Return the runs of a part: every N-th group, whichever runs are done; None: all."""
    if part is None:
        return list(runs)
    return [
        run for number, group in enumerate(groups(runs, together)) if number % part.count == part.index for run in group
    ]


def groups(runs: Sequence[SweepRun], together: int) -> list[list[SweepRun]]:
    """Return the groups that stay in one part: runs that are trained as one, and those that start from one encoder."""
    by_key: dict[int | str, list[SweepRun]] = {}
    for number, pack in enumerate(batched_runs.packs(runs, together)):
        encoder = pack.runs[0].encoder
        by_key.setdefault(number if encoder is None else configs.to_json(encoder), []).extend(pack.runs)
    return list(by_key.values())


def start(words: Sequence[str], count: int, folders: Callable[[Part], Sequence[RunFolder]]) -> int:
    """Run `dreamjax sweep WORDS` in `count` processes; return their common exit code.

    `folders`: a part → those of its runs. A process that is killed while it trains one is started again.
    """
    signals: list[int] = []
    running = {part: _start(words, part) for part in (Part(index, count) for index in range(count))}

    def forward(signum: int, _frame: FrameType | None) -> None:
        signals.append(signum)
        for process in running.values():
            process.terminate()

    previous = {s: signal.signal(s, forward) for s in (signal.SIGTERM, signal.SIGINT)}
    codes = []
    try:
        while running:
            part, process = next(iter(running.items()))
            code = process.wait()
            del running[part]
            if code < 0 and not signals and crash_markers.exist(folders(part)):
                log.warning("part %s was ended by %s: started again", part, signal.Signals(-code).name)
                running[part] = _start(words, part)
                continue
            codes.append(code)
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    return preemption.EXIT_CODE if signals or preemption.EXIT_CODE in codes else max(map(abs, codes), default=0)


def end_with_parent() -> None:
    """Stop as on SIGTERM once the process of `start` is gone, so that no two processes train the same run."""
    if (parent := os.environ.get(PARENT)) is None:
        return

    def look() -> None:
        while os.getppid() == int(parent):
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, daemon=True).start()


def _start(words: Sequence[str], part: Part) -> subprocess.Popen[bytes]:
    """Start a part that writes only to its log and its files, with its own GPU if there are enough."""
    variables, listed = {PARENT: str(os.getpid())}, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if len(listed) >= part.count and listed[0]:
        variables["CUDA_VISIBLE_DEVICES"] = listed[part.index]
    command = [sys.executable, "-m", "dreamjax", "sweep", *words, "--part", str(part)]
    return subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.DEVNULL, start_new_session=True)
