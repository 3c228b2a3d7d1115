"""NeuroBridge (AAAI 2026): EEG and image vectors projected to one space, of which only the image's side is normalised.

The image's vector is the mean over corrupted views (blur, noise, low resolution, mosaic): `model.views`. Where paper
and released code (feroooooo/NeuroBridge 6144203) differ, `model.variant` chooses: as written the temperature is 0.07;
as released a softplus is always taken, so that the scale is softplus(log(1 / 0.07)) = 2.727 and the temperature 0.367,
the encoder is as wide as the image vectors and a linear map takes it to the common space (`--projector linear`), and
trials of equal images are negatives. The scale is not learned in either. The released smoothing of some EEG channels
when the data are read is left out.

Expected on THINGS-EEG2, 200-way, 17 channels, one model a person, mean of 10 people: 63.2 / 89.9 % (top-1 / top-5), of
the checkpoint with the lowest test loss and a gallery of corrupted views; a third party's last epoch with clean stimuli
gave 35 to 45 % for the best person.
"""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from jaxtyping import Array, Float

from dreamjax.objectives.contrastive import ContrastiveConfig
from dreamjax.systems.retrieval_base import VIEWS, RetrievalConfig, adam
from dreamjax.systems.retrieval_data import VECTOR
from dreamjax.systems.retrieval_projection import ImageProjection
from dreamjax.systems.retrieval_released import Shapes, flat_signal
from dreamjax.targets.banks import BankConfig
from dreamjax.targets.views import View
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.task import Batch
from dreamjax.training.train_config import TrainConfig
from dreamjax.weights import brain_encoders
from dreamjax.weights.networks import Network


@dataclass(frozen=True)
class NeurobridgeModelConfig:
    """Which form of the objective, the common space, and the views of the images that are trained on."""

    variant: Literal["as_written", "as_released"] = "as_written"
    width: int = 512
    dropout: float = 0.3
    views: tuple[View, ...] = (
        "blur",
        "noise",
        "low_resolution",
        "mosaic",
    )  # averaged in training; empty: the clean image

    def __post_init__(self) -> None:
        if len(self.views) == 1:
            raise ValueError(f"model.views is {self.views}; give two or more, or set target.view for a single one")


@dataclass(frozen=True)
class NeurobridgeConfig(RetrievalConfig):
    """A run of NeuroBridge; the defaults are those of the publication."""

    system: Literal["neurobridge"] = "neurobridge"
    model: NeurobridgeModelConfig = field(default_factory=NeurobridgeModelConfig)
    optim: OptimConfig = field(default_factory=lambda: adam(1e-4, weight_decay=1e-4))
    train: TrainConfig = field(default_factory=lambda: TrainConfig(batch_size=1024))
    loss: ContrastiveConfig = field(default_factory=lambda: ContrastiveConfig(normalise="image", learned=False))
    epochs: int = 50


@dataclass(frozen=True)
class Neurobridge(ImageProjection):
    """The system NeuroBridge."""

    config: NeurobridgeConfig
    name: ClassVar[str] = "neurobridge"
    Config: ClassVar[type] = NeurobridgeConfig
    network: ClassVar[Network] = brain_encoders.EEG_PROJECT
    torch_twin: ClassVar[tuple[str, str]] = ("brain_encoders", "EEGProject")
    released: ClassVar[dict[str, Any]] = {"scale": "softplus"}
    published: ClassVar[dict[str, Any]] = {"data.validation": "none", "choice": "test"}

    @classmethod
    def released_sizes(cls, shapes: Shapes, channels: int | None) -> dict[str, int] | None:
        maps = [shapes.get(f"{name}.weight", ()) for name in ("brain", "image")]
        return flat_signal(shapes, channels) if all(len(shape) == 2 for shape in maps) else None

    @classmethod
    def released_model(cls, shapes: Shapes) -> dict[str, Any]:
        return {"width": shapes["brain.weight"][0]}

    def arguments(self) -> dict[str, Any]:
        sizes, model = self.sizes, self.config.model
        width = sizes.features if self.projects_brain else model.width
        shapes = {"channels": sizes.channels, "samples": sizes.samples, "features": width}
        return shapes | {"rate": model.dropout}

    def banks(self) -> dict[str, tuple[BankConfig, ...]]:
        views = self.config.model.views if self.config.target.sees_images else ()
        each = tuple(replace(self.config.target, view=view) for view in views)
        return super().banks() | ({VIEWS: each} if len(each) > 1 else {})

    def trained_vectors(self, batch: Batch) -> Float[Array, "B D"]:
        return batch[VIEWS].mean(1) if VIEWS in batch else batch[VECTOR]

    @property
    def projects_brain(self) -> bool:
        return self.config.model.variant == "as_released"


SYSTEM = Neurobridge
