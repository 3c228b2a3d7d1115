"""Meta's brain module (Benchetrit, Banville & King, ICLR 2024, arXiv 2310.19812): MEG of several people → images.

Presets: "meg_paper" (section 2, appendix B) and "meg_neuralbench" (the same group's open benchmark, neuroai af8ce00):
positions in three dimensions, nobody is identified, AdamW. The objective is λ · CLIP + (1 - λ) · MSE (equation 3). CLIP
compares unit image vectors with the brain's vectors as they are, and only in the direction of images (appendix B); the
mean squared error is that of the second head to the un-normalised vectors of `latent`.
"""

import functools
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from dreamjax.errors import UserError
from dreamjax.objectives.contrastive import ContrastiveConfig
from dreamjax.objectives.regression_loss import combined, mse
from dreamjax.systems.base import Loss
from dreamjax.systems.retrieval_base import RetrievalConfig, RetrievalSystem
from dreamjax.systems.retrieval_data import SizesConfig
from dreamjax.targets.banks import BankConfig
from dreamjax.targets.responses import ResponseConfig
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.task import Batch, PyTree
from dreamjax.training.train_config import TrainConfig
from dreamjax.weights import brain_encoders
from dreamjax.weights.networks import Network

LATENT = "latent"


@dataclass(frozen=True)
class BrainModuleModelConfig:
    """Sizes of the network; the defaults are those of table S1."""

    dims: Literal[2, 3] = 2  # of the sensors' positions
    identified: bool = True  # whether each person has a matrix of their own
    outputs: int = 270  # of the attention over sensors
    dim: int = 320
    depth: int = 2
    aggregation: Literal["mean", "affine", "attention"] = "affine"  # over time
    radius: float = 0.2  # of spatial dropout, in the unit square or cube


@dataclass(frozen=True)
class BrainModuleConfig(RetrievalConfig):
    """A run of the brain module."""

    system: Literal["brain_module"] = "brain_module"
    data: ResponseConfig = field(default_factory=lambda: ResponseConfig(repeats="single"))
    model: BrainModuleModelConfig = field(default_factory=BrainModuleModelConfig)
    latent: BankConfig = field(default_factory=BankConfig)  # what the second head predicts; empty: there is none
    share: float = 1.0  # λ: of the contrastive loss; the rest is the mean squared error to `latent`
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            learning_rate=3e-4, schedule="constant", beta1=0.9, beta2=0.999, weight_decay=0.0, clip=None
        )
    )
    train: TrainConfig = field(default_factory=lambda: TrainConfig(batch_size=128))
    loss: ContrastiveConfig = field(
        default_factory=lambda: ContrastiveConfig(
            temperature=1.0, learned=False, direction="brain_to_image", normalise="image"
        )
    )
    epochs: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}, but it must be between 0 (only MSE) and 1 (only CLIP)")
        if self.share < 1 and self.latent == BankConfig():
            raise ValueError(f"share is {self.share}, but without latent there is no mean squared error; set latent")


_PAPER = BrainModuleConfig()
_NEURALBENCH = replace(
    _PAPER,
    data=ResponseConfig(repeats="single", identified=False, validation="timeline", val_share=0.2),
    model=BrainModuleModelConfig(dims=3, identified=False),
    optim=OptimConfig(learning_rate=1e-4, schedule="cosine", beta1=0.9, beta2=0.999, weight_decay=0.05, clip=1.0),
    train=TrainConfig(batch_size=64),
    epochs=40,
    warmup=0.1,  # of the one-cycle rate, whose growth is linear here
)
PRESETS = {"meg_paper": _PAPER, "meg_neuralbench": _NEURALBENCH}


@dataclass(frozen=True)
class BrainModule(RetrievalSystem):
    """The system of the brain module."""

    config: BrainModuleConfig
    name: ClassVar[str] = "brain_module"
    Config: ClassVar[type] = BrainModuleConfig
    network: ClassVar[Network] = brain_encoders.BRAIN_MODULE
    torch_twin: ClassVar[tuple[str, str]] = ("brain_module", "BrainModule")
    needs_positions: ClassVar[bool] = True
    # trained, float32 in JAX and in PyTorch are both about 1e-5 from float64, and 1.0e-5 to 1.4e-5 from each other
    parity_tolerance: ClassVar[float | None] = 1e-4
    presets: ClassVar[dict[str, Any]] = PRESETS
    published: ClassVar[dict[str, Any]] = {"data.validation": "images", "data.val_share": 0.2, "choice": "held_out"}

    def arguments(self) -> dict[str, Any]:
        sizes, model = self.sizes, self.config.model
        return {
            "samples": sizes.samples,
            "features": sizes.features,
            "people": sizes.people if model.identified else 0,
            "mse_features": sizes.latent,
            "dims": model.dims,
            "outputs": model.outputs,
            "dim": model.dim,
            "depth": model.depth,
            "aggregation": model.aggregation,
            "radius": model.radius,
        }

    @functools.cached_property
    def sizes(self) -> SizesConfig:
        sizes = super().sizes
        if self.config.share == 1 or sizes.latent:
            return sizes
        if not self.here:
            raise UserError(
                f"share is {self.config.share}, and without the data the width of what the second head predicts is not "
                "known; set sizes.latent"
            )
        return replace(sizes, latent=self.vectors[LATENT].shape[-1])

    def banks(self) -> dict[str, tuple[BankConfig, ...]]:
        return super().banks() | ({LATENT: (self.config.latent,)} if self.config.share < 1 else {})

    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        latent = {LATENT: jax.ShapeDtypeStruct((self.sizes.latent,), jnp.float32)} if self.config.share < 1 else {}
        return super().example() | latent

    @property
    def call(self) -> str:
        return "both" if self.config.share < 1 else "__call__"

    def objective(self, params: PyTree, batch: Batch, brain: Any) -> Loss:
        if self.config.share == 1:
            return super().objective(params, batch, brain)
        clip = super().objective(params, batch, brain[0])
        error = mse(brain[1], batch[LATENT], batch["weight"])
        return combined({"clip": (self.config.share, clip), "mse": (1 - self.config.share, error)})


SYSTEM = BrainModule
