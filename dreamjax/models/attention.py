"""Scaled dot-product attention (Vaswani et al. 2017, equation 1), with an implementation per platform.

Shape letters: B batch, T queries, S keys, H heads, K width of a head.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from dreamjax.errors import UserError
from dreamjax.parallel import environment
from dreamjax.parallel.tree_paths import PyTree

Attention = Literal["auto", "xla", "cudnn", "pallas", "saved"]
Kind = Literal["xla", "cudnn", "pallas", "saved"]  # "auto" resolved
Shaped = Array | jax.ShapeDtypeStruct
KEPT_BYTES = 16 << 20  # of float32 logits: up to here `saved` keeps them for the backward pass
PIECE_BYTES = 4 << 20  # of those of one head beyond that: what stays in a CPU's cache


def attend(
    q_BxTxHxK: Float[Array, "B T H K"],
    k_BxSxHxK: Float[Array, "B S H K"],
    v_BxSxHxK: Float[Array, "B S H K"],
    keys_ok_BxS: Bool[Array, "B S"] | None = None,
    *,
    causal: bool = False,
    implementation: Attention = "auto",
) -> Float[Array, "B T H K"]:
    """Return softmax(q k' / sqrt(K)) v over the keys that are ok and, where `causal`, not later than the query.

    - xla: `jax.nn.dot_product_attention`; used on TPUs. Probabilities are recomputed in the backward pass, as storing
      them takes longer (docs/benchmarks.md).
    - cudnn: NVIDIA's fused kernel; bfloat16 or float16 on GPUs from compute capability 8.0 on.
    - pallas: the flash kernel for TPUs that comes with JAX; no T × S array exists. Where blocks do not fit (T or S not
      a multiple of 128, K above 128 and not a multiple either) and on other devices xla computes the same attention.
    - saved: heads first, the probabilities kept for a hand-written backward pass. XLA's own backward on CPU makes
      transposed copies and computes the exponentials again (docs/benchmarks.md). Long sequences go head by head in
      pieces that stay in the cache, and their probabilities are recomputed in the backward pass.
    - auto: saved on CPU; cudnn on GPUs where the type and the width of a head allow it; else xla.
    """
    q, k, v = q_BxTxHxK, k_BxSxHxK, v_BxSxHxK
    kind = _implementation_for(implementation, q, k, keys_ok_BxS)
    function = functools.partial(_attend, causal=causal, kind=kind)
    return _recomputed(function, kind)(q, k, v, keys_ok_BxS)


def attend_packed(
    qkv_BxTxE: Float[Array, "B T E"],
    heads: int,
    keys_ok_BxT: Bool[Array, "B T"] | None = None,
    *,
    causal: bool = False,
    implementation: Attention = "auto",
) -> Float[Array, "B T D"]:
    """Compute `attend` on queries, keys and values concatenated along the last axis, heads inside each; E = 3 D.

    They are split after they were stored as one array, which on TPUs needs no copy in another layout.
    """
    B, T, E = qkv_BxTxE.shape
    one = jax.ShapeDtypeStruct((B, T, heads, E // 3 // heads), qkv_BxTxE.dtype)
    kind = _implementation_for(implementation, one, one, keys_ok_BxT)

    def function(qkv: Array, keys_ok: Array | None) -> Array:
        q, k, v = (part.reshape(one.shape) for part in jnp.split(qkv, 3, axis=-1))
        return _attend(q, k, v, keys_ok, causal=causal, kind=kind).reshape(B, T, E // 3)

    return _recomputed(function, kind)(qkv_BxTxE, keys_ok_BxT)


def _implementation_for(implementation: Attention, q: Shaped, k: Shaped, keys_ok: Array | None) -> Kind:
    """Return the implementation for these shapes on the target platform."""
    if implementation == "auto":
        if environment.target_platform() == "gpu" and _fits_cudnn(q):
            return "cudnn"
        return "saved" if environment.target_platform() == "cpu" else "xla"
    if implementation == "cudnn" and environment.target_platform() == "gpu" and not _fits_cudnn(q):
        raise UserError(
            f"attention=cudnn has no kernel for {q.dtype} heads of width {q.shape[-1]} on this GPU: use attention=auto"
        )
    if implementation == "pallas":
        return "pallas" if keys_ok is None and _fits_flash(q, k) and environment.target_platform() == "tpu" else "xla"
    return implementation


def _recomputed(function: Callable[..., Array], kind: Kind) -> Callable[..., Array]:
    return jax.checkpoint(function) if kind == "xla" else function


def _attend(q: Array, k: Array, v: Array, keys_ok_BxS: Array | None, *, causal: bool, kind: Kind) -> Array:
    if kind == "saved":
        bias = _bias(keys_ok_BxS, causal, q.shape[1], k.shape[1])
        if 4 * q.shape[0] * q.shape[2] * q.shape[1] * k.shape[1] > KEPT_BYTES:
            return _head_by_head(jnp.moveaxis(q, 2, 0), jnp.moveaxis(k, 2, 0), jnp.moveaxis(v, 2, 0), bias)
        return _saved(q.swapaxes(1, 2), k.swapaxes(1, 2), v.swapaxes(1, 2), bias).swapaxes(1, 2)
    if kind == "pallas":
        return _flash(q, k, v, causal)
    if kind == "cudnn":
        return of_even_length(q, k, v, keys_ok_BxS, causal=causal, kind=kind)
    mask = None if keys_ok_BxS is None else keys_ok_BxS[:, None, None, :]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=causal, implementation=kind)


def of_even_length(
    q: Array, k: Array, v: Array, keys_ok_BxS: Array | None, *, causal: bool, kind: Literal["xla", "cudnn"]
) -> Array:
    """Compute attention with queries and keys padded to even numbers, which JAX requires of cuDNN's backward pass.

    The kernel leaves the padding out by the lengths of its sequences, or by a mask over all queries and keys, where
    there is a mask (of another shape it takes none, jax-ml/jax#28974).
    """
    (B, T), S = q.shape[:2], k.shape[1]

    def even(x: Array) -> Array:
        return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), *((0, 0) for _ in x.shape[2:])))

    given: dict[str, Any] = {}
    if keys_ok_BxS is not None:
        given["mask"] = jnp.broadcast_to(even(keys_ok_BxS)[:, None, None], (B, 1, T + T % 2, S + S % 2))
    elif T % 2 or S % 2:
        given["query_seq_lengths"] = jnp.full(B, T, jnp.int32)
        given["key_value_seq_lengths"] = jnp.full(B, S, jnp.int32)
    y = jax.nn.dot_product_attention(even(q), even(k), even(v), is_causal=causal, implementation=kind, **given)
    return y[:, :T]


def _fits_flash(q: Shaped, k: Shaped) -> bool:
    (T, S), K = (q.shape[1], k.shape[1]), q.shape[-1]
    return T % 128 == S % 128 == 0 and (K <= 128 or K % 128 == 0)


def _fits_cudnn(q: Shaped) -> bool:
    """Return whether cuDNN has a fused kernel, forward and backward, for this type and head on the target GPU."""
    capability, K = environment.compute_capability() or (0, 0), q.shape[-1]
    widest = 256 if (9, 0) <= capability < (12, 0) else 128  # Hopper and Blackwell of data centres
    return capability >= (8, 0) and q.dtype in (jnp.bfloat16, jnp.float16) and K % 8 == 0 and widest >= K


def _flash(q: Array, k: Array, v: Array, causal: bool) -> Array:
    from jax.experimental.pallas.ops.tpu import flash_attention

    def of_rows(q: Array, k: Array, v: Array) -> Array:
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        y = flash_attention.flash_attention(q, k, v, causal=causal, sm_scale=q.shape[-1] ** -0.5)
        return y.swapaxes(1, 2)

    if jax.sharding.get_abstract_mesh().empty:
        return of_rows(q, k, v)
    rows = P(("data", "fsdp"))  # the compiler does not split a kernel by itself
    return jax.shard_map(of_rows, in_specs=rows, out_specs=rows, check_vma=False)(q, k, v)


def _bias(keys_ok_BxS: Array | None, causal: bool, T: int, S: int) -> Array | None:
    """Return the bias of the logits, [B or 1, 1, T or 1, S]."""
    bias = None if keys_ok_BxS is None else jnp.where(keys_ok_BxS, 0.0, -1e30)[:, None, None, :]
    if causal:
        past = jnp.where(jnp.tril(jnp.ones((T, S), bool)), 0.0, -1e30)[None, None]
        bias = past if bias is None else bias + past
    return bias


@jax.custom_vjp
def _saved(q: Array, k: Array, v: Array, bias: Array | None) -> Array:
    """Compute attention over (B, H, T, K) arrays; logits and softmax in float32."""
    return _saved_forward(q, k, v, bias)[0]


def _saved_forward(q: Array, k: Array, v: Array, bias: Array | None) -> tuple[Array, tuple]:
    logits = jnp.einsum("bhtk,bhsk->bhts", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias
    exponentials = jnp.exp(logits - logits.max(-1, keepdims=True))
    p = (exponentials / exponentials.sum(-1, keepdims=True)).astype(q.dtype)
    return jnp.einsum("bhts,bhsk->bhtk", p, v), (q, k, v, p)


def _saved_backward(saved: tuple, dy: Array) -> tuple[Array, Array, Array, None]:
    q, k, v, p = saved
    dv = _sum_over_queries(p, dy)
    dp = jnp.einsum("bhtk,bhsk->bhts", dy, v, preferred_element_type=jnp.float32)
    dlogits = p * (dp - (dp * p).sum(-1, keepdims=True)) * q.shape[-1] ** -0.5
    dlogits = dlogits.astype(q.dtype)
    return jnp.einsum("bhts,bhsk->bhtk", dlogits, k), _sum_over_queries(dlogits, q), dv, None


_saved.defvjp(_saved_forward, _saved_backward)


def _sum_over_queries(p: Float[Array, "B H T S"], x: Float[Array, "B H T K"]) -> Float[Array, "B H S K"]:
    # XLA on CPU writes a transposed copy of the first operand: let that be the smaller one
    if p.shape[-1] <= 2 * x.shape[-1]:
        return jnp.einsum("bhts,bhtk->bhsk", p, x)
    return jnp.einsum("bhtk,bhts->bhks", x, p).swapaxes(2, 3)


# ------------------------------------------------------------------------------------------------------ long sequences
def _head_by_head(q: Array, k: Array, v: Array, bias: Array | None) -> Array:
    """Compute attention over (H, B, T, K) arrays → (B, T, H, K), a head and a cache-sized piece of queries at once."""
    _, B, T, _ = q.shape
    divisors = (n for n in range(1, T // 8 + 1) if T % n == 0)
    # a length that has no such divisor goes as a whole
    pieces = next((n for n in divisors if 4 * B * T * k.shape[2] <= n * PIECE_BYTES), 1)
    return jnp.moveaxis(_pieces(q, k, v, None if bias is None else bias[:, 0], pieces), 0, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _pieces(q: Array, k: Array, v: Array, bias: Array | None, pieces: int) -> Array:
    return _pieces_forward(q, k, v, bias, pieces)[0]


def _pieces_forward(q: Array, k: Array, v: Array, bias: Array | None, pieces: int) -> tuple[Array, tuple]:
    def of_head(head: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        q, k, v = head

        def of_piece(_: None, rows: dict[str, Array]) -> tuple[None, tuple[Array, Array, Array]]:
            logits = _logits(rows["q"], k, rows.get("bias", bias))
            top = logits.max(-1, keepdims=True)
            exponentials = jnp.exp(logits - top)
            share = 1.0 / exponentials.sum(-1, keepdims=True)
            y = jnp.einsum("bts,bsk->btk", exponentials.astype(v.dtype), v, preferred_element_type=jnp.float32)
            return None, ((y * share).astype(v.dtype), top, share)

        return _over_pieces(of_piece, None, {"q": q} | _of_rows(bias, q), pieces)[1]

    y, top, share = jax.lax.map(of_head, (q, k, v))
    return y, (q, k, v, bias, y, top, share)


def _pieces_backward(pieces: int, saved: tuple, dy: Array) -> tuple[Array, Array, Array, None]:
    q, k, v, bias, y, top, share = saved
    inner = (dy.astype(jnp.float32) * y).sum(-1, keepdims=True)  # of dy with y: what the softmax takes off

    def of_head(head: dict[str, Array]) -> tuple[Array, Array, Array]:
        k, v = head.pop("k"), head.pop("v")

        def of_piece(sums: tuple[Array, Array], rows: dict[str, Array]) -> tuple[tuple[Array, Array], Array]:
            q, dy = rows["q"], rows["dy"]
            p = jnp.exp(_logits(q, k, rows.get("bias", bias)) - rows["top"]) * rows["share"]
            dp = jnp.einsum("btk,bsk->bts", dy, v, preferred_element_type=jnp.float32)
            dlogits = (p * (dp - rows["inner"]) * q.shape[-1] ** -0.5).astype(q.dtype)
            # the small operand first, as in `_sum_over_queries`
            dk = jnp.einsum("btk,bts->bks", q, dlogits, preferred_element_type=jnp.float32)
            dv = jnp.einsum("btk,bts->bks", dy, p.astype(dy.dtype), preferred_element_type=jnp.float32)
            return (sums[0] + dk, sums[1] + dv), jnp.einsum("bts,bsk->btk", dlogits, k)

        zeros = tuple(jnp.zeros(x.swapaxes(1, 2).shape, jnp.float32) for x in (k, v))
        (dk, dv), dq = _over_pieces(of_piece, zeros, head | _of_rows(bias, head["q"]), pieces)
        return dq, dk.swapaxes(1, 2).astype(k.dtype), dv.swapaxes(1, 2).astype(v.dtype)

    heads = {"q": q, "k": k, "v": v, "dy": dy, "top": top, "share": share, "inner": inner}
    return *jax.lax.map(of_head, heads), None


_pieces.defvjp(_pieces_forward, _pieces_backward)


def _logits(q: Array, k: Array, bias: Array | None) -> Array:
    logits = jnp.einsum("btk,bsk->bts", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
    return logits if bias is None else logits + bias


def _of_rows(bias: Array | None, q: Array) -> dict[str, Array]:
    """Return the bias where it differs between queries, so that it is cut like them."""
    return {} if bias is None or bias.shape[1] != q.shape[1] else {"bias": bias}


def _over_pieces(
    function: Callable[[PyTree, dict[str, Array]], tuple[PyTree, PyTree]],
    carry: PyTree,
    rows: dict[str, Array],
    pieces: int,
) -> tuple[PyTree, PyTree]:
    """Run `lax.scan` over equal cuts of axis 1 and concatenate the outputs."""
    if pieces == 1:
        return function(carry, rows)

    def cut(x: Array) -> Array:
        return jnp.moveaxis(x.reshape(x.shape[0], pieces, -1, *x.shape[2:]), 1, 0)

    carry, done = jax.lax.scan(function, carry, jax.tree.map(cut, rows))
    return carry, jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:]), done)
