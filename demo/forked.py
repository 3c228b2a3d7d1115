"""Start `dreamjax` commands without import time: as forks of this process, which has imported their modules.

A new process takes 3 to 5 s of a core to import JAX and the rest; the demo runs 28. Each fork is a process with its own
devices, memory and exit code, like `python -m dreamjax`.
"""

import functools
import gc
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

IMPORTED = (
    "dreamjax.cli.main",
    "dreamjax.evaluation.reconstruction",
    "dreamjax.systems.text_to_image",
    "dreamjax.evaluation.images",
    "dreamjax.comparison.compare",
    "dreamjax.training.loop",
    "dreamjax.signals.preparation.prepare",
    "dreamjax.signals.simulation.simulate",
    "matplotlib.figure",
    "scipy.stats",
)


class Forked:
    """A fork that runs a command; its standard output is read through a pipe."""

    def __init__(self, words: Sequence[str], folder: Path):
        reading, writing = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            _become(words, folder, writing)
        os.close(writing)
        self.output = os.fdopen(reading, encoding="utf-8")

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self) -> tuple[str, None]:
        with self.output:
            text = self.output.read()
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return text, None


def _become(words: Sequence[str], folder: Path, writing: int) -> None:
    """Run the command in the fork; never returns."""
    code = 1
    try:
        os.dup2(writing, 1)
        os.chdir(folder)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["dreamjax", *words]
        code = importlib.import_module("dreamjax.cli.main").main(words)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # printed as Python does, since the code of the demo must not continue in a fork
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def starter(folder: Path) -> Callable[[Sequence[str]], Forked] | None:
    """Import what commands import, and return what starts one in `folder`; None where forking is not safe (macOS).

    No JAX device is initialised here, so that each fork initialises its own.
    """
    if sys.platform != "linux":
        return None
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # forks share these pages
    return functools.partial(Forked, folder=folder)
