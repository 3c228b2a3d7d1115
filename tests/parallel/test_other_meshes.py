"""A run moves between meshes and process counts: state bit-equal, next step ≤ 1e-6 relative, twenty steps ≤ 1e-4."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from dreamjax.parallel import mesh as meshes
from dreamjax.parallel import sharding
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.parallel.tree_paths import named_leaves
from dreamjax.training import checkpoints
from dreamjax.training.checkpoints import CheckpointConfig
from tests.support import abstract_of
from tests.training import children
from tests.training.test_loop import records, run, saved_arrays
from tests.training.tiny_tasks import FormulaStream, Regression

TASK = Regression(width=2048)  # kernels of 128 KiB and 32 KiB: one is sharded, one is not
SAVED, LAST = 10, 30
TWO_BY_TWO = MeshConfig(data=2, fsdp=2)
SETTINGS = {"log_every": 1, "checkpoint": CheckpointConfig(every=SAVED, keep_last=9)}


def assert_losses_agree(workdir, reference):
    ours, theirs = ({r["step"]: r["loss"] for r in records(folder)} for folder in (workdir, reference))
    assert ours.keys() == theirs.keys()
    relative = {step: abs(ours[step] / theirs[step] - 1) for step in range(SAVED + 1, LAST + 1)}
    assert relative[SAVED + 1] <= 1e-6
    assert max(relative.values()) <= 1e-4


@pytest.fixture(scope="module")
def on_eight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eight")
    run(TASK, folder, devices=8, steps=LAST, mesh=MeshConfig(data=2, fsdp=4), **SETTINGS)
    return folder


def upto_saved(source, target):
    """The run as it was when step 10 had been saved."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("00000020", "00000030"))


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_saved_on_eight_devices_continued_on_fewer(on_eight, tmp_path, devices):
    mesh = meshes.make(MeshConfig(data=1, fsdp=-1), jax.devices()[:devices])
    shapes = checkpoints.to_dict(jax.eval_shape(TASK.init, jax.random.key(0)))
    abstract = abstract_of(shapes, sharding.shardings(shapes, mesh))
    restored = named_leaves(checkpoints.restore(on_eight / "checkpoints", SAVED, abstract))
    assert restored["params/fc1/kernel"].sharding.num_devices == devices
    assert restored["params/fc1/kernel"].addressable_shards[0].data.shape == (16, 2048 // devices)
    for name, expected in saved_arrays(on_eight, TASK, SAVED).items():
        np.testing.assert_array_equal(restored[name], expected, err_msg=name)
    upto_saved(on_eight, tmp_path / "run")
    result = run(TASK, tmp_path / "run", devices=devices, steps=LAST, mesh=MeshConfig(data=1, fsdp=-1), **SETTINGS)
    assert result["resumed_from"] == SAVED
    assert_losses_agree(tmp_path / "run", on_eight)


def as_processes(workdir, steps, *, count=2, devices=2, task=TASK, mesh=TWO_BY_TWO, **changes):
    """`count` processes × `devices`, gloo between them."""
    where = f"127.0.0.1:{children.free_port()}"
    settings = SETTINGS | {"steps": steps, "mesh": mesh} | changes
    group = [
        children.start(workdir, task, devices=devices, join=(where, count, index), **settings) for index in range(count)
    ]
    for child in group:
        child.join()
    note = workdir / "error.txt"
    assert [child.exitcode for child in group] == [0] * count, note.read_text() if note.exists() else ""


def test_two_processes_of_two_devices_continue_one_of_four(tmp_path):
    """Restored by 2 × 2 and saved again at the same step: bit-equal. Then twenty steps, against 1 × 4."""
    children.start(tmp_path / "one", TASK, devices=4, steps=LAST, mesh=MeshConfig(data=2, fsdp=2), **SETTINGS).join()
    upto_saved(tmp_path / "one", tmp_path / "two")
    as_processes(tmp_path / "two", SAVED)
    before, after = (saved_arrays(tmp_path / name, TASK, SAVED) for name in ("one", "two"))
    assert checkpoints.read_json(tmp_path / "two" / "checkpoints", SAVED, "run")["finished"]
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    as_processes(tmp_path / "two", LAST)
    assert_losses_agree(tmp_path / "two", tmp_path / "one")


def test_rows_of_a_process_need_not_be_neighbours(on_eight, tmp_path):
    """As on a torus, where a host's chips lie in several groups of the mesh: rows 0, 2 and 1, 3 of four devices."""
    task = dataclasses.replace(TASK, stream=FormulaStream(notes=str(tmp_path)))
    as_processes(tmp_path / "run", LAST, task=task, order=(0, 2, 1, 3))
    assert_losses_agree(tmp_path / "run", on_eight)
    read = [
        [json.loads(line) for line in (tmp_path / f"read_{process}.jsonl").read_text().splitlines()]
        for process in range(2)
    ]
    for step in range(LAST):
        parts = [own[step] for own in read]
        assert [len(part) for part in parts] == [8] * 2
        assert [index for part in parts for index in part] == list(range(16 * step, 16 * (step + 1)))


# ------------------------------------------------------------------------------------------------------ four processes
@pytest.fixture(scope="module")
def by_four(tmp_path_factory):
    """4 processes × 2 devices, saving every second step while they go on; each notes the examples that it read."""
    folder = tmp_path_factory.mktemp("four")
    task = dataclasses.replace(TASK, stream=FormulaStream(notes=str(folder)))
    saving = CheckpointConfig(every=2, keep_last=9)
    mesh = MeshConfig(data=2, fsdp=4)
    as_processes(folder / "run", SAVED, count=4, task=task, mesh=mesh, checkpoint=saving)
    return folder


def test_four_processes_read_every_example_once(by_four):
    """Each its quarter of every batch, in the order of the whole."""
    read = [
        [json.loads(line) for line in (by_four / f"read_{process}.jsonl").read_text().splitlines()]
        for process in range(4)
    ]
    for step in range(SAVED):
        parts = [own[step] for own in read]
        assert [len(part) for part in parts] == [4] * 4
        assert [index for part in parts for index in part] == list(range(16 * step, 16 * (step + 1)))


def test_four_processes_save_while_they_go_on(by_four):
    """Every saved step is whole, and what it holds is that of its step: the same as of one process with 8 devices."""
    folder = by_four / "run" / "checkpoints"
    assert checkpoints.committed_steps(folder) == [2, 4, 6, 8, 10]
    assert not any(checkpoints.problems(folder, step) for step in (2, 4, 6, 8, 10))
    one = {"checkpoint": CheckpointConfig(every=2, keep_last=9), "mesh": MeshConfig(data=2, fsdp=4), "log_every": 1}
    run(TASK, by_four / "one", devices=8, steps=SAVED, **one)
    for step in (2, 10):
        ours, theirs = (saved_arrays(by_four / name, TASK, step) for name in ("run", "one"))
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-5, atol=1e-7, err_msg=f"{step} {name}")


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_saved_by_four_processes_restored_by_one(by_four, devices):
    mesh = meshes.make(MeshConfig(data=1, fsdp=-1), jax.devices()[:devices])
    shapes = checkpoints.to_dict(jax.eval_shape(TASK.init, jax.random.key(0)))
    abstract = abstract_of(shapes, sharding.shardings(shapes, mesh))
    restored = named_leaves(checkpoints.restore(by_four / "run" / "checkpoints", SAVED, abstract))
    assert restored["params/fc1/kernel"].sharding.num_devices == devices
    for name, expected in saved_arrays(by_four / "run", TASK, SAVED).items():
        np.testing.assert_array_equal(restored[name], expected, err_msg=name)


@pytest.mark.parametrize("count", [2, pytest.param(8, marks=pytest.mark.long)])
def test_saved_by_four_processes_continued_by_others(by_four, tmp_path, count):
    """Losses of the next twenty steps, against one process that continues."""
    keep = shutil.ignore_patterns("error.txt", "result_*", "said_*")
    for name in ("others", "one"):
        shutil.copytree(by_four / "run", tmp_path / name, ignore=keep)
    task = dataclasses.replace(TASK, stream=FormulaStream(notes=str(by_four)))
    as_processes(tmp_path / "others", LAST, count=count, devices=1, task=task, mesh=MeshConfig(data=1, fsdp=-1))
    children.start(tmp_path / "one", task, steps=LAST, **SETTINGS).join()
    assert_losses_agree(tmp_path / "others", tmp_path / "one")


def test_tensor_stays_within_a_process(tmp_path):
    where = f"127.0.0.1:{children.free_port()}"
    settings = {"mesh": MeshConfig(data=1, tensor=2), "steps": 2}
    pair = [children.start(tmp_path, TASK, join=(where, 2, index), **settings) for index in (0, 1)]
    for child in pair:
        child.join()
    assert [child.exitcode for child in pair] == [2, 2]
    assert "train.mesh.tensor is 2, but a process has 1 devices" in (tmp_path / "error.txt").read_text()


def test_processes_share_what_was_compiled(tmp_path):
    """The first one of a pair writes what it compiled, and reads it the next time; CPU's others, see compile_cache."""
    for name in ("first", "second"):
        as_processes(tmp_path / name, 4, compile_cache=str(tmp_path / "compiled"))
    found = [json.loads((tmp_path / name / "result_0.json").read_text())["compiled"] for name in ("first", "second")]
    assert [one["from_cache"] for one in found] == [0, found[0]["programs"]]
    assert found[1]["programs"] == found[0]["programs"] > 0
