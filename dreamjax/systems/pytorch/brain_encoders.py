"""Encoders of brain signals that dreamjax trains, in PyTorch alone: `encoder(x)`, x (batch, channels, time) → vectors.

Names of parameters are those of the released code where there is one.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """x + fn(x); `name`: what the released code calls the function."""

    def __init__(self, fn: nn.Module, name: str = "fn") -> None:
        super().__init__()
        setattr(self, name, fn)
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return x + getattr(self, self.name)(x)


class Projector(nn.Sequential):
    """LayerNorm(h + dropout(Linear(GELU(h)))), h = Linear(x)."""

    def __init__(self, dim_in: int, dim_out: int, rate: float, name: str = "fn") -> None:
        residual = Residual(nn.Sequential(nn.GELU(), nn.Linear(dim_out, dim_out), nn.Dropout(rate)), name)
        super().__init__(nn.Linear(dim_in, dim_out), residual, nn.LayerNorm(dim_out))


class TemporalSpatial(nn.Module):
    """Convolution in time, average pool, BN, ELU; convolution over all sensors, BN, ELU, dropout; 1 × 1 convolution."""

    def __init__(
        self, channels: int, kernel: int = 25, pool: int = 51, dim: int = 40, dim_out: int = 40, rate: float = 0.5
    ) -> None:
        super().__init__()
        self.tsconv = nn.Sequential(
            nn.Conv2d(1, dim, (1, kernel)),
            nn.AvgPool2d((1, pool), (1, 5)),
            nn.BatchNorm2d(dim),
            nn.ELU(),
            nn.Conv2d(dim, dim, (channels, 1)),
            nn.BatchNorm2d(dim),
            nn.ELU(),
            nn.Dropout(rate),
        )
        self.projection = nn.Sequential(nn.Conv2d(dim, dim_out, 1))
        self.kernel, self.pool = kernel, pool

    def windows(self, samples: int) -> int:
        return (samples - self.kernel + 1 - self.pool) // 5 + 1

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, windows · dim_out), time-major."""
        return self.projection(self.tsconv(x[:, None])).flatten(2).transpose(1, 2).flatten(1)


class ChannelAttention(nn.Module):
    """NICE's self-attention over sensors; as `released`, the sensors do not mix."""

    def __init__(self, channels: int, samples: int, rate: float, released: bool) -> None:
        super().__init__()
        for name in ("query", "key", "projection"):
            layers = nn.Linear(channels, channels), nn.LayerNorm(channels), nn.Dropout(rate)
            setattr(self, name, nn.Sequential(*layers))
        self.scale, self.released = max(1, samples // 30) ** -0.5, released

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        if not self.released:
            weights = (self.scale * self.query(x).transpose(1, 2) @ self.key(x)).softmax(-1)
            x = torch.einsum("btm,bcm->btc", x, weights)
        return self.projection(x).transpose(1, 2)


class GraphAttention(nn.Module):
    """A graph attention layer on the complete graph of sensors, of one head; as `released`, the sensors do not mix."""

    def __init__(self, samples: int, released: bool) -> None:
        super().__init__()
        self.lin = nn.Linear(samples, samples, bias=False)
        self.att_src, self.att_dst = (nn.Parameter(torch.randn(1, 1, samples) / samples**0.5) for _ in range(2))
        self.bias = nn.Parameter(torch.zeros(samples))
        self.released = released

    def forward(self, x: Tensor) -> Tensor:
        x = self.lin(x)
        if not self.released:
            scores = (x * self.att_dst).sum(-1)[:, :, None] + (x * self.att_src).sum(-1)[:, None]
            x = F.leaky_relu(scores, 0.2).softmax(-1) @ x
        return x + self.bias


class Graph(nn.Module):
    def __init__(self, samples: int, released: bool) -> None:
        super().__init__()
        self.conv1 = GraphAttention(samples, released)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1(x)


class NICE(nn.Module):
    """NICE's encoder (Song et al., ICLR 2024): its files Enc_eeg and Proj_eeg."""

    def __init__(
        self,
        channels: int,
        samples: int,
        features: int,
        dim: int = 40,
        embedding: int = 40,
        rate: float = 0.5,
        attention: str = "none",
        attention_rate: float = 0.3,
        released: bool = False,
    ) -> None:
        super().__init__()
        block = TemporalSpatial(channels, dim=dim, dim_out=embedding, rate=rate)
        last = nn.Dropout(attention_rate)
        self.attention: nn.Module = nn.Identity()
        if attention == "self":
            layers = nn.LayerNorm(samples), ChannelAttention(channels, samples, attention_rate, released), last
            self.attention = Residual(nn.Sequential(*layers))
        elif attention == "graph":
            self.attention = Residual(nn.Sequential(Graph(samples, released), last))
        self.Enc_eeg = nn.Sequential(block)
        self.Proj_eeg = Projector(block.windows(samples) * embedding, features, rate)

    def forward(self, x: Tensor) -> Tensor:
        return self.Proj_eeg(self.Enc_eeg(self.attention(x)))


class EEGProject(nn.Module):
    """The flat signal, projected: the encoder of UBP, Shallow Alignment, NeuroBridge and SAMGA."""

    def __init__(self, channels: int, samples: int, features: int, rate: float = 0.3) -> None:
        super().__init__()
        self.model = Projector(channels * samples, features, rate, "f")

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.flatten(1))


class ENIGMA(nn.Module):
    """A linear map of time for each person, a small CNN and a projector; -1: the mean of all maps."""

    def __init__(
        self,
        channels: int,
        samples: int,
        features: int,
        people: int,
        dim: int = 40,
        embedding: int = 4,
        rate: float = 0.5,
    ) -> None:
        super().__init__()
        self.subject_layers = nn.ModuleList(nn.Linear(samples, samples) for _ in range(people))
        block = TemporalSpatial(channels, kernel=5, pool=17, dim=dim, dim_out=embedding, rate=rate)
        self.enc_eeg = nn.Sequential(block)
        self.proj_eeg = Projector(block.windows(samples) * embedding, features, rate)

    def forward(self, x: Tensor, subject_ids: Tensor) -> Tensor:
        mapped = torch.stack([layer(x) for layer in self.subject_layers])
        mapped = torch.cat([mapped, mapped.mean(0, keepdim=True)])
        chosen = torch.where(subject_ids < 0, len(mapped) - 1, subject_ids).long()
        return self.proj_eeg(self.enc_eeg(mapped[chosen, torch.arange(len(x), device=x.device)]))
