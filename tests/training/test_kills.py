"""A run that is killed anywhere and started again is the same run: logs and parameters, bit for bit."""

import json
import random
import signal
import time

import numpy as np
import pytest

from dreamjax.errors import TryAgain
from dreamjax.training import checkpoints, preemption
from dreamjax.training.checkpoints import CheckpointConfig
from dreamjax.training.guard import Guard
from tests.training import children
from tests.training.test_loop import run, saved_arrays
from tests.training.tiny_tasks import Regression

STEPS = 60
SETTINGS = {"steps": STEPS, "eval_every": 15, "log_every": 2, "checkpoint": CheckpointConfig(every=7, keep_every=20)}


def logged_step(workdir):
    """The last one whose line is whole: another process may be writing the next."""
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()
    return json.loads(lines[-1])["step"] if lines else 0


def kill_at(workdir, step, delay):
    child = children.start(workdir, **SETTINGS)
    while child.is_alive() and logged_step(workdir) < step:
        time.sleep(0.001)
    time.sleep(delay)
    child.kill()
    child.join()
    return child.exitcode


def run_to_the_end(workdir):
    child = children.start(workdir, **SETTINGS)
    child.join()
    assert child.exitcode == 0, (workdir / "error.txt").read_text()


def assert_same_run(killed, undisturbed):
    assert (killed / "metrics.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()
    a, b = (saved_arrays(folder, Regression(), STEPS) for folder in (killed, undisturbed))
    assert a.keys() == b.keys()
    for name in a:
        assert np.array_equal(a[name], b[name], equal_nan=True), name
    assert not list(killed.glob("**/*.part"))


@pytest.mark.parametrize("kills", [3, pytest.param(12, marks=pytest.mark.long)])
def test_a_run_killed_anywhere_logs_the_same_losses(tmp_path, kills):
    """SIGKILL at random steps of one run, while steps, saves or evaluations are under way."""
    rng = random.Random(time.time_ns())
    steps = sorted(rng.sample(range(1, STEPS - 4), kills))
    run_to_the_end(tmp_path / "undisturbed")
    killed = [kill_at(tmp_path / "killed", step, rng.uniform(0, 0.1)) for step in steps]
    assert killed.count(-signal.SIGKILL) >= kills - 1, (steps, killed)  # the last one may come too late
    run_to_the_end(tmp_path / "killed")
    assert_same_run(tmp_path / "killed", tmp_path / "undisturbed")


def test_sigterm_saves_and_exits_with_75(tmp_path):
    settings = SETTINGS | {"steps": 100_000, "checkpoint": CheckpointConfig(every=50_000)}
    child = children.start(tmp_path, **settings)
    while child.is_alive() and logged_step(tmp_path) < 5:
        time.sleep(0.01)
    child.terminate()
    child.join(60)
    assert child.exitcode == 75
    step = json.loads((tmp_path / "result_0.json").read_text())["step"]
    assert checkpoints.newest_intact(tmp_path / "checkpoints") == step >= 5


def interrupted_at(monkeypatch, *steps):
    """Let Control-C come when a step's metrics are read, which is one step later."""
    passes = Guard.passes

    def judged(guard, step, sums):
        if step in steps:
            signal.raise_signal(signal.SIGINT)
        return passes(guard, step, sums)

    monkeypatch.setattr(Guard, "passes", judged)


@pytest.mark.usefixtures("python_handles_control_c")
def test_control_c_saves_and_the_same_command_continues(tmp_path, monkeypatch, capfd):
    settings = SETTINGS | {"checkpoint": CheckpointConfig(every=50_000)}
    run(Regression(), tmp_path / "undisturbed", **settings)
    with monkeypatch.context() as patched:
        interrupted_at(patched, 20)
        result = run(Regression(), tmp_path / "stopped", **settings)
    assert (result["preempted"], result["exit_code"], result["step"]) == (True, 75, 21)
    assert "Control-C: saving at the end of this step; press it again to end" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert run(Regression(), tmp_path / "stopped", **settings)["resumed_from"] == 21
    assert_same_run(tmp_path / "stopped", tmp_path / "undisturbed")


@pytest.mark.usefixtures("python_handles_control_c")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_first_step_ends_with_75_and_leaves_nothing(tmp_path, monkeypatch, signum):
    monkeypatch.setattr(Regression, "data", lambda task, split: signal.raise_signal(signum))
    with pytest.raises(TryAgain, match="stopped while training was being prepared; start the same command again"):
        run(Regression(), tmp_path / "runs" / "one", **SETTINGS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("python_handles_control_c")
def test_a_second_control_c_ends_at_once_and_says_how_to_continue(tmp_path, monkeypatch):
    interrupted_at(monkeypatch, 20)
    monkeypatch.setattr(preemption.Watch, "requested", lambda watch: watch._interrupted and signal.raise_signal(2))
    with pytest.raises(KeyboardInterrupt, match="start the same command again"):
        run(Regression(), tmp_path, **SETTINGS)
