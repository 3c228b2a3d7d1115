"""The parent of a host's processes says in one sentence what happened to them."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

from dreamjax.parallel import watcher

LOCAL = Path(__file__).resolve().parents[2] / "launch" / "local.py"

SCRIPT = """
import os, sys, time
index = os.environ["DREAMJAX_PROCESS"]
open(os.path.join(sys.argv[1], index), "w").write(str(os.getpid()))
time.sleep(60)
"""


def started(tmp_path, *more):
    command = [sys.executable, str(LOCAL), "--processes", "2", "--grace", "0.2", "--"]
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


def test_a_killed_process_ends_the_others_with_one_sentence(tmp_path):
    parent, pids = started(tmp_path, sys.executable, "-c", SCRIPT, str(tmp_path))
    os.kill(pids[1], signal.SIGKILL)
    _, said = parent.communicate(timeout=30)
    assert parent.returncode == 75
    assert said.strip() == (
        "dreamjax: process 1 of 2 was ended by SIGKILL and the others cannot go on without it; "
        "start the same command again: the run continues from its last saved step"
    )
    assert gone(pids[0])


def test_sigterm_reaches_all(tmp_path):
    parent, pids = started(tmp_path, sys.executable, "-c", SCRIPT, str(tmp_path))
    parent.terminate()
    parent.communicate(timeout=30)
    assert all(map(gone, pids))


def test_the_coordination_error_is_read():
    """What JAX says on a host whose own process was well, when a peer on another host is lost."""
    said = deque(
        [
            "F1201 12:00:00 client.h:80] Terminating process because the JAX distributed service detected fatal "
            "errors. "
            "This most likely indicates that another task died; see the other task logs for more details. "
            "Error: UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n",
            "/job:jax_worker/replica:0/task:3\n",
        ]
    )
    code, sentence = watcher.explain(0, {0: -signal.SIGABRT}, {0: said})
    assert code == 75
    assert "process 0 of 1 was stopped because process 3 of the run is gone" in sentence
