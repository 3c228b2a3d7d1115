"""Deep4Net (Schirrmeister et al. 2017, arXiv 1703.05051) as an encoder for retrieval: a small baseline.

Sizes are braindecode's defaults, and its class outputs become the image vector's width. The objective is CLIP's.

Expected on THINGS-EEG2, 200-way, one model for all people, DINOv2-giant: 57.3 % top-5 (NeuralBench, neuroai af8ce00).
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from dreamjax.systems.retrieval_base import RetrievalConfig, RetrievalSystem, adam
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.train_config import TrainConfig
from dreamjax.weights import brain_encoders
from dreamjax.weights.networks import Network


@dataclass(frozen=True)
class Deep4ModelConfig:
    """How the encoder is regularised."""

    dropout: float = 0.5


@dataclass(frozen=True)
class Deep4Config(RetrievalConfig):
    """A run of Deep4Net."""

    system: Literal["deep4"] = "deep4"
    model: Deep4ModelConfig = field(default_factory=Deep4ModelConfig)
    optim: OptimConfig = field(default_factory=lambda: adam(1e-3, weight_decay=0.01))
    train: TrainConfig = field(default_factory=lambda: TrainConfig(batch_size=512))
    epochs: int = 50


@dataclass(frozen=True)
class Deep4(RetrievalSystem):
    """The system Deep4Net."""

    config: Deep4Config
    name: ClassVar[str] = "deep4"
    Config: ClassVar[type] = Deep4Config
    network: ClassVar[Network] = brain_encoders.DEEP4
    torch_twin: ClassVar[tuple[str, str]] = ("conv_baselines", "Deep4Net")

    def arguments(self) -> dict[str, Any]:
        sizes = self.sizes
        shapes = {"channels": sizes.channels, "samples": sizes.samples, "features": sizes.features}
        return shapes | {"rate": self.config.model.dropout}


SYSTEM = Deep4
