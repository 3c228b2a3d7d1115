"""Several processes for real, and what becomes of a run when one of them is told to stop, killed, or never comes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dreamjax.errors import TryAgain
from dreamjax.parallel import processes
from dreamjax.training import checkpoints
from tests.command_line import dreamjax, sentence_of
from tests.support import make_shards
from tests.training.children import free_port

CONFIG = str(Path(__file__).resolve().parents[2] / "configs/pretrain/tiny.py")
AGAIN = "start the same command again: the run continues from its last saved step"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("shards"), subjects=3, windows=8)


def command(shards, workdir, **changes):
    settings = {"steps": 100_000, "batch_size": 8, "log_every": 1, "eval_every": 0, "checkpoint.every": 20} | changes
    keys = [f"--config.train.{name}={value}" for name, value in settings.items()]
    return ["train", "--config", CONFIG, "--workdir", str(workdir), f"--config.data.path={shards}", *keys]


class Hosts:
    """Two hosts of one run, each a parent with its process, as a cluster's script starts them."""

    def __init__(self, folder, words):
        where = f"127.0.0.1:{free_port()}"
        common = {"DREAMJAX_COORDINATOR": where, "DREAMJAX_PROCESSES": "2", "DREAMJAX_HEARTBEAT_SECONDS": "10"}
        self.errors = [folder / f"host-{index}.err" for index in (0, 1)]
        self.parents = []
        for index, error in enumerate(self.errors):
            own = os.environ | common | {"DREAMJAX_PROCESS": str(index), "JAX_NUM_CPU_DEVICES": "1"}
            with error.open("w") as stream:
                launched = [sys.executable, "-m", "dreamjax", "launch", "host", "--grace", "20", "--", *words]
                self.parents.append(subprocess.Popen(launched, env=own, stderr=stream, stdout=stream))

    def child(self, index):
        (child,) = psutil.Process(self.parents[index].pid).children()
        return child.pid

    def reach(self, workdir, steps):
        while logged(workdir) < steps:
            time.sleep(0.05)
            assert all(parent.poll() is None for parent in self.parents), [e.read_text() for e in self.errors]

    def wait(self, index, within_s=60):
        return self.parents[index].wait(within_s)

    def said(self, index):
        lines = self.errors[index].read_text().splitlines()
        return [line.removeprefix("dreamjax: ") for line in lines if line.startswith("dreamjax: ")]

    def lose(self, index):
        """The whole host at once: the process and who watches it."""
        child = self.child(index)
        for pid in (self.parents[index].pid, child):
            os.kill(pid, signal.SIGKILL)


def logged(workdir):
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


@pytest.fixture
def hosts(tmp_path, shards):
    found = Hosts(tmp_path, command(shards, tmp_path / "run"))
    found.reach(tmp_path / "run", 5)
    yield found
    for parent in found.parents:
        if parent.poll() is None:
            for process in (*psutil.Process(parent.pid).children(recursive=True), parent):
                process.kill()


def test_sigterm_to_one_host_stops_both_at_the_same_saved_step(hosts, tmp_path):
    hosts.parents[1].send_signal(signal.SIGTERM)
    assert [hosts.wait(0), hosts.wait(1)] == [75, 75]
    step = checkpoints.newest_intact(tmp_path / "run" / "checkpoints")
    assert step == logged(tmp_path / "run")
    assert step % 20  # no step that was due
    for error in hosts.errors:
        assert f": step {step} " in error.read_text()
        assert f"stopped and saved at step {step}; the same command continues" in error.read_text()


@pytest.mark.long
def test_a_lost_host_is_named_by_the_others(hosts):
    hosts.lose(1)
    started = time.monotonic()
    assert hosts.wait(0) == 75
    assert time.monotonic() - started < 10 + 15  # the heartbeat's timeout, and the end
    assert len(hosts.said(0)) == 1
    assert re.fullmatch(
        rf"the process on \S+ was stopped because process 1 of the run is gone; {AGAIN}", hosts.said(0)[0]
    )


@pytest.mark.long
def test_a_lost_first_process_is_named_by_the_others(hosts):
    """It is the one that keeps the others' heartbeats."""
    hosts.lose(0)
    assert hosts.wait(1) == 75
    assert hosts.said(1)[-1].endswith(f"was stopped because process 0 of the run is gone; {AGAIN}")


@pytest.mark.long
def test_killed_process_is_reported_by_its_host(hosts):
    os.kill(hosts.child(1), signal.SIGKILL)
    assert [hosts.wait(0), hosts.wait(1)] == [75, 75]
    assert "was ended by SIGKILL" in hosts.said(1)[-1]
    assert "process 1 of the run is gone" in hosts.said(0)[-1]


@pytest.mark.long
def test_a_killed_process_is_started_again_with_the_others(tmp_path, shards):
    """`--restarts 1`: the run goes on by itself, and ends with the bytes of one that nothing happened to."""
    words = ["launch", "local", "--processes", "2", "--devices", "1"]
    for name in ("undisturbed", "killed"):
        launched = [
            sys.executable,
            "-m",
            "dreamjax",
            *words,
            "--restarts",
            "1",
            "--",
            *command(shards, tmp_path / name, steps=60),
        ]
        with (tmp_path / f"{name}.err").open("w") as stream:
            parent = subprocess.Popen(launched, stderr=stream, stdout=stream)
        if name == "killed":
            while logged(tmp_path / name) < 30:
                time.sleep(0.02)
                assert parent.poll() is None
            psutil.Process(parent.pid).children()[-1].kill()
        assert parent.wait(100) == 0, (tmp_path / f"{name}.err").read_text()
    said = (tmp_path / "killed.err").read_text()
    assert "was ended by SIGKILL" in said
    assert "started again (1 of 1)" in said
    assert "continued from step 20" in said
    a, b = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("undisturbed", "killed"))
    assert a == b


@pytest.mark.long
def test_control_c_of_the_launcher_saves(tmp_path, shards):
    """As a terminal has it: the launcher alone hears it, and tells its processes to save and leave."""
    words = ["launch", "local", "--processes", "2", "--devices", "1", "--", *command(shards, tmp_path / "run")]
    with (tmp_path / "err").open("w") as stream:
        parent = subprocess.Popen([sys.executable, "-m", "dreamjax", *words], stderr=stream, stdout=stream)
    while logged(tmp_path / "run") < 5:
        time.sleep(0.05)
        assert parent.poll() is None, (tmp_path / "err").read_text()
    parent.send_signal(signal.SIGINT)
    assert parent.wait(60) == 75
    assert checkpoints.newest_intact(tmp_path / "run" / "checkpoints") == logged(tmp_path / "run")


# ------------------------------------------------------------------------------------------- they never come together
def lone(shards, folder, **variables):
    own = {"DREAMJAX_PROCESSES": "2", "DREAMJAX_PROCESS": "1", "DREAMJAX_JOIN_SECONDS": "3"} | variables
    return dreamjax(*command(shards, folder / "run"), env=os.environ | own)


def test_reports_unreachable_coordinator(tmp_path, shards):
    where = f"127.0.0.1:{free_port()}"
    done = lone(shards, tmp_path, DREAMJAX_COORDINATOR=where)
    assert done.returncode == 75  # it may come yet
    assert f"no coordinator answers at {where} after 3 s (Connection refused)" in sentence_of(done.stderr)
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_coordinator_that_waits_in_vain_says_so(tmp_path, shards):
    """JAX ends it from C++; its parent, which the verb itself starts, makes one sentence of it."""
    where = f"127.0.0.1:{free_port()}"
    own = {"DREAMJAX_COORDINATOR": where, "DREAMJAX_PROCESSES": "2", "DREAMJAX_PROCESS": "0"}
    done = dreamjax(*command(shards, tmp_path / "run"), env=os.environ | own | {"DREAMJAX_JOIN_SECONDS": "3"})
    assert done.returncode == 75
    assert f"after 3 s not all processes of the run have joined at {where}" in sentence_of(done.stderr)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"DREAMJAX_COORDINATOR": "nowhere"}, "it must be HOST:PORT or auto"),
        ({"DREAMJAX_COORDINATOR": "localhost:70000"}, "it must be HOST:PORT or auto"),
        (
            {"DREAMJAX_COORDINATOR": "nowhere.invalid:1", "DREAMJAX_JOIN_SECONDS": "2"},
            "there is no host nowhere.invalid after 2 s",
        ),
        ({"DREAMJAX_COORDINATOR": "auto"}, "cannot join ($DREAMJAX_COORDINATOR is 'auto'"),
        ({"DREAMJAX_COORDINATOR": "a..b:1"}, "whose host is not a valid host name"),
        ({"DREAMJAX_COORDINATOR": "localhost:1", "DREAMJAX_PROCESS": "2"}, "it must lie from 0 to 1"),
        ({"DREAMJAX_COORDINATOR": "localhost:1", "DREAMJAX_HEARTBEAT_SECONDS": "0"}, "a whole number of at least 1"),
        ({"DREAMJAX_COORDINATOR": "localhost:1", "DREAMJAX_PROCESSES": "two"}, "it must be a whole number"),
        (
            {"DREAMJAX_COORDINATOR": "localhost:1", "DREAMJAX_PROCESS": "0", "DREAMJAX_LOCAL_DEVICES": "all"},
            "$DREAMJAX_LOCAL_DEVICES is 'all'",
        ),
    ],
)
def test_rejects_invalid_environment_variables(tmp_path, shards, variables, said):
    done = lone(shards, tmp_path, **variables)
    assert done.returncode == 2
    assert said in sentence_of(done.stderr)


def test_reports_a_coordinator_port_that_another_program_uses(monkeypatch):
    monkeypatch.setattr(processes, "TAKEN_S", 0.0)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = other.getsockname()
        with pytest.raises(TryAgain, match=f"port {address[1]} .* cannot be used by process 0"):
            processes._refuse_taken(address)
    processes._refuse_taken(address)


def test_rejects_mesh_that_does_not_match_the_processes(tmp_path, shards):
    words = [*command(shards, tmp_path / "run"), "--config.train.mesh.data=3"]
    done = dreamjax("launch", "local", "--processes", "2", "--devices", "1", "--", *words)
    assert done.returncode == 2
    assert "mesh data=3, fsdp=1, tensor=1 takes 3 devices, but there are 2" in sentence_of(done.stderr)
    assert not (tmp_path / "run").exists()
