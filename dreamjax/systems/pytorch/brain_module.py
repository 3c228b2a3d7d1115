"""Meta's brain module in PyTorch alone: `model(x, subject_ids, channel_positions)` → vectors (batch, features).

x: (batch, sensors, time). subject_ids: (batch,), -1 where unknown. channel_positions: (batch or 1, sensors, 2 or 3) in
[0, 1], NaN where unknown. Names of parameters are those of the authors' open code.
"""

import math

import torch
from torch import Tensor, nn

MARGIN, PERIOD = 0.2, 5


class ChannelMerger(nn.Module):
    """Outputs that are weighted means of sensors, by a softmax of learned functions of their positions."""

    def __init__(self, outputs: int, dims: int, frequencies: int, radius: float) -> None:
        super().__init__()
        self.heads = nn.Parameter(torch.randn(outputs, 2 * frequencies**dims) / (2 * frequencies**dims) ** 0.5)
        self.frequencies, self.radius = frequencies, radius

    def embedding(self, positions: Tensor) -> Tensor:
        scaled = 2 * math.pi / (1 + 2 * MARGIN) * (positions + MARGIN)
        angles = scaled[..., None] * torch.arange(self.frequencies, device=positions.device)
        grid = angles[..., 0, :]
        for axis in range(1, positions.shape[-1]):
            grid = (grid[..., None] + angles[..., None, axis, :]).flatten(-2)
        return torch.cat([grid.cos(), grid.sin()], dim=-1)

    def forward(self, x: Tensor, positions: Tensor, channel_ok: Tensor | None) -> Tensor:
        known = positions.isfinite().all(-1)
        positions = positions.nan_to_num()
        scores = self.heads @ self.embedding(positions).transpose(1, 2)
        if self.training and self.radius:
            centre = torch.rand(positions.shape[-1], device=x.device)
            known = known & ((positions - centre).norm(dim=-1) > self.radius)
        if channel_ok is not None:
            known, x = known & channel_ok, x.masked_fill(~channel_ok[..., None], 0)
        weights = scores.masked_fill(~known[:, None], -math.inf).softmax(-1).nan_to_num()  # no sensor left: 0
        return weights @ x


class SubjectLayers(nn.Module):
    """A matrix for each person; of an unknown one (-1) the mean of all."""

    def __init__(self, people: int, dim: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(people, dim, dim) / dim**0.5)

    def forward(self, x: Tensor, subjects: Tensor | None) -> Tensor:
        everyone = torch.cat([self.weights, self.weights.mean(0, keepdim=True)])
        subjects = torch.full((len(x),), -1, device=x.device) if subjects is None else subjects
        chosen = torch.where(subjects < 0, len(self.weights), subjects)
        return torch.einsum("bct,bcd->bdt", x, everyone[chosen.long()])


class ConvSequence(nn.Module):
    """Dilated convolutions with residuals, and a gated one after every second."""

    def __init__(self, dim_in: int, dim: int, depth: int) -> None:
        super().__init__()
        sequence, glus = [], []
        for k in range(2 * depth):
            dilation = 2 ** (k % PERIOD)
            conv = nn.Conv1d(dim if k else dim_in, dim, 3, padding=dilation, dilation=dilation)
            sequence.append(nn.Sequential(conv, nn.BatchNorm1d(dim), nn.GELU()))
            glus.append(nn.Sequential(nn.Conv1d(dim, 2 * dim, 3, padding=1), nn.GLU(dim=1)) if k % 2 else nn.Identity())
        self.sequence, self.glus = nn.ModuleList(sequence), nn.ModuleList(glus)

    def forward(self, x: Tensor) -> Tensor:
        for conv, glu in zip(self.sequence, self.glus, strict=True):
            y = conv(x)
            x = glu(x + y if x.shape == y.shape else y)
        return x


class BahdanauAttention(nn.Module):
    """A softmax over time of v·tanh(W y + b)."""

    def __init__(self, dim: int, hidden: int = 256) -> None:
        super().__init__()
        self.Wa, self.Va = nn.Linear(dim, hidden), nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        keys = x.transpose(1, 2)
        weights = self.Va(torch.tanh(self.Wa(keys))).softmax(1)
        return (weights * keys).sum(1)[..., None]


class BrainModule(nn.Module):
    """The network of table S1 of arXiv 2310.19812; arguments as dreamjax's."""

    def __init__(
        self,
        samples: int,
        features: int,
        people: int,
        mse_features: int = 0,
        dims: int = 2,
        outputs: int = 270,
        dim: int = 320,
        depth: int = 2,
        projected: int = 2048,
        aggregation: str = "affine",
        radius: float = 0.2,
    ) -> None:
        super().__init__()
        self.merger = ChannelMerger(outputs, dims, {2: 32, 3: 10}[dims], radius)
        self.initial_linear = nn.Sequential(nn.Conv1d(outputs, outputs, 1))
        self.subject_layers = SubjectLayers(people, outputs) if people else None
        self.encoder = ConvSequence(outputs, dim, depth)
        self.final = nn.Sequential(nn.Conv1d(dim, 2 * dim, 1), nn.GELU(), nn.ConvTranspose1d(2 * dim, projected, 1))
        self.time_agg_out = {
            "mean": lambda: nn.AdaptiveAvgPool1d(1),
            "affine": lambda: nn.Linear(samples, 1),
            "attention": lambda: BahdanauAttention(projected),
        }[aggregation]()
        widths = {"clip": features} | ({"mse": mse_features} if mse_features else {})
        self.output_head = nn.ModuleDict({name: self._head(projected, width) for name, width in widths.items()})

    @staticmethod
    def _head(dim: int, width: int) -> nn.Sequential:
        return nn.Sequential(nn.LayerNorm(dim, elementwise_affine=False), nn.GELU(), nn.Linear(dim, width))

    def both(
        self, x: Tensor, subject_ids: Tensor | None, channel_positions: Tensor, channel_ok: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the outputs of all heads by name."""
        x = self.initial_linear(self.merger(x, channel_positions, channel_ok))
        x = x if self.subject_layers is None else self.subject_layers(x, subject_ids)
        x = self.time_agg_out(self.final(self.encoder(x)))[..., 0]
        return {name: head(x) for name, head in self.output_head.items()}

    def forward(
        self, x: Tensor, subject_ids: Tensor | None, channel_positions: Tensor, channel_ok: Tensor | None = None
    ) -> Tensor:
        return self.both(x, subject_ids, channel_positions, channel_ok)["clip"]
