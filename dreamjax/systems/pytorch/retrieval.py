"""A retrieval system that dreamjax trained, in PyTorch alone.

    import modeling_dreamjax
    model = modeling_dreamjax.from_pretrained("path/of/this/folder")
    brain = model(x)                     # x: (trials, channels, time) as `config["signal"]` says → (trials, width)
    images = model.images(vectors)       # vectors of the vision model: (images, …) → (images, width)
    scores = model.similarity(x, vectors)                          # cosines, (trials, images)

`subject`: number of each trial's person, in the order of `config["people"]`; -1 for others.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F


class Retrieval(nn.Module):
    """The encoder of brain signals, and the map of image vectors where the system has one."""

    def __init__(self, config: dict, encoder: nn.Module) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        if config["takes"] == "positions":  # metres, and as the encoder reads them
            self.register_buffer("xyz", torch.zeros(config["channels"], 3))
            self.register_buffer("positions", torch.zeros(config["channels"], config["arguments"]["dims"]))
        kind, features, width = config["image_side"], config["features"], config["width"]
        self.brain = nn.Linear(features, width) if config.get("brain_side") == "linear" else nn.Identity()
        if kind == "linear":
            self.image = nn.Linear(features, width)
        elif kind == "layers":
            self.logits = nn.Parameter(torch.zeros(config["layers"]))
            self.router = nn.Module()
            people = config["run"]["sizes"]["people"]  # whose part of the weights counts in training alone
            self.router.register_buffer("subject_bias", torch.zeros(people, config["layers"]))
            self.image = nn.Sequential(
                nn.Linear(features, config["hidden"]), nn.GELU(), nn.Linear(config["hidden"], width)
            )

    def forward(self, x: Tensor, subject: Tensor | None = None) -> Tensor:
        subject = torch.full((len(x),), -1, device=x.device) if subject is None else subject
        if self.config["takes"] == "positions":
            return self.encoder(x, subject, self.positions.expand(len(x), -1, -1))
        return self.brain(self.encoder(x, subject) if self.config["takes"] == "subject" else self.encoder(x))

    def images(self, vectors: Tensor) -> Tensor:
        """Return image vectors as they are compared."""
        if self.config["image_side"] == "same":
            return vectors
        if self.config["image_side"] == "layers":
            vectors = vectors if vectors.ndim == 3 else vectors[:, None]
            vectors = torch.einsum("mld,l->md", vectors, self.logits.softmax(0))
        return self.image(vectors)

    def similarity(self, x: Tensor, vectors: Tensor, subject: Tensor | None = None) -> Tensor:
        return F.normalize(self(x, subject), dim=-1) @ F.normalize(self.images(vectors), dim=-1).T


def from_pretrained(folder: str | Path) -> Retrieval:
    """Return the model of an exported folder, ready to evaluate."""
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    model = Retrieval(config, globals()[config["class"]](**config["arguments"]))
    names = model.state_dict()
    given = load_file(Path(folder) / "model.safetensors")
    tensors = {name if name in names else f"encoder.{name}": tensor for name, tensor in given.items()}
    model.load_state_dict({name: x for name, x in names.items() if name.endswith("num_batches_tracked")} | tensors)
    return model.eval()
