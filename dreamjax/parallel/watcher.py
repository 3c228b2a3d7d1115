"""A parent for the processes of one host. JAX ends the survivors of a lost peer from C++ (SIGABRT, no Python handler
runs), so somebody outside must watch, read what was said, and tell it in one sentence."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dreamjax.parallel.processes import COORDINATOR, COUNT, INDEX

TEMPORARY_FAILURE = 75  # start the same command again: the run continues from its last saved step
GRACE_S = 30.0  # for the others to leave by themselves once one is gone
LOST_PEER = re.compile(r"(?:task|process)[ :/_]*(\d+)[^\n]*(?:heartbeat|unhealthy|disconnect|crash|died|lost)", re.I)
TASK = re.compile(r"/task:(\d+)")


@dataclass
class Child:
    """One process and the end of what it said on stderr."""

    index: int
    process: subprocess.Popen
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=300))
    listeners: list[threading.Thread] = field(default_factory=list)


def run_local(command: Sequence[str], processes: int, devices: int | None = None, grace_s: float = GRACE_S) -> int:
    """Run `command` as `processes` processes of one run on this machine; their common exit code.

    stdout and stderr of the first are passed on. `devices`: virtual CPU devices of each. SIGTERM and SIGINT go to all.
    When one is lost the others are given `grace_s` seconds, then stopped; one sentence on stderr says who and why.
    """
    coordinator = f"127.0.0.1:{_free_port()}"
    children = [_start(command, coordinator, processes, index, devices) for index in range(processes)]

    def forward(signum: int, _frame: Any) -> None:
        for child in children:
            child.process.send_signal(signum)

    previous = {s: signal.signal(s, forward) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        first = _wait(children, grace_s)
    finally:
        for child in children:
            if child.process.poll() is None:
                child.process.kill()
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    for listener in (listener for child in children for listener in child.listeners):
        listener.join(timeout=5)  # until all that was said has been heard
    if first is None:
        return 0
    code, sentence = explain(
        first, {c.index: int(c.process.wait()) for c in children}, {c.index: c.tail for c in children}
    )
    if sentence:
        print(f"dreamjax: {sentence}", file=sys.stderr, flush=True)
    return code


def _start(command: Sequence[str], coordinator: str, count: int, index: int, devices: int | None) -> Child:
    environment = os.environ | {COORDINATOR: coordinator, COUNT: str(count), INDEX: str(index)}
    if devices:
        environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    process = subprocess.Popen(
        list(command),
        env=environment,
        stdout=subprocess.PIPE if index == 0 else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
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
        re.match(r"[EFWI]\d{4} |\*\*\* |\s+@ |Fatal Python error|Current thread|  File |Thread 0x|Extension mod", line)
    )


def _wait(children: Sequence[Child], grace_s: float) -> int | None:
    """Until all are gone; the index of the first that failed, or None. After a failure, at most `grace_s` longer."""
    first, deadline = None, None
    while running := [child for child in children if child.process.poll() is None]:
        failed = [child for child in children if child.process.poll() not in (None, 0)]
        if failed and first is None:
            first, deadline = failed[0].index, time.monotonic() + grace_s
        if deadline is not None and time.monotonic() > deadline:
            for child in running:
                child.process.terminate()
            deadline = time.monotonic() + grace_s
            grace_s = 0.0
            if all(child.process.poll() is None for child in running):
                time.sleep(0.5)
                for child in running:
                    child.process.kill()
        time.sleep(0.05)
    if first is None:
        first = next((child.index for child in children if child.process.poll() != 0), None)
    return first


def explain(first: int, codes: dict[int, int], tails: dict[int, Any]) -> tuple[int, str]:
    """(exit code, one sentence or "") of a run whose process `first` ended first and not well."""
    count, code = len(codes), codes[first]
    of = f"process {first} of {count}"
    again = "start the same command again: the run continues from its last saved step"
    if code in (2, TEMPORARY_FAILURE):  # it told the user itself; only the first process is heard directly
        own = [line.strip() for line in tails[first] if line.startswith("dreamjax: ")]
        return code, "" if first == 0 or not own else own[-1].removeprefix("dreamjax: ")
    text = "".join(tails[first])
    if code == -signal.SIGABRT:  # JAX's own answer to a lost peer, on whatever host that was
        found = LOST_PEER.search(text) or TASK.search(text)
        who = f"process {found.group(1)}" if found else "another process"
        return TEMPORARY_FAILURE, f"{of} was stopped because {who} of the run is gone; {again}"
    if code < 0:
        name = signal.Signals(-code).name
        return TEMPORARY_FAILURE, f"{of} was ended by {name} and the others cannot go on without it; {again}"
    last = next((line.strip() for line in reversed(tails[first]) if line.strip()), "it said nothing")
    return code, f"{of} failed with exit code {code} ({last[:200]}) and the others were stopped"


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
