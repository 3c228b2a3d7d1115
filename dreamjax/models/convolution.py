"""Convolution and group normalisation over pictures, channels last: float32 parameters, float32 kernel gradients.

Shape letters: B batch, H height, W width, C channels, I/O in/out.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from dreamjax.models.layers import Dtype, matmul
from dreamjax.parallel import platform
from dreamjax.parallel.sharding import split_rows

Padding = tuple[tuple[int, int], tuple[int, int]]  # (above, below), (left, right)
LAYOUT = ("NHWC", "HWIO", "NHWC")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def convolve(
    x: Float[Array, "B H W I"], kernel: Float[Array, "h w I O"], stride: int, padding: Padding, dtype: Dtype
) -> Float[Array, "B y x O"]:
    """The convolution (cross-correlation, as everywhere) in `dtype`, whose kernel gradient is a float32 sum.

    As `layers.matmul`: the sum over positions, examples and devices is float32, only its operands are rounded.
    """
    return split_rows(_convolve(x.astype(dtype), kernel.astype(dtype), stride, padding))


def _convolve(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    if _better_as_matmul(x.shape, kernel.shape, stride):
        columns = _columns(x, kernel.shape[:2], padding)
        B, H, W, K = columns.shape
        return (columns.reshape(-1, K) @ kernel.reshape(K, -1)).reshape(B, H, W, -1)
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=LAYOUT)


def _better_as_matmul(x: Sequence[int], kernel: Sequence[int], stride: int) -> bool:
    """Small pictures of many channels on CPU: gathering the neighbours costs less than XLA's convolution loses."""
    _, H, W, C = x
    return platform.target() == "cpu" and stride == 1 and kernel[0] > 1 and H * W <= C // 2


def _columns(x: Array, window: Sequence[int], padding: Padding) -> Array:
    """Every pixel's neighbourhood side by side: [B, H, W, h · w · I]."""
    h, w = window
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    H, W = x.shape[1] - h + 1, x.shape[2] - w + 1
    return jnp.concatenate([x[:, i : i + H, j : j + W] for i in range(h) for j in range(w)], axis=-1)


def _forward(x: Array, kernel: Array, stride: int, padding: Padding, dtype: Dtype) -> tuple[Array, tuple]:
    x = x.astype(dtype)
    return split_rows(_convolve(x, kernel.astype(dtype), stride, padding)), (x, kernel)


def _backward(stride: int, padding: Padding, dtype: Dtype, saved: tuple, dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    dy = dy.astype(dtype)
    _, to_x = jax.vjp(lambda x: _convolve(x, kernel.astype(dtype), stride, padding), x)
    (dx,) = to_x(dy)
    # tap (i, j) has the gradient sum of x[b, s·y + i, s·x + j, c] dy[b, y, x, o]: a convolution over the batch
    if _better_as_matmul(x.shape, kernel.shape, stride):
        columns = _columns(x, kernel.shape[:2], padding)
        contracted = ((0, 1, 2), (0, 1, 2))
        dkernel = jax.lax.dot_general(columns, dy, (contracted, ((), ())), preferred_element_type=jnp.float32)
        return split_rows(dx), dkernel.reshape(kernel.shape).astype(kernel.dtype)
    sides = []
    for (low, _), n, m, k in zip(padding, x.shape[1:3], dy.shape[1:3], kernel.shape[:2], strict=True):
        sides.append((low, k + (m - 1) * stride - n - low))
    dkernel = jax.lax.conv_general_dilated(
        x,
        dy,
        (1, 1),
        sides,
        rhs_dilation=(stride, stride),
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        preferred_element_type=jnp.float32,
    )
    return split_rows(dx), dkernel.astype(kernel.dtype)


convolve.defvjp(_forward, _backward)


class Conv2d(nnx.Module):
    """y = x ⋆ W + b over (B, H, W, C); W of shape (h, w, in, out), Lecun-normal; b zero, added in float32.

    `padding`: as many zeros on every side, or those of each side. A 1 × 1 kernel is a matrix product.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        kernel: int = 3,
        *,
        dtype: Dtype,
        rngs: nnx.Rngs,
        stride: int = 1,
        padding: int | Padding | None = None,
        bias: bool = True,
    ):
        shape = (kernel, kernel, dim_in, dim_out)
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), shape, jnp.float32))
        if bias:
            self.bias = nnx.Param(jnp.zeros((dim_out,), jnp.float32))
        around = kernel // 2 if padding is None else padding
        self.padding: Padding = ((around, around), (around, around)) if isinstance(around, int) else around
        self.stride, self.has_bias, self.dtype = stride, bias, dtype

    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B y x O"]:
        kernel = self.kernel[...]
        if kernel.shape[:2] == (1, 1) and self.stride == 1:
            y = matmul(x, kernel[0, 0], self.dtype)
        else:
            y = convolve(x, kernel, self.stride, self.padding, self.dtype)
        return (y.astype(jnp.float32) + self.bias[...]).astype(self.dtype) if self.has_bias else y


class GroupNorm(nnx.Module):
    """Group normalisation (Wu & He 2018, arXiv 1803.08494) over positions and the channels of a group, in float32."""

    def __init__(self, dim: int, groups: int, *, dtype: Dtype, epsilon: float):
        self.scale = nnx.Param(jnp.ones((dim,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((dim,), jnp.float32))
        self.groups, self.epsilon, self.dtype = groups, epsilon, dtype

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        B, C = x.shape[0], x.shape[-1]
        x32 = x.astype(jnp.float32)
        positions = tuple(range(1, x.ndim - 1))
        count = x[0].size // self.groups

        def over_groups(sums_BxC: Array) -> Array:  # the mean over each group, for each of its channels
            grouped = sums_BxC.reshape(B, self.groups, -1).sum(-1, keepdims=True) / count
            return jnp.broadcast_to(grouped, (B, self.groups, C // self.groups)).reshape(B, *(1,) * len(positions), C)

        centred = x32 - over_groups(x32.sum(positions))
        variance = over_groups(jnp.square(centred).sum(positions))
        factor = jax.lax.rsqrt(variance + self.epsilon) * self.scale[...]
        return (centred * factor + self.bias[...]).astype(self.dtype)


def upsample(x: Float[Array, "B H W C"], size: tuple[int, int] | None = None) -> Float[Array, "B h w C"]:
    """Nearest neighbours: twice the size, or to `size`, where row i comes from row floor(i · H / h)."""
    B, H, W, C = x.shape
    if size is None or size == (2 * H, 2 * W):
        x = jnp.broadcast_to(x[:, :, None, :, None], (B, H, 2, W, 2, C))
        return x.reshape(B, 2 * H, 2 * W, C)
    rows, columns = (jnp.arange(n) * m // n for n, m in zip(size, (H, W), strict=True))
    return x[:, rows][:, :, columns]
