"""Held-out metrics and the image in a run of two processes: each reads its half, both get what one would."""

import json
import os

import jax
import pytest

from dreamjax.parallel import environment, processes
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.systems.masked_pretraining import MaskedModelConfig, MaskedPretraining, MaskedPretrainingConfig
from dreamjax.training import program, step_metrics
from dreamjax.training.train_config import TrainConfig
from tests.support import make_shards
from tests.training import children

SIZES = {"dim": 32, "depth": 1, "heads": 2, "decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2, "patch": 32}


class Counted:
    """A stream that remembers how many rows it was asked for."""

    def __init__(self, stream):
        self.stream, self.rows = stream, 0

    def batches(self, **asked):
        for batch in self.stream.batches(**asked):
            self.rows += len(batch["weight"])
            yield batch


def evaluated(shards, mesh_config):
    """(held-out metrics, rows that this process read, whether an image was made here)."""
    config = MaskedPretrainingConfig(
        data=DataConfig(path=(shards,), samples=128),
        model=MaskedModelConfig(**SIZES),  # the patches' kernel has 76 KiB: it is split over fsdp
        train=TrainConfig(batch_size=8),
    )
    task, mesh = MaskedPretraining(config), meshes.make(mesh_config, jax.devices()[: mesh_config.fsdp])
    with jax.set_mesh(mesh):
        state = program.build(task, mesh).init(jax.random.key(0))
        source = Counted(task.data("val").stream)
        found = step_metrics.means(step_metrics.read(task.evaluate(state, source)))
        batch = next(iter(source.stream.batches(start=0, batch_size=4)))
        return found, source.rows, task.preview(state, batch) is not None


def child(out, shards, where, index):
    names = (environment.COORDINATOR, environment.COUNT, environment.INDEX)
    os.environ.update(zip(names, map(str, (where, 2, index)), strict=True))
    jax.config.update("jax_num_cpu_devices", 1)
    jax.config.update("jax_disable_most_optimizations", True)
    os.environ[environment.HEARTBEAT] = "10"
    processes.initialize()
    (out / f"{index}.json").write_text(json.dumps(evaluated(shards, MeshConfig(data=1, fsdp=2))))


@pytest.mark.long
def test_each_process_evaluates_its_share_and_the_first_draws(tmp_path):
    shards = make_shards(tmp_path / "shards", subjects=9, windows=8, samples=128)
    where = f"127.0.0.1:{children.free_port()}"
    pair = [children.CONTEXT.Process(target=child, args=(tmp_path, shards, where, index)) for index in (0, 1)]
    for process in pair:
        process.start()
    alone, rows, drawn = evaluated(shards, MeshConfig(data=1, fsdp=1))
    assert (rows, drawn) == (16, True)
    for process in pair:
        process.join()
    assert [process.exitcode for process in pair] == [0, 0]
    for index in (0, 1):
        found, rows, drawn = json.loads((tmp_path / f"{index}.json").read_text())
        assert found == pytest.approx(alone, rel=1e-6, abs=1e-6)
        assert (rows, drawn) == (8, index == 0)
