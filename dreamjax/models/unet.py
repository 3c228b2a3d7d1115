"""The conditional U-Net of latent diffusion (diffusers' UNet2DConditionModel), for Stable Diffusion 1 and 2.

Rombach et al. 2022, arXiv 2112.10752, section 3.3. Images are (B, H, W, C). Parameters have diffusers' names, except
that a level's transformer blocks are stacked and their projections fused.

Shape letters: B batch, H height, W width, C channels, T = H · W tokens, S context tokens, D context width, E of time.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Num

from dreamjax.models.attention import Attention
from dreamjax.models.convolution import Conv2d, Downsample, GroupNorm, MakeResBlock, ResBlock, Upsample
from dreamjax.models.layers import ACTIVATIONS, Dtype, Keys, LayerNorm, Linear, ModuleList
from dreamjax.models.transformer import (
    CrossAttention,
    Mlp,
    Remat,
    RematPolicy,
    SelfAttention,
    rematerialised,
    run_stack,
    stack,
)


def timestep_embedding(
    t_B: Num[Array, "B"], dim: int, *, flip_sin_to_cos: bool = True, shift: float = 0.0
) -> Float[Array, "B dim"]:
    """Return [sin(t w_i), cos(t w_i)], w_i = 10000^(-i / (dim/2 - shift)); cosines first where flipped.

    The sinusoids of DDPM (Ho et al. 2020, arXiv 2006.11239).
    """
    half = dim // 2
    w = jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / (half - shift))
    angles = t_B.astype(jnp.float32)[:, None] * w
    parts = [jnp.cos(angles), jnp.sin(angles)] if flip_sin_to_cos else [jnp.sin(angles), jnp.cos(angles)]
    return jnp.pad(jnp.concatenate(parts, axis=1), ((0, 0), (0, dim % 2)))


class TimeEmbedding(nnx.Module):
    """Linear, activation, linear."""

    def __init__(self, dim_in: int, dim: int, *, activation: str, dtype: Dtype, rngs: Keys):
        self.linear_1 = Linear(dim_in, dim, dtype=dtype, rngs=rngs)
        self.linear_2 = Linear(dim, dim, dtype=dtype, rngs=rngs)
        self.activation = activation

    def __call__(self, x: Float[Array, "B I"]) -> Float[Array, "B E"]:
        return self.linear_2(ACTIVATIONS[self.activation](self.linear_1(x)))


class ContextBlock(nnx.Module):
    """Self-attention, attention to the context, GEGLU; each after a layer norm and added."""

    def __init__(self, dim: int, context_dim: int, heads: int, *, dtype: Dtype, implementation: Attention, rngs: Keys):
        kinds: dict[str, Any] = {"dtype": dtype, "implementation": implementation, "rngs": rngs}
        self.norm1 = LayerNorm(dim, dtype=dtype)
        self.attn1 = SelfAttention(dim, heads, qkv_bias=False, **kinds)
        self.norm2 = LayerNorm(dim, dtype=dtype)
        self.attn2 = CrossAttention(dim, context_dim, heads, **kinds)
        self.norm3 = LayerNorm(dim, dtype=dtype)
        self.ff = Mlp(dim, 4 * dim, gate="second", dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B T C"], context: Float[Array, "B S D"]) -> Float[Array, "B T C"]:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nnx.Module):
    """Context blocks over the pixels of an image as tokens; `linear`: how projections are stored."""

    def __init__(
        self,
        dim: int,
        context_dim: int,
        heads: int,
        depth: int,
        *,
        linear: bool,
        groups: int,
        dtype: Dtype,
        implementation: Attention,
        scan: bool,
        rngs: Keys,
    ):
        def project() -> Linear | Conv2d:
            return Linear(dim, dim, dtype=dtype, rngs=rngs) if linear else Conv2d(dim, dim, 1, dtype=dtype, rngs=rngs)

        block = functools.partial(ContextBlock, dim, context_dim, heads, dtype=dtype, implementation=implementation)
        self.norm = GroupNorm(dim, groups, dtype=dtype, epsilon=1e-6)
        self.proj_in = project()
        self.blocks = stack(depth, rngs, lambda rngs: block(rngs=rngs))
        self.proj_out = project()
        self.scan = scan and depth > 1

    def __call__(
        self, x_BxHxWxC: Float[Array, "B H W C"], context_BxSxD: Float[Array, "B S D"]
    ) -> Float[Array, "B H W C"]:
        B, H, W, C = x_BxHxWxC.shape
        tokens_BxTxC = self.proj_in(self.norm(x_BxHxWxC)).reshape(B, H * W, C)
        tokens_BxTxC = run_stack(self.blocks, tokens_BxTxC, context_BxSxD, scan=self.scan)
        return x_BxHxWxC + self.proj_out(tokens_BxTxC.reshape(B, H, W, C))


class Level(nnx.Module):
    """Residual blocks of one resolution, the first `attending` of them followed by a transformer."""

    downsample: Downsample
    upsample: Upsample

    def __init__(
        self,
        dims: list[tuple[int, int]],
        res: MakeResBlock,
        transformer: Callable[[int], SpatialTransformer],
        attending: int,
    ):
        self.resnets, self.attending = ModuleList(*(res(a, b) for a, b in dims)), attending
        if attending:
            self.attentions = ModuleList(*(transformer(b) for _, b in dims[:attending]))

    def layer(self, j: int, x: Array, time: Array, context: Array, remat: RematPolicy) -> Array:
        x = rematerialised(self.resnets[j], *remat)(x, time)
        return rematerialised(self.attentions[j], *remat)(x, context) if j < self.attending else x


class UNet(nnx.Module):
    """Predict ε, v or x₀ from noisy latents, the time step and a context. Parameters are float32, `dtype` computes.

    `widths`, `heads`, `layers`, `depths` (of transformers), `attends`: one entry a resolution, finest first;
    `up_attends`: coarsest first.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        widths: tuple[int, ...],
        layers: tuple[int, ...],
        heads: tuple[int, ...],
        depths: tuple[int, ...],
        attends: tuple[bool, ...],
        up_attends: tuple[bool, ...],
        context_dim: int,
        linear_projection: bool = False,
        groups: int = 32,
        epsilon: float = 1e-5,
        activation: str = "silu",
        flip_sin_to_cos: bool = True,
        freq_shift: float = 0.0,
        downsample_padding: int = 1,
        dtype: Dtype = jnp.float32,
        attention: Attention = "auto",
        scan_layers: bool = True,
        remat: Remat = "none",
        remat_names: tuple[str, ...] = (),
        rngs: Keys,
    ):
        time_dim, last = 4 * widths[0], len(widths) - 1
        common: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        res = functools.partial(
            ResBlock, groups=groups, epsilon=epsilon, time_dim=time_dim, activation=activation, **common
        )

        def transformer(level: int) -> Callable[[int], SpatialTransformer]:
            return lambda dim: SpatialTransformer(
                dim,
                context_dim,
                heads[level],
                depths[level],
                linear=linear_projection,
                groups=groups,
                implementation=attention,
                scan=scan_layers,
                **common,
            )

        self.conv_in = Conv2d(in_channels, widths[0], **common)
        self.time_embedding = TimeEmbedding(widths[0], time_dim, activation=activation, **common)
        down: list[Level] = []
        before = widths[0]
        for i, width in enumerate(widths):
            dims = [(before if j == 0 else width, width) for j in range(layers[i])]
            level = Level(dims, res, transformer(i), layers[i] * attends[i])
            if i < last:
                level.downsample = Downsample(width, padding=downsample_padding, **common)
            down, before = [*down, level], width
        self.down_blocks = ModuleList(*down)
        self.mid_block = Level([(before, before)] * 2, res, transformer(last), 1)
        up: list[Level] = []
        for i, width in reversed(list(enumerate(widths))):
            finer, count = widths[max(i - 1, 0)], layers[i] + 1
            skips = [width] * (count - 1) + [finer]
            dims = [((before if j == 0 else width) + skip, width) for j, skip in enumerate(skips)]
            level = Level(dims, res, transformer(i), count * up_attends[last - i])
            if i > 0:
                level.upsample = Upsample(width, **common)
            up, before = [*up, level], width
        self.up_blocks = ModuleList(*up)
        self.conv_norm_out = GroupNorm(widths[0], groups, dtype=dtype, epsilon=epsilon)
        self.conv_out = Conv2d(widths[0], out_channels, **common)
        self.embed = functools.partial(
            timestep_embedding, dim=widths[0], flip_sin_to_cos=flip_sin_to_cos, shift=freq_shift
        )
        self.activation, self.dtype, self.remat = activation, dtype, (remat, remat_names)

    def __call__(
        self,
        x_BxHxWxC: Float[Array, "B H W C"],
        t_B: Num[Array, "B"],
        context_BxSxD: Float[Array, "B S D"],
        time_offset_BxE: Float[Array, "B E"] | None = None,
    ) -> Float[Array, "B H W O"]:
        """Return the prediction, float32, for any H and W.

        `t`: time steps, which may be fractional. `time_offset` is added to their embedding.
        """
        time_BxE = self.time_embedding(self.embed(t_B))
        if time_offset_BxE is not None:
            time_BxE = time_BxE + time_offset_BxE.astype(self.dtype)
        inputs = (time_BxE, context_BxSxD.astype(self.dtype), self.remat)
        x = self.conv_in(x_BxHxWxC.astype(self.dtype))
        skips = [x]
        for i, level in enumerate(self.down_blocks):
            for j in range(len(level.resnets)):
                x = level.layer(j, x, *inputs)
                skips.append(x)
            if i < len(self.down_blocks) - 1:
                x = level.downsample(x)
                skips.append(x)
        for j in range(2):
            x = self.mid_block.layer(j, x, *inputs)
        for i, level in enumerate(self.up_blocks):
            for j in range(len(level.resnets)):
                x = level.layer(j, jnp.concatenate([x, skips.pop()], axis=-1), *inputs)
            if i < len(self.up_blocks) - 1:
                x = level.upsample(x, skips[-1].shape[1:3])
        x = ACTIVATIONS[self.activation](self.conv_norm_out(x))
        return self.conv_out(x).astype(jnp.float32)
