"""CLIP (Radford et al. 2021, arXiv 2103.00020): its text and its vision transformer.

OpenAI's and OpenCLIP's weights in the form that transformers gives them; they differ by the activation (quick_gelu,
gelu), by widths, and by how the end of a text is determined.

Shape letters: B batch, T tokens, D width, P width of the common space, H/W pixels.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from dreamjax.errors import UserError
from dreamjax.models.encoder import Encoded, Encoder
from dreamjax.models.keys import Keys
from dreamjax.models.layers import LayerNorm, Linear
from dreamjax.models.vision_transformer import VisionTransformer

OLD_EOS = 2  # in older configs, whose actual end token is the largest id of a text


class CLIPText(Encoder):
    """Causal blocks over token ids. `projection`: width of the common space, or 0. `options`: of `Encoder`.

    Stable Diffusion 1 takes `last_hidden_state` of 12 blocks. Stable Diffusion 2 skips OpenCLIP's last block, which its
    file does not have; with a whole model that is `norm(hidden_state(ids, -2))`.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        positions: int,
        dim: int,
        eos: int,
        rngs: Keys,
        projection: int = 0,
        epsilon: float = 1e-5,
        **options: Any,
    ):
        super().__init__(dim=dim, rngs=rngs, epsilon=epsilon, causal=True, **options)

        def learned(*shape: int) -> nnx.Param:
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), shape, jnp.float32))

        self.token_embed, self.pos_embed = learned(vocabulary, dim), learned(positions, dim)
        self.norm = LayerNorm(dim, dtype=self.dtype, epsilon=epsilon)
        self.has_projection = bool(projection)
        if projection:
            self.projection = Linear(dim, projection, dtype=self.dtype, rngs=rngs, bias=False)
        self.eos, self.positions = eos, positions

    def embed(self, ids_BxT: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Return tokens plus positions. Raise UserError for more tokens than there are positions."""
        T = ids_BxT.shape[1]
        if self.positions < T:
            raise UserError(f"a text of {T} tokens is too long for this network, which has {self.positions} positions")
        return (jnp.take(self.token_embed[...], ids_BxT, axis=0) + self.pos_embed[...][:T]).astype(self.dtype)

    def __call__(self, ids_BxT: Int[Array, "B T"], keys_ok_BxT: Bool[Array, "B T"] | None = None) -> Encoded:
        """Return `last_hidden_state` [B, T, D] after the final norm, its end token [B, D], and that projected [B, P].

        `keys_ok` is transformers' `attention_mask`: False for padding that nothing attends to.
        """
        x_BxTxD = self.norm(self.run(self.blocks, self.embed(ids_BxT), keys_ok_BxT))
        end_B = jnp.argmax(ids_BxT if self.eos == OLD_EOS else ids_BxT == self.eos, axis=1)
        pooled_BxD = jnp.take_along_axis(x_BxTxD, end_B[:, None, None], axis=1)[:, 0]
        return Encoded(x_BxTxD, pooled_BxD, self.projection(pooled_BxD) if self.has_projection else None)


class CLIPVision(VisionTransformer):
    """Blocks over a normed [cls, patches]. `projection`: width of the common space, or 0. `options`: as the bases'."""

    def __init__(self, *, dim: int, rngs: Keys, projection: int = 0, epsilon: float = 1e-5, **options: Any):
        super().__init__(dim=dim, rngs=rngs, epsilon=epsilon, patch_bias=False, pre_norm=True, **options)
        self.has_projection = bool(projection)
        if projection:
            self.projection = Linear(dim, projection, dtype=self.dtype, rngs=rngs, bias=False)

    def __call__(self, pixels: Float[Array, "B H W 3"]) -> Encoded:
        """Return `last_hidden_state` [B, 1+N, D] without norm, its cls token after the norm [B, D], its projection."""
        x_BxTxD = self.run(self.blocks, self.embed(pixels), None)
        pooled_BxD = self.norm(x_BxTxD[:, 0])
        return Encoded(x_BxTxD, pooled_BxD, self.projection(pooled_BxD) if self.has_projection else None)
