"""The disk of one of two hosts is full: no step is saved, both train on and say who could not write, nobody waits."""

import json

import pytest

from dreamjax.parallel.mesh import MeshConfig
from dreamjax.training.checkpoints import CheckpointConfig, committed_steps
from tests.training import children
from tests.training.test_loop import records
from tests.training.tiny_tasks import Regression


@pytest.mark.parametrize("full", [0, 1])
def test_all_processes_report_a_full_disk_of_one_host(tmp_path, full):
    where = f"127.0.0.1:{children.free_port()}"
    settings = {"steps": 12, "mesh": MeshConfig(data=1, fsdp=4), "checkpoint": CheckpointConfig(every=4)}
    limits = [{"file_limit": 8 << 10} if index == full else {} for index in (0, 1)]
    task = Regression(width=2048)
    pair = [
        children.start(tmp_path, task, devices=2, join=(where, 2, index), **settings, **limits[index])
        for index in (0, 1)
    ]
    for child in pair:
        child.join(120)
    assert [child.exitcode for child in pair] == [2, 2]  # what the run ends with could not be saved
    for index in (0, 1):
        said = [json.loads(line) for line in (tmp_path / f"said_{index}.jsonl").read_text().splitlines()]
        who = "" if index == full else f"process {full}: "
        assert [line.partition("/checkpoints/")[2] for line in said if "could not be saved" in line] == [
            f"{step:08d}: could not be saved ({who}File too large); no step was saved before; training goes on"
            for step in (4, 8)
        ]
    assert max(line["step"] for line in records(tmp_path)) == 12
    assert committed_steps(tmp_path / "checkpoints") == []
    assert not [entry for entry in (tmp_path / "checkpoints").iterdir() if any(entry.rglob("*"))]
