"""ENIGMA (arXiv 2602.10361): a linear map of time for each person, and a small network that all people share.

The objective is the mean squared error to the image's vector + 0.5 · contrast to it + 0.05 · contrast to a text's
vector, where `text` names a bank. Paper and released code (Alljoined/ENIGMA) place the people's maps differently; as
released they come first.

Expected: its publication reports reconstructed images, not retrieval; no figure to compare with was found.
"""

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from jaxtyping import Array, Float

from dreamjax.objectives.contrastive import contrastive
from dreamjax.objectives.regression_loss import combined, mse
from dreamjax.systems.base import Loss
from dreamjax.systems.retrieval_base import DIRECTIONS, RetrievalConfig, RetrievalSystem
from dreamjax.systems.retrieval_data import VECTOR
from dreamjax.systems.retrieval_released import Shapes, convolutional
from dreamjax.targets.banks import BankConfig
from dreamjax.targets.responses import ResponseConfig
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.task import Batch, PyTree
from dreamjax.training.train_config import TrainConfig
from dreamjax.weights import brain_encoders
from dreamjax.weights.networks import Network

TEXT = "text"


@dataclass(frozen=True)
class EnigmaModelConfig:
    """The regularisation of the encoder, and the weights of the objective's parts."""

    dropout: float = 0.5
    mse: float = 1.0
    image: float = 0.5
    text: float = 0.05  # where `text` names a bank


@dataclass(frozen=True)
class EnigmaConfig(RetrievalConfig):
    """A run of ENIGMA; the defaults are those of the publication.

    Of its one-cycle rate the growth is linear here, over the first tenth of the steps.
    """

    system: Literal["enigma"] = "enigma"
    data: ResponseConfig = field(default_factory=lambda: ResponseConfig(repeats="single"))
    model: EnigmaModelConfig = field(default_factory=EnigmaModelConfig)
    text: BankConfig = field(default_factory=BankConfig)  # vectors of what the image shows, in words; empty: none
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(learning_rate=3e-4, beta2=0.999, weight_decay=0.01, clip=None)
    )
    train: TrainConfig = field(default_factory=lambda: TrainConfig(batch_size=512))
    epochs: int = 150
    warmup: float = 0.1


@dataclass(frozen=True)
class Enigma(RetrievalSystem):
    """The system ENIGMA."""

    config: EnigmaConfig
    name: ClassVar[str] = "enigma"
    Config: ClassVar[type] = EnigmaConfig
    network: ClassVar[Network] = brain_encoders.ENIGMA_CNN
    torch_twin: ClassVar[tuple[str, str]] = ("brain_encoders", "ENIGMA")
    published: ClassVar[dict[str, Any]] = {"data.validation": "none", "data.repeats": "single", "choice": "last"}

    @classmethod
    def released_sizes(cls, shapes: Shapes, channels: int | None) -> dict[str, int] | None:
        maps = [shape for name, shape in shapes.items() if re.fullmatch(r"subject_layers\.\d+\.weight", name)]
        sizes = convolutional(shapes, "enc_eeg.0", "proj_eeg", 5, 17)
        if sizes is None or not maps or len(maps[0]) != 2:
            return None
        return sizes | {"samples": maps[0][1], "people": len(maps)}

    def arguments(self) -> dict[str, Any]:
        sizes = self.sizes
        shapes = {"channels": sizes.channels, "samples": sizes.samples, "features": sizes.features}
        return shapes | {"people": sizes.people, "rate": self.config.model.dropout}

    def banks(self) -> dict[str, tuple[BankConfig, ...]]:
        return super().banks() | ({TEXT: (self.config.text,)} if self.config.text.path else {})

    def objective(self, params: PyTree, batch: Batch, brain: Float[Array, "B F"]) -> Loss:
        model, scale, weight = self.config.model, params["logit_scale"], batch["weight"]
        parts = {
            "mse": (model.mse, mse(brain, batch[VECTOR], weight)),
            "image": (model.image, super().objective(params, batch, brain)),
        }
        if TEXT in batch:
            text = contrastive(brain, batch[TEXT], scale, batch["image"], weight, DIRECTIONS, self.contrast)
            parts["text"] = (model.text, text)
        return combined(parts)


SYSTEM = Enigma
