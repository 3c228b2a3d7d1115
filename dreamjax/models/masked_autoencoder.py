"""The masked-signal autoencoder: a vision transformer over patches of time (MinD-Vis, DreamDiffusion section 3.1).

All channels of `patch` consecutive samples are one token. The encoder sees the visible tokens only, the decoder all of
them with a learned token in the masked places, and predicts every patch, time-major: [t0: all channels, t1: …].

Shape letters: B batch, C channels, T samples, N patches, P = patch · C entries of a patch, V visible slots, D width,
E decoder width.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from dreamjax.models.attention import Attention
from dreamjax.models.interpolation import GaussianInterpolation
from dreamjax.models.layers import Dtype, Keys, LayerNorm, Linear, PatchEmbed, sincos_positions, small_normal
from dreamjax.models.transformer import Remat, TransformerBlock, run_stack, stack

Interpolation = Literal["none", "gaussian"]


def patchify(signal_BxCxT: Float[Array, "B C T"], patch: int) -> Float[Array, "B N P"]:
    """Return windows as patches, each vector time-major: entry t · C + c."""
    B, C, T = signal_BxCxT.shape
    return signal_BxCxT.swapaxes(1, 2).reshape(B, T // patch, patch * C)


def unpatchify(patches_BxNxP: Float[Array, "B N P"], channels: int) -> Float[Array, "B C T"]:
    """Apply the inverse of `patchify`."""
    B = patches_BxNxP.shape[0]
    return patches_BxNxP.reshape(B, -1, channels).swapaxes(1, 2)


@jax.custom_vjp
def permute(x_BxNxD: Float[Array, "B N D"], order_BxN: Int[Array, "B N"], inverse_BxN: Int[Array, "B N"]) -> Array:
    """Return x[b, order[b]]. The gradient of a permutation is the inverse permutation: a gather, not a scatter."""
    return jnp.take_along_axis(x_BxNxD, order_BxN[:, :, None], axis=1)


permute.defvjp(
    lambda x, order, inverse: (permute(x, order, inverse), (order, inverse)),
    lambda saved, dy: (permute(dy, saved[1], saved[0]), None, None),
)


class MaskedAutoencoder(nnx.Module):
    """See the module. Parameters are float32; `dtype` is the type of the computation.

    An encoder that was fine-tuned elsewhere may lack the decoder (`decoder_depth` 0) and the cls token, and have
    `learned_positions`: a parameter `pos_embed` with a row for the cls token and for each of so many patches.
    """

    def __init__(
        self,
        *,
        channels: int,
        patch: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        decoder_dim: int,
        decoder_depth: int,
        decoder_heads: int,
        rngs: Keys,
        cls_token: bool = True,
        learned_positions: int = 0,
        dtype: Dtype = jnp.float32,
        attention: Attention = "auto",
        scan_layers: bool = True,
        remat: Remat = "none",
        remat_names: tuple[str, ...] = (),
        interpolation: Interpolation = "none",
        spectrum_points: int = 128,
    ):
        block = functools.partial(TransformerBlock, mlp_ratio=mlp_ratio, dtype=dtype, implementation=attention)
        self.patch_embed = PatchEmbed(patch, channels, dim, dtype=dtype, rngs=rngs)
        if cls_token:
            self.cls_token = small_normal(rngs, 1, 1, dim)
        if learned_positions:
            rows = np.concatenate([np.zeros((1, dim), np.float32), sincos_positions(learned_positions, dim)])
            self.pos_embed = nnx.Param(jnp.asarray(rows)[None])
        self.blocks = stack(depth, rngs, lambda rngs: block(dim, heads, rngs=rngs))
        self.norm = LayerNorm(dim, dtype=dtype)
        if decoder_depth:
            self.decoder_embed = Linear(dim, decoder_dim, dtype=dtype, rngs=rngs)
            self.mask_token = small_normal(rngs, 1, 1, decoder_dim)
            self.decoder_blocks = stack(decoder_depth, rngs, lambda rngs: block(decoder_dim, decoder_heads, rngs=rngs))
            self.decoder_norm = LayerNorm(decoder_dim, dtype=dtype)
            self.decoder_pred = Linear(decoder_dim, patch * channels, dtype=dtype, rngs=rngs)
        self.has_cls, self.learned_positions = cls_token, learned_positions
        self.interpolates = interpolation == "gaussian"
        if self.interpolates:
            self.interpolation = GaussianInterpolation(
                spectrum_points, dim, patch * channels, decoder_dim, dtype=dtype, rngs=rngs
            )
            self.decoder_pred.kernel[...] = jnp.zeros_like(self.decoder_pred.kernel[...])  # starts as the interpolation
        self.channels, self.patch, self.dim, self.decoder_dim, self.dtype = channels, patch, dim, decoder_dim, dtype
        self.run: Any = functools.partial(run_stack, scan=scan_layers, remat=remat, names=remat_names)

    def encode(
        self,
        patches_BxNxP: Float[Array, "B N P"],
        keep_BxV: Int[Array, "B V"] | None = None,
        keep_ok_BxV: Bool[Array, "B V"] | None = None,
    ) -> Float[Array, "B 1+V D"]:
        """Return the cls token and the tokens of the kept patches (all of them by default), after the final norm.

        `keep_ok` is False in the slots that hold no patch: nothing attends to them. Without a cls token: [B, V, D].
        """
        B, N, _ = patches_BxNxP.shape
        positions_NxD = (
            self.pos_embed[...][0, 1:] if self.learned_positions else jnp.asarray(sincos_positions(N, self.dim))
        )
        if keep_BxV is None:
            tokens_BxVxD = self.patch_embed(patches_BxNxP) + positions_NxD
        else:
            visible_BxVxP = jnp.take_along_axis(patches_BxNxP, keep_BxV[:, :, None], axis=1)
            tokens_BxVxD = self.patch_embed(visible_BxVxP) + positions_NxD[keep_BxV]
        if not self.has_cls:
            return self.norm(self.run(self.blocks, tokens_BxVxD.astype(self.dtype), keep_ok_BxV))
        first = self.cls_token[...] + self.pos_embed[...][:, :1] if self.learned_positions else self.cls_token[...]
        cls = jnp.broadcast_to(first, (B, 1, self.dim))  # broadcast in float32: so is its gradient's sum
        x = jnp.concatenate([cls, tokens_BxVxD], axis=1).astype(self.dtype)
        return self.norm(self.run(self.blocks, x, _with_cls(keep_ok_BxV)))

    def decode(
        self,
        tokens_Bx1VxD: Float[Array, "B 1+V D"],
        order_BxN: Int[Array, "B N"],
        keep_ok_BxV: Bool[Array, "B V"] | None = None,
        valid_BxN: Bool[Array, "B N"] | None = None,
        guess_BxNxP: Float[Array, "B N P"] | None = None,
    ) -> Float[Array, "B N P"]:
        """Return a prediction for every patch, in time order. `order` lists the kept patches first, then the rest.

        With `guess`, the interpolation, the decoder sees it and predicts what it misses.
        """
        B, N = order_BxN.shape
        V = tokens_Bx1VxD.shape[1] - 1
        x_Bx1VxE = self.decoder_embed(tokens_Bx1VxD)
        mask_token = self.mask_token[...]
        kept_BxVxE = x_Bx1VxE[:, 1:]
        if keep_ok_BxV is not None:  # a slot without a patch stands for a masked one
            filled = jnp.where(keep_ok_BxV[:, :, None], kept_BxVxE.astype(jnp.float32), mask_token)
            kept_BxVxE = filled.astype(self.dtype)
        masked = jnp.broadcast_to(mask_token, (B, N - V, self.decoder_dim)).astype(self.dtype)
        inverse_BxN = jnp.argsort(order_BxN, axis=1)
        x_BxNxE = permute(jnp.concatenate([kept_BxVxE, masked], axis=1), inverse_BxN, order_BxN)
        x_BxNxE = x_BxNxE + jnp.asarray(sincos_positions(N, self.decoder_dim)).astype(self.dtype)
        if guess_BxNxP is not None:
            x_BxNxE = x_BxNxE + self.interpolation.embed(guess_BxNxP)
        x = jnp.concatenate([x_Bx1VxE[:, :1], x_BxNxE], axis=1)
        x = self.decoder_norm(self.run(self.decoder_blocks, x, _with_cls(valid_BxN)))
        prediction = self.decoder_pred(x[:, 1:]).astype(jnp.float32)
        return prediction if guess_BxNxP is None else prediction + guess_BxNxP

    def interpolate(
        self,
        patches_BxNxP: Float[Array, "B N P"],
        tokens_Bx1VxD: Float[Array, "B 1+V D"],
        keep_BxV: Int[Array, "B V"],
        keep_ok_BxV: Bool[Array, "B V"] | None,
    ) -> Float[Array, "B N P"] | None:
        """Return the Gaussian interpolation of the kept patches, where the model has that layer."""
        if not self.interpolates:
            return None
        B, V = keep_BxV.shape
        ok = jnp.ones((B, V), bool) if keep_ok_BxV is None else keep_ok_BxV
        samples_BxS = (keep_BxV[:, :, None] * self.patch + jnp.arange(self.patch)).reshape(B, -1)
        signal = unpatchify(patches_BxNxP, self.channels)
        guess = self.interpolation(signal, samples_BxS, jnp.repeat(ok, self.patch, axis=1), tokens_Bx1VxD[:, 0])
        return patchify(guess, self.patch)

    def __call__(
        self,
        patches_BxNxP: Float[Array, "B N P"],
        order_BxN: Int[Array, "B N"],
        visible: int,
        keep_ok_BxV: Bool[Array, "B V"] | None = None,
        valid_BxN: Bool[Array, "B N"] | None = None,
    ) -> Float[Array, "B N P"]:
        """Encode the first `visible` patches of `order`, decode all."""
        keep_BxV = order_BxN[:, :visible]
        tokens = self.encode(patches_BxNxP, keep_BxV, keep_ok_BxV)
        guess = self.interpolate(patches_BxNxP, tokens, keep_BxV, keep_ok_BxV)
        return self.decode(tokens, order_BxN, keep_ok_BxV, valid_BxN, guess)


def _with_cls(ok: Bool[Array, "B V"] | None) -> Bool[Array, "B 1+V"] | None:
    """Return the key mask with the cls token, which is always attended, in front."""
    return None if ok is None else jnp.pad(ok, ((0, 0), (1, 0)), constant_values=True)
