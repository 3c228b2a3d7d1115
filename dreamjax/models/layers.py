"""The layers that every network is made of: float32 parameters, a chosen compute type, float32 weight gradients.

Shape letters: B batch, T tokens, D width, I/O in/out.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dreamjax.parallel.sharding import split_rows

Dtype = DTypeLike


class Keys:
    """Random keys for initial weights: the same sequence as that of `nnx.Rngs(params=key)`; modules take either.

    The count is a Python number: incrementing an array, as `nnx.Rngs` does, scans the whole trace of a program.
    """

    def __init__(self, key: jax.Array):
        self.key, self.count = key, 0

    def params(self) -> jax.Array:
        """Return the next key."""
        self.count += 1
        return jax.random.fold_in(self.key, self.count - 1)


def small_normal(rngs: Keys, *shape: int) -> nnx.Param:
    """Return a parameter that starts as N(0, 0.02), as tokens, positions and patch embeddings do."""
    return nnx.Param(0.02 * jax.random.normal(rngs.params(), shape, jnp.float32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmul(x: Float[Array, "*batch I"], kernel: Float[Array, "I O"], dtype: Dtype) -> Float[Array, "*batch O"]:
    """Return `x @ kernel` in `dtype`, whose kernel gradient is a float32 sum.

    Autodiff through a cast of the kernel gives a gradient that is all-reduced over the devices in `dtype`. Here its dot
    has float32 output, so the reduction over tokens and devices is float32 and only the operands are rounded.
    """
    return split_rows(x.astype(dtype) @ kernel.astype(dtype))


def _matmul_forward(x: Array, kernel: Array, dtype: Dtype) -> tuple[Array, tuple[Array, Array]]:
    x = x.astype(dtype)
    return split_rows(x @ kernel.astype(dtype)), (x, kernel)


def _matmul_backward(dtype: Dtype, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    dy = dy.astype(dtype)
    dx = split_rows(dy @ kernel.astype(dtype).T)
    tokens = tuple(range(x.ndim - 1))
    # XLA on CPU writes a transposed copy of the first operand and recomputes its producer: so the narrower one is first
    narrow, wide = (x, dy) if x.shape[-1] <= dy.shape[-1] else (dy, x)
    dkernel = jax.lax.dot_general(narrow, wide, ((tokens, tokens), ((), ())), preferred_element_type=jnp.float32)
    return dx, (dkernel if narrow is x else dkernel.T).astype(kernel.dtype)


matmul.defvjp(_matmul_forward, _matmul_backward)


class Linear(nnx.Module):
    """y = x W + b, W of shape (in, out), Xavier-uniform; b zero, or none; the bias is added in float32."""

    def __init__(self, dim_in: int, dim_out: int, *, dtype: Dtype, rngs: Keys, bias: bool = True):
        self.kernel = nnx.Param(nnx.initializers.xavier_uniform()(rngs.params(), (dim_in, dim_out), jnp.float32))
        if bias:
            self.bias = nnx.Param(jnp.zeros((dim_out,), jnp.float32))
        self.has_bias, self.dtype = bias, dtype

    def __call__(self, x: Float[Array, "*batch I"]) -> Float[Array, "*batch O"]:
        y = matmul(x, self.kernel[...], self.dtype)
        return (y.astype(jnp.float32) + self.bias[...]).astype(self.dtype) if self.has_bias else y


class PatchEmbed(nnx.Module):
    """A convolution whose stride is its kernel: one matrix product per patch. Kernel (*window, C, D), N(0, 0.02)."""

    def __init__(self, *shape: int, dtype: Dtype, rngs: Keys, bias: bool = True):
        self.kernel = small_normal(rngs, *shape)
        if bias:
            self.bias = nnx.Param(jnp.zeros(shape[-1:], jnp.float32))
        self.has_bias, self.dtype = bias, dtype

    def __call__(self, patches: Float[Array, "*batch P"]) -> Float[Array, "*batch D"]:
        """Return float32 embeddings of flat patches."""
        kernel = self.kernel[...]
        y = matmul(patches, kernel.reshape(-1, kernel.shape[-1]), self.dtype).astype(jnp.float32)
        return y + self.bias[...] if self.has_bias else y


class LayerNorm(nnx.Module):
    """Layer normalisation in float32; returns `dtype`."""

    def __init__(self, dim: int, *, dtype: Dtype, epsilon: float = 1e-5):
        self.scale = nnx.Param(jnp.ones((dim,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((dim,), jnp.float32))
        self.epsilon, self.dtype = epsilon, dtype

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        x = x.astype(jnp.float32)
        centred = x - x.mean(-1, keepdims=True)
        variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
        return (centred * jax.lax.rsqrt(variance + self.epsilon) * self.scale[...] + self.bias[...]).astype(self.dtype)


class ModuleList(nnx.Module):
    """Modules named "0", "1", … as in PyTorch's ModuleList; called, they are applied one after another."""

    def __init__(self, *modules: nnx.Module):
        self.count = len(modules)
        for i, module in enumerate(modules):
            setattr(self, str(i), module)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Any:
        return getattr(self, str(range(self.count)[i]))

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(self.count))

    def __call__(self, x: Array) -> Array:
        for module in self:
            x = module(x)
        return x


@jax.custom_vjp
def gelu(x: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Return x Φ(x), exact with erf. The backward pass is hand-written: autodiff's keeps and copies more on CPU."""
    return jax.nn.gelu(x, approximate=False)


def _gelu_backward(x: Array, dy: Array) -> tuple[Array]:
    x32 = x.astype(jnp.float32)
    slope = jax.scipy.stats.norm.cdf(x32) + x32 * jnp.exp(-0.5 * x32 * x32) * (2 * np.pi) ** -0.5
    return ((dy.astype(jnp.float32) * slope).astype(dy.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


def quick_gelu(x: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Return x σ(1.702 x), OpenAI's approximation of `gelu`."""
    return x * jax.nn.sigmoid(1.702 * x)


# by their names in config.json files
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "quick_gelu": quick_gelu,
    "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "relu": jax.nn.relu,
}


def sincos_positions(length: int, dim: int) -> Float[np.ndarray, "T D"]:
    """Return [sin(t w_i), cos(t w_i)], w_i = 10000^(-i / (D/2)): all sines, then all cosines. Computed in float64."""
    frequencies = 10000.0 ** (-np.arange(dim // 2, dtype=np.float64) / (dim / 2))
    angles = np.arange(length, dtype=np.float64)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
