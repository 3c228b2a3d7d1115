"""The vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) that CLIP, DINOv2 and ViT have in common.

Shape letters: B batch, H/W height and width in pixels, h/w in patches, p side of a patch, C channels, N = h · w
patches, R registers, D width.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from dreamjax.errors import UserError
from dreamjax.models.encoder import Encoder
from dreamjax.models.keys import Keys
from dreamjax.models.layers import Dtype, LayerNorm, matmul
from dreamjax.models.resampling import Filter, resample

Pooling = Literal["cls", "patches", "tokens"]


class ImagePatchEmbed(nnx.Module):
    """Conv2d whose stride is its kernel: one matrix product per patch. Kernel (p, p, C, D), N(0, 0.02)."""

    def __init__(self, patch: int, channels: int, dim: int, *, dtype: Dtype, rngs: Keys, bias: bool):
        shape = (patch, patch, channels, dim)
        self.kernel = nnx.Param(0.02 * jax.random.normal(rngs.params(), shape, jnp.float32))
        if bias:
            self.bias = nnx.Param(jnp.zeros((dim,), jnp.float32))
        self.patch, self.channels, self.has_bias, self.dtype = patch, channels, bias, dtype

    def __call__(self, pixels: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        """Return float32 embeddings of patches; incomplete ones at the edge are dropped, as by a convolution."""
        p, C = self.patch, self.channels
        B, h, w = pixels.shape[0], pixels.shape[1] // p, pixels.shape[2] // p
        patches = pixels[:, : h * p, : w * p].reshape(B, h, p, w, p, C).swapaxes(2, 3).reshape(B, h, w, p * p * C)
        y = matmul(patches, self.kernel[...].reshape(p * p * C, -1), self.dtype).astype(jnp.float32)
        return y + self.bias[...] if self.has_bias else y


class VisionTransformer(Encoder):
    """The tokens of an image, [cls, registers, patches row by row], and the blocks over them.

    - `image`: side in pixels that the learned positions belong to.
    - `resize`: what happens to the positions for images of another size; "none" refuses them.
    - `pre_norm`: a layer norm before the first block.
    - `mask_token`: a learned token for patches that are masked.
    """

    def __init__(
        self,
        *,
        image: int,
        patch: int,
        dim: int,
        rngs: Keys,
        channels: int = 3,
        patch_bias: bool = True,
        registers: int = 0,
        mask_token: bool = False,
        pre_norm: bool = False,
        resize: Literal["none"] | Filter = "none",
        epsilon: float = 1e-6,
        **options: Any,
    ):
        super().__init__(dim=dim, rngs=rngs, epsilon=epsilon, **options)
        self.image, self.grid, self.registers, self.resize = image, image // patch, registers, resize

        def learned(*shape: int) -> nnx.Param:
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), shape, jnp.float32))

        self.patch_embed = ImagePatchEmbed(patch, channels, dim, dtype=self.dtype, rngs=rngs, bias=patch_bias)
        self.cls_token, self.pos_embed = learned(dim), learned(1 + self.grid**2, dim)
        if registers:
            self.register_tokens = learned(registers, dim)
        self.has_mask = mask_token
        if mask_token:
            self.mask_token = learned(dim)
        self.has_pre_norm = pre_norm
        if pre_norm:
            self.pre_norm = LayerNorm(dim, dtype=self.dtype, epsilon=epsilon)
        self.norm = LayerNorm(dim, dtype=self.dtype, epsilon=epsilon)

    def embed(
        self, pixels: Float[Array, "B H W C"], masked_BxN: Bool[Array, "B N"] | None = None
    ) -> Float[Array, "B 1+R+N D"]:
        """Return tokens plus positions. Raise UserError for images of an unsupported size."""
        self._check(pixels)
        x_BxhxwxD = self.patch_embed(pixels)
        B, h, w, D = x_BxhxwxD.shape
        patches_BxNxD = x_BxhxwxD.reshape(B, h * w, D)
        if masked_BxN is not None:
            patches_BxNxD = jnp.where(masked_BxN[:, :, None], self.mask_token[...], patches_BxNxD)
        positions = self.pos_embed[...]
        cls = jnp.broadcast_to(self.cls_token[...] + positions[0], (B, 1, D))
        parts = [cls, patches_BxNxD + self._patch_positions(positions[1:], h, w)]
        if self.registers:  # they have no position
            parts.insert(1, jnp.broadcast_to(self.register_tokens[...], (B, self.registers, D)))
        x = jnp.concatenate(parts, axis=1).astype(self.dtype)
        return self.pre_norm(x) if self.has_pre_norm else x

    def _check(self, pixels: Array) -> None:
        patch, channels = self.patch_embed.patch, self.patch_embed.channels
        if pixels.ndim != 4 or pixels.shape[3] != channels:
            raise UserError(f"images have the shape (batch, height, width, {channels}), not {pixels.shape}")
        H, W = pixels.shape[1:3]
        if self.resize == "none" and (self.image, self.image) != (H, W):
            raise UserError(f"this network takes images of {self.image} x {self.image} pixels, not of {H} x {W}")
        if min(H, W) < patch:
            raise UserError(f"an image of {H} x {W} pixels is smaller than one patch of {patch} x {patch}")

    def _patch_positions(self, positions_NxD: Array, h: int, w: int) -> Array:
        if self.resize == "none" or (h, w) == (self.grid, self.grid):
            return positions_NxD
        grid = positions_NxD.reshape(self.grid, self.grid, -1)
        return resample(grid, (h, w), self.resize).reshape(h * w, -1)

    def pool(self, tokens: Float[Array, "B 1+R+N D"], pooling: Pooling) -> Array:
        """Return the cls token [B, D], the mean over the patches [B, D], or all tokens as they are [B, 1+R+N, D]."""
        if pooling == "cls":
            return tokens[:, 0]
        return tokens if pooling == "tokens" else tokens[:, 1 + self.registers :].mean(1)
