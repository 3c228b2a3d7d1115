"""NICE (Song et al., ICLR 2024, arXiv 2308.13234): a small convolutional EEG encoder, contrasted with image features.

The encoder convolves in time, then over all sensors; its output is projected to the width of the image features, which
are used as they are. Where paper and released code (eeyhsong/NICE-EEG) differ, `model.variant` chooses: as released,
the logits' scale is not trained.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal


from dreamjax.objectives.contrastive import ContrastiveConfig
from dreamjax.systems.retrieval_base import RetrievalConfig, RetrievalSystem
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.train_config import TrainConfig
from dreamjax.weights import brain_encoders
from dreamjax.weights.networks import Network


@dataclass(frozen=True)
class NiceModelConfig:
    """Which form of the encoder, and how it is regularised."""

    variant: Literal["as_written", "as_released"] = "as_written"
    attention: Literal["none", "self", "graph"] = "none"  # over sensors, before the convolutions
    dropout: float = 0.5


@dataclass(frozen=True)
class NiceConfig(RetrievalConfig):
    """A run of NICE; the defaults are those of the publication."""

    system: Literal["nice"] = "nice"
    model: NiceModelConfig = field(default_factory=NiceModelConfig)
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            learning_rate=2e-4, schedule="constant", beta1=0.5, beta2=0.999, weight_decay=0.0, clip=None
        )
    )
    train: TrainConfig = field(default_factory=lambda: TrainConfig(batch_size=1000))
    loss: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    epochs: int = 200


@dataclass(frozen=True)
class Nice(RetrievalSystem):
    """The system NICE."""

    config: NiceConfig
    name: ClassVar[str] = "nice"
    Config: ClassVar[type] = NiceConfig
    network: ClassVar[Network] = brain_encoders.NICE
    # as published: 740 of 16,540 averaged images choose the checkpoint by their loss
    published: ClassVar[dict[str, Any]] = {"data.validation": "images", "data.val_share": 740 / 16540}

    def arguments(self) -> dict[str, Any]:
        sizes, model = self.sizes, self.config.model
        return {
            "channels": sizes.channels,
            "samples": sizes.samples,
            "features": sizes.features,
            "rate": model.dropout,
        }


SYSTEM = Nice
