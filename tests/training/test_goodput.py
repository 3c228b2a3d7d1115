"""Every second of a run is of one kind, over all its attempts."""

import json
import signal
import time

import pytest

from dreamjax.training import checkpoints, goodput
from dreamjax.training.checkpoints import CheckpointConfig
from dreamjax.training.goodput import Ledger, summary
from tests.training import children
from tests.training.tiny_tasks import FormulaStream, Regression


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(goodput.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(goodput.time, "time", lambda: 1e9 + self.now)


def test_every_second_is_of_one_kind(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    ledger = Ledger(tmp_path / "goodput.json")
    clock.now += 3
    ledger.becomes("compile")
    clock.now += 5
    ledger.becomes("step")
    clock.now += 7
    with ledger.on("input"):
        clock.now += 2
        with ledger.on("checkpoint"):
            clock.now += 11
    clock.now += 1
    found = summary(ledger.attempts())
    assert found["seconds"] == {"start": 3, "compile": 5, "input": 2, "step": 8, "checkpoint": 11}
    assert (found["wall"], found["goodput"]) == (29, round(8 / 29, 4))


def test_what_a_killed_attempt_had_not_saved_is_lost(tmp_path, monkeypatch):
    """10 steps of 4 s; the next attempt begins 30 s later, at step 7: 12 of the 40 s are lost."""
    clock, path = Clock(monkeypatch), tmp_path / "goodput.json"
    first = Ledger(path)
    first.becomes("step")
    for step in range(1, 11):
        clock.now += 4
        first.stepped(step)
    first.write()
    clock.now += 30
    second = Ledger(path)
    second.start_at(7)
    second.becomes("step")
    clock.now += 12
    second.stepped(10)
    found = summary(second.attempts())
    assert found["seconds"] == {"step": 28 + 12, "lost": 12, "restart": 30}
    assert (found["wall"], found["attempts"], found["goodput"]) == (82, 2, round(40 / 82, 4))
    assert (
        goodput.one_line(found)
        == "49% of 82.0 s in 2 attempts were steps; the rest, in seconds: lost 12.0, restart 30.0"
    )


def test_a_rollback_is_lost_work(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    ledger = Ledger(tmp_path / "goodput.json")
    ledger.becomes("step")
    clock.now += 20
    ledger.stepped(10)
    assert ledger.seconds_per_step == 2
    ledger.rolled_back(6, 4 * 2.0)
    assert summary(ledger.attempts())["seconds"] == {"step": 12, "lost": 8}


@pytest.mark.parametrize("text", ["", "{", '{"attempts": [7]}', '{"attempts": [{"seconds": {"sleep": 1}}]}'])
def test_a_damaged_file_starts_from_zero(tmp_path, text):
    (tmp_path / "goodput.json").write_text(text)
    assert goodput.read(tmp_path / "goodput.json") == []


@pytest.mark.long
def test_a_killed_run_reports_its_lost_time(tmp_path):
    settings = {"steps": 1000, "checkpoint": CheckpointConfig(every=50)}
    task = Regression(stream=FormulaStream(delay=0.002))
    started = time.monotonic()
    child = children.start(tmp_path, task, **settings)
    while child.is_alive() and not checkpoints.committed_steps(tmp_path / "checkpoints"):
        time.sleep(0.001)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    children.start(tmp_path, task, **settings).join()
    wall = time.monotonic() - started
    result = json.loads((tmp_path / "result_0.json").read_text())
    told = result["time"]
    assert told["attempts"] == 2
    assert set(told["seconds"]) >= {"start", "compile", "step", "input", "restart"}
    assert told["wall"] == pytest.approx(sum(told["seconds"].values()), abs=0.1)
    assert told["wall"] <= wall
    assert json.loads((tmp_path / "goodput.json").read_text())["attempts"][1]["from_step"] == result["resumed_from"] > 0
