"""A run moves between meshes and process counts: state bit-equal, next step ≤ 1e-6 relative, twenty steps ≤ 1e-4."""

import shutil

import jax
import numpy as np
import pytest

from dreamjax.parallel import mesh as meshes
from dreamjax.parallel import sharding
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.parallel.names import named_leaves
from dreamjax.training import checkpoints
from dreamjax.training.checkpoints import CheckpointConfig
from tests.support import abstract_of
from tests.training import children
from tests.training.test_loop import records, run, saved_arrays
from tests.training.tiny_tasks import Regression

TASK = Regression(width=2048)  # kernels of 128 KiB and 32 KiB: one is sharded, one is not
SAVED, LAST = 10, 30
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


def as_two_processes(workdir, steps):
    """2 processes × 2 devices, gloo between them."""
    where = f"127.0.0.1:{children.free_port()}"
    settings = SETTINGS | {"steps": steps, "mesh": MeshConfig(data=2, fsdp=2)}
    pair = [children.start(workdir, TASK, devices=2, join=(where, 2, index), **settings) for index in (0, 1)]
    for child in pair:
        child.join()
    note = workdir / "error.txt"
    assert [child.exitcode for child in pair] == [0, 0], note.read_text() if note.exists() else ""


def test_two_processes_of_two_devices_continue_one_of_four(tmp_path):
    """Restored by 2 × 2 and saved again at the same step: bit-equal. Then twenty steps, against 1 × 4."""
    children.start(tmp_path / "one", TASK, devices=4, steps=LAST, mesh=MeshConfig(data=2, fsdp=2), **SETTINGS).join()
    upto_saved(tmp_path / "one", tmp_path / "two")
    as_two_processes(tmp_path / "two", SAVED)
    before, after = (saved_arrays(tmp_path / name, TASK, SAVED) for name in ("one", "two"))
    assert checkpoints.read_json(tmp_path / "two" / "checkpoints", SAVED, "run")["finished"]
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    as_two_processes(tmp_path / "two", LAST)
    assert_losses_agree(tmp_path / "two", tmp_path / "one")
