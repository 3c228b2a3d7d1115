"""The parent of a host's processes reports in one sentence why they ended."""

import os
import signal
import subprocess
import sys
import time
from collections import deque

import pytest

from dreamjax.parallel import watcher

SCRIPT = """
import os, sys, time
index = os.environ["DREAMJAX_PROCESS"]
open(os.path.join(sys.argv[1], index), "w").write(str(os.getpid()))
time.sleep(60)
"""


PARENT = """
import sys
import pytest

from dreamjax.parallel import watcher
sys.exit(watcher.run_local(sys.argv[1:], 2, grace_s=0.2).code)
"""


def started(tmp_path, *more):
    command = [sys.executable, "-c", PARENT]
    parent = subprocess.Popen([*command, *more], stderr=subprocess.PIPE, text=True)
    while sum((tmp_path / str(i)).exists() and bool((tmp_path / str(i)).read_text()) for i in (0, 1)) < 2:
        time.sleep(0.02)
        assert parent.poll() is None
    return parent, [int((tmp_path / str(i)).read_text()) for i in (0, 1)]


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_reports_a_killed_process_and_stops_the_others(tmp_path):
    parent, pids = started(tmp_path, sys.executable, "-c", SCRIPT, str(tmp_path))
    os.kill(pids[1], signal.SIGKILL)
    _, stderr = parent.communicate(timeout=30)
    assert parent.returncode == 75
    assert stderr.strip() == (
        "dreamjax: process 1 of 2 was ended by SIGKILL and the others cannot go on without it; "
        "start the same command again: the run continues from its last saved step"
    )
    assert gone(pids[0])


def test_sigterm_reaches_all(tmp_path):
    parent, pids = started(tmp_path, sys.executable, "-c", SCRIPT, str(tmp_path))
    parent.terminate()
    parent.communicate(timeout=30)
    assert all(map(gone, pids))


FATAL = "F1127 client.h:80] Terminating process because the JAX distributed service detected fatal errors. Status: "
SILENT = FATAL + "UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n{}\nThe tasks crashed."
LEADER = FATAL + "UNAVAILABLE: Failed to send RPC to coordination service. Either the leader task was preempted/died"
STOPPED = FATAL + "DEADLINE_EXCEEDED: Deadline Exceeded\n\nRPC: /xla.coordination.CoordinationService/Heartbeat\n"
ABSENT = FATAL + "DEADLINE_EXCEEDED: Deadline Exceeded\n\nRPC: /xla.coordination.CoordinationService/RegisterTask\n"


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        (SILENT.format("3"), "process 3 of the run is gone"),
        (SILENT.format("3\n11"), "processes 3 and 11 of the run are gone"),
        (LEADER, "process 0 of the run is gone"),
        (STOPPED, "process 0 of the run is gone"),
        (ABSENT, "waited too long for the others to join"),
        ("", "another process of the run is gone"),
    ],
)
def test_explains_why_jax_aborted_a_process(stderr, reason):
    """On a host whose own process was well, when a peer on another is lost (the words are those of jaxlib 0.10)."""
    code, sentence = watcher.explain(0, {0: -signal.SIGABRT}, {0: deque(stderr.splitlines(keepends=True))}, "host A")
    assert code == 75
    assert sentence.startswith("host A ")
    assert reason in sentence
