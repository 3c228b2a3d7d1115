"""CLIP's residual networks in PyTorch, from their structure and under the names of their weights."""

import torch
from torch import nn
from torch.nn import functional as F


class MeanBottleneck(nn.Module):
    """CLIP's: strides are means."""

    def __init__(self, a: int, width: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(a, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.stride, self.downsample = stride, None
        if stride > 1 or a != 4 * width:
            self.downsample = nn.Sequential(nn.Conv2d(a, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        y = self.bn3(self.conv3(F.avg_pool2d(y, self.stride)))
        return F.relu(y + (x if self.downsample is None else self.downsample(F.avg_pool2d(x, self.stride))))


class AttentionPool(nn.Module):
    def __init__(self, positions: int, dim: int, projection: int):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.zeros(positions, dim))
        self.k_proj, self.q_proj, self.v_proj = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.c_proj = nn.Linear(dim, projection)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(2).permute(2, 0, 1)
        x = torch.cat([x.mean(0, keepdim=True), x]) + self.positional_embedding[:, None]
        dim = x.shape[-1]
        bias = torch.cat([self.q_proj.bias, self.k_proj.bias, self.v_proj.bias])
        weights = {f"{n}_proj_weight": getattr(self, f"{n}_proj").weight for n in "qkv"}
        pooled, _ = F.multi_head_attention_forward(
            *(x[:1], x, x, dim, dim // 64, None, bias, None, None, False, 0.0),
            *(self.c_proj.weight, self.c_proj.bias),
            use_separate_proj_weight=True,
            training=False,
            need_weights=False,
            **weights,
        )
        return pooled[0]


class CLIPResNet(nn.Module):
    """CLIP with a ModifiedResNet, and of its text half what tells that there is one."""

    def __init__(self, unit: int = 64, image: int = 224, projection: int = 1024, depths: tuple = (3, 4, 6, 3)):
        super().__init__()
        self.visual = v = nn.Module()
        for i, (a, b, stride) in enumerate(((3, unit // 2, 2), (unit // 2, unit // 2, 1), (unit // 2, unit, 1))):
            setattr(v, f"conv{i + 1}", nn.Conv2d(a, b, 3, stride, 1, bias=False))
            setattr(v, f"bn{i + 1}", nn.BatchNorm2d(b))
        a = unit
        for i, depth in enumerate(depths):
            blocks = []
            for j in range(depth):
                blocks.append(MeanBottleneck(a, unit << i, 2 if i and j == 0 else 1))
                a = 4 * (unit << i)
            setattr(v, f"layer{i + 1}", nn.Sequential(*blocks))
        v.attnpool = AttentionPool(1 + (image // 32) ** 2, a, projection)
        self.positional_embedding, self.logit_scale = nn.Parameter(torch.zeros(7, 8)), nn.Parameter(torch.ones(()))

    def stages(self, x: torch.Tensor) -> list[torch.Tensor]:
        v = self.visual
        for i in range(1, 4):
            x = F.relu(getattr(v, f"bn{i}")(getattr(v, f"conv{i}")(x)))
        outputs = [F.avg_pool2d(x, 2)]
        for i in range(1, 5):
            outputs.append(getattr(v, f"layer{i}")(outputs[-1]))
        return outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.visual.attnpool(self.stages(x)[-1])
