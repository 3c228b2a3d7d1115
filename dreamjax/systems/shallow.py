"""Shallow Alignment (arXiv 2601.21948): the flat EEG signal, projected, and a *middle* layer of a vision model.

What matters here is the target: `target.layer` and its pooling. Both sides are projected by learned maps to one space,
and compared by cosine in both directions.

Expected on THINGS-EEG2, 200-way, 17 channels, one model a person, mean of 10 people: 82.6 / 97.7 % (top-1 / top-5) with
layer 28 of InternViT-6B, 67.7 % top-1 with the third stage of CLIP's ResNet-50; the layer was chosen by the test
images.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from dreamjax.systems.retrieval_base import RetrievalConfig, adam
from dreamjax.systems.retrieval_projection import ImageProjection
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.train_config import TrainConfig
from dreamjax.weights import brain_encoders
from dreamjax.weights.networks import Network


@dataclass(frozen=True)
class ShallowModelConfig:
    """The common space, and the regularisation of the encoder."""

    width: int = 1024  # of the space in which both sides are compared
    dropout: float = 0.3


@dataclass(frozen=True)
class ShallowConfig(RetrievalConfig):
    """A run of Shallow Alignment; the defaults are those of the publication."""

    system: Literal["shallow"] = "shallow"
    model: ShallowModelConfig = field(default_factory=ShallowModelConfig)
    optim: OptimConfig = field(default_factory=lambda: adam(1e-4, weight_decay=1e-4))
    train: TrainConfig = field(default_factory=lambda: TrainConfig(batch_size=1024))
    epochs: int = 50


@dataclass(frozen=True)
class Shallow(ImageProjection):
    """The system Shallow Alignment."""

    config: ShallowConfig
    name: ClassVar[str] = "shallow"
    Config: ClassVar[type] = ShallowConfig
    network: ClassVar[Network] = brain_encoders.EEG_PROJECT
    torch_twin: ClassVar[tuple[str, str]] = ("brain_encoders", "EEGProject")
    published: ClassVar[dict[str, Any]] = {"data.validation": "none", "choice": "test"}

    def arguments(self) -> dict[str, Any]:
        sizes, model = self.sizes, self.config.model
        shapes = {"channels": sizes.channels, "samples": sizes.samples, "features": model.width}
        return shapes | {"rate": model.dropout}


SYSTEM = Shallow
