"""A competent PyTorch peer of the masked-signal autoencoder: same shapes, same loss, same optimiser, nothing else.

It is written for speed, not to mirror our code: fused attention, fused AdamW, gathers instead of boolean masks, no host
synchronisation in the step. DreamDiffusion (arXiv 2306.16934, section 3.1) trains a slower version of this.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Shape:
    """The sizes that both sides share."""

    channels: int
    samples: int
    patch: int
    width: int
    depth: int
    heads: int
    mlp_ratio: float
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    mask_ratio: float

    @property
    def tokens(self) -> int:
        return self.samples // self.patch


def positions(tokens: int, width: int) -> torch.Tensor:
    angle = torch.arange(tokens)[:, None] * 10000 ** (-torch.arange(width // 2) / (width / 2))
    table = torch.cat([angle.sin(), angle.cos()], dim=1)
    return torch.cat([torch.zeros(1, width), table])[None]


class Block(nn.Module):
    def __init__(self, width: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, int(width * mlp_ratio)), nn.Linear(int(width * mlp_ratio), width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(attended.transpose(1, 2).reshape(b, t, d))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class MaskedAutoencoder(nn.Module):
    """(B, channels, samples) → mean squared error on the masked patches."""

    def __init__(self, s: Shape):
        super().__init__()
        self.shape, self.keep = s, int(s.tokens * (1 - s.mask_ratio))
        self.embed = nn.Conv1d(s.channels, s.width, s.patch, s.patch)
        self.cls = nn.Parameter(torch.randn(1, 1, s.width) * 0.02)
        self.mask = nn.Parameter(torch.randn(1, 1, s.decoder_width) * 0.02)
        self.register_buffer("positions", positions(s.tokens, s.width))
        self.register_buffer("decoder_positions", positions(s.tokens, s.decoder_width))
        self.blocks = nn.Sequential(*(Block(s.width, s.heads, s.mlp_ratio) for _ in range(s.depth)))
        self.norm = nn.LayerNorm(s.width)
        self.decoder_embed = nn.Linear(s.width, s.decoder_width)
        self.decoder_blocks = nn.Sequential(
            *(Block(s.decoder_width, s.decoder_heads, s.mlp_ratio) for _ in range(s.decoder_depth))
        )
        self.decoder_norm = nn.LayerNorm(s.decoder_width)
        self.predict = nn.Linear(s.decoder_width, s.channels * s.patch)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        s, (b, tokens) = self.shape, (len(signal), self.shape.tokens)
        x = self.embed(signal).transpose(1, 2) + self.positions[:, 1:]
        order = torch.rand(b, tokens, device=signal.device).argsort(dim=1)
        kept = order[:, : self.keep]
        x = x.gather(1, kept[..., None].expand(-1, -1, s.width))
        x = torch.cat([(self.cls + self.positions[:, :1]).expand(b, -1, -1), x], dim=1)
        x = self.decoder_embed(self.norm(self.blocks(x)))
        masked = self.mask.expand(b, tokens - self.keep, -1)
        restored = torch.cat([x[:, 1:], masked], dim=1)
        inverse = order.argsort(dim=1)
        restored = restored.gather(1, inverse[..., None].expand(-1, -1, s.decoder_width))
        y = torch.cat([x[:, :1], restored], dim=1) + self.decoder_positions
        y = self.predict(self.decoder_norm(self.decoder_blocks(y)))[:, 1:]
        target = signal.transpose(1, 2).reshape(b, tokens, -1)
        error = (y.float() - target).square().mean(-1)
        removed = (inverse >= self.keep).float()
        return (error * removed).sum() / removed.sum()


class Trainer:
    """One training step on `device`, with autocast where `bfloat16`; gradients summed over equal micro-batches."""

    def __init__(
        self,
        shape: Shape,
        device: str,
        *,
        bfloat16: bool,
        compiled: bool,
        microbatches: int = 1,
        mode: str | None = None,
    ):
        self.model = MaskedAutoencoder(shape).to(device)
        self.loss = torch.compile(self.model, mode=mode) if compiled else self.model
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=2.5e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=True
        )
        self.device, self.bfloat16, self.microbatches = device, bfloat16, microbatches

    def step(self, signal: torch.Tensor) -> torch.Tensor:
        for rows in signal.chunk(self.microbatches):
            with torch.autocast(self.device, torch.bfloat16, enabled=self.bfloat16):
                loss = self.loss(rows) / self.microbatches
            loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.8)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return loss.detach()

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
