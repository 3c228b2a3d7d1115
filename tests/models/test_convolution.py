"""Convolution and group normalisation are torch's, forward and backward, whichever way they are computed."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dreamjax.models import convolution
from dreamjax.models.convolution import GroupNorm, convolve, convolve_upsampled, upsample
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig


def nchw(x):
    return torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2).copy()).requires_grad_()


# on CPU the second and third, wide and small, are computed as matrix products; the last two's kernel gradients are
@pytest.mark.parametrize(
    ("height", "width", "channels", "kernel", "stride", "padding"),
    [
        (7, 9, 5, 3, 1, ((1, 1), (1, 1))),
        (4, 4, 64, 3, 1, ((1, 1), (1, 1))),
        (3, 5, 48, 3, 1, ((1, 1), (1, 1))),
        (8, 8, 4, 3, 2, ((1, 1), (1, 1))),
        (7, 5, 4, 3, 2, ((1, 1), (1, 1))),
        (8, 6, 4, 3, 2, ((0, 1), (0, 1))),
        (6, 6, 3, 5, 1, ((2, 2), (2, 2))),
        (8, 8, 3, 4, 4, ((0, 0), (0, 0))),
        (9, 8, 48, 3, 1, ((0, 2), (1, 1))),
        (9, 10, 48, 2, 1, ((1, 1), (0, 1))),
    ],
)
def test_convolution_and_its_gradients_are_torch_s(height, width, channels, kernel, stride, padding):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, height, width, channels)).astype(np.float32)
    w = rng.standard_normal((kernel, kernel, channels, 6)).astype(np.float32)
    xt, wt = nchw(x), torch.from_numpy(w.transpose(3, 2, 0, 1).copy()).requires_grad_()
    (top, bottom), (left, right) = padding
    yt = F.conv2d(F.pad(xt, (left, right, top, bottom)), wt, stride=stride)
    dy = rng.standard_normal(yt.shape).astype(np.float32)
    yt.backward(torch.from_numpy(dy))
    y, back = jax.vjp(lambda x, w: convolve(x, w, stride, padding, jnp.float32), x, w)
    dx, dw = back(jnp.asarray(dy.transpose(0, 2, 3, 1)))
    for ours, theirs in (
        (y, yt.detach().permute(0, 2, 3, 1)),
        (dx, xt.grad.permute(0, 2, 3, 1)),
        (dw, wt.grad.permute(2, 3, 1, 0)),
    ):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-4 * np.abs(theirs.numpy()).max())


def gradients(function, x, w, dy):
    def forward_and_back(x, w, dy):
        y, back = jax.vjp(function, x, w)
        return y, *back(dy)

    return jax.jit(forward_and_back)(x, w, dy)


def test_a_kernel_gradient_as_a_matrix_product_is_that_of_a_convolution(monkeypatch):
    """Gathered from x where it has fewer channels, from dy where it has."""
    rng = np.random.default_rng(3)
    for channels in ((70, 192), (192, 70)):
        x, w = rng.standard_normal((2, 12, 10, channels[0])), rng.standard_normal((3, 3, *channels))
        dy = rng.standard_normal((2, 11, 12, channels[1]))
        x, w, dy = (array.astype(np.float32) for array in (x, w, dy))

        def function(x, w):
            return convolve(x, w, 1, ((1, 0), (2, 2)), jnp.float32)

        assert convolution._gradient_better_as_matmul(x.shape, w.shape, 1)
        product = gradients(function, x, w, dy)
        with monkeypatch.context() as patched:
            patched.setattr(convolution, "COLUMNS_BYTES", 0)
            summed = gradients(function, x, w, dy)
        for ours, theirs in zip(product, summed, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 4), (12, 12)])
def test_an_upsampled_convolution_is_the_convolution_of_the_upsampled(height, width):
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal((2, height, width, 6)), rng.standard_normal((3, 3, 6, 5))
    dy = rng.standard_normal((2, 2 * height, 2 * width, 5))
    x, w, dy = (array.astype(np.float32) for array in (x, w, dy))
    around = ((1, 1), (1, 1))
    fewer = gradients(lambda x, w: convolve_upsampled(x, w, jnp.float32), x, w, dy)
    plain = gradients(lambda x, w: convolve(upsample(x), w, 1, around, jnp.float32), x, w, dy)
    for ours, theirs in zip(fewer, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def test_the_kernel_gradient_of_a_bfloat16_convolution_is_summed_in_float32():
    """4,096 equal terms of 1: a bfloat16 sum stops at 256."""
    x, w = jnp.ones((16, 16, 16, 2)), jnp.ones((1, 1, 2, 3))
    gradient = jax.grad(lambda w: convolve(x, w, 1, ((0, 0), (0, 0)), jnp.bfloat16).astype(jnp.float32).sum())(w)
    assert gradient.dtype == jnp.float32
    np.testing.assert_array_equal(gradient, 4096.0)


@pytest.mark.parametrize(("channels", "groups"), [(8, 2), (6, 3), (5, 5), (12, 1)])
def test_group_norm_is_torch_s(channels, groups):
    rng = np.random.default_rng(1)
    x = (3 + 2 * rng.standard_normal((2, 5, 4, channels))).astype(np.float32)
    scale, bias = rng.standard_normal((2, channels)).astype(np.float32)
    norm = GroupNorm(channels, groups, dtype=jnp.float32, epsilon=1e-6)
    nnx.update(norm, {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)})
    theirs = F.group_norm(nchw(x), groups, torch.from_numpy(scale), torch.from_numpy(bias), 1e-6)
    np.testing.assert_allclose(norm(x), theirs.detach().permute(0, 2, 3, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [None, (7, 9), (5, 11), (8, 10)])
def test_upsampling_is_torch_s_nearest(size):
    x = np.random.default_rng(2).standard_normal((1, 4, 5, 2)).astype(np.float32)
    theirs = F.interpolate(nchw(x), size=size, scale_factor=None if size else 2.0, mode="nearest")
    np.testing.assert_array_equal(upsample(x, size), theirs.detach().permute(0, 2, 3, 1))


@pytest.mark.parametrize("stride", [1, 2])
def test_no_convolution_in_a_loop_misses_the_fast_kernels(stride):
    """On CPU they know one layout, and what they do not know is 15 times slower."""
    x, w = jnp.ones((3, 2, 8, 8, 4)), jnp.ones((3, 3, 4, 4))

    def loss(w, x):
        return jnp.square(convolve(jnp.tanh(x), w, stride, ((1, 1), (1, 1)), jnp.float32)).sum()

    def step(total, x):
        of_w, of_x = jax.grad(loss, (0, 1))(w, x)
        return total + of_w, of_x

    text = jax.jit(lambda x: jax.lax.scan(step, jnp.zeros_like(w), x)).lower(x).compile().as_text()
    found = re.findall(r" convolution\(.*dim_labels=(\w+->\w+)", text)
    assert len(found) >= 3
    assert set(found) == {"b01f_01io->b01f"}


def on_gpus_and_on_cpus(batch, mesh):
    """The kernel gradient of a bfloat16 convolution as GPUs compute it, and as CPUs do, in float32."""
    keys = jax.random.split(jax.random.key(0))
    x, dy = (jax.random.normal(key, (batch, 6, 5, channels)) for key, channels in zip(keys, (4, 3), strict=True))
    x, dy = x.astype(jnp.bfloat16), dy.astype(jnp.bfloat16)
    given = ((3, 3), 1, ((1, 1), (1, 1)))
    expected = convolution._kernel_gradient_by_convolution(x, dy, *given)

    def on_gpus(x, dy):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(convolution.environment, "target_platform", lambda: "gpu")
            return convolution._kernel_gradient_by_convolution(x, dy, *given)

    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, P(("data", "fsdp")) if batch % mesh.size == 0 else P())
        text = jax.jit(on_gpus, in_shardings=rows).lower(x, dy).compile().as_text()
        return jax.jit(on_gpus, in_shardings=rows)(x, dy), expected, text


@pytest.mark.parametrize("batch", [16, 3])
def test_on_gpus_kernel_gradients_are_rounded_once_per_device_and_summed_in_float32(batch):
    ours, expected, text = on_gpus_and_on_cpus(batch, meshes.make(MeshConfig(data=4, fsdp=2)))
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2**-8 * float(jnp.abs(expected).max()) * 2)
    sums = re.findall(r"= \(?(\w+)\[[\d,]*\]\S* all-reduce", text)
    assert set(sums) == ({"f32"} if batch == 16 else set())
