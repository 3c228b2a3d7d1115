"""Tasks in child processes that may crash, hang or fail: each costs its own task and nothing else.

A reader of a foreign format may end its process (a segmentation fault in a C library), so tasks never run in the
parent. A worker does one task at a time and many in a row; a dead or silent one is replaced.
"""

import errno
import importlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from dreamjax.errors import UserError
from dreamjax.signals.datasets.shards import CannotWrite

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
FIRST_MESSAGE_S = 120.0  # importing on a slow disk


@dataclass(frozen=True)
class Outcome:
    """How one task ended: with a `result`, or with a `reason` (a phrase without personal data)."""

    task: int
    result: Any = None
    reason: str = ""
    crashed: bool = False  # the process died or hung: trying again may help


def function_of(name: str) -> Callable[..., Any]:
    """`package.module:function`."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def attempt(function: Callable[..., Any], index: int, task: Any, beat: Callable[[], None]) -> Outcome:
    """Run one task; its mistakes become a reason, except a disk that takes no more, which ends everything.

    The text of a foreign exception may quote the file (names, dates), so only its type is kept.
    """
    try:
        return Outcome(index, function(task, beat))
    except CannotWrite:
        raise
    except UserError as mistake:
        return Outcome(index, reason=str(mistake))
    except OSError as problem:
        if problem.errno in DISK:
            raise
        return Outcome(index, reason=f"cannot be read ({os.strerror(problem.errno) if problem.errno else 'OSError'})")
    except MemoryError:
        return Outcome(index, reason="does not fit in memory")
    except Exception as problem:
        return Outcome(index, reason=f"the reader failed ({type(problem).__name__})")


def _serve(pipe: Connection, name: str, quiet: bool) -> None:
    """The life of a worker: tasks in, outcomes and beats out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    if quiet:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
    function = function_of(name)
    last = 0.0

    def beat() -> None:
        nonlocal last
        if time.monotonic() - last > 1.0:
            last = time.monotonic()
            pipe.send(None)

    pipe.send(None)
    while (message := pipe.recv()) is not None:
        index, task = message
        try:
            pipe.send(attempt(function, index, task, beat))
        except (OSError, CannotWrite) as problem:
            pipe.send(problem)


class _Worker:
    def __init__(self, name: str, quiet: bool):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, name, quiet), daemon=True)
        with _environment(dict.fromkeys(ONE_THREAD, "1")):
            self.process.start()
        theirs.close()
        self.task: int | None = None
        self.ready = False
        self.heard = time.monotonic()

    def give(self, index: int, task: Any) -> None:
        self.task, self.heard = index, time.monotonic()
        self.pipe.send((index, task))

    def stop(self) -> None:
        if self.task is None and self.process.is_alive():
            try:
                self.pipe.send(None)
                self.process.join(2)
            except (BrokenPipeError, OSError):
                pass
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.pipe.close()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def _died(process: Any) -> str:
    process.join(5)
    code = process.exitcode
    if code is not None and code < 0:
        return f"the reader crashed ({signal.Signals(-code).name})"
    return f"the reader ended its process (exit code {code})"


def run(
    name: str, tasks: Sequence[Any], *, workers: int, timeout_s: float = 300.0, quiet: bool = True
) -> Iterator[Outcome]:
    """Outcomes of `name(task, beat)` for every task, in the order in which they end.

    `name` is `package.module:function`, importable in a child. `beat()` says that a task is alive: one that is silent
    for `timeout_s` is killed. `workers=0` runs in this process, without protection. Raises OSError or CannotWrite when
    the disk is full; whatever was begun is stopped first.
    """
    if workers == 0:
        function = function_of(name)
        for index, task in enumerate(tasks):
            yield attempt(function, index, task, lambda: None)
        return
    waiting = list(range(len(tasks)))[::-1]
    pool = [_Worker(name, quiet) for _ in range(min(workers, len(tasks)))]
    try:
        while waiting or any(w.task is not None for w in pool):
            for i, worker in enumerate(pool):
                if waiting and worker.task is None and worker.ready:
                    worker.give(waiting[-1], tasks[waiting.pop()])
                limit = timeout_s if worker.ready else FIRST_MESSAGE_S
                if (worker.task is not None or not worker.ready) and time.monotonic() - worker.heard > limit:
                    task = worker.task
                    worker.process.kill()
                    worker.task = task
                    worker.stop()
                    pool[i] = _Worker(name, quiet)
                    if task is not None:
                        yield Outcome(task, reason=f"no progress for {timeout_s:g} s", crashed=True)
            for pipe in wait([w.pipe for w in pool], timeout=0.5):
                i = next(i for i, w in enumerate(pool) if w.pipe is pipe)
                yield from _hear(pool, i, name, quiet)
    finally:
        for worker in pool:
            worker.stop()


def _hear(pool: list[_Worker], i: int, name: str, quiet: bool) -> Iterator[Outcome]:
    """Take one message of a worker whose pipe is readable."""
    worker = pool[i]
    try:
        message = worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        reason, task, ready = _died(worker.process), worker.task, worker.ready
        worker.stop()
        if not ready:
            raise UserError(f"a worker process could not start: {reason}") from None
        pool[i] = _Worker(name, quiet)
        if task is not None:
            yield Outcome(task, reason=reason, crashed=True)
        return
    worker.heard, worker.ready = time.monotonic(), True
    if isinstance(message, OSError | CannotWrite):
        raise message
    if isinstance(message, Outcome):
        worker.task = None
        yield message
