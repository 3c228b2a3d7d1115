"""NICE (Song et al., ICLR 2024, arXiv 2308.13234): a small convolutional EEG encoder, contrasted with image features.

The encoder convolves in time, then over all sensors; its output is projected to the width of the image features, which
are used as they are. Where paper and released code (eeyhsong/NICE-EEG a7709d8) differ, `model.variant` chooses: as
released, the logits' scale stays 1 / 0.07 = 14.29 (it is not among what Adam trains), trials of equal images are
negatives, and the attention over sensors is computed but not used.

Expected on THINGS-EEG2, 200-way, one model a person, mean of 10 people: 15.6 / 42.8 % (top-1 / top-5, paper's
abstract), where the checkpoint is that of the best validation loss and class centres take the place of the stimuli.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from dreamjax.systems.retrieval_base import RetrievalConfig, RetrievalSystem, adam
from dreamjax.systems.retrieval_released import Shapes, convolutional
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
    optim: OptimConfig = field(default_factory=lambda: adam(2e-4, beta1=0.5))
    train: TrainConfig = field(default_factory=lambda: TrainConfig(batch_size=1000))
    epochs: int = 200


@dataclass(frozen=True)
class Nice(RetrievalSystem):
    """The system NICE."""

    config: NiceConfig
    name: ClassVar[str] = "nice"
    Config: ClassVar[type] = NiceConfig
    network: ClassVar[Network] = brain_encoders.NICE
    torch_twin: ClassVar[tuple[str, str]] = ("brain_encoders", "NICE")
    released: ClassVar[dict[str, Any]] = {"learned": False}
    # 740 of 16,540 averaged images, whose concepts are trained on too, choose the checkpoint
    published: ClassVar[dict[str, Any]] = {
        "data.validation": "images",
        "data.val_share": 740 / 16540,
        "choice": "held_out",
    }

    @classmethod
    def released_sizes(cls, shapes: Shapes, channels: int | None) -> dict[str, int] | None:
        return convolutional(shapes, "Enc_eeg.0", "Proj_eeg")

    @classmethod
    def released_model(cls, shapes: Shapes) -> dict[str, Any]:
        kinds = {"self": "attention.fn.1.query.0.weight", "graph": "attention.fn.0.conv1.lin.weight"}
        return {"attention": next((kind for kind, name in kinds.items() if name in shapes), "none")}

    def arguments(self) -> dict[str, Any]:
        sizes, model = self.sizes, self.config.model
        return {
            "channels": sizes.channels,
            "samples": sizes.samples,
            "features": sizes.features,
            "attention": model.attention,
            "rate": model.dropout,
            "released": model.variant == "as_released",
        }


SYSTEM = Nice
