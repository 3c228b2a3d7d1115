"""The tensor axis: a block's products are split over it, and nothing else changes."""

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from dreamjax.parallel import mesh as meshes
from dreamjax.parallel import sharding
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.parallel.tree_paths import named_leaves
from dreamjax.systems.masked_pretraining import MaskedModelConfig, MaskedPretraining, MaskedPretrainingConfig
from dreamjax.training import program

SIZES = {"dim": 64, "depth": 1, "heads": 4, "decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2}


def one_step(mesh_config: MeshConfig):
    """(state's places, loss, parameters) after a step on a batch of noise."""
    config = MaskedPretrainingConfig(model=MaskedModelConfig(channels=5, **SIZES))
    rng, rows, samples = np.random.default_rng(0), 8, config.data.samples
    batch = {
        "signal": rng.standard_normal((rows, 5, samples)).astype(np.float32),
        "valid": np.ones((rows, samples), np.float32),
        "channel_ok": np.ones((rows, 5), np.float32),
        "index": np.stack([np.zeros(rows), np.arange(rows)], axis=1).astype(np.uint32),
        "weight": np.ones(rows, np.float32),
    }
    mesh = meshes.make(mesh_config)
    with jax.set_mesh(mesh):
        compiled = program.build(MaskedPretraining(config), mesh)
        state = compiled.init(jax.random.key(0))
        places = {name: leaf.sharding.spec for name, leaf in named_leaves(state.params).items()}
        state, metrics = compiled.step(state, sharding.to_devices(batch, mesh, rows))
        total, weight = metrics["loss"]
        return places, float(total / weight), {n: np.asarray(x) for n, x in named_leaves(state.params).items()}


def test_a_block_is_split_over_tensor_and_the_step_is_the_same():
    places, loss, params = one_step(MeshConfig(data=2, fsdp=2, tensor=2))
    assert places["blocks/attn/qkv/kernel"] == places["blocks/mlp/fc1/kernel"] == P(None, "fsdp", "tensor")
    assert places["blocks/attn/proj/kernel"] == places["decoder_blocks/mlp/fc2/kernel"] == P(None, "tensor", "fsdp")
    assert "tensor" not in places["patch_embed/kernel"]

    alone, expected_loss, expected = one_step(MeshConfig(data=8))
    assert all(spec == P() for spec in alone.values())
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    for name, value in expected.items():  # Adam's first step is 2.5e-4 long, of whatever rounding leaves of a zero too
        np.testing.assert_allclose(params[name], value, atol=1e-5, err_msg=name)
