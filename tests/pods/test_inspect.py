"""`dreamjax inspect`: published parameter counts, operations against XLA's count, memory against real arrays."""

import dataclasses
import json
import time

import jax
import jax.numpy as jnp
import pytest

from dreamjax import config as configs
from dreamjax.cli.main import main
from dreamjax.errors import UserError
from dreamjax.models import flops
from dreamjax.pods.inspect import inspect, local_bytes
from dreamjax.systems import registry
from dreamjax.systems.masked_presets import PRESETS
from dreamjax.systems.masked_pretraining import (
    MaskedModelConfig,
    MaskedPretraining,
    MaskedPretrainingConfig,
    init_params,
    masked_loss,
)
from tests.golden import REPOSITORY


@pytest.mark.parametrize(
    ("name", "encoder", "whole"),
    [("dreamdiffusion_code", 151.90e6, 165.38e6), ("dreamdiffusion_paper", 302.97e6, 329.04e6)],
)
def test_presets_have_the_published_number_of_parameters(name, encoder, whole):
    """Closed form: 24 blocks of (4 + 2 r) D² + (9 + r) D + … at D = 1024, and the decoder's 8 at 512."""

    def blocks(depth, d, r):
        return depth * ((3 * d * d + 3 * d) + (d * d + d) + (2 * r * d * d + r * d + d) + 4 * d)

    r, rows = int(PRESETS[name].model.mlp_ratio), 129
    patches = 128 * 4 * 1024 + 1024
    exact_encoder = patches + 1024 + rows * 1024 + blocks(24, 1024, r) + 2 * 1024
    decoder = (1024 * 512 + 512) + 512 + rows * 512 + blocks(8, 512, r) + 2 * 512 + (512 * 512 + 512)
    found = inspect(PRESETS[name]).parameters
    assert found["encoder"] == exact_encoder == pytest.approx(encoder, abs=5e3)
    assert found["whole"] == exact_encoder + decoder == pytest.approx(whole, abs=5e3)


def test_operations_agree_with_xla_on_an_unscanned_model():
    """XLA's count adds the elementwise work; matrix products are the rest: within 5 % at a width of 512."""
    model = MaskedModelConfig(
        channels=64, dim=512, depth=2, heads=2, decoder_dim=512, decoder_depth=1, decoder_heads=2, scan_layers=False
    )
    config = MaskedPretrainingConfig(
        model=model, mask=dataclasses.replace(MaskedPretrainingConfig().mask, ratio=0.5, padding=False)
    )
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    example = MaskedPretraining(config).example()
    batch = {name: jax.ShapeDtypeStruct((4, *x.shape), x.dtype) for name, x in example.items()}
    forward = jax.jit(lambda p, b: masked_loss(config, p, b, 0)[0])
    counted = forward.lower(params, batch).cost_analysis()["flops"] / 4
    assert config.flops()["forward"] == pytest.approx(counted, rel=0.05)
    training = jax.jit(jax.grad(lambda p, b: masked_loss(config, p, b, 0)[0]))
    counted = training.lower(params, batch).cost_analysis()["flops"] / 4
    assert config.flops()["train"] == pytest.approx(counted, rel=0.05)


def test_one_block_by_hand():
    """T = 2, D = 4, hidden 8: qkv 2·2·4·12, proj 2·2·4·4, mlp 2·2·(2·4·8), attention 2·(2·2·2·4)."""
    assert flops.block(2, 4, 2.0) == 192 + 64 + 256 + 64


def test_memory_follows_the_mesh():
    """AdamW holds two copies of the parameters; fsdp = 8 divides every large array, so an eighth and a little."""
    config = PRESETS["dreamdiffusion_paper"]
    mesh = dataclasses.replace(config.train.mesh, fsdp=8)
    sharded = dataclasses.replace(config, train=dataclasses.replace(config.train, mesh=mesh, batch_size=96))
    one, eight = inspect(config).memory_gib_per_device, inspect(sharded, devices=8).memory_gib_per_device
    assert one["parameters"] == pytest.approx(4 * 328_845_824 / 2**30, rel=1e-3)
    assert one["optimiser"] == pytest.approx(2 * one["parameters"], rel=1e-3)
    assert one["average"] == 0
    assert 1 / 8 <= eight["parameters"] / one["parameters"] < 0.13
    assert eight["windows_per_device"] == 12


def test_rematerialisation_lowers_the_estimate():
    config = PRESETS["base"]
    full = dataclasses.replace(config, model=dataclasses.replace(config.model, remat="full"))
    plain, lean = (inspect(c).memory_gib_per_device["activations"] for c in (config, full))
    assert lean < plain / 5


def test_local_bytes_are_those_of_real_arrays():
    from dreamjax.parallel import mesh as meshes
    from dreamjax.parallel import sharding
    from dreamjax.parallel.mesh import MeshConfig

    mesh = meshes.make(MeshConfig(data=2, fsdp=4))
    tree = {"blocks": {"kernel": jnp.zeros((6, 128, 256))}, "bias": jnp.zeros((128,))}
    placed = jax.device_put(tree, sharding.shardings(tree, mesh))
    real = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(placed))
    assert local_bytes(tree, mesh) == real


def test_the_command_is_quick_and_speaks_json(capsys):
    path = str(REPOSITORY / "configs/pretrain/dreamdiffusion_paper.py")
    began = time.process_time()
    assert main(["inspect", "--config", path, "--json"]) == 0
    assert time.process_time() - began < 10
    found = json.loads(capsys.readouterr().out)
    assert found["shapes"]["features"] == [128, 1024]
    assert found["shapes"]["encoder_tokens"] == 33
    assert main(["inspect", "--config", path]) == 0
    assert "302.97 M" in capsys.readouterr().out


def test_a_batch_that_does_not_divide_is_refused():
    config = configs.load(
        str(REPOSITORY / "configs/pretrain/tiny.py"), [("train.batch_size", "30")], registry.schema_of
    )
    with pytest.raises(UserError, match=r"train\.batch_size is 30"):
        inspect(config, devices=8)


@pytest.mark.parametrize(("name", "parts"), [("autoencoder", 178_135), ("clip", 272_129)])
def test_other_systems_report_parameters_and_memory(name, parts, capsys):
    """The autoencoder as diffusers counts it; CLIP's two encoders and a scale."""
    words = ["inspect", "--config", f"configs/image/{name}_shapes.py"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["parameters"]["trained"] == parts == sum(told["parameters"]["parts"].values())
    assert told["memory_gib_per_device"]["optimiser"] == pytest.approx(2 * 4 * parts / 2**30, rel=1e-3)
    assert main(words) == 0
    assert "without activations" in capsys.readouterr().out
