"""ATM-S (Li et al., NeurIPS 2024, arXiv 2403.07721): sensors as tokens of a transformer, then convolutions.

The objective is 0.99 · CLIP to the image's vector + 0.01 · CLIP to a text's, where `text` names a bank; without one it
is the image's alone. Where paper and released code (EEG_Image_decode 22c84ad) differ, `model.variant` chooses: as
released, the scale of the logits is log(1 / 0.07) = 2.66 itself and not its exponential, the brain's vectors are not
normalised, the other repetitions of an image are negatives, and with tokens of people the last sensor's is dropped. Its
script trains with batches of 64 (`train.batch_size`), and its AdamW also decays biases and norms, which here do not.

Expected on THINGS-EEG2, 200-way, one model a person, mean of 10 people: 28.5 / 60.4 % (top-1 / top-5) as later papers
print it, 27.1 / 58.1 % as the mean of the published people.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from jaxtyping import Array, Float

from dreamjax.objectives.contrastive import contrastive
from dreamjax.objectives.regression_loss import combined
from dreamjax.systems.base import Loss
from dreamjax.systems.retrieval_base import DIRECTIONS, RetrievalConfig, RetrievalSystem, adam
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
class AtmModelConfig:
    """Which form of the encoder, and how it is regularised."""

    variant: Literal["as_written", "as_released"] = "as_written"
    dropout: float = 0.25  # of the transformer
    conv_dropout: float = 0.5


@dataclass(frozen=True)
class AtmConfig(RetrievalConfig):
    """A run of ATM-S; the defaults are those of the publication."""

    system: Literal["atm"] = "atm"
    data: ResponseConfig = field(default_factory=lambda: ResponseConfig(repeats="single"))
    model: AtmModelConfig = field(default_factory=AtmModelConfig)
    text: BankConfig = field(default_factory=BankConfig)  # vectors of what the image shows, in words; empty: none
    text_share: float = 0.01  # of the text in the objective
    optim: OptimConfig = field(default_factory=lambda: adam(3e-4, weight_decay=0.01))
    train: TrainConfig = field(default_factory=lambda: TrainConfig(batch_size=1024))
    epochs: int = 40

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.variant == "as_released" and not self.loss.temperature < 1:
            raise ValueError(
                f"loss.temperature is {self.loss.temperature}, but as released the scale is log(1 / temperature), "
                "which must be positive; choose a temperature below 1, or model.variant=as_written"
            )


@dataclass(frozen=True)
class Atm(RetrievalSystem):
    """The system ATM-S."""

    config: AtmConfig
    name: ClassVar[str] = "atm"
    Config: ClassVar[type] = AtmConfig
    network: ClassVar[Network] = brain_encoders.ATM_S
    torch_twin: ClassVar[tuple[str, str]] = ("channel_tokens", "ATM")
    released: ClassVar[dict[str, Any]] = {"scale": "raw", "normalise": "image"}
    published: ClassVar[dict[str, Any]] = {"data.validation": "none", "data.repeats": "single", "choice": "test"}

    @classmethod
    def released_sizes(cls, shapes: Shapes, channels: int | None) -> dict[str, int] | None:
        embedding = "encoder.enc_embedding"
        of_sample = shapes.get(f"{embedding}.value_embedding.weight", ())
        sizes = convolutional(shapes, "enc_eeg.0", "proj_eeg")
        if sizes is None or len(of_sample) != 2:
            return None
        people = shapes.get(f"{embedding}.subject_embedding.subject_embedding.weight", (1,))[0]
        return sizes | {"samples": of_sample[1], "people": people}

    def arguments(self) -> dict[str, Any]:
        sizes, model = self.sizes, self.config.model
        return {
            "channels": sizes.channels,
            "samples": sizes.samples,
            "features": sizes.features,
            "people": sizes.people if sizes.people > 1 else 0,
            "rate": model.dropout,
            "conv_rate": model.conv_dropout,
            "released": model.variant == "as_released",
        }

    def banks(self) -> dict[str, tuple[BankConfig, ...]]:
        return super().banks() | ({TEXT: (self.config.text,)} if self.config.text.path else {})

    def objective(self, params: PyTree, batch: Batch, brain: Float[Array, "B F"]) -> Loss:
        image = super().objective(params, batch, brain)
        if TEXT not in batch:
            return image
        text = contrastive(
            brain, batch[TEXT], params["logit_scale"], batch["image"], batch["weight"], DIRECTIONS, self.contrast
        )
        share = self.config.text_share
        return combined({"image": (1 - share, image), "text": (share, text)})


SYSTEM = Atm
