"""A ridge regression between brain responses and image vectors that dreamjax solved, in PyTorch alone.

import modeling_dreamjax
model = modeling_dreamjax.from_pretrained("path/of/this/folder")
brain = model(x)                     # x: (trials, channels, time) → (trials, width)
images = model.images(vectors)       # (images, features) → (images, width)
scores = model.similarity(x, vectors)                          # cosines, (trials, images)
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F


class Ridge(nn.Module):
    """Decoding predicts image vectors from the signal, encoding the signal from image vectors."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        self.config = config
        for name, shape in config["shapes"].items():
            self.register_buffer(name, torch.zeros(shape))

    def features(self, x: Tensor) -> Tensor:
        """Return the means over spans of time, flat."""
        bins = min(self.config["bins"] or x.shape[2], x.shape[2])
        width = x.shape[2] // bins
        return x[:, :, : bins * width].unflatten(2, (bins, width)).mean(-1).flatten(1)

    def predicted(self, x: Tensor) -> Tensor:
        return (x - self.mean_x) @ self.kernel

    def standardised(self, y: Tensor) -> Tensor:
        return (y - self.mean_y) / self.spread_y

    def forward(self, x: Tensor) -> Tensor:
        decode = self.config["direction"] == "decode"
        return (self.predicted if decode else self.standardised)(self.features(x))

    def images(self, vectors: Tensor) -> Tensor:
        """Return image vectors as they are compared."""
        decode = self.config["direction"] == "decode"
        return (self.standardised if decode else self.predicted)(vectors.flatten(1))

    def similarity(self, x: Tensor, vectors: Tensor) -> Tensor:
        return F.normalize(self(x), dim=-1) @ F.normalize(self.images(vectors), dim=-1).T


def from_pretrained(folder: str | Path) -> Ridge:
    """Return the model of an exported folder."""
    model = Ridge(json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")))
    model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return model.eval()
