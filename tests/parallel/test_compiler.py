"""What the compiler is told is something that it knows."""

import jax
import jax.numpy as jnp
import pytest

from dreamjax.parallel import compiler


@pytest.mark.parametrize("name", [*compiler.options("gpu"), *compiler.CPU])
def test_xla_knows_every_option(name):
    """Options of all platforms but TPU belong to one list, which any compiler checks; TPU's: tests/pods."""
    value = (compiler.options("gpu", fsdp=8) | compiler.CPU)[name]
    assert jax.jit(lambda x: x + 1, compiler_options={name: value})(jnp.float32(1)) == 2
    with pytest.raises(Exception, match="No such compile option"):
        jax.jit(lambda x: x + 2, compiler_options={name + "_not": value})(jnp.float32(1))


def test_every_platform_has_its_own_options():
    assert compiler.options("tpu") == dict(compiler.TPU)
    summed = "xla_gpu_reduce_scatter_combine_threshold_bytes"
    whole, eighth = compiler.options("gpu"), compiler.options("cuda", fsdp=8)
    assert whole[summed] == 8 * eighth[summed]
    assert {name: value for name, value in whole.items() if name != summed} == compiler.GPU
    assert compiler.options("metal") is None
    assert compiler.for_one_call("tpu") is None
