"""ATM-S in PyTorch alone: `model(x, subject_ids)`, x (batch, channels, time) → vectors.

Names of parameters are those of the released code.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# in an exported folder the text of that file replaces the next line
from dreamjax.systems.pytorch.brain_encoders import Projector, TemporalSpatial


class SubjectEmbedding(nn.Module):
    """A token of each person, and a shared one where the person is unknown (-1)."""

    def __init__(self, people: int, dim: int) -> None:
        super().__init__()
        self.subject_embedding = nn.Embedding(people, dim)
        self.shared_embedding = nn.Parameter(torch.randn(1, dim))

    def forward(self, subject_ids: Tensor) -> Tensor:
        tokens = torch.cat([self.subject_embedding.weight, self.shared_embedding])
        return tokens[torch.where(subject_ids < 0, len(tokens) - 1, subject_ids).long()][:, None]


class Embedding(nn.Module):
    def __init__(self, samples: int, people: int, rate: float) -> None:
        super().__init__()
        self.value_embedding = nn.Linear(samples, samples)
        self.subject_embedding = SubjectEmbedding(people, samples) if people else None
        self.dropout = nn.Dropout(rate)

    def forward(self, x: Tensor, subject_ids: Tensor | None) -> Tensor:
        x = self.value_embedding(x)
        if self.subject_embedding is not None:
            unknown = torch.full((len(x),), -1, device=x.device)
            x = torch.cat([self.subject_embedding(unknown if subject_ids is None else subject_ids), x], dim=1)
        return self.dropout(x)


class AttentionLayer(nn.Module):
    def __init__(self, dim: int, heads: int, rate: float) -> None:
        super().__init__()
        inner = dim // heads * heads
        self.query_projection, self.key_projection = nn.Linear(dim, inner), nn.Linear(dim, inner)
        self.value_projection, self.out_projection = nn.Linear(dim, inner), nn.Linear(inner, dim)
        self.heads, self.dropout = heads, nn.Dropout(rate)

    def forward(self, x: Tensor) -> Tensor:
        def by_head(y: Tensor) -> Tensor:
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        q, k, v = (by_head(f(x)) for f in (self.query_projection, self.key_projection, self.value_projection))
        weights = self.dropout((q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1))
        return self.out_projection((weights @ v).transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    def __init__(self, dim: int, heads: int, hidden: int, rate: float) -> None:
        super().__init__()
        self.attention = AttentionLayer(dim, heads, rate)
        self.conv1, self.conv2 = nn.Conv1d(dim, hidden, 1), nn.Conv1d(hidden, dim, 1)
        self.norm1, self.norm2, self.dropout = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.Dropout(rate)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.attention(x)))
        hidden = self.dropout(F.gelu(self.conv1(x.transpose(1, 2))))
        return self.norm2(x + self.dropout(self.conv2(hidden)).transpose(1, 2))


class Encoder(nn.Module):
    def __init__(self, depth: int, dim: int, heads: int, hidden: int, rate: float) -> None:
        super().__init__()
        self.attn_layers = nn.ModuleList(EncoderLayer(dim, heads, hidden, rate) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.attn_layers:
            x = layer(x)
        return self.norm(x)


class Tokens(nn.Module):
    """The transformer over sensors; as `released`, the person's token takes the place of the last sensor's."""

    def __init__(self, samples: int, people: int, encoder: Encoder, rate: float, released: bool) -> None:
        super().__init__()
        self.enc_embedding, self.encoder = Embedding(samples, people, rate), encoder
        self.released = released

    def forward(self, x: Tensor, subject_ids: Tensor | None) -> Tensor:
        tokens = self.encoder(self.enc_embedding(x, subject_ids))
        return tokens[:, : x.shape[1]] if self.released else tokens[:, -x.shape[1] :]


class ATM(nn.Module):
    """ATM-S (Li et al., NeurIPS 2024); arguments as dreamjax's."""

    def __init__(
        self,
        channels: int,
        samples: int,
        features: int,
        people: int = 10,
        heads: int = 4,
        hidden: int = 256,
        depth: int = 1,
        rate: float = 0.25,
        dim: int = 40,
        embedding: int = 40,
        conv_rate: float = 0.5,
        released: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = Tokens(samples, people, Encoder(depth, samples, heads, hidden, rate), rate, released)
        block = TemporalSpatial(channels, dim=dim, dim_out=embedding, rate=conv_rate)
        self.enc_eeg = nn.Sequential(block)
        self.proj_eeg = Projector(block.windows(samples) * embedding, features, conv_rate)

    def forward(self, x: Tensor, subject_ids: Tensor | None = None) -> Tensor:
        return self.proj_eeg(self.enc_eeg(self.encoder(x, subject_ids)))
