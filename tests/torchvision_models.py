"""The published networks that judge images in PyTorch, from their structure and under torchvision's names.

Widths can be a fraction of the published ones (`unit`), and everything has random weights and running statistics.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and running statistic drawn anew, so that none is 0 or 1 or equal to another one."""
    g = torch.Generator().manual_seed(seed)

    def noise(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=g)

    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.ndim > 1:
                p.copy_(noise(p) * (2 / p[0].numel()) ** 0.5)
            else:
                p.copy_(0.2 * noise(p) + (0.0 if name.endswith("bias") else 1.0))
        for name, b in module.named_buffers():
            if name.endswith("running_mean"):
                b.copy_(0.2 * noise(b))
            elif name.endswith("running_var"):
                b.copy_(0.5 + torch.rand(b.shape, generator=g))
    return module.eval()


def alexnet(unit: int = 64, classes: int = 1000) -> nn.Module:
    w = [unit * n for n in (1, 3, 6, 4, 4)]
    module = nn.Module()
    module.features = nn.Sequential(
        *(nn.Conv2d(3, w[0], 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(w[0], w[1], 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(w[1], w[2], 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(w[2], w[3], 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(w[3], w[4], 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
    )
    module.avgpool = nn.AdaptiveAvgPool2d((6, 6))
    module.classifier = nn.Sequential(
        *(nn.Dropout(), nn.Linear(36 * w[4], 64 * unit), nn.ReLU()),
        *(nn.Dropout(), nn.Linear(64 * unit, 64 * unit), nn.ReLU()),
        nn.Linear(64 * unit, classes),
    )
    return module


# -------------------------------------------------------------------------------------------------------- Inception-v3
class BasicConv2d(nn.Module):
    def __init__(self, a: int, b: int, **options: Any):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(a, b, bias=False, **options), nn.BatchNorm2d(b, eps=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


def _k(kernel: Any, padding: Any = 0, stride: int = 1) -> dict[str, Any]:
    return {"kernel_size": kernel, "padding": padding, "stride": stride}


class Mixed(nn.Module):
    """Convolutions by name, and how the branches run through them; `pool`: "counted", "uncounted" or "max"."""

    def __init__(self, convs: dict[str, Any], branches: list, pool: str | None, unit: int):
        super().__init__()
        for name, (a, b, options) in convs.items():
            setattr(self, name, BasicConv2d(a * unit // 16, b * unit // 16, **options))
        self.branches, self.pool = branches, pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = []
        for branch in self.branches:
            y = x
            for step in branch:
                if isinstance(step, tuple):
                    y = torch.cat([getattr(self, name)(y) for name in step], 1)
                elif step == "max2":
                    y = F.max_pool2d(y, 3, 2)
                elif step == "pool" and self.pool == "max":
                    y = F.max_pool2d(y, 3, 1, 1)
                elif step == "pool":
                    y = F.avg_pool2d(y, 3, 1, 1, count_include_pad=self.pool == "counted")
                else:
                    y = getattr(self, step)(y)
            out.append(y)
        return torch.cat(out, 1)


def _a(a: int, pool: int, kind: str, unit: int) -> Mixed:
    convs = {
        "branch1x1": (a, 64, _k(1)),
        "branch5x5_1": (a, 48, _k(1)),
        "branch5x5_2": (48, 64, _k(5, 2)),
        "branch3x3dbl_1": (a, 64, _k(1)),
        "branch3x3dbl_2": (64, 96, _k(3, 1)),
        "branch3x3dbl_3": (96, 96, _k(3, 1)),
        "branch_pool": (a, pool, _k(1)),
    }
    double = ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"]
    return Mixed(convs, [["branch1x1"], ["branch5x5_1", "branch5x5_2"], double, ["pool", "branch_pool"]], kind, unit)


def _b(a: int, unit: int) -> Mixed:
    convs = {
        "branch3x3": (a, 384, _k(3, 0, 2)),
        "branch3x3dbl_1": (a, 64, _k(1)),
        "branch3x3dbl_2": (64, 96, _k(3, 1)),
        "branch3x3dbl_3": (96, 96, _k(3, 0, 2)),
    }
    return Mixed(convs, [["branch3x3"], ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], ["max2"]], None, unit)


def _c(inner: int, kind: str, unit: int) -> Mixed:
    row, column = ((1, 7), (0, 3)), ((7, 1), (3, 0))
    convs = {
        "branch1x1": (768, 192, _k(1)),
        "branch7x7_1": (768, inner, _k(1)),
        "branch7x7_2": (inner, inner, _k(*row)),
        "branch7x7_3": (inner, 192, _k(*column)),
        "branch7x7dbl_1": (768, inner, _k(1)),
        "branch7x7dbl_2": (inner, inner, _k(*column)),
        "branch7x7dbl_3": (inner, inner, _k(*row)),
        "branch7x7dbl_4": (inner, inner, _k(*column)),
        "branch7x7dbl_5": (inner, 192, _k(*row)),
        "branch_pool": (768, 192, _k(1)),
    }
    single, double = ([f"branch7x7{d}_{i}" for i in range(1, n)] for d, n in (("", 4), ("dbl", 6)))
    return Mixed(convs, [["branch1x1"], single, double, ["pool", "branch_pool"]], kind, unit)


def _d(unit: int) -> Mixed:
    convs = {
        "branch3x3_1": (768, 192, _k(1)),
        "branch3x3_2": (192, 320, _k(3, 0, 2)),
        "branch7x7x3_1": (768, 192, _k(1)),
        "branch7x7x3_2": (192, 192, _k((1, 7), (0, 3))),
        "branch7x7x3_3": (192, 192, _k((7, 1), (3, 0))),
        "branch7x7x3_4": (192, 192, _k(3, 0, 2)),
    }
    return Mixed(
        convs, [["branch3x3_1", "branch3x3_2"], [f"branch7x7x3_{i}" for i in range(1, 5)], ["max2"]], None, unit
    )


def _e(a: int, kind: str, unit: int) -> Mixed:
    row, column = _k((1, 3), (0, 1)), _k((3, 1), (1, 0))
    convs = {
        "branch1x1": (a, 320, _k(1)),
        "branch3x3_1": (a, 384, _k(1)),
        "branch3x3_2a": (384, 384, row),
        "branch3x3_2b": (384, 384, column),
        "branch3x3dbl_1": (a, 448, _k(1)),
        "branch3x3dbl_2": (448, 384, _k(3, 1)),
        "branch3x3dbl_3a": (384, 384, row),
        "branch3x3dbl_3b": (384, 384, column),
        "branch_pool": (a, 192, _k(1)),
    }
    single = ["branch3x3_1", ("branch3x3_2a", "branch3x3_2b")]
    double = ["branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")]
    return Mixed(convs, [["branch1x1"], single, double, ["pool", "branch_pool"]], kind, unit)


class Inception(nn.Module):
    """torchvision's, or pytorch-fid's `fid`; `aux`: with the auxiliary classifier, which only has weights here."""

    def __init__(self, unit: int = 16, classes: int = 1000, fid: bool = False, aux: bool = False):
        super().__init__()
        w = lambda n: n * unit // 16  # noqa: E731
        kind = "uncounted" if fid else "counted"
        self.Conv2d_1a_3x3 = BasicConv2d(3, w(32), kernel_size=3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(w(32), w(32), kernel_size=3)
        self.Conv2d_2b_3x3 = BasicConv2d(w(32), w(64), kernel_size=3, padding=1)
        self.Conv2d_3b_1x1 = BasicConv2d(w(64), w(80), kernel_size=1)
        self.Conv2d_4a_3x3 = BasicConv2d(w(80), w(192), kernel_size=3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = (
            _a(a, p, kind, unit) for a, p in ((192, 32), (256, 64), (288, 64))
        )
        self.Mixed_6a = _b(288, unit)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (_c(i, kind, unit) for i in (128, 160, 160, 192))
        if aux:
            self.AuxLogits = nn.Module()
            self.AuxLogits.conv0 = BasicConv2d(w(768), w(128), kernel_size=1)
            self.AuxLogits.conv1 = BasicConv2d(w(128), w(768), kernel_size=5)
            self.AuxLogits.fc = nn.Linear(w(768), classes)
        self.Mixed_7a = _d(unit)
        self.Mixed_7b, self.Mixed_7c = _e(1280, kind, unit), _e(2048, "max" if fid else kind, unit)
        self.fc = nn.Linear(w(2048), classes)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        found = {"64": (x := F.max_pool2d(x, 3, 2))}
        found["192"] = x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e"):
            x = getattr(self, f"Mixed_{name}")(x)
        found["768"] = x
        for name in ("7a", "7b", "7c"):
            x = getattr(self, f"Mixed_{name}")(x)
        found["2048"] = x
        return {name: value.mean((2, 3)) for name, value in found.items()}


# ------------------------------------------------------------------------------------------------- EfficientNet, ResNet
def _norm_act(a: int, b: int, k: int, stride: int = 1, groups: int = 1, act: bool = True) -> nn.Sequential:
    conv = nn.Conv2d(a, b, k, stride, (k - 1) // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(b), *([nn.SiLU()] if act else []))


class Squeeze(nn.Module):
    def __init__(self, dim: int, squeezed: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(dim, squeezed, 1), nn.Conv2d(squeezed, dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.fc2(F.silu(self.fc1(F.adaptive_avg_pool2d(x, 1))))) * x


class MBConv(nn.Module):
    def __init__(self, a: int, b: int, ratio: int, k: int, stride: int):
        super().__init__()
        wide = a * ratio
        self.block = nn.Sequential(
            *([_norm_act(a, wide, 1)] if ratio != 1 else []),
            _norm_act(wide, wide, k, stride, wide),
            Squeeze(wide, max(1, a // 4)),
            _norm_act(wide, b, 1, act=False),
        )
        self.residual = stride == 1 and a == b

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x) + x if self.residual else self.block(x)


class EfficientNetB1(nn.Module):
    def __init__(self, unit: int = 8, classes: int = 1000):
        super().__init__()
        settings = (  # of the paper's table 1: expansion, kernel, stride, in, out, layers
            *((1, 3, 1, 32, 16, 1), (6, 3, 2, 16, 24, 2), (6, 5, 2, 24, 40, 2), (6, 3, 2, 40, 80, 3)),
            *((6, 5, 1, 80, 112, 3), (6, 5, 2, 112, 192, 4), (6, 3, 1, 192, 320, 1)),
        )
        w = lambda n: n * unit // 8  # noqa: E731
        layers: list[nn.Module] = [_norm_act(3, w(32), 3, 2)]
        for ratio, k, stride, a, b, n in settings:
            count = -(-n * 11 // 10)  # depth multiplier 1.1
            stage = [MBConv(w(a if j == 0 else b), w(b), ratio, k, stride if j == 0 else 1) for j in range(count)]
            layers.append(nn.Sequential(*stage))
        layers.append(_norm_act(w(320), w(1280), 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(w(1280), classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x).mean((2, 3))


class Bottleneck(nn.Module):
    def __init__(self, a: int, width: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(a, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride != 1 or a != 4 * width:
            conv = nn.Conv2d(a, 4 * width, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(4 * width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet50(nn.Module):
    """`swav`: without `fc`, with the parts that SwAV trains besides (Caron et al. 2020, section 3)."""

    def __init__(self, unit: int = 64, classes: int = 1000, swav: bool = False, depths: tuple = (3, 4, 6, 3)):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, unit, 7, 2, 3, bias=False), nn.BatchNorm2d(unit)
        a = unit
        for i, depth in enumerate(depths):
            blocks = []
            for j in range(depth):
                blocks.append(Bottleneck(a, unit << i, 2 if i and j == 0 else 1))
                a = 4 * (unit << i)
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        if swav:
            self.projection_head = nn.Sequential(nn.Linear(a, a), nn.BatchNorm1d(a), nn.ReLU(), nn.Linear(a, 8))
            self.prototypes = nn.Linear(8, 30, bias=False)
        else:
            self.fc = nn.Linear(a, classes)

    def stages(self, x: torch.Tensor) -> list[torch.Tensor]:
        outputs = [F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)]
        for i in range(1, 5):
            outputs.append(getattr(self, f"layer{i}")(outputs[-1]))
        return outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.stages(x)[-1].mean((2, 3))


# ------------------------------------------------------------------------------------------------------------------ VGG
def vgg19(unit: int = 64, classes: int = 1000) -> nn.Module:
    layers: list[nn.Module] = []
    a = 3
    for width in (1, 1, 0, 2, 2, 0, 4, 4, 4, 4, 0, 8, 8, 8, 8, 0, 8, 8, 8, 8, 0):  # 0: a pool
        layers += [nn.Conv2d(a, width * unit, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2)]
        a = width * unit or a
    module = nn.Module()
    module.features, module.avgpool = nn.Sequential(*layers), nn.AdaptiveAvgPool2d((7, 7))
    module.classifier = nn.Sequential(
        *(nn.Linear(49 * a, 64 * unit), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(64 * unit, 64 * unit), nn.ReLU(), nn.Dropout()),
        nn.Linear(64 * unit, classes),
    )
    return module


# --------------------------------------------------------------------------------------------------------------- LPIPS
def lpips_layers(unit: int = 64, seed: int = 1) -> dict[str, torch.Tensor]:
    """What alex.pth holds: weights that are not negative."""
    g = torch.Generator().manual_seed(seed)
    return {f"lin{k}.model.1.weight": torch.rand(1, unit * n, 1, 1, generator=g) for k, n in enumerate((1, 3, 6, 4, 4))}


def lpips(net: nn.Module, layers: dict[str, torch.Tensor], a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The distance of images in [-1, 1], written out over positions and channels."""
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    x, y = (a - shift) / scale, (b - shift) / scale
    total, k = torch.zeros(len(a)), 0
    for part in net.features[:12]:
        x, y = part(x), part(y)
        if isinstance(part, nn.ReLU):
            u = x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10)
            v = y / (y.pow(2).sum(1, keepdim=True).sqrt() + 1e-10)
            total = total + F.conv2d((u - v).pow(2), layers[f"lin{k}.model.1.weight"]).mean((1, 2, 3))
            k += 1
    return total
