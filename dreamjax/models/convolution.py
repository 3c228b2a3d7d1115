"""Convolution, group normalisation and residual blocks, channels last: float32 parameters and kernel gradients.

Shape letters: B batch, H height, W width, C channels, I/O in/out, E width of the time embedding.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from dreamjax.models.layers import ACTIVATIONS, Dtype, Keys, Linear, matmul
from dreamjax.parallel import environment
from dreamjax.parallel.sharding import split_rows, sum_over_rows

Padding = tuple[tuple[int, int], tuple[int, int]]  # (above, below), (left, right)
MakeResBlock = Callable[[int, int], "ResBlock"]  # (channels in, channels out) → block
LAYOUT = ("NHWC", "HWIO", "NHWC")
COLUMNS_BYTES = 512 << 20  # of gathered neighbourhoods, beyond which a kernel's gradient does without them


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def convolve(
    x: Float[Array, "B H W I"], kernel: Float[Array, "h w I O"], stride: int, padding: Padding, dtype: Dtype
) -> Float[Array, "B y x O"]:
    """Return the convolution (cross-correlation) in `dtype`, whose kernel gradient is a float32 sum.

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
    """Return whether a matrix product is faster: for small images of many channels on CPU, despite the gather."""
    _, H, W, C = x
    return (
        environment.target_platform() == "cpu" and stride == 1 and kernel[0] > 1 and (H * W <= C // 2 or kernel[0] == 2)
    )


def _gradient_better_as_matmul(x: Sequence[int], kernel: Sequence[int], stride: int) -> bool:
    """Return whether it is faster for the gradient: XLA takes up to 2.5 times as long, 30 times with a 2 × 2 kernel."""
    h, w, dim_in, dim_out = kernel
    if _better_as_matmul(x, kernel, stride):
        return True
    if environment.target_platform() != "cpu" or stride > 1 or h == 1:
        return False
    narrow, wide = sorted((dim_in, dim_out))
    fits = 4 * h * w * math.prod(x[:3]) * narrow <= COLUMNS_BYTES
    return fits and (8 * dim_out <= dim_in or (narrow > 64 and wide >= 192))


def _columns(x: Array, window: Sequence[int], padding: Padding) -> Array:
    """Return every pixel's neighbourhood, concatenated: [B, H, W, h · w · I]."""
    h, w = window
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    H, W = x.shape[1] - h + 1, x.shape[2] - w + 1
    # one axis after the other: fewer pieces to compile than h · w slices
    x = jnp.concatenate([x[:, :, j : j + W] for j in range(w)], axis=-1)
    return jnp.concatenate([x[:, i : i + H] for i in range(h)], axis=-1)


def _kernel_gradient(x: Array, dy: Array, window: Sequence[int], padding: Padding) -> Array:
    """Return the kernel gradient for stride 1, from the neighbourhoods of the operand with fewer channels."""
    dim_in, dim_out, axes = x.shape[-1], dy.shape[-1], (0, 1, 2)

    def product(a: Array, b: Array) -> Array:  # the narrower operand first, as in `layers.matmul`
        narrow, wide = (a, b) if a.shape[-1] <= b.shape[-1] else (b, a)
        sums = jax.lax.dot_general(narrow, wide, ((axes, axes), ((), ())), preferred_element_type=jnp.float32)
        return sums if narrow is a else sums.T

    if dim_in <= dim_out:
        return product(_columns(x, window, padding), dy).reshape(*window, dim_in, dim_out)
    # row y of x meets row y - i + above of dy: the taps come in reverse
    (h, w), ((above, below), (left, right)) = window, padding
    around = ((h - 1 - above, h - 1 - below), (w - 1 - left, w - 1 - right))
    return product(_columns(dy, window, around), x).reshape(h, w, dim_out, dim_in)[::-1, ::-1].swapaxes(2, 3)


def _forward(x: Array, kernel: Array, stride: int, padding: Padding, dtype: Dtype) -> tuple[Array, tuple]:
    x = x.astype(dtype)
    return split_rows(_convolve(x, kernel.astype(dtype), stride, padding)), (x, kernel)


def _backward(stride: int, padding: Padding, dtype: Dtype, saved: tuple, dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    dy, by_taps = dy.astype(dtype), kernel.astype(dtype)
    if _better_as_matmul(x.shape, kernel.shape, stride):
        _, to_x = jax.vjp(lambda x: _convolve(x, by_taps, stride, padding), x)
        (dx,) = to_x(dy)
    else:
        dx = _input_gradient(dy, by_taps, x.shape[1:3], stride, padding)
    if _gradient_better_as_matmul(x.shape, kernel.shape, stride):
        dkernel = _kernel_gradient(x, dy, kernel.shape[:2], padding)
    else:
        dkernel = _kernel_gradient_by_convolution(x, dy, kernel.shape[:2], stride, padding)
    return split_rows(dx), dkernel.astype(kernel.dtype)


# Both gradients are convolutions in the one layout that XLA's fast kernels on CPU know, with transposes around. XLA
# does that by itself at the top of a program, but not in the body of a loop, where it is 15 times slower without.
def _input_gradient(dy: Array, kernel: Array, size: Sequence[int], stride: int, padding: Padding) -> Array:
    """Return the convolution of dy, with stride - 1 zeros between its entries, and the kernel turned around."""
    sides = []
    for (low, _), n, m, k in zip(padding, size, dy.shape[1:3], kernel.shape[:2], strict=True):
        sides.append((k - 1 - low, n - (m - 1) * stride - 1 + low))
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    dilation = (stride, stride)
    return jax.lax.conv_general_dilated(dy, turned, (1, 1), sides, lhs_dilation=dilation, dimension_numbers=LAYOUT)


def _kernel_gradient_by_convolution(x: Array, dy: Array, window: Sequence[int], stride: int, padding: Padding) -> Array:
    """Return the kernel gradient: tap (i, j) is the sum of x[b, s·y + i, s·x + j, c] dy[b, y, x, o]."""
    sides = []
    for (low, _), n, m, k in zip(padding, x.shape[1:3], dy.shape[1:3], window, strict=True):
        sides.append((low, k + (m - 1) * stride - n - low))

    def summed(x: Array, dy: Array, kind: Dtype) -> Array:
        sums_CxhxwxO = jax.lax.conv_general_dilated(
            x.transpose(3, 1, 2, 0),
            dy.transpose(1, 2, 0, 3),
            (1, 1),
            sides,
            rhs_dilation=(stride, stride),
            dimension_numbers=LAYOUT,
            preferred_element_type=kind,
        )
        return sums_CxhxwxO.transpose(1, 2, 0, 3)

    if environment.target_platform() == "gpu":
        # cuDNN sums in float32 but returns the type of its operands; for another type XLA converts those, and the
        # convolution takes twice as long. So each device's sum is rounded once, and devices are summed in float32.
        return sum_over_rows(functools.partial(summed, kind=x.dtype), x, dy)
    return summed(x, dy, jnp.float32)


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
        rngs: Keys,
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
        return self._biased(y)

    def of_upsampled(self, x: Float[Array, "B H W I"]) -> Float[Array, "B y x O"]:
        """Return the convolution of `upsample(x)`, where this is a 3 × 3 convolution that keeps the size."""
        return self._biased(convolve_upsampled(x, self.kernel[...], self.dtype))

    def _biased(self, y: Array) -> Array:
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
    """Upsample by nearest neighbours: twice the size, or to `size`, where row i comes from row floor(i · H / h)."""
    B, H, W, C = x.shape
    if size is None or size == (2 * H, 2 * W):
        x = jnp.broadcast_to(x[:, :, None, :, None], (B, H, 2, W, 2, C))
        return x.reshape(B, 2 * H, 2 * W, C)
    rows, columns = (jnp.arange(n) * m // n for n, m in zip(size, (H, W), strict=True))
    return x[:, rows][:, :, columns]


def convolve_upsampled(x: Float[Array, "B H W I"], kernel: Float[Array, "3 3 I O"], dtype: Dtype) -> Array:
    """Return `convolve(upsample(x), kernel)` with 4 / 9 of the operations: [B, 2 H, 2 W, O].

    Of the three rows under a tap two come from the same row of x, so an even output row is the 2-tap filter
    (k_0, k_1 + k_2) over x[y - 1], x[y], and an odd one (k_0 + k_1, k_2) over x[y], x[y + 1]; columns likewise.
    """
    B, H, W, C = x.shape
    out = kernel.shape[-1]

    def halves(k: Array) -> Array:  # the leading axis of 3 taps → [parity, 2 taps]
        return jnp.stack([jnp.stack([k[0], k[1] + k[2]]), jnp.stack([k[0] + k[1], k[2]])])

    of_rows_axuxjxIxO = halves(kernel)
    all_cxvxaxuxIxO = halves(jnp.moveaxis(of_rows_axuxjxIxO, 2, 0))
    kernels_uxvxIx4O = all_cxvxaxuxIxO.transpose(3, 1, 4, 2, 0, 5).reshape(2, 2, C, 4 * out)
    y = convolve(x, kernels_uxvxIx4O, 1, ((1, 1), (1, 1)), dtype).reshape(B, H + 1, W + 1, 2, 2, out)
    rows = [jnp.stack([y[:, a : a + H, c : c + W, a, c] for c in (0, 1)], axis=3) for a in (0, 1)]
    return jnp.stack(rows, axis=2).reshape(B, 2 * H, 2 * W, out)


# -------------------------------------------------------- residual blocks of latent diffusion, as diffusers has them
class ResBlock(nnx.Module):
    """x + conv2(act(norm2(conv1(act(norm1 x)) + time))); a 1 × 1 shortcut where the number of channels changes."""

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        groups: int,
        epsilon: float,
        time_dim: int | None = None,
        activation: str = "silu",
        dtype: Dtype,
        rngs: Keys,
    ):
        self.norm1 = GroupNorm(dim_in, groups, dtype=dtype, epsilon=epsilon)
        self.conv1 = Conv2d(dim_in, dim_out, dtype=dtype, rngs=rngs)
        if time_dim is not None:
            self.time_emb_proj = Linear(time_dim, dim_out, dtype=dtype, rngs=rngs)
        self.norm2 = GroupNorm(dim_out, groups, dtype=dtype, epsilon=epsilon)
        self.conv2 = Conv2d(dim_out, dim_out, dtype=dtype, rngs=rngs)
        if dim_in != dim_out:
            self.conv_shortcut = Conv2d(dim_in, dim_out, 1, dtype=dtype, rngs=rngs)
        self.changes, self.timed, self.activation = dim_in != dim_out, time_dim is not None, activation

    def __call__(
        self, x_BxHxWxC: Float[Array, "B H W C"], time_BxE: Float[Array, "B E"] | None = None
    ) -> Float[Array, "B H W O"]:
        act = ACTIVATIONS[self.activation]
        y = self.conv1(act(self.norm1(x_BxHxWxC)))
        if self.timed:
            assert time_BxE is not None
            y = y + self.time_emb_proj(act(time_BxE))[:, None, None, :]
        y = self.conv2(act(self.norm2(y)))
        return (self.conv_shortcut(x_BxHxWxC) if self.changes else x_BxHxWxC) + y


class Downsample(nnx.Module):
    """Half the size by a 3 × 3 convolution of stride 2; padding 0: one zero row below, one column right."""

    def __init__(self, dim: int, *, padding: int = 1, dtype: Dtype, rngs: Keys):
        sides: int | Padding = padding if padding else ((0, 1), (0, 1))
        self.conv = Conv2d(dim, dim, stride=2, padding=sides, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        return self.conv(x)


class Upsample(nnx.Module):
    """Twice the size (or `size`) by nearest neighbours, then a 3 × 3 convolution."""

    def __init__(self, dim: int, *, dtype: Dtype, rngs: Keys):
        self.conv = Conv2d(dim, dim, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"], size: tuple[int, int] | None = None) -> Float[Array, "B h w C"]:
        B, H, W, _ = x.shape
        doubled = size is None or size == (2 * H, 2 * W)
        # for fewer pixels, putting the kernels together costs more than it saves
        if environment.target_platform() == "cpu" and doubled and B * H * W >= 256:
            return self.conv.of_upsampled(x)
        return self.conv(upsample(x, size))
