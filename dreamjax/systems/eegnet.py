"""EEGNet (Lawhern et al. 2018, arXiv 1611.08024) as an encoder for retrieval: a small baseline.

Sizes are braindecode's defaults, and its class outputs become the image vector's width. The objective is CLIP's.

Expected on THINGS-EEG2, 200-way, one model for all people, DINOv2-giant: 28.1 % top-5 (NeuralBench, neuroai af8ce00).
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from dreamjax.systems.retrieval_base import RetrievalConfig, RetrievalSystem, adam
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.train_config import TrainConfig
from dreamjax.weights import brain_encoders
from dreamjax.weights.networks import Network


@dataclass(frozen=True)
class EegnetModelConfig:
    """How the encoder is regularised."""

    dropout: float = 0.25


@dataclass(frozen=True)
class EegnetConfig(RetrievalConfig):
    """A run of EEGNet."""

    system: Literal["eegnet"] = "eegnet"
    model: EegnetModelConfig = field(default_factory=EegnetModelConfig)
    optim: OptimConfig = field(default_factory=lambda: adam(1e-3, weight_decay=0.01))
    train: TrainConfig = field(default_factory=lambda: TrainConfig(batch_size=512))
    epochs: int = 50


@dataclass(frozen=True)
class Eegnet(RetrievalSystem):
    """The system EEGNet."""

    config: EegnetConfig
    name: ClassVar[str] = "eegnet"
    Config: ClassVar[type] = EegnetConfig
    network: ClassVar[Network] = brain_encoders.EEGNET
    torch_twin: ClassVar[tuple[str, str]] = ("conv_baselines", "EEGNet")

    def arguments(self) -> dict[str, Any]:
        sizes = self.sizes
        shapes = {"channels": sizes.channels, "samples": sizes.samples, "features": sizes.features}
        return shapes | {"rate": self.config.model.dropout}


SYSTEM = Eegnet
