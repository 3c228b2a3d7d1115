"""The variational autoencoder of latent diffusion (diffusers' AutoencoderKL); images are (B, H, W, C).

Rombach et al. 2022, arXiv 2112.10752, section 3.1. Latents are unscaled here: the diffusion model sees them times
`scaling_factor`, which belongs to the pipeline.

Shape letters: B batch, H height, W width, C channels, h = H / f and w = W / f of the latents, Z latent channels.
"""

import functools
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from dreamjax.models.attention import Attention
from dreamjax.models.convolution import Conv2d, Downsample, GroupNorm, MakeResBlock, ResBlock, Upsample
from dreamjax.models.layers import ACTIVATIONS, Dtype, Keys, ModuleList
from dreamjax.models.transformer import Remat, SelfAttention, rematerialised

EPSILON = 1e-6


class PixelAttention(nnx.Module):
    """x + attention of one head over the pixels, after a group norm."""

    def __init__(self, dim: int, groups: int, *, dtype: Dtype, implementation: Attention, rngs: Keys):
        self.norm = GroupNorm(dim, groups, dtype=dtype, epsilon=EPSILON)
        self.attn = SelfAttention(dim, 1, dtype=dtype, implementation=implementation, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        B, H, W, C = x.shape
        return x + self.attn(self.norm(x).reshape(B, H * W, C)).reshape(B, H, W, C)


class MidBlock(nnx.Module):
    """Residual block, attention over the pixels (where asked for), residual block."""

    def __init__(
        self, dim: int, attends: bool, groups: int, res: MakeResBlock, *, attention: Attention, dtype: Dtype, rngs: Keys
    ):
        self.resnets = ModuleList(res(dim, dim), res(dim, dim))
        if attends:
            self.attention = PixelAttention(dim, groups, implementation=attention, dtype=dtype, rngs=rngs)
        self.attends = attends

    def __call__(self, x: Array, remat: Remat) -> Array:
        first, last = self.resnets
        for part in (first, self.attention, last) if self.attends else (first, last):
            x = rematerialised(part, remat)(x)
        return x


class ResolutionStage(nnx.Module):
    """Residual blocks of one resolution."""

    resample: Upsample | Downsample

    def __init__(self, dims: list[tuple[int, int]], res: MakeResBlock):
        self.resnets = ModuleList(*(res(a, b) for a, b in dims))

    def __call__(self, x: Array, remat: Remat) -> Array:
        for block in self.resnets:
            x = rematerialised(block, remat)(x)
        return x


class Coder(nnx.Module):
    """Encoder (images → moments) or decoder (latents → images); `widths` has the finest resolution first."""

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        widths: tuple[int, ...],
        layers: int,
        *,
        decodes: bool,
        groups: int,
        activation: str,
        mid_attention: bool,
        attention: Attention,
        remat: Remat,
        dtype: Dtype,
        rngs: Keys,
    ):
        common: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        res = functools.partial(ResBlock, groups=groups, epsilon=EPSILON, activation=activation, **common)
        ordered = widths[::-1] if decodes else widths
        self.conv_in = Conv2d(dim_in, ordered[0], **common)
        self.mid_block = MidBlock(widths[-1], mid_attention, groups, res, attention=attention, **common)
        stages: list[ResolutionStage] = []
        before = ordered[0]
        for i, width in enumerate(ordered):
            stage = ResolutionStage([(before if j == 0 else width, width) for j in range(layers)], res)
            if i < len(ordered) - 1:
                stage.resample = Upsample(width, **common) if decodes else Downsample(width, padding=0, **common)
            stages, before = [*stages, stage], width
        self.blocks = ModuleList(*stages)
        self.conv_norm_out = GroupNorm(ordered[-1], groups, dtype=dtype, epsilon=EPSILON)
        self.conv_out = Conv2d(ordered[-1], dim_out, **common)
        self.decodes, self.activation, self.remat, self.dtype = decodes, activation, remat, dtype

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w O"]:
        x = self.conv_in(x.astype(self.dtype))
        if self.decodes:
            x = self.mid_block(x, self.remat)
        for i, stage in enumerate(self.blocks):
            x = stage(x, self.remat)
            if i < len(self.blocks) - 1:
                x = stage.resample(x)
        if not self.decodes:
            x = self.mid_block(x, self.remat)
        return self.conv_out(ACTIVATIONS[self.activation](self.conv_norm_out(x)))


class AutoencoderKL(nnx.Module):
    """Images ⇄ latents. Parameters are float32, `dtype` computes; results are float32."""

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        latent_channels: int,
        widths: tuple[int, ...],
        layers: int,
        groups: int = 32,
        activation: str = "silu",
        quant_conv: bool = True,
        post_quant_conv: bool = True,
        mid_attention: bool = True,
        dtype: Dtype = jnp.float32,
        attention: Attention = "auto",
        remat: Remat = "none",
        rngs: Keys,
    ):
        common: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        coder: dict[str, Any] = {"groups": groups, "activation": activation, "mid_attention": mid_attention}
        coder |= {"attention": attention, "remat": remat, **common}
        self.encoder = Coder(in_channels, 2 * latent_channels, widths, layers, decodes=False, **coder)
        self.decoder = Coder(latent_channels, out_channels, widths, layers + 1, decodes=True, **coder)
        if quant_conv:
            self.quant_conv = Conv2d(2 * latent_channels, 2 * latent_channels, 1, **common)
        if post_quant_conv:
            self.post_quant_conv = Conv2d(latent_channels, latent_channels, 1, **common)
        self.has_quant, self.has_post_quant = quant_conv, post_quant_conv

    def moments(self, images_BxHxWxC: Float[Array, "B H W C"]) -> tuple[Array, Array]:
        """Return (mean, log-variance clipped to [-30, 20]) of the latents of images in [-1, 1], each [B, h, w, Z]."""
        x = self.encoder(images_BxHxWxC)
        x = self.quant_conv(x) if self.has_quant else x
        mean, log_variance = jnp.split(x.astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(log_variance, -30.0, 20.0)

    def decode(self, latents_BxhxwxZ: Float[Array, "B h w Z"]) -> Float[Array, "B H W C"]:
        """Return images, nominally in [-1, 1]."""
        x = self.post_quant_conv(latents_BxhxwxZ) if self.has_post_quant else latents_BxhxwxZ
        return self.decoder(x).astype(jnp.float32)


def sample(mean: Array, log_variance: Array, noise: Array) -> Array:
    """Return mean + exp(log_variance / 2) · noise."""
    return mean + jnp.exp(0.5 * log_variance) * noise
