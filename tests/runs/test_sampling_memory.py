"""A program that samples takes the weights as its arguments and holds none of them again."""

import jax
import jax.numpy as jnp

from dreamjax.diffusion import guidance, sampling
from dreamjax.runs import latent_diffusion, shapes
from dreamjax.weights import networks

UNOPTIMISED = {"xla_backend_optimization_level": 0}  # the same buffers, compiled in half of the time


def test_sampling_holds_the_weights_once():
    parts = shapes.get("tiny")
    parts["unet"]["block_out_channels"] = [64, 128]  # many weights for few pixels
    network = networks.of(parts["unet"], "unet")
    arguments = network.arguments(parts["unet"], "unet")
    params = network.shapes(arguments)
    plan = sampling.plan("ddim", latent_diffusion.schedule_of(parts["scheduler"], "scheduler"), steps=4)

    def sample(params, x, context, empty):
        unet = network.bind(arguments, params)
        step = guidance.guided(lambda x, t, c: unet(x, jnp.full((len(x),), t), c), context, empty, 7.5)
        return sampling.sample(step, x, plan)

    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 8, 8, 4), (1, 12, 16), (1, 12, 16))]
    memory = jax.jit(sample).lower(params, *inputs).compile(UNOPTIMISED).memory_analysis()
    weights = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    assert weights <= memory.argument_size_in_bytes < weights + (16 << 10)
    assert memory.temp_size_in_bytes < 0.2 * weights
