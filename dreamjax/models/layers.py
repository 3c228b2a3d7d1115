"""Transformer layers with float32 parameters, a chosen compute type, and float32 weight gradients.

Shape letters: B batch, T tokens, D width, H heads, K width of a head, F hidden width of the mlp, L layers, I/O in/out.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from dreamjax.models.attention import Attention, attend
from dreamjax.parallel.sharding import split_rows

Dtype = Any
Remat = Literal["none", "full", "dots", "names"]
REMAT_NAMES = ("qkv", "attention", "hidden")  # what a block calls its activations; for remat="names"


# ---------------------------------------------------------------------------------------------------- matrix product
@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmul(x: Float[Array, "*batch I"], kernel: Float[Array, "I O"], dtype: Dtype) -> Float[Array, "*batch O"]:
    """`x @ kernel` in `dtype`, whose kernel gradient is a float32 sum.

    Casting the kernel and letting autodiff transpose the cast gives a gradient in `dtype` that is all-reduced in
    `dtype` over the devices before it becomes float32. Here the gradient's dot itself has float32 output, so the
    reduction over tokens and over devices is float32 and only the operands are rounded.
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
    # XLA on CPU writes a transposed copy of the first operand, computing what made it again: let that be the narrower
    narrow, wide = (x, dy) if x.shape[-1] <= dy.shape[-1] else (dy, x)
    dkernel = jax.lax.dot_general(narrow, wide, ((tokens, tokens), ((), ())), preferred_element_type=jnp.float32)
    return dx, (dkernel if narrow is x else dkernel.T).astype(kernel.dtype)


matmul.defvjp(_matmul_forward, _matmul_backward)


# ------------------------------------------------------------------------------------------------------------ layers
class Linear(nnx.Module):
    """y = x W + b, W of shape (in, out), Xavier-uniform; b zero; the bias is added in float32."""

    def __init__(self, dim_in: int, dim_out: int, *, dtype: Dtype, rngs: nnx.Rngs):
        self.kernel = nnx.Param(nnx.initializers.xavier_uniform()(rngs.params(), (dim_in, dim_out), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((dim_out,), jnp.float32))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*batch I"]) -> Float[Array, "*batch O"]:
        y = matmul(x, self.kernel[...], self.dtype)
        return (y.astype(jnp.float32) + self.bias[...]).astype(self.dtype)


class LayerNorm(nnx.Module):
    """Layer normalisation in float32, eps 1e-5; returns `dtype`."""

    def __init__(self, dim: int, *, dtype: Dtype):
        self.scale = nnx.Param(jnp.ones((dim,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((dim,), jnp.float32))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        x = x.astype(jnp.float32)
        centred = x - x.mean(-1, keepdims=True)
        variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
        return (centred * jax.lax.rsqrt(variance + 1e-5) * self.scale[...] + self.bias[...]).astype(self.dtype)


class SelfAttention(nnx.Module):
    """Multi-head self-attention; `qkv` holds the three projections side by side, heads inside each (as timm)."""

    def __init__(self, dim: int, heads: int, *, dtype: Dtype, implementation: Attention, rngs: nnx.Rngs):
        self.qkv = Linear(dim, 3 * dim, dtype=dtype, rngs=rngs)
        self.proj = Linear(dim, dim, dtype=dtype, rngs=rngs)
        self.heads, self.implementation = heads, implementation

    def __call__(
        self, x_BxTxD: Float[Array, "B T D"], attend_BxT: Bool[Array, "B T"] | None = None
    ) -> Float[Array, "B T D"]:
        B, T, D = x_BxTxD.shape
        qkv = checkpoint_name(self.qkv(x_BxTxD), "qkv").reshape(B, T, 3, self.heads, D // self.heads)
        y = attend(qkv, attend_BxT, self.implementation)
        return self.proj(checkpoint_name(y, "attention").reshape(B, T, D))


@jax.custom_vjp
def gelu(x: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """x Φ(x), the exact one with erf. Its backward pass is written out: autodiff's keeps and copies more on CPU."""
    return jax.nn.gelu(x, approximate=False)


def _gelu_backward(x: Array, dy: Array) -> tuple[Array]:
    x32 = x.astype(jnp.float32)
    slope = jax.scipy.stats.norm.cdf(x32) + x32 * jnp.exp(-0.5 * x32 * x32) * (2 * np.pi) ** -0.5
    return ((dy.astype(jnp.float32) * slope).astype(dy.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


class Mlp(nnx.Module):
    """Linear, GELU (the exact one, with erf), Linear."""

    def __init__(self, dim: int, hidden: int, *, dtype: Dtype, rngs: nnx.Rngs):
        self.fc1 = Linear(dim, hidden, dtype=dtype, rngs=rngs)
        self.fc2 = Linear(hidden, dim, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.fc2(gelu(checkpoint_name(self.fc1(x), "hidden")))


class Block(nnx.Module):
    """Pre-norm transformer block: x + attention(norm1 x), then x + mlp(norm2 x)."""

    def __init__(
        self, dim: int, heads: int, mlp_ratio: float, *, dtype: Dtype, implementation: Attention, rngs: nnx.Rngs
    ):
        self.norm1 = LayerNorm(dim, dtype=dtype)
        self.attn = SelfAttention(dim, heads, dtype=dtype, implementation=implementation, rngs=rngs)
        self.norm2 = LayerNorm(dim, dtype=dtype)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B T D"], attend: Bool[Array, "B T"] | None = None) -> Float[Array, "B T D"]:
        x = x + self.attn(self.norm1(x), attend)
        return x + self.mlp(self.norm2(x))


# ------------------------------------------------------------------------------------------------- stacks of blocks
def stack(depth: int, rngs: nnx.Rngs, make: Any) -> Block:
    """`depth` blocks as one Block whose parameters have a leading layer axis."""

    @nnx.split_rngs(splits=depth)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def build(rngs: nnx.Rngs) -> Block:
        return make(rngs)

    return build(rngs)


def rematerialise(function: Any, remat: Remat, names: tuple[str, ...]) -> Any:
    """`function` that keeps for the backward pass everything, nothing, the matrix products, or the named values."""
    if remat == "none":
        return function
    policies = jax.checkpoint_policies
    policy = {
        "full": policies.nothing_saveable,
        "dots": policies.dots_with_no_batch_dims_saveable,
        "names": policies.save_only_these_names(*names),
    }[remat]
    return jax.checkpoint(function, policy=policy)


def run_stack(
    blocks: Block,
    x: Float[Array, "B T D"],
    attend: Bool[Array, "B T"] | None = None,
    *,
    scan: bool,
    remat: Remat = "none",
    names: tuple[str, ...] = (),
) -> Float[Array, "B T D"]:
    """The blocks one after another: scanned (compile time independent of the depth) or unrolled."""
    graph, params = nnx.split(blocks)

    def body(x: Array, layer: Any) -> tuple[Array, None]:
        return nnx.merge(graph, layer)(x, attend), None

    body = rematerialise(body, remat, names)
    if scan:
        return jax.lax.scan(body, x, params)[0]
    leaves, tree = jax.tree.flatten(params)
    depth = leaves[0].shape[0]
    # lax.split: its transpose is one concatenation, where that of `p[i]` is `depth` sums over the whole stack
    rows = [jax.lax.split(leaf, [1] * depth, axis=0) for leaf in leaves]
    for i in range(depth):
        x, _ = body(x, jax.tree.unflatten(tree, [row[i][0] for row in rows]))
    return x


# --------------------------------------------------------------------------------------------------------- positions
def sincos_positions(length: int, dim: int) -> Float[np.ndarray, "T D"]:
    """[sin(t w_i), cos(t w_i)], w_i = 10000^(-i / (D/2)): all sines, then all cosines. Computed in float64."""
    frequencies = 10000.0 ** (-np.arange(dim // 2, dtype=np.float64) / (dim / 2))
    angles = np.arange(length, dtype=np.float64)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
