"""Tasks in child processes that may crash, hang or fail: each costs its own task and nothing else.

A reader of a foreign format may end its process (a segmentation fault in a C library), so tasks never run in the
parent. A worker does one task at a time and many in a row; a dead or silent one is replaced.
"""

import contextlib
import errno
import functools
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from dreamjax.errors import UserError
from dreamjax.signals.datasets.shards import CannotWrite

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
FIRST_MESSAGE_S = 120.0  # importing on a slow disk
GIB = 1 << 30

Function = Callable[..., Any]  # of (task, beat); a child process imports its module


@dataclass(frozen=True)
class Outcome:
    """The outcome of a task: a `result`, or a `reason` for its failure (a phrase without personal data)."""

    index: int
    task: Any
    result: Any = None
    reason: str = ""
    exhausted: bool = False  # the task was out of memory; its process takes no other
    late: bool = False  # the task was ended after the timeout

    @property
    def for_now(self) -> bool:
        """Return whether the same task may succeed with other limits."""
        return self.exhausted or self.late


def attempt(function: Function, index: int, task: Any, beat: Callable[[], None]) -> Outcome:
    """Run one task; its mistakes become a reason, except a disk that takes no more, which ends everything.

    The text of a foreign exception may quote the file (names, dates), so only its type is kept.
    """
    try:
        return Outcome(index, task, function(task, beat))
    except CannotWrite:
        raise
    except UserError as mistake:
        return Outcome(index, task, reason=str(mistake))
    except OSError as problem:
        if problem.errno in DISK:
            raise
        return Outcome(
            index, task, reason=f"cannot be read ({os.strerror(problem.errno) if problem.errno else 'OSError'})"
        )
    except MemoryError:
        limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
        reason = "does not fit in memory"
        if limit != resource.RLIM_INFINITY:
            reason = f"needs more memory than a reader may use ({limit / GIB:g} GiB); raise --memory-limit"
        return Outcome(index, task, reason=reason, exhausted=True)
    except Exception as problem:
        return Outcome(index, task, reason=f"the reader failed ({type(problem).__name__})")


def _serve(pipe: Connection, quiet: bool, memory: int | None) -> None:
    """Run a worker: receive a function, then tasks; send outcomes and beats."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    if memory is not None:  # of data, not of address space: mapping a long file takes no memory
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (memory if hard < 0 else min(memory, hard), hard))
    if quiet:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
    function = pipe.recv()
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
    def __init__(self, function: Function, quiet: bool, memory: int | None):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, quiet, memory), daemon=True)
        before = {name: os.environ[name] for name in ONE_THREAD if name in os.environ}
        os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
        try:
            self.process.start()
        finally:
            for name in ONE_THREAD:
                del os.environ[name]
            os.environ.update(before)
        theirs.close()
        self.pipe.send(function)
        self.task: tuple[int, Any] | None = None
        self.ready = False
        self.heard = time.monotonic()

    def stop(self) -> None:
        if self.task is None and self.process.is_alive():
            try:
                self.pipe.send(None)
                self.process.join(2)
            except (BrokenPipeError, OSError):
                pass
        if self.process.is_alive():
            self.process.kill()
        self.process.join(10)  # the system cannot kill a process that waits for a dead disk
        self.pipe.close()


def run(
    function: Function,
    tasks: Sequence[Any],
    *,
    workers: int,
    timeout_s: float = 300.0,
    memory: int | None = None,
    quiet: bool = True,
) -> Iterator[Outcome]:
    """Yield the outcome of `function(task, beat)` for every task, in the order in which they end.

    `function` is one that a child can import. `beat()` signals that a task is alive; a task that is silent for
    `timeout_s` is killed, and one that needs more than `memory` bytes fails. `workers=0` runs in this process, without
    protection. Raise OSError or CannotWrite when the disk is full, after stopping the tasks that were started.
    """
    if workers == 0:
        for index, task in enumerate(tasks):
            yield attempt(function, index, task, lambda: None)
        return
    waiting = list(range(len(tasks)))[::-1]
    new_worker = functools.partial(_Worker, function, quiet, memory)
    pool = [new_worker() for _ in range(min(workers, len(tasks)))]
    try:
        while waiting or any(w.task is not None for w in pool):
            for i, worker in enumerate(pool):
                if waiting and worker.task is None and worker.ready:
                    index = waiting.pop()
                    worker.task, worker.heard = (index, tasks[index]), time.monotonic()
                    with contextlib.suppress(OSError):  # it died meanwhile; `_hear` says how
                        worker.pipe.send(worker.task)
                limit = timeout_s if worker.ready else FIRST_MESSAGE_S
                if (worker.task is not None or not worker.ready) and time.monotonic() - worker.heard > limit:
                    worker.process.kill()
                    worker.stop()
                    pool[i] = new_worker()
                    if worker.task is not None:
                        yield Outcome(*worker.task, reason=f"no progress for {timeout_s:g} s", late=True)
            for pipe in wait([w.pipe for w in pool], timeout=0.5):
                i = next(i for i, w in enumerate(pool) if w.pipe is pipe)
                outcome, dead = _hear(pool[i])
                if dead:
                    pool[i] = new_worker()
                if outcome:
                    yield outcome
    finally:
        for worker in pool:
            worker.stop()


def _hear(worker: _Worker) -> tuple[Outcome | None, bool]:
    """Take one message of a worker whose pipe is readable: (how its task ended, whether the worker is dead)."""
    try:
        message = worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join(5)
        code = worker.process.exitcode or 0
        reason = f"the reader ended its process (exit code {worker.process.exitcode})"
        if code < 0:
            reason = f"the reader crashed ({signal.Signals(-code).name})"
        worker.stop()
        if not worker.ready:
            raise UserError(f"a worker process could not start: {reason}") from None
        return Outcome(*worker.task, reason=reason) if worker.task else None, True
    worker.heard, worker.ready = time.monotonic(), True
    if isinstance(message, OSError | CannotWrite):
        raise message
    if message is not None:
        worker.task = None
    exhausted = message is not None and message.exhausted  # its memory is not returned to the system
    if exhausted:
        worker.stop()
    return message, exhausted
