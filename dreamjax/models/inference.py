"""What published classifiers of images are made of, for inference alone, channels last.

Batch normalisation (Ioffe & Szegedy 2015, arXiv 1502.03167) uses the statistics that training left behind, which are
parameters here: `y = (x - mean) / sqrt(var + epsilon) · scale + bias`.

Shape letters: B batch, H/W height and width, C channels, I/O in/out.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from dreamjax.models.keys import Keys

Pair = tuple[int, int]  # of rows and columns
Activation = Callable[[Array], Array]

LAYOUT = ("NHWC", "HWIO", "NHWC")


class Conv(nnx.Module):
    """y = x ⋆ W (+ b); W of shape (h, w, in / groups, out); `padding`: zeros above and below, left and right."""

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        kernel: int | Pair,
        *,
        rngs: Keys,
        stride: int = 1,
        padding: int | Pair = 0,
        groups: int = 1,
        bias: bool = True,
    ):
        shape = (*_pair(kernel), dim_in // groups, dim_out)
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), shape, jnp.float32))
        if bias:
            self.bias = nnx.Param(jnp.zeros((dim_out,), jnp.float32))
        self.padding = tuple((side, side) for side in _pair(padding))
        self.stride, self.groups, self.has_bias = stride, groups, bias

    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B y x O"]:
        y = jax.lax.conv_general_dilated(
            x,
            self.kernel[...],
            (self.stride, self.stride),
            self.padding,
            dimension_numbers=LAYOUT,
            feature_group_count=self.groups,
        )
        return y + self.bias[...] if self.has_bias else y


class BatchNorm(nnx.Module):
    """With given statistics: a factor and a shift for each channel."""

    def __init__(self, dim: int, epsilon: float = 1e-5):
        self.scale, self.bias = nnx.Param(jnp.ones((dim,), jnp.float32)), nnx.Param(jnp.zeros((dim,), jnp.float32))
        self.mean, self.var = nnx.Param(jnp.zeros((dim,), jnp.float32)), nnx.Param(jnp.ones((dim,), jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        factor = jax.lax.rsqrt(self.var[...] + self.epsilon) * self.scale[...]
        return x * factor + (self.bias[...] - self.mean[...] * factor)


class ConvNorm(nnx.Module):
    """act(norm(x ⋆ W)); `activation` None leaves the sum of a residual block its own."""

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        kernel: int | Pair,
        *,
        rngs: Keys,
        stride: int = 1,
        padding: int | Pair = 0,
        groups: int = 1,
        epsilon: float = 1e-5,
        activation: Activation | None = jax.nn.relu,
    ):
        self.conv = Conv(dim_in, dim_out, kernel, rngs=rngs, stride=stride, padding=padding, groups=groups, bias=False)
        self.bn = BatchNorm(dim_out, epsilon)
        self.activation = activation

    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B y x O"]:
        y = self.bn(self.conv(x))
        return y if self.activation is None else self.activation(y)


# ----------------------------------------------------------------------------------------------------------- pooling
def max_pool(x: Float[Array, "B H W C"], window: int, stride: int, padding: int = 0) -> Float[Array, "B y x C"]:
    """Return the maximum of each window, without padding."""
    return _windows(x, -jnp.inf, jax.lax.max, window, stride, padding)


def average_pool(
    x: Float[Array, "B H W C"], window: int, stride: int, padding: int = 0, *, count_padding: bool
) -> Float[Array, "B y x C"]:
    """Return the mean of each window; `count_padding`: zeros beyond the image count as pixels."""
    sums = _windows(x, 0.0, jax.lax.add, window, stride, padding)
    if count_padding:
        return sums / window**2
    return sums / _windows(jnp.ones((1, *x.shape[1:3], 1), x.dtype), 0.0, jax.lax.add, window, stride, padding)


def _windows(x: Array, start: float, combine: Callable, window: int, stride: int, padding: int) -> Array:
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return jax.lax.reduce_window(x, start, combine, (1, window, window, 1), (1, stride, stride, 1), sides)


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value
