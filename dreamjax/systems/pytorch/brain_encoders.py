"""Encoders of brain signals that dreamjax trains, in PyTorch alone: `encoder(x)`, x (batch, channels, time) → vectors.

Names of parameters are those of the released code where there is one.
"""

from torch import Tensor, nn


class Residual(nn.Module):
    """x + fn(x)."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fn(x)


class Projector(nn.Sequential):
    """LayerNorm(h + dropout(Linear(GELU(h)))), h = Linear(x)."""

    def __init__(self, dim_in: int, dim_out: int, rate: float) -> None:
        residual = Residual(nn.Sequential(nn.GELU(), nn.Linear(dim_out, dim_out), nn.Dropout(rate)))
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


class NICE(nn.Module):
    """NICE's encoder (Song et al., ICLR 2024): its files Enc_eeg and Proj_eeg."""

    def __init__(
        self, channels: int, samples: int, features: int, dim: int = 40, embedding: int = 40, rate: float = 0.5
    ) -> None:
        super().__init__()
        block = TemporalSpatial(channels, dim=dim, dim_out=embedding, rate=rate)
        self.Enc_eeg = nn.Sequential(block)
        self.Proj_eeg = Projector(block.windows(samples) * embedding, features, rate)

    def forward(self, x: Tensor) -> Tensor:
        return self.Proj_eeg(self.Enc_eeg(x))
