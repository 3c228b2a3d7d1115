"""EEGNet, ShallowFBCSPNet and Deep4Net in PyTorch alone: `model(x)`, x (batch, channels, time) → vectors.

Names of parameters, sizes and normalisations are braindecode's; arguments are dreamjax's.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ShallowFBCSPNet(nn.Module):
    """Schirrmeister et al. 2017: log of the mean square of filtered mixtures of sensors."""

    def __init__(
        self,
        channels: int,
        samples: int,
        features: int,
        dim: int = 40,
        taps: int = 25,
        pool: int = 75,
        stride: int = 15,
        rate: float = 0.5,
    ) -> None:
        super().__init__()
        self.conv_time = nn.Conv2d(1, dim, (taps, 1))
        self.conv_spat = nn.Conv2d(dim, dim, (1, channels), bias=False)
        self.bnorm, self.drop = nn.BatchNorm2d(dim), nn.Dropout(rate)
        self.conv_classifier = nn.Conv2d(dim, features, ((samples - taps + 1 - pool) // stride + 1, 1))
        self.pool, self.stride = pool, stride

    def forward(self, x: Tensor) -> Tensor:
        y = self.bnorm(self.conv_spat(self.conv_time(x.transpose(1, 2)[:, None]))).square()
        y = F.avg_pool2d(y, (self.pool, 1), (self.stride, 1)).clamp(min=1e-6).log()
        return self.conv_classifier(self.drop(y))[:, :, 0, 0]


class Deep4Net(nn.Module):
    """Schirrmeister et al. 2017: four blocks of convolution, ELU and maximum."""

    def __init__(
        self,
        channels: int,
        samples: int,
        features: int,
        dim: int = 25,
        taps: int = 10,
        pool: int = 3,
        rate: float = 0.5,
    ) -> None:
        super().__init__()
        self.conv_time = nn.Conv2d(1, dim, (taps, 1))
        self.conv_spat = nn.Conv2d(dim, dim, (1, channels), bias=False)
        self.bnorm = nn.BatchNorm2d(dim)
        for block in (2, 3, 4):
            width = dim << (block - 1)
            setattr(self, f"drop_{block}", nn.Dropout(rate))
            setattr(self, f"conv_{block}", nn.Conv2d(width // 2, width, (taps, 1), bias=False))
            setattr(self, f"bnorm_{block}", nn.BatchNorm2d(width))
        for _ in range(4):
            samples = (samples - taps + 1) // pool
        self.conv_classifier = nn.Conv2d(8 * dim, features, (samples, 1))
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        y = self.bnorm(self.conv_spat(self.conv_time(x.transpose(1, 2)[:, None])))
        y = F.max_pool2d(F.elu(y), (self.pool, 1))
        for block in (2, 3, 4):
            for name in ("drop", "conv", "bnorm"):
                y = getattr(self, f"{name}_{block}")(y)
            y = F.max_pool2d(F.elu(y), (self.pool, 1))
        return self.conv_classifier(y)[:, :, 0, 0]


class EEGNet(nn.Module):
    """EEGNet v4 (Lawhern et al. 2018); the norm of each mixture of sensors is at most 1."""

    def __init__(
        self,
        channels: int,
        samples: int,
        features: int,
        filters: int = 8,
        mixtures: int = 2,
        taps: int = 64,
        rate: float = 0.25,
    ) -> None:
        super().__init__()
        dim = filters * mixtures
        self.conv_temporal = nn.Conv2d(1, filters, (1, taps), padding=(0, taps // 2), bias=False)
        self.bnorm_temporal = nn.BatchNorm2d(filters, eps=1e-3, momentum=0.01)
        self.conv_spatial = nn.Conv2d(filters, dim, (channels, 1), groups=filters, bias=False)
        self.bnorm_1 = nn.BatchNorm2d(dim, eps=1e-3, momentum=0.01)
        self.conv_separable_depth = nn.Conv2d(dim, dim, (1, 16), padding=(0, 8), groups=dim, bias=False)
        self.conv_separable_point = nn.Conv2d(dim, dim, 1, bias=False)
        self.bnorm_2 = nn.BatchNorm2d(dim, eps=1e-3, momentum=0.01)
        positions = ((samples + 1 - taps % 2) // 4 + 1) // 8
        self.drop, self.conv_classifier = nn.Dropout(rate), nn.Conv2d(dim, features, (1, positions))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bnorm_temporal(self.conv_temporal(x[:, None]))
        weight = self.conv_spatial.weight
        short = weight + (torch.renorm(weight, 2, 0, 1.0) - weight).detach()
        y = self.bnorm_1(F.conv2d(y, short, groups=self.conv_spatial.groups))
        y = self.drop(F.avg_pool2d(F.elu(y), (1, 4)))
        y = self.bnorm_2(self.conv_separable_point(self.conv_separable_depth(y)))
        return self.conv_classifier(self.drop(F.avg_pool2d(F.elu(y), (1, 8))))[:, :, 0, 0]
