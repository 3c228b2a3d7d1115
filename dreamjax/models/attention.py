"""Scaled dot-product attention (Vaswani et al. 2017, equation 1), by the implementation that suits the device.

Shape letters: B batch, T tokens, H heads, K width of a head.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Attention = Literal["auto", "xla", "cudnn", "saved"]


def attend(
    qkv_BxTx3xHxK: Float[Array, "B T 3 H K"],
    keys_ok_BxT: Bool[Array, "B T"] | None,
    implementation: Attention,
) -> Float[Array, "B T H K"]:
    """softmax(q k' / sqrt(K)) v over the keys that are ok.

    - xla: `jax.nn.dot_product_attention`; what TPUs run.
    - cudnn: NVIDIA's fused kernel; bfloat16 on GPUs.
    - saved: heads first, the probabilities kept for a hand-written backward pass. XLA's own backward on CPU makes
      transposed copies and computes the exponentials again (docs/benchmarks.md).
    - auto: saved on CPU, xla elsewhere.
    """
    if implementation == "auto":
        implementation = "saved" if jax.default_backend() == "cpu" else "xla"
    if implementation == "saved":
        q, k, v = qkv_BxTx3xHxK.transpose(2, 0, 3, 1, 4)
        bias = None if keys_ok_BxT is None else jnp.where(keys_ok_BxT, 0.0, -1e30)[:, None, None, :]
        return _saved(q, k, v, bias).swapaxes(1, 2)
    mask = None if keys_ok_BxT is None else keys_ok_BxT[:, None, None, :]
    q, k, v = (qkv_BxTx3xHxK[:, :, i] for i in range(3))
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=implementation)


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
