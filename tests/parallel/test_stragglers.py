"""Stragglers: the process that the others wait for is reported."""

import json

from dreamjax.parallel import stragglers
from tests.training import children
from tests.training.tiny_tasks import FormulaStream, Regression


def paces(*busy):
    return {index: {"step": 40, "busy": value, "seconds": 0.5} for index, value in enumerate(busy)}


def test_reports_the_process_with_the_busiest_host():
    sentences = stragglers.slow(paces(0.02, 0.03, 0.02, 0.4))
    assert list(sentences) == [3]
    expected = "process 3 slows the others down: its host is busy for 0.4 s per step, theirs for 0.02 (at step 40;"
    assert sentences[3].startswith(expected)


def test_ignores_small_differences_and_single_processes():
    assert stragglers.slow(paces(0.02, 0.03, 0.02, 0.06)) == {}  # three times as long, of a step of 500 ms
    assert stragglers.slow(paces(0.3, 0.4, 0.35)) == {}
    assert stragglers.slow(paces(0.4)) == {}


def test_reports_a_slow_reader_among_two_processes_once(tmp_path):
    """Process 1 reads for 50 ms a step; process 0 says so, once, though it takes part in the same steps."""
    task = Regression(stream=FormulaStream(delay=0.05, slow=1))
    where = f"127.0.0.1:{children.free_port()}"
    pair = [
        children.start(tmp_path, task, join=(where, 2, index), steps=60, log_every=5, note=tmp_path) for index in (0, 1)
    ]
    for child in pair:
        child.join(120)
    assert [child.exitcode for child in pair] == [0, 0]
    lines = [json.loads(line) for line in (tmp_path / "said_0.jsonl").read_text().splitlines()]
    named = [line for line in lines if "slows the others down" in line]
    assert len(named) == 1
    assert named[0].startswith("process 1 slows the others down: its host is busy for 0.0")
