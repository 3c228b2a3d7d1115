"""Deep4Net (Schirrmeister et al. 2017, arXiv 1703.05051) as an encoder for retrieval: a small baseline.

Sizes are braindecode's defaults, and its class outputs become the image vector's width. The objective is CLIP's. Four
pools of 3 need 441 samples; for shorter trials, such as the 250 of THINGS-EEG2, the default is pools of 2, which need
151 (`model.pool`, `model.taps`).

Expected on THINGS-EEG2, 200-way, one model for all people, DINOv2-giant: 57.3 % top-5 (NeuralBench, neuroai af8ce00).
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from dreamjax.models.conv_baselines import needed
from dreamjax.systems.retrieval_base import RetrievalConfig, RetrievalSystem, adam
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.train_config import TrainConfig
from dreamjax.weights import brain_encoders
from dreamjax.weights.networks import Network


@dataclass(frozen=True)
class Deep4ModelConfig:
    """The encoder's filters and pools, and how it is regularised."""

    taps: int = 10  # samples of a filter in time
    pool: int = 0  # positions of each pool; 0: 3 where the trials are long enough, else 2
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if self.taps < 1 or self.pool < 0:
            raise ValueError(
                f"model.taps is {self.taps} and model.pool {self.pool}, but taps are at least 1, and a pool at least 1 "
                "(0: by the length of the trials)"
            )

    def pool_of(self, samples: int) -> int:
        """Return the pools' length for trials of so many samples."""
        return self.pool or (3 if samples >= needed(self.taps, 3) else 2)


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
        model = self.config.model
        return shapes | {"taps": model.taps, "pool": model.pool_of(sizes.samples), "rate": model.dropout}


SYSTEM = Deep4
