"""A parent for the processes of one host. JAX ends the survivors of a lost peer from C++ (SIGABRT, no Python handler
runs), so somebody outside must watch, read what was said, and tell it in one sentence."""

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dreamjax.errors import TryAgain
from dreamjax.parallel.variables import AGAIN, COORDINATOR, COUNT, INDEX

TEMPORARY_FAILURE = TryAgain.exit_code  # the same command goes on from the last saved step
LOST_S = 3.0  # likewise, where it was killed
GRACE_S = 30.0  # for the others to leave by themselves once one is gone
# what JAX says before it ends a process from C++, of which no handler in Python hears (jaxlib 0.10)
SILENT = re.compile(r"stopped sending heartbeats\):\s*((?:\S*?\d+\s+)+)")  # their numbers, a line each
LEADER = re.compile(r"leader task was preempted|CoordinationService.{0,400}Socket closed", re.S)  # process 0 is gone
ABSENT = "RegisterTask"  # in vain


@dataclass
class Child:
    """One process and the end of what it said on stderr."""

    index: int
    process: subprocess.Popen
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=300))
    listeners: list[threading.Thread] = field(default_factory=list)


@dataclass(frozen=True)
class Ended:
    """`told`: by a signal to this process."""

    code: int
    told: bool


def run_local(command: Sequence[str], processes: int, devices: int | None = None, grace_s: float = GRACE_S) -> Ended:
    """Run `command` as `processes` processes of one run on this machine; their common exit code.

    stdout and stderr of the first are passed on. `devices`: virtual CPU devices of each. SIGTERM, and Control-C as such
    a one, go to all. When one is lost the others are given `grace_s` seconds, then stopped; one sentence on stderr says
    who and why.
    """
    common = {COORDINATOR: f"127.0.0.1:{_free_port()}", COUNT: str(processes)}
    if devices:
        common |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    # a session of their own: Control-C of a terminal reaches this process alone, which tells them
    starts = [
        functools.partial(_start, command, index, common | {INDEX: str(index)}, start_new_session=True)
        for index in range(processes)
    ]
    return _run(starts, grace_s)


def run_one(command: Sequence[str], grace_s: float = GRACE_S, joins: bool = True) -> Ended:
    """Run `command` as this host's process of a run that spans several, which the environment describes.

    Without `joins` it is a run by itself, whatever else of the kind runs elsewhere.
    """
    own = f"the process on {socket.gethostname()}"
    common = {COORDINATOR: os.environ.get(COORDINATOR, "auto")} if joins else {}
    return _run([functools.partial(_start, command, 0, common)], grace_s, own)


def _run(starts: Sequence[Callable[[], Child]], grace_s: float, own: str = "") -> Ended:
    children: list[Child] = []
    told: list[float] = []  # when this process was signalled

    def forward(signum: int, _frame: Any) -> None:
        """SIGTERM to all, also for Control-C: they save and leave; a second Control-C does not wait for that."""
        for child in children:
            child.process.send_signal(signal.SIGKILL if told and signum == signal.SIGINT else signal.SIGTERM)
        told.append(time.monotonic())

    previous = {s: signal.signal(s, forward) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        for start in starts:
            children.append(start())
            if told:  # while they were started
                children[-1].process.terminate()
        first = _wait(children, grace_s, told)
    finally:
        for child in children:
            if child.process.poll() is None:
                child.process.kill()
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    for listener in (listener for child in children for listener in child.listeners):
        listener.join(timeout=5)  # until all that was said has been heard
    if first is None:
        return Ended(0, bool(told))
    code, sentence = explain(
        first, {c.index: int(c.process.wait()) for c in children}, {c.index: c.tail for c in children}, own
    )
    if sentence:
        print(f"dreamjax: {sentence}", file=sys.stderr, flush=True)
    return Ended(code, bool(told))


def _start(command: Sequence[str], index: int, environment: dict[str, str], **options: Any) -> Child:
    process = subprocess.Popen(
        list(command),
        env=os.environ | environment,
        stdout=subprocess.PIPE if index == 0 else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        **options,
    )
    child = Child(index, process)
    listeners = [threading.Thread(target=_listen, args=(child,), daemon=True)]
    if index == 0:
        listeners.append(threading.Thread(target=_pass_on, args=(process.stdout,), daemon=True))
    for listener in listeners:
        listener.start()
    child.listeners = listeners
    return child


def _pass_on(stream: Any) -> None:
    """The first process's stdout, without what the collectives library prints there (it would spoil `--json`)."""
    for line in stream:
        if "[Gloo]" not in line and "peer ranks" not in line:
            sys.stdout.write(line)
            sys.stdout.flush()


def _listen(child: Child) -> None:
    for line in child.process.stderr or ():
        child.tail.append(line)
        if child.index == 0 and not _is_noise(line):
            sys.stderr.write(line)
            sys.stderr.flush()


def _is_noise(line: str) -> bool:
    """The native stack of an abort: kept for `explain`, not for the eye."""
    return bool(
        re.match(
            r"\[Gloo\]|[EFWI]\d{4} |\*\*\* |\s+@ |Fatal Python error|Current thread|  File |Thread 0x|Extension mod",
            line,
        )
    )


def _wait(children: Sequence[Child], grace_s: float, told: Sequence[float]) -> int | None:
    """Until all are gone; the index of the first that failed, or None.

    After a failure, or once this process was `told` to stop, at most `grace_s` longer.
    """
    first, deadline, how = None, math.inf, "terminate"
    while running := [child for child in children if child.process.poll() is None]:
        failed = [child for child in children if child.process.poll() not in (None, 0)]
        if failed and first is None:
            first = failed[0].index
            killed = failed[0].process.returncode < 0  # nobody can go on without it, or save
            deadline = time.monotonic() + (min(grace_s, LOST_S) if killed else grace_s)
        if told and deadline == math.inf:
            deadline = told[0] + grace_s
        if time.monotonic() > deadline:
            for child in running:
                getattr(child.process, how)()
            how, deadline = "kill", time.monotonic() + LOST_S
        time.sleep(0.05)
    if first is None:
        first = next((child.index for child in children if child.process.poll() != 0), None)
    return first


def explain(first: int, codes: dict[int, int], tails: dict[int, Any], own: str = "") -> tuple[int, str]:
    """(exit code, one sentence or "") of a run whose process `first` ended first and not well.

    `own`: what it is called, where it is the only one on this host.
    """
    count, code = len(codes), codes[first]
    of = own or f"process {first} of {count}"
    if code in (2, TEMPORARY_FAILURE):  # it told the user itself; only the first process is heard directly
        said = [line.strip() for line in tails[first] if line.startswith("dreamjax: ")]
        heard = any(line.strip() == said[-1] for line in tails[0]) if said else True
        return code, "" if heard else said[-1].removeprefix("dreamjax: ")
    text = "".join(tails[first])
    if code == -signal.SIGABRT:  # JAX's own answer to a lost peer, on whatever host that was
        if ABSENT in text:
            return TEMPORARY_FAILURE, f"{of} waited in vain for the others to join; start the same command again"
        return TEMPORARY_FAILURE, f"{of} was stopped because {_gone(text)}; {AGAIN}"
    if code < 0:
        name = signal.Signals(-code).name
        return TEMPORARY_FAILURE, f"{of} was ended by {name} and the others cannot go on without it; {AGAIN}"
    last = next((line.strip() for line in reversed(tails[first]) if line.strip()), "it said nothing")
    return code, f"{of} failed with exit code {code} ({last[:200]}) and the others were stopped"


def _gone(text: str) -> str:
    """Who is, as JAX told it."""
    if found := SILENT.search(text):
        numbers = sorted({int(re.findall(r"\d+", word)[-1]) for word in found[1].split()})
        if len(numbers) > 1:
            return f"processes {' and '.join(map(str, numbers))} of the run are gone"
        return f"process {numbers[0]} of the run is gone"
    return f"{'process 0' if LEADER.search(text) else 'another process'} of the run is gone"


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
