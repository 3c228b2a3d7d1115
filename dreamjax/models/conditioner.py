"""Tokens of a brain encoder → what a latent diffusion model is conditioned on (DreamDiffusion, section 3.2 and 3.3).

Shape letters: B batch, N tokens of E entries, S tokens of the context of D entries, M width in between, P width of
CLIP's common space, T width of the time embedding.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from dreamjax.models.layers import Dtype, Keys, Linear


class Conditioner(nnx.Module):
    """Linear maps, of the tokens' axis and of their entries, as published.

    - `context`: N → M → S tokens without an activation between (a map of rank M at most), then E → D entries.
    - `embed`: a learned weighted sum of the tokens, then E → P: what is aligned with the image's CLIP embedding.
    - `time_offset`, with `time_dim` > 0: S → S / 2 → 1 token of the context, then D → T: added to the U-Net's time
      embedding. It starts at 0, so that the U-Net starts as it was (the published code starts it at random).
    """

    def __init__(
        self,
        *,
        tokens: int,
        dim: int,
        context_tokens: int,
        context_dim: int,
        rngs: Keys,
        hidden: int = 64,
        embedding_dim: int = 0,
        time_dim: int = 0,
        dtype: Dtype = jnp.float32,
    ):
        def linear(dim_in: int, dim_out: int) -> Linear:
            return Linear(dim_in, dim_out, dtype=dtype, rngs=rngs)

        self.token_in, self.token_out = linear(tokens, hidden), linear(hidden, context_tokens)
        self.dim_map = linear(dim, context_dim)
        self.has_embedding, self.has_time = bool(embedding_dim), bool(time_dim)
        if embedding_dim:
            self.embed_tokens, self.embed_map = linear(tokens, 1), linear(dim, embedding_dim)
        if time_dim:
            half = context_tokens // 2
            self.time_in, self.time_out = linear(context_tokens, half), linear(half, 1)
            self.time_map = linear(context_dim, time_dim)
            self.time_map.kernel[...] = jnp.zeros_like(self.time_map.kernel[...])
        self.dtype = dtype

    def context(self, tokens_BxNxE: Float[Array, "B N E"], ok_BxN: Bool[Array, "B N"]) -> Float[Array, "B S D"]:
        """Return the context; padding tokens count as 0."""
        x_BxExN = self._seen(tokens_BxNxE, ok_BxN).swapaxes(1, 2)
        mixed_BxSxE = self.token_out(self.token_in(x_BxExN)).swapaxes(1, 2)
        return self.dim_map(mixed_BxSxE).astype(jnp.float32)

    def embed(self, tokens_BxNxE: Float[Array, "B N E"], ok_BxN: Bool[Array, "B N"]) -> Float[Array, "B P"]:
        """Return the embedding in CLIP's space, not normalised."""
        x_BxExN = self._seen(tokens_BxNxE, ok_BxN).swapaxes(1, 2)
        return self.embed_map(self.embed_tokens(x_BxExN)[..., 0]).astype(jnp.float32)

    def time_offset(self, context_BxSxD: Float[Array, "B S D"]) -> Float[Array, "B T"]:
        """Return the offset of the U-Net's time embedding."""
        x_BxDxS = context_BxSxD.swapaxes(1, 2).astype(self.dtype)
        return self.time_map(self.time_out(self.time_in(x_BxDxS))[..., 0]).astype(jnp.float32)

    def _seen(self, tokens_BxNxE: Array, ok_BxN: Array) -> Array:
        return jnp.where(ok_BxN[:, :, None], tokens_BxNxE, 0).astype(self.dtype)
