"""Runs trained as one end where each of them ends alone."""

import dataclasses
from unittest import mock

import jax
import numpy as np
import pytest

from dreamjax import config as configs
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.parallel.tree_paths import named_leaves
from dreamjax.pods import collectives, hlo
from dreamjax.sweeps import batched_runs, vectorised
from dreamjax.systems import masked_presets, masked_pretraining
from dreamjax.systems.masked_pretraining import MaskedPretraining
from dreamjax.training import program
from dreamjax.training.feeding import Feeder
from tests.support import make_shards

STEPS = 20
RUNS = (
    {},
    {"seed": 7},
    {"optim.learning_rate": 3e-3, "optim.weight_decay": 0.5, "loss.target": "patch_normalised"},
    {"seed": 7, "optim.learning_rate": 3e-4, "optim.clip": 0.1, "optim.schedule": "constant"},
)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The configs of four runs."""
    shards = make_shards(tmp_path_factory.mktemp("shards"), subjects=6, windows=8, samples=256)
    out = []
    for changes in RUNS:
        config = masked_presets.preset("tiny")
        with config.unlocked():
            config.data.path, config.data.samples = (shards,), 256
            config.model.update({"dim": 32, "depth": 1, "heads": 2, "decoder_dim": 16, "decoder_heads": 2, "patch": 8})
            config.optim.ema_decay = 0.9
            config.train.update({"steps": STEPS, "batch_size": 8})
            config.update_from_flattened_dict(changes)
        out.append(configs.to_dataclass(masked_pretraining.MaskedPretrainingConfig, config))
    return out


AS_SHIPPED = {  # the suite compiles without optimisation, which rounds otherwise than what users run
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
    "xla_cpu_use_fusion_emitters": True,
    "xla_cpu_parallel_codegen_split_count": 32,
}


def trained(task, seed, batch, mesh, steps=STEPS):
    """The state after so many steps, and the last step's metrics, of programs compiled as users compile them."""
    with jax.set_mesh(mesh), mock.patch.object(program.compiler, "options", return_value=AS_SHIPPED):
        built = program.build(task, mesh)
        state = built.init(program.run_key(seed, b"init"))
        with Feeder(task.data("train"), mesh, 0) as feeder:
            for _ in range(steps):
                state, metrics = built.step(state, feeder.next())
        return jax.device_get((state, metrics))


def apart(one, other):
    """Distance of two trees of parameters over the norm of the other."""
    one, other = named_leaves(one), named_leaves(other)
    assert one.keys() == other.keys()
    return np.sqrt(sum(((one[n] - x) ** 2).sum() for n, x in other.items()) / sum((x**2).sum() for x in other.values()))


@pytest.fixture(scope="module")
def alone(found):
    mesh = meshes.make(MeshConfig(), jax.devices()[:1])
    return [trained(MaskedPretraining(config), config.seed, 8, mesh) for config in found]


@pytest.mark.long
@pytest.mark.parametrize("devices", [1, 2, 4])
def test_runs_end_where_they_end_alone(found, alone, devices):
    """Parameters and averages to 1e-5 of their norm, losses to 1e-5; also with different runs on each device."""
    task = vectorised.Vectorised(tuple(map(MaskedPretraining, found)), tuple(found))
    state, metrics = trained(task, 0, 32, meshes.make(MeshConfig(data=devices), jax.devices()[:devices]))
    for i, (solo, alone_metrics) in enumerate(alone):
        for part in ("params", "ema"):
            ours = jax.tree.map(lambda x: x[i], getattr(state, part))  # noqa: B023
            assert apart(ours, getattr(solo, part)) < 1e-5, (i, part)
        loss, weight = metrics[f"loss/{i}"]
        assert loss / weight == pytest.approx(alone_metrics["loss"][0] / alone_metrics["loss"][1], rel=1e-5)
    assert len({float(metrics[f"loss/{i}"][0]) for i in range(4)}) == 4


def test_seeds_and_rates_share_one_program(found):
    """What the compile cache is asked for is the same text for every run."""
    mesh = meshes.make(MeshConfig(), jax.devices()[:1])
    rows = {n: jax.ShapeDtypeStruct((8, *x.shape), x.dtype) for n, x in MaskedPretraining(found[0]).example().items()}
    texts = set()
    with jax.set_mesh(mesh):
        for config in (one for one in found if one.loss.target == "raw"):
            built = program.build(MaskedPretraining(config), mesh)
            texts.add(built.step.lower(built.shapes, rows).as_text())
    assert len(texts) == 1


def test_nothing_but_metrics_crosses_devices(found):
    """Each device has two runs: no collective is larger than the metrics' few numbers."""
    mesh = meshes.make(MeshConfig(data=2), jax.devices()[:2])
    task = vectorised.Vectorised(tuple(map(MaskedPretraining, found)), tuple(found))
    with jax.set_mesh(mesh):
        built = program.build(task, mesh)
        rows = {
            n: jax.ShapeDtypeStruct((32, *x.shape), x.dtype) for n, x in MaskedPretraining(found[0]).example().items()
        }
        text = built.step.lower(built.shapes, rows).compile().as_text()
    moved = collectives.find(hlo.read(text), dict(mesh.shape))
    assert not moved.unknown
    assert 0 < sum(one.payload * one.times for one in moved.collectives) < 4096


@pytest.mark.long
def test_run_that_is_not_finite_stops_alone(found):
    """Of another target too. Its steps are refused and counted; the others end where they would without it."""
    broken = dataclasses.replace(found[2], optim=dataclasses.replace(found[2].optim, learning_rate=1e30, clip=None))
    mesh = meshes.make(MeshConfig(), jax.devices()[:1])
    pair = [found[0], broken]
    task = vectorised.Vectorised(tuple(map(MaskedPretraining, pair)), tuple(pair))
    state, metrics = trained(task, 0, 16, mesh)
    solo, _ = trained(MaskedPretraining(found[0]), found[0].seed, 8, mesh)
    params, refused = task.take(state, 0)
    assert refused == 0
    assert apart(params, solo.ema) < 1e-5
    assert task.take(state, 1)[1] > 0
    assert metrics["loss/1"][1] == 0
    assert metrics["finite"][0] == 1


def test_rejects_runs_of_different_shapes(found):
    other = dataclasses.replace(found[0], mask=dataclasses.replace(found[0].mask, ratio=0.5))
    assert vectorised.alike(found[0]) != vectorised.alike(other)
    assert len({vectorised.alike(config) for config in found}) == 1
    with pytest.raises(ValueError, match="may differ in seeds and arguments of the step only"):
        vectorised.Vectorised(tuple(map(MaskedPretraining, (found[0], other))), (found[0], other))


@pytest.mark.parametrize(("platform", "expected"), [("gpu", "xla"), ("cpu", "auto")])
def test_on_gpus_runs_trained_as_one_do_without_fused_attention(platform, expected, monkeypatch):
    """JAX's batching of cuDNN's kernel takes no lengths of sequences."""
    monkeypatch.setattr(batched_runs.environment, "target_platform", lambda: platform)
    config = masked_presets.PRESETS["tiny"]
    assert config.model.attention == "auto"
    assert batched_runs._without_fused_attention(config).model.attention == expected
