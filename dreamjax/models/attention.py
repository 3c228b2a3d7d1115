"""Scaled dot-product attention (Vaswani et al. 2017, equation 1), by the implementation that suits the device.

Shape letters: B batch, T queries, S keys, H heads, K width of a head.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from dreamjax.parallel import platform

Attention = Literal["auto", "xla", "cudnn", "pallas", "saved"]
IMPLEMENTATIONS: tuple[str, ...] = get_args(Attention)
CHUNK_BYTES = 16 << 20  # of float32 logits that `saved` works on at a time: what a CPU's cache and allocator like


def attend(
    q_BxTxHxK: Float[Array, "B T H K"],
    k_BxSxHxK: Float[Array, "B S H K"],
    v_BxSxHxK: Float[Array, "B S H K"],
    keys_ok_BxS: Bool[Array, "B S"] | None = None,
    *,
    causal: bool = False,
    implementation: Attention = "auto",
) -> Float[Array, "B T H K"]:
    """softmax(q k' / sqrt(K)) v over the keys that are ok and, where `causal`, not later than the query.

    - xla: `jax.nn.dot_product_attention`; what TPUs run.
    - cudnn: NVIDIA's fused kernel; bfloat16 on GPUs.
    - pallas: the flash kernel for TPUs that comes with JAX; no T × S array exists. Where blocks do not fit (T or S not
      a multiple of 128, K above 128 and not one either) and on other devices the same attention is computed by xla.
    - saved: heads first, the probabilities kept for a hand-written backward pass. XLA's own backward on CPU makes
      transposed copies and computes the exponentials again (docs/benchmarks.md). Long sequences go in chunks of queries
      whose logits are computed again in the backward pass.
    - auto: saved on CPU, xla elsewhere.
    """
    q, k, v = q_BxTxHxK, k_BxSxHxK, v_BxSxHxK
    if implementation == "auto":
        implementation = "saved" if platform.target() == "cpu" else "xla"
    if implementation == "saved":
        bias = _bias(keys_ok_BxS, causal, q.shape[1], k.shape[1])
        return _in_chunks(q.swapaxes(1, 2), k.swapaxes(1, 2), v.swapaxes(1, 2), bias).swapaxes(1, 2)
    if implementation == "pallas":
        if keys_ok_BxS is None and _fits_flash(q, k) and platform.target() == "tpu":
            return _flash(q, k, v, causal)
        implementation = "xla"
    mask = None if keys_ok_BxS is None else keys_ok_BxS[:, None, None, :]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=causal, implementation=implementation)


def _fits_flash(q: Array, k: Array) -> bool:
    (T, S), K = (q.shape[1], k.shape[1]), q.shape[-1]
    return T % 128 == S % 128 == 0 and (K <= 128 or K % 128 == 0)


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
    """What is added to the logits, [B or 1, 1, T or 1, S]."""
    bias = None if keys_ok_BxS is None else jnp.where(keys_ok_BxS, 0.0, -1e30)[:, None, None, :]
    if causal:
        past = jnp.where(jnp.tril(jnp.ones((T, S), bool)), 0.0, -1e30)[None, None]
        bias = past if bias is None else bias + past
    return bias


def _in_chunks(q: Array, k: Array, v: Array, bias: Array | None) -> Array:
    """`_saved`, over so many queries at a time that a chunk's logits fit `CHUNK_BYTES`."""
    B, H, T, _ = q.shape
    chunks = next((n for n in range(1, T + 1) if T % n == 0 and 4 * B * H * T * k.shape[2] <= n * CHUNK_BYTES), T)
    if chunks == 1 or T // chunks < 8:  # a length that has no such divisor goes as a whole
        return _saved(q, k, v, bias)

    def cut(x: Array) -> Array:  # (B, H, T, …) → (chunks, B, H, T / chunks, …)
        return jnp.moveaxis(x.reshape(*x.shape[:2], chunks, T // chunks, x.shape[-1]), 2, 0)

    whole = bias is None or bias.shape[2] == 1
    step = jax.checkpoint(lambda one: _saved(one[0], k, v, bias if whole else one[1]))
    done = jax.lax.map(step, (cut(q), jnp.zeros((chunks, 0)) if whole or bias is None else cut(bias)))
    return jnp.moveaxis(done, 0, 2).reshape(q.shape[:-1] + v.shape[-1:])


@jax.custom_vjp
def _saved(q: Array, k: Array, v: Array, bias: Array | None) -> Array:
    """Attention over (B, H, T, K) arrays; logits and softmax in float32."""
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
    dv = jnp.einsum("bhts,bhtk->bhsk", p, dy)
    dp = jnp.einsum("bhtk,bhsk->bhts", dy, v, preferred_element_type=jnp.float32)
    dlogits = p * (dp - (dp * p).sum(-1, keepdims=True)) * q.shape[-1] ** -0.5
    dlogits = dlogits.astype(q.dtype)
    return jnp.einsum("bhts,bhsk->bhtk", dlogits, k), jnp.einsum("bhts,bhtk->bhsk", dlogits, q), dv, None


_saved.defvjp(_saved_forward, _saved_backward)
