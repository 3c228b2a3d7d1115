"""Hundreds of steps with processes killed and told to stop at random: the run is the one that nothing happened to."""

import dataclasses
import json
import random
import shutil
import time

import numpy as np
import pytest

from dreamjax.parallel.mesh import MeshConfig
from dreamjax.training import checkpoints
from dreamjax.training.checkpoints import CheckpointConfig
from tests.parallel.test_other_meshes import TASK
from tests.training import children
from tests.training.test_kills import logged_step
from tests.training.test_loop import records, saved_arrays
from tests.training.tiny_tasks import FormulaStream

STEPS = 400
SETTINGS = {"steps": STEPS, "log_every": 1, "checkpoint": CheckpointConfig(every=17, keep_last=2)}
# processes, devices of each, mesh
PAIR = (2, 2, MeshConfig(data=2, fsdp=2))
SHAPES = [PAIR, (1, 8, MeshConfig(data=2, fsdp=4)), (4, 1, MeshConfig(data=1, fsdp=4)), (1, 1, MeshConfig())]


def attempt(workdir, shape, task=TASK, **changes):
    count, devices, mesh = shape
    join = f"127.0.0.1:{children.free_port()}"
    return [
        children.start(
            workdir,
            task,
            devices=devices,
            join=(join, count, index) if count > 1 else None,
            mesh=mesh,
            **(SETTINGS | changes),
        )
        for index in range(count)
    ]


def join(group):
    for child in group:
        child.join(120)
    return [child.exitcode for child in group]


def disturb(group, workdir, until, rng):
    """Let the run come to step `until`, then kill one process or tell one to stop; "" where it ended before that."""
    while logged_step(workdir) < until and all(child.is_alive() for child in group):
        time.sleep(0.002)
    victim = rng.choice(group)
    if not victim.is_alive():
        return ""
    if rng.random() < 0.5:
        victim.terminate()
        codes = join(group)
        if codes == [0] * len(group) and logged_step(workdir) >= STEPS:  # told after its last step
            return ""
        assert codes == [75] * len(group), [(workdir / "error.txt").exists()]
        return "told"
    victim.kill()
    time.sleep(rng.uniform(0, 0.3))
    for child in group:  # as its parent does
        child.kill()
    join(group)
    return "killed"


@pytest.mark.long
def test_two_processes_disturbed_at_random_end_bit_equal(tmp_path):
    rng = random.Random(seed := time.time_ns())
    assert join(attempt(tmp_path / "quiet", PAIR)) == [0, 0]
    faults = []
    while logged_step(tmp_path / "disturbed") < STEPS:
        until = logged_step(tmp_path / "disturbed") + rng.randrange(1, 70)
        faults.append(disturb(attempt(tmp_path / "disturbed", PAIR), tmp_path / "disturbed", until, rng))
        assert len(faults) < 60, (seed, faults)
    assert join(attempt(tmp_path / "disturbed", PAIR)) == [0, 0]
    assert len([fault for fault in faults if fault]) >= 5, (seed, faults)
    quiet, disturbed = tmp_path / "quiet", tmp_path / "disturbed"
    assert (quiet / "metrics.jsonl").read_bytes() == (disturbed / "metrics.jsonl").read_bytes(), (seed, faults)
    a, b = (saved_arrays(folder, TASK, STEPS) for folder in (quiet, disturbed))
    assert all(np.array_equal(a[name], b[name]) for name in a), (seed, faults)
    told = json.loads((disturbed / "goodput.json").read_text())["attempts"]
    assert len(told) >= len(faults)


@pytest.mark.long
def test_disturbed_and_resharded_the_data_stays_in_order(tmp_path):
    """After each fault the run goes on with other processes, devices and mesh: each next step's loss is that which one
    device computes from the same saved step, to 1e-6, and every step has read the examples of its place in the run."""
    rng, workdir = random.Random(seed := time.time_ns()), tmp_path / "run"
    faults, compared, turn = [], 0, 0
    while logged_step(workdir) < STEPS:
        notes = tmp_path / f"notes-{turn}"
        notes.mkdir()
        task = dataclasses.replace(TASK, stream=Quiet(notes=str(notes)))
        saved = checkpoints.newest_intact(workdir / "checkpoints") if turn else None
        if saved is not None:
            reference = tmp_path / f"reference-{turn}"
            shutil.copytree(workdir, reference, ignore=shutil.ignore_patterns("said_*", "result_*"))
            alone = attempt(reference, SHAPES[-1], task=dataclasses.replace(TASK, stream=Quiet()), steps=saved + 1)
            assert join(alone) == [0]
            expected = records(reference)[-1]
            assert expected["step"] == saved + 1
        shape = SHAPES[turn % len(SHAPES)]
        until = logged_step(workdir) + rng.randrange(20, 90)
        faults.append(disturb(attempt(workdir, shape, task=task), workdir, until, rng))
        lines = {record["step"]: record for record in records(workdir)}
        if saved is not None and saved + 1 in lines:
            assert abs(lines[saved + 1]["loss"] / expected["loss"] - 1) <= 1e-6, (seed, turn, shape)
            compared += 1
        read = [
            [json.loads(line) for line in (notes / f"read_{process}.jsonl").read_text().splitlines()]
            for process in range(shape[0])
        ]
        for k, parts in enumerate(zip(*read, strict=False)):
            first = 16 * ((saved or 0) + k)
            assert [index for part in parts for index in part] == list(range(first, first + 16)), (seed, turn, k)
        turn += 1
        assert turn < 60, (seed, faults)
    assert compared >= 4, (seed, faults)


class Quiet(FormulaStream):
    """A stream whose notes do not count as another config."""

    def __repr__(self):
        return "Quiet()"
