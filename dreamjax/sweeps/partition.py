"""A sweep in several parts at once: each process has its own points, decided beforehand, so that nobody asks anybody.

Part I of N is what the I-th of N processes runs, here (`here`), as the I-th task of a SLURM array, on a machine of its
own: they share the work directory and nothing else. A part that dies is started again (`deaths`). Parts of a search
take their points from its journal.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from dreamjax import config as configs
from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.sweeps import batched_runs, crash_markers
from dreamjax.sweeps.runs import Place, Point
from dreamjax.training import preemption

PARENT = "DREAMJAX_SWEEP_PARENT"  # the process that started this part


def read(text: str) -> tuple[int, int]:
    """`2/8` → (2, 8): the third of eight. Raises UserError."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or not int(found[1]) < int(found[2]):
        raise UserError(f"--part is {text}, but it is I/N, with I from 0 to N - 1")
    return int(found[1]), int(found[2])


def own(found: Sequence[Point], together: int, part: tuple[int, int]) -> list[Point]:
    """The points of a part: every N-th pack, whichever points are done; those of one encoder are not parted."""
    index, count = part
    return [point for number, group in enumerate(groups(found, together)) if number % count == index for point in group]


def groups(found: Sequence[Point], together: int) -> list[list[Point]]:
    """What is not parted: points that are trained as one, and those that build on one encoder."""
    dealt: dict[Any, list[Point]] = {}
    for number, pack in enumerate(batched_runs.chunks(found, together)):
        encoder = pack[0].encoder
        dealt.setdefault(number if encoder is None else configs.to_json(encoder), []).extend(pack)
    return list(dealt.values())


def here(words: Sequence[str], count: int, begun: Callable[[tuple[int, int]], Sequence[Place]]) -> int:
    """Run `dreamjax sweep WORDS` in `count` processes; their common exit code.

    `begun`: a part → its points. One that is killed while it is at a point is started again.
    """
    told = list[int]()
    running = {index: _start(words, index, count) for index in range(count)}

    def forward(signum: int, _frame: Any) -> None:
        told.append(signum)
        for process in running.values():
            process.terminate()

    previous = {s: signal.signal(s, forward) for s in (signal.SIGTERM, signal.SIGINT)}
    codes = []
    try:
        while running:
            index, process = next(iter(running.items()))
            code = process.wait()
            del running[index]
            if code < 0 and not told and crash_markers.at(begun((index, count))):
                log.warning("part %d of %d was ended by %s: again", index, count, signal.Signals(-code).name)
                running[index] = _start(words, index, count)
                continue
            codes.append(code)
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    return preemption.EXIT_CODE if told or preemption.EXIT_CODE in codes else max(map(abs, codes), default=0)


def end_with_parent() -> None:
    """Stop as by a SIGTERM once the process of `here` is gone: nobody else may begin what is still being trained."""
    if (parent := os.environ.get(PARENT)) is None:
        return

    def look() -> None:
        while os.getppid() == int(parent):
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, daemon=True).start()


def _start(words: Sequence[str], index: int, count: int) -> subprocess.Popen:
    """Quiet but for its log: a part's result is its files."""
    visible = _devices(index, count) | {PARENT: str(os.getpid())}
    command = [sys.executable, "-m", "dreamjax", "sweep", *words, "--part", f"{index}/{count}"]
    return subprocess.Popen(command, env=os.environ | visible, stdout=subprocess.DEVNULL, start_new_session=True)


def _devices(index: int, count: int) -> dict[str, str]:
    """A GPU of its own, where there are as many as parts."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return {"CUDA_VISIBLE_DEVICES": listed[index]} if len(listed) >= count and listed[0] else {}
