"""A process that is alive but makes no progress ends the run, and is named."""

import json
import threading
import time

import pytest

from dreamjax.parallel import hangs
from dreamjax.training import checkpoints
from dreamjax.training.guard import GuardConfig
from tests.training import children
from tests.training.tiny_tasks import FormulaStream, Regression


def late(*steps, **phases):
    return {i: {"step": step, "phase": phases.get(f"p{i}", "step")} for i, step in enumerate(steps) if step is not None}


@pytest.mark.parametrize(
    ("published", "sentence"),
    [
        (late(8, 7, 8), "step 8 has hung in process 1 of 3"),
        (late(8, 7, 7), "step 8 has hung in processes 1, 2 of 3"),
        (late(7, 7, 7, p2="input"), "step 8 has hung in process 2 of 3 (reading data)"),
        (late(8, None, 8), "no answer from process 1 of 3"),
        (late(8, 8, 8), "step 9 has hung on the devices of the 3 processes"),
    ],
)
def test_names_the_process_that_is_behind(published, sentence):
    assert hangs._behind(published, 3, 8) == sentence


def test_a_single_process_that_hangs_ends(monkeypatch, caplog):
    ended = threading.Event()
    monkeypatch.setattr(hangs, "TAKEN_S", 0.1)
    monkeypatch.setattr(hangs.os, "_exit", lambda code: ended.set())
    with hangs.HangWatch(3.0, 0.1) as watch:
        for step in range(1, 10):
            watch.stepped(step)
        with watch.paused():
            assert not ended.wait(0.3)  # an evaluation
        with watch.within("input"):
            assert ended.wait(10)
    assert "step 10 has been running for" in caplog.text
    assert "hangs where it reads its data; start the same command again" in caplog.text


def test_a_run_that_hangs_in_its_input_saves_the_last_step(tmp_path):
    """The data iterator blocks at step 20; the same command, with data, continues from there."""
    task = Regression(stream=FormulaStream(hang=20 * 16))
    settings = {"steps": 30, "guard": GuardConfig(hang=3.0, hang_seconds=1.0)}
    child = children.start(tmp_path, task, **settings)
    child.join(60)
    assert child.exitcode == 75
    message = json.loads((tmp_path / "said_0.jsonl").read_text().splitlines()[-1])
    assert "step 21 has been running for" in message
    assert "hangs where it reads its data; step 20 is saved; start the same command again" in message
    assert checkpoints.newest_intact(tmp_path / "checkpoints") == 20


def test_a_signal_that_comes_while_the_input_blocks_saves_the_last_step(tmp_path):
    child = children.start(tmp_path, Regression(stream=FormulaStream(hang=8 * 16)), steps=30)
    deadline = time.monotonic() + 60
    while not (tmp_path / "metrics.jsonl").exists() or '"step": 7' not in (tmp_path / "metrics.jsonl").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.terminate()
    child.join(60)
    assert child.exitcode == 75
    assert checkpoints.newest_intact(tmp_path / "checkpoints") == 8


@pytest.mark.parametrize("factor", [0.0, 100.0])
def test_a_slow_step_is_not_a_hang(monkeypatch, factor):
    ended = threading.Event()
    monkeypatch.setattr(hangs.os, "_exit", lambda code: ended.set())
    with hangs.HangWatch(factor, 0.1 if not factor else 30.0) as watch:
        for step in range(1, 10):
            watch.stepped(step)
        assert not ended.wait(0.3)


def test_the_process_that_hangs_is_named_to_all(tmp_path):
    """Process 1 of two stops reading at step 20. Its heartbeats go on, so only the pace shows it."""
    task = Regression(stream=FormulaStream(delay=0.01, slow=1, hang=20 * 16))
    where = f"127.0.0.1:{children.free_port()}"
    settings = {"steps": 60, "log_every": 5, "note": tmp_path, "guard": GuardConfig(hang=3.0, hang_seconds=2.0)}
    pair = [children.start(tmp_path, task, join=(where, 2, index), **settings) for index in (0, 1)]
    for child in pair:
        child.join(60)
    assert [child.exitcode for child in pair] == [75, 75]
    for index in (0, 1):
        lines = [json.loads(line) for line in (tmp_path / f"said_{index}.jsonl").read_text().splitlines()]
        assert "step 21 has hung in process 1 of 2 (reading data) for" in lines[-1]
