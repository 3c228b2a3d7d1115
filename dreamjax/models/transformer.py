"""Transformer blocks: used by the masked autoencoder, CLIP, DINOv2, ViT and the U-Net's attention.

Shape letters: B batch, T tokens, S context tokens, D width, H heads, K width of a head, F hidden width, L layers.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from dreamjax.models.attention import Attention, attend, attend_packed
from dreamjax.models.layers import ACTIVATIONS, Dtype, Keys, LayerNorm, Linear
from dreamjax.parallel.tree_paths import PyTree

Remat = Literal["none", "full", "dots", "names"]
RematPolicy = tuple[Remat, tuple[str, ...]]  # and the names for "names"
REMAT_NAMES = ("qkv", "attention", "hidden")  # names of a block's activations, for remat="names"
Gate = Literal["none", "first", "second"]
M = TypeVar("M", bound=nnx.Module)
T = TypeVar("T")


class SelfAttention(nnx.Module):
    """Multi-head self-attention; `qkv` holds the three projections side by side, heads inside each (as timm)."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        dtype: Dtype,
        implementation: Attention,
        rngs: Keys,
        qkv_bias: bool = True,
        causal: bool = False,
    ):
        self.qkv = Linear(dim, 3 * dim, dtype=dtype, rngs=rngs, bias=qkv_bias)
        self.proj = Linear(dim, dim, dtype=dtype, rngs=rngs)
        self.heads, self.implementation, self.causal = heads, implementation, causal

    def __call__(
        self, x_BxTxD: Float[Array, "B T D"], keys_ok_BxT: Bool[Array, "B T"] | None = None
    ) -> Float[Array, "B T D"]:
        qkv = checkpoint_name(self.qkv(x_BxTxD), "qkv")
        y = attend_packed(qkv, self.heads, keys_ok_BxT, causal=self.causal, implementation=self.implementation)
        return self.proj(checkpoint_name(y, "attention"))


class CrossAttention(nnx.Module):
    """Multi-head attention to a context; `kv` holds keys and values side by side; no biases."""

    def __init__(self, dim: int, context_dim: int, heads: int, *, dtype: Dtype, implementation: Attention, rngs: Keys):
        self.q = Linear(dim, dim, dtype=dtype, rngs=rngs, bias=False)
        self.kv = Linear(context_dim, 2 * dim, dtype=dtype, rngs=rngs, bias=False)
        self.proj = Linear(dim, dim, dtype=dtype, rngs=rngs)
        self.heads, self.implementation = heads, implementation

    def __call__(self, x_BxTxD: Float[Array, "B T D"], context_BxSxC: Float[Array, "B S C"]) -> Float[Array, "B T D"]:
        B, T, D = x_BxTxD.shape
        split = (self.heads, D // self.heads)
        q = checkpoint_name(self.q(x_BxTxD), "qkv").reshape(B, T, *split)
        kv = checkpoint_name(self.kv(context_BxSxC), "qkv").reshape(B, context_BxSxC.shape[1], 2, *split)
        y = attend(q, kv[:, :, 0], kv[:, :, 1], implementation=self.implementation)
        return self.proj(checkpoint_name(y, "attention").reshape(B, T, D))


class Mlp(nnx.Module):
    """Linear, activation, linear; GELU with erf by default.

    With a `gate`, the first layer is twice as wide and its `first` or `second` half, after the activation, multiplies
    the other: GEGLU gates by the second, SwiGLU by the first (Shazeer 2020, arXiv 2002.05202).
    """

    def __init__(
        self, dim: int, hidden: int, *, dtype: Dtype, rngs: Keys, activation: str = "gelu", gate: Gate = "none"
    ):
        self.fc1 = Linear(dim, hidden * (1 if gate == "none" else 2), dtype=dtype, rngs=rngs)
        self.fc2 = Linear(hidden, dim, dtype=dtype, rngs=rngs)
        self.activation, self.gate = activation, gate

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        hidden, act = checkpoint_name(self.fc1(x), "hidden"), ACTIVATIONS[self.activation]
        if self.gate == "none":
            return self.fc2(act(hidden))
        first, second = jnp.split(hidden, 2, axis=-1)
        return self.fc2(act(first) * second if self.gate == "first" else first * act(second))


class LayerScale(nnx.Module):
    """x · scale, one learned number per channel (Touvron et al. 2021, arXiv 2103.17239)."""

    def __init__(self, dim: int, initial: float):
        self.scale = nnx.Param(jnp.full((dim,), initial, jnp.float32))

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return (x * self.scale[...]).astype(x.dtype)


class TransformerBlock(nnx.Module):
    """Pre-norm transformer block: x + attention(norm1 x), then x + mlp(norm2 x); both scaled where `layer_scale`."""

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float = 4.0,
        *,
        dtype: Dtype,
        implementation: Attention,
        rngs: Keys,
        hidden: int | None = None,
        activation: str = "gelu",
        gate: Gate = "none",
        epsilon: float = 1e-5,
        qkv_bias: bool = True,
        causal: bool = False,
        layer_scale: float | None = None,
    ):
        self.norm1 = LayerNorm(dim, dtype=dtype, epsilon=epsilon)
        attention: dict[str, Any] = {"implementation": implementation, "qkv_bias": qkv_bias, "causal": causal}
        self.attn = SelfAttention(dim, heads, dtype=dtype, rngs=rngs, **attention)
        self.norm2 = LayerNorm(dim, dtype=dtype, epsilon=epsilon)
        hidden = int(dim * mlp_ratio) if hidden is None else hidden
        self.mlp = Mlp(dim, hidden, dtype=dtype, rngs=rngs, activation=activation, gate=gate)
        self.scaled = layer_scale is not None
        if layer_scale is not None:
            self.scale1, self.scale2 = LayerScale(dim, layer_scale), LayerScale(dim, layer_scale)

    def __call__(self, x: Float[Array, "B T D"], keys_ok: Bool[Array, "B T"] | None = None) -> Float[Array, "B T D"]:
        y = self.attn(self.norm1(x), keys_ok)
        x = x + (self.scale1(y) if self.scaled else y)
        y = self.mlp(self.norm2(x))
        return x + (self.scale2(y) if self.scaled else y)


# ------------------------------------------------------------------------------------------------- stacks of blocks
def stack(depth: int, rngs: Keys, make: Callable[[Keys], M]) -> M:
    """Return `depth` blocks as one block whose parameters have a leading layer axis."""
    build = nnx.vmap(lambda key: make(Keys(key)), in_axes=(0,), out_axes=0)
    return build(jax.random.split(rngs.params(), depth))


def rematerialise(function: Callable[..., T], remat: Remat, names: tuple[str, ...]) -> Callable[..., T]:
    """Return `function` that keeps for the backward pass all values, none, matrix products, or the named ones."""
    if remat == "none":
        return function
    policies = jax.checkpoint_policies
    policy = {
        "full": policies.nothing_saveable,
        "dots": policies.dots_with_no_batch_dims_saveable,
        "names": policies.save_only_these_names(*names),
    }[remat]
    return jax.checkpoint(function, policy=policy)


def rematerialised(module: nnx.Module, remat: Remat, names: tuple[str, ...] = ()) -> Callable[..., Array]:
    """Return `module` as a function that keeps for its backward pass what `remat` says."""
    if remat == "none":
        return module  # type: ignore[return-value]
    graph, params = nnx.split(module)
    function = rematerialise(lambda params, *args: nnx.merge(graph, params)(*args), remat, names)
    return lambda *args: function(params, *args)


def run_stack(
    blocks: nnx.Module,
    x: Float[Array, "B T D"],
    *args: PyTree,
    scan: bool,
    remat: Remat = "none",
    names: tuple[str, ...] = (),
) -> Float[Array, "B T D"]:
    """Apply the blocks one after another, each called with (x, *args): scanned or unrolled.

    Scanned, the compile time does not depend on the depth.
    """
    graph, params = nnx.split(blocks)
    body = rematerialise(lambda x, layer: (nnx.merge(graph, layer)(x, *args), None), remat, names)
    if scan:
        return jax.lax.scan(body, x, params)[0]
    leaves, tree = jax.tree.flatten(params)
    depth = leaves[0].shape[0]
    # lax.split: its transpose is one concatenation, where that of `p[i]` is `depth` sums over the whole stack
    rows = [jax.lax.split(leaf, [1] * depth, axis=0) for leaf in leaves]
    for i in range(depth):
        x, _ = body(x, jax.tree.unflatten(tree, [row[i][0] for row in rows]))
    return x
