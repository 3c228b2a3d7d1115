"""A parent that watches the processes of one host.

JAX ends the survivors of a lost process from C++ (SIGABRT, no Python handler runs), so a parent has to read their
stderr and report the cause in one sentence.
"""

import functools
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import IO

from dreamjax.errors import TryAgain
from dreamjax.parallel.environment import COORDINATOR, COUNT, INDEX, RESUME_HINT, WATCHED

TEMPORARY_FAILURE = TryAgain.exit_code  # the same command continues from the last saved step
GRACE_S = 30.0  # for the others to exit by themselves once one has failed
LOST_S = 3.0  # likewise, where it was killed
# what JAX prints before it aborts a process from C++ (jaxlib 0.10)
SILENT = re.compile(r"stopped sending heartbeats\):\s*((?:\S*?\d+\s+)+)")  # their numbers, a line each
LEADER = re.compile(  # process 0, which keeps the service, is gone or stopped
    r"leader task was preempted|CoordinationService.{0,400}Socket closed|CoordinationService/Heartbeat", re.S
)
ABSENT = "RegisterTask"  # which timed out
CHATTER = re.compile(r"\[Gloo\]|peer ranks")  # of the collectives library on stdout, where it would break `--json`
NOISE = re.compile(  # of the native stack of an abort on stderr: kept for `explain`, not shown
    r"^(\s*$|RPC: /|\[Gloo\]|[EFWI]\d{4} |\*\*\* |\s+@ |Fatal Python error|Current thread|  File |Thread 0x|"
    r"Extension mod)"
)


@dataclass
class ChildProcess:
    """One process and the end of its stderr."""

    index: int
    process: subprocess.Popen
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=300))
    listeners: list[threading.Thread] = field(default_factory=list)


@dataclass(frozen=True)
class Exit:
    """The common exit code of the processes; `signalled`: because this process got a signal."""

    code: int
    signalled: bool


def run_local(command: Sequence[str], processes: int, devices: int | None = None, grace_s: float = GRACE_S) -> Exit:
    """Run `command` as `processes` processes of one run on this machine.

    stdout and stderr of the first are passed on. `devices`: virtual CPU devices of each. SIGTERM and Control-C are
    forwarded to all as SIGTERM. When one is lost the others are stopped after `grace_s` seconds, and one sentence on
    stderr names it and the reason.
    """
    common = {COORDINATOR: f"127.0.0.1:{_free_port()}", COUNT: str(processes), WATCHED: "1"}
    if devices:
        common |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    # a separate session: Control-C of a terminal reaches this process alone, which forwards it
    starts = [
        functools.partial(_start, command, index, common | {INDEX: str(index)}, start_new_session=True)
        for index in range(processes)
    ]
    return _run(starts, grace_s)


def run_one(command: Sequence[str], grace_s: float = GRACE_S, joins: bool = True) -> Exit:
    """Run `command` as this host's process of a run that spans several, which the environment describes.

    Without `joins` it is an independent run.
    """
    name = f"the process on {socket.gethostname()}"
    common = {WATCHED: "1"} | ({COORDINATOR: os.environ.get(COORDINATOR, "auto")} if joins else {})
    return _run([functools.partial(_start, command, 0, common)], grace_s, name)


def _run(starts: Sequence[Callable[[], ChildProcess]], grace_s: float, name: str = "") -> Exit:
    children: list[ChildProcess] = []
    signals: list[float] = []  # times at which this process got one

    def forward(signum: int, _frame: FrameType | None) -> None:
        """Send SIGTERM to all, also for Control-C: they save and exit; a second Control-C kills them."""
        for child in children:
            child.process.send_signal(signal.SIGKILL if signals and signum == signal.SIGINT else signal.SIGTERM)
        signals.append(time.monotonic())

    previous = {s: signal.signal(s, forward) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        for start in starts:
            children.append(start())
            if signals:  # arrived while they were started
                children[-1].process.terminate()
        first = _wait(children, grace_s, signals)
    finally:
        for child in children:
            if child.process.poll() is None:
                child.process.kill()
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    for listener in (listener for child in children for listener in child.listeners):
        listener.join(timeout=5)  # until all output has been read
    if first is None:
        return Exit(0, bool(signals))
    codes = {child.index: int(child.process.wait()) for child in children}
    code, sentence = explain(first, codes, {child.index: child.tail for child in children}, name)
    if sentence:
        print(f"dreamjax: {sentence}", file=sys.stderr, flush=True)
    return Exit(code, bool(signals))


def _start(
    command: Sequence[str], index: int, environment: dict[str, str], start_new_session: bool = False
) -> ChildProcess:
    process = subprocess.Popen(
        list(command),
        env=os.environ | environment,
        stdout=subprocess.PIPE if index == 0 else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=start_new_session,
    )
    child = ChildProcess(index, process)
    child.listeners.append(threading.Thread(target=_listen, args=(child,), daemon=True))
    if index == 0:
        child.listeners.append(threading.Thread(target=_copy, args=(process.stdout, sys.stdout, CHATTER), daemon=True))
    for listener in child.listeners:
        listener.start()
    return child


def _listen(child: ChildProcess) -> None:
    for line in child.process.stderr or ():
        child.tail.append(line)
        if child.index == 0:
            _copy([line], sys.stderr, NOISE)


def _copy(lines: Iterable[str], to: IO[str], without: re.Pattern) -> None:
    for line in lines:
        if not without.search(line):
            to.write(line)
            to.flush()


def _wait(children: Sequence[ChildProcess], grace_s: float, signals: Sequence[float]) -> int | None:
    """Wait until all have ended; return the index of the first that failed, or None.

    After a failure, or once this process got a signal, wait at most `grace_s` longer.
    """
    first, deadline, how = None, math.inf, "terminate"
    while running := [child for child in children if child.process.poll() is None]:
        failed = [child for child in children if child.process.poll() not in (None, 0)]
        if failed and first is None:
            first = failed[0].index
            killed = failed[0].process.returncode < 0  # the others can neither continue nor save
            deadline = time.monotonic() + (min(grace_s, LOST_S) if killed else grace_s)
        if signals and deadline == math.inf:
            deadline = signals[0] + grace_s
        if time.monotonic() > deadline:
            for child in running:
                getattr(child.process, how)()
            how, deadline = "kill", time.monotonic() + LOST_S
        time.sleep(0.05)
    if first is None:
        first = next((child.index for child in children if child.process.poll() != 0), None)
    return first


def explain(first: int, codes: dict[int, int], tails: Mapping[int, Sequence[str]], name: str = "") -> tuple[int, str]:
    """Return (exit code, one sentence or "") of a run whose process `first` was the first to fail.

    `name`: what messages call it, where it is the only one on this host.
    """
    count, code = len(codes), codes[first]
    process = name or f"process {first} of {count}"
    if code in (2, TEMPORARY_FAILURE):  # it reported the error itself; only the first process's stderr is shown
        errors = [line.strip() for line in tails[first] if line.startswith("dreamjax: ")]
        shown = any(line.strip() == errors[-1] for line in tails[0]) if errors else True
        return code, "" if shown else errors[-1].removeprefix("dreamjax: ")
    text = "".join(tails[first])
    if code == -signal.SIGABRT:  # JAX's own answer to a lost peer, on whatever host that was
        if ABSENT in text:
            if reported := [line.strip() for line in tails[first] if line.startswith("dreamjax: ")]:
                return TEMPORARY_FAILURE, "" if first == 0 else reported[-1].removeprefix("dreamjax: ")
            return TEMPORARY_FAILURE, f"{process} waited too long for the others to join; start the same command again"
        return TEMPORARY_FAILURE, f"{process} was stopped because {_gone(text)}; {RESUME_HINT}"
    if code < 0:
        kind = signal.Signals(-code).name
        return TEMPORARY_FAILURE, f"{process} was ended by {kind} and the others cannot go on without it; {RESUME_HINT}"
    last = next((line.strip() for line in reversed(tails[first]) if line.strip()), "no output")
    return code, f"{process} failed with exit code {code} ({last[:200]}) and the others were stopped"


def _gone(text: str) -> str:
    """Return which process is lost, from JAX's message."""
    if match := SILENT.search(text):
        numbers = sorted({int(re.findall(r"\d+", word)[-1]) for word in match[1].split()})
        several = f"processes {' and '.join(map(str, numbers))} of the run are gone"
        return several if len(numbers) > 1 else f"process {numbers[0]} of the run is gone"
    return f"{'process 0' if LEADER.search(text) else 'another process'} of the run is gone"


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
