"""A sweep in several parts at once: each process has its own points, decided beforehand, so that nobody asks anybody.

Part I of N is what the I-th of N processes runs, here (`here`), as the I-th task of a SLURM array, on a machine of its
own: they share the work directory and nothing else. A part that dies is started again; the point that it was at counts
as failed.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.sweeps import driving, packs
from dreamjax.sweeps.description import Sweep
from dreamjax.sweeps.points import Place, Point
from dreamjax.training import preemption


def read(text: str) -> tuple[int, int]:
    """`2/8` → (2, 8): the third of eight. Raises UserError."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or not int(found[1]) < int(found[2]):
        raise UserError(f"--part is {text}, but it is I/N, with I from 0 to N - 1")
    return int(found[1]), int(found[2])


def own(found: Sequence[Point], together: int, part: tuple[int, int]) -> list[Point]:
    """The points of a part: every N-th pack, whichever points are done."""
    index, count = part
    return [
        point for number, pack in enumerate(packs.chunks(found, together)) if number % count == index for point in pack
    ]


def here(sweep: Sweep, found: Sequence[Point], workdir: str, count: int, words: Sequence[str]) -> dict[str, Any]:
    """Run `dreamjax sweep WORDS` in `count` processes; how far the sweep is then, as `driving.run` tells it."""
    together, started, told = sweep.settings.together, time.monotonic(), list[int]()
    before = sum(Place.of(workdir, point).score() is not None for point in found)
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
            if code < 0 and not told and (lost := _lost(workdir, own(found, together, (index, count)))):
                sentence = f"its process was ended by {signal.Signals(-code).name}, as by a machine out of memory"
                Place.of(workdir, lost).failed(sentence)
                log.warning("%s failed: %s", lost.name, sentence)
                running[index] = _start(words, index, count)
                continue
            codes.append(code)
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    code = preemption.EXIT_CODE if told or preemption.EXIT_CODE in codes else max(map(abs, codes), default=0)
    return driving.standing(sweep, workdir, found, before, time.monotonic() - started) | {"exit_code": code}


def _start(words: Sequence[str], index: int, count: int) -> subprocess.Popen:
    """Quiet but for its log: a part's result is its files."""
    visible = _devices(index, count)
    command = [sys.executable, "-m", "dreamjax", "sweep", *words, "--part", f"{index}/{count}"]
    return subprocess.Popen(command, env=os.environ | visible, stdout=subprocess.DEVNULL, start_new_session=True)


def _devices(index: int, count: int) -> dict[str, str]:
    """A GPU of its own, where there are as many as parts."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return {"CUDA_VISIBLE_DEVICES": listed[index]} if len(listed) >= count and listed[0] else {}


def _lost(workdir: str, found: Sequence[Point]) -> Point | None:
    """The point that a part was at: the one begun last that is not done."""
    begun = [
        (place.folder / "point.json", point)
        for point in found
        if (place := Place.of(workdir, point)).score() is None and (place.folder / "point.json").exists()
    ]
    return max(begun, key=lambda one: one[0].stat().mtime)[1] if begun else None
