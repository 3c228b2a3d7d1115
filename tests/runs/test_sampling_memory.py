"""The program that makes images takes the weights as its arguments and holds none of them again."""

import jax
import jax.numpy as jnp
import pytest

from dreamjax.diffusion import sampling
from tests import pipelines

UNOPTIMISED = {"xla_backend_optimization_level": 0}  # compiles in half of the time


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return pipelines.ours(pipelines.write(tmp_path_factory.mktemp("pipeline"), widths=(128,)))


def test_sampling_holds_the_weights_once(model):
    params = {"unet": model.unet.params, "vae": model.vae.params}
    width = model.unet.arguments["context_dim"]
    batch = {"index": jnp.zeros(1, jnp.uint32), "context": jnp.zeros((1, 4, width))}
    given = {"seed": jnp.uint32(0), "scale": jnp.float32(2), "rescale": jnp.float32(0)}
    given["unconditional"] = {"context": jnp.zeros((1, 4, width))}
    plan = sampling.plan("ddim", model.schedule, steps=2)
    with jax.set_mesh(model.mesh):
        traced = model.program.trace(params, plan, batch, given, size=(2, 2), rescales=False)
        memory = traced.lower().compile(UNOPTIMISED).memory_analysis()
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert sum(getattr(const, "nbytes", 0) for const in traced.jaxpr.consts) < 0.01 * weights
    assert 0.99 * weights < memory.argument_size_in_bytes < 1.02 * weights  # the autoencoder's encoder has no part
    assert memory.temp_size_in_bytes < 0.5 * weights
