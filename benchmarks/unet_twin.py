"""The U-Net of Stable Diffusion in PyTorch alone, for machines without diffusers: its names, its config, its outputs.

It is written for speed: PyTorch's fused attention, and nothing that stops `torch.compile`. It takes what the benchmarks
give diffusers' `UNet2DConditionModel`, so either is the twin; tests/test_benchmarks.py compares the two.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class TimeEmbedding(nn.Module):
    """Sinusoids of the time step, cosines first; linear, SiLU, linear."""

    def __init__(self, dim: int, width: int):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(dim, width), nn.Linear(width, width)
        self.half = dim // 2

    def forward(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        steps = torch.arange(self.half, dtype=torch.float32, device=t.device)
        angles = t[:, None].float() * torch.exp(-math.log(10000.0) / self.half * steps)
        x = torch.cat([angles.cos(), angles.sin()], dim=1).to(dtype)
        return self.linear_2(F.silu(self.linear_1(x)))


class ResBlock(nn.Module):
    def __init__(self, dim_in: int, dim: int, time: int, groups: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, dim_in), nn.Conv2d(dim_in, dim, 3, padding=1)
        self.time_emb_proj = nn.Linear(time, dim)
        self.norm2, self.conv2 = nn.GroupNorm(groups, dim), nn.Conv2d(dim, dim, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(dim_in, dim, 1) if dim_in != dim else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(F.silu(time))[:, :, None, None]
        return self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(y)))


class Attention(nn.Module):
    def __init__(self, dim: int, context: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k = nn.Linear(dim, dim, bias=False), nn.Linear(context, dim, bias=False)
        self.to_v, self.to_out = nn.Linear(context, dim, bias=False), nn.ModuleList([nn.Linear(dim, dim)])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = self._split(self.to_q(x)), self._split(self.to_k(context)), self._split(self.to_v(context))
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Gated(nn.Module):
    """GEGLU's first layer."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.proj = nn.Linear(dim, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class ContextBlock(nn.Module):
    def __init__(self, dim: int, context: int, heads: int):
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(dim), Attention(dim, dim, heads)
        self.norm2, self.attn2 = nn.LayerNorm(dim), Attention(dim, context, heads)
        self.norm3, self.ff = nn.LayerNorm(dim), nn.Module()
        self.ff.net = nn.Sequential(Gated(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attn1(normed, normed)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff.net(self.norm3(x))


class SpatialTransformer(nn.Module):
    """One context block over the pixels; the projections are 1 × 1 convolutions."""

    def __init__(self, dim: int, context: int, heads: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, dim, eps=1e-6)
        self.proj_in, self.proj_out = nn.Conv2d(dim, dim, 1), nn.Conv2d(dim, dim, 1)
        self.transformer_blocks = nn.ModuleList([ContextBlock(dim, context, heads)])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        B, C, H, W = x.shape
        tokens = self.proj_in(self.norm(x)).permute(0, 2, 3, 1).reshape(B, H * W, C)
        tokens = self.transformer_blocks[0](tokens, context)
        return x + self.proj_out(tokens.reshape(B, H, W, C).permute(0, 3, 1, 2))


class Resampled(nn.Module):
    """A convolution that halves an image, or follows the one that doubles it."""

    def __init__(self, dim: int, *, down: bool):
        super().__init__()
        self.conv, self.down = nn.Conv2d(dim, dim, 3, stride=2 if down else 1, padding=1), down

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.down else F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by a transformer where it attends."""

    def __init__(self, dims: list[tuple[int, int]], attends: int, time: int, context: int, heads: int, groups: int):
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(a, b, time, groups) for a, b in dims)
        transformers = (SpatialTransformer(b, context, heads, groups) for _, b in dims[:attends])
        self.attentions = nn.ModuleList(transformers)
        self.downsamplers, self.upsamplers = nn.ModuleList(), nn.ModuleList()
        self.remat = False

    def layer(self, j: int, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        x = self._run(self.resnets[j], x, time)
        return self._run(self.attentions[j], x, context) if j < len(self.attentions) else x

    def _run(self, module: nn.Module, x: Tensor, given: Tensor) -> Tensor:
        return checkpoint(module, x, given, use_reentrant=False) if self.remat else module(x, given)


class UNet(nn.Module):
    """Noisy latents (B, C, H, W), time steps, context (B, S, D) → the prediction, as a tuple of one.

    `class_labels`: what is added to the time embedding. Raise ValueError for a config of another kind of U-Net.
    """

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        c = dict(config)
        if c.get("use_linear_projection") or not isinstance(c["attention_head_dim"], int):
            raise ValueError("the twin has the architecture of Stable Diffusion 1")
        widths, layers, heads = c["block_out_channels"], c["layers_per_block"], c["attention_head_dim"]
        down = [kind.startswith("CrossAttn") for kind in c["down_block_types"]]
        up = [kind.startswith("CrossAttn") for kind in c["up_block_types"]]
        time, last = 4 * widths[0], len(widths) - 1
        shared = (time, c["cross_attention_dim"], heads, c["norm_num_groups"])
        self.conv_in = nn.Conv2d(c["in_channels"], widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], time)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skips, before = [widths[0]], widths[0]
        for i, width in enumerate(widths):
            level = Level([(before, width)] + [(width, width)] * (layers - 1), layers * down[i], *shared)
            skips += [width] * layers
            if i < last:
                level.downsamplers.append(Resampled(width, down=True))
                skips.append(width)
            self.down_blocks.append(level)
            before = width
        self.mid_block = Level([(before, before)] * 2, 1, *shared)
        for i, width in enumerate(reversed(widths)):
            dims = [((before if j == 0 else width) + skips.pop(), width) for j in range(layers + 1)]
            level = Level(dims, (layers + 1) * up[i], *shared)
            if i < last:
                level.upsamplers.append(Resampled(width, down=False))
            self.up_blocks.append(level)
            before = width
        self.conv_norm_out = nn.GroupNorm(c["norm_num_groups"], widths[0])
        self.conv_out = nn.Conv2d(widths[0], c["out_channels"], 3, padding=1)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "UNet":
        return cls(config)

    def enable_gradient_checkpointing(self) -> None:
        """Keep only the inputs of residual blocks and transformers for the backward pass."""
        for level in (*self.down_blocks, self.mid_block, *self.up_blocks):
            level.remat = True

    def forward(
        self, x: Tensor, t: Tensor, context: Tensor, *, class_labels: Tensor | None = None, return_dict: bool = False
    ) -> tuple[Tensor]:
        time = self.time_embedding(t.expand(len(x)), x.dtype)
        time = time if class_labels is None else time + class_labels.to(time.dtype)
        x = self.conv_in(x)
        skips = [x]
        for level in self.down_blocks:
            for j in range(len(level.resnets)):
                x = level.layer(j, x, time, context)
                skips.append(x)
            for resampled in level.downsamplers:
                x = resampled(x)
                skips.append(x)
        x = self.mid_block.layer(0, x, time, context)
        x = self.mid_block.layer(1, x, time, context)
        for level in self.up_blocks:
            for j in range(len(level.resnets)):
                x = level.layer(j, torch.cat([x, skips.pop()], dim=1), time, context)
            for resampled in level.upsamplers:
                x = resampled(x)
        return (self.conv_out(F.silu(self.conv_norm_out(x))),)
