"""UBP (Wu et al., CVPR 2025): the flat EEG signal, projected, and image vectors whose blur follows the uncertainty.

Each trial has a running mean of its logit (section 3.3): s ← 0.3 l + 0.7 s. Where the logit leaves the batch's 95 %
range of s, the trial's image is blurred more or less the next time it is seen (the kernel of the foveated blur has 51
taps, ± 6). Where paper and released code (HaitaoWuTJU/Uncertainty-aware-Blur-Prior 89d8b83) differ, `model.variant`
chooses: as written (equation 10) a low similarity takes the smaller kernel; as released the larger one, and the three
kernels are 45, 45 and 51, as one config object is changed three times; trials of equal images are negatives. In both,
softplus(s) is the scale, learned from s = log(1 / 0.07) on, and in training the brain's vectors are not normalised.

Expected on THINGS-EEG2, 200-way, 17 channels, CLIP's ResNet-50, mean of 10 people: 50.9 / 79.7 % (top-1 / top-5) with
one model a person, 12.4 / 33.4 % with the person left out; the gallery is blurred too.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dreamjax.objectives.contrastive import ContrastiveConfig
from dreamjax.systems.base import Loss
from dreamjax.systems.retrieval_base import VIEWS, RetrievalConfig, RetrievalSystem, adam
from dreamjax.systems.retrieval_data import VECTOR
from dreamjax.systems.retrieval_released import Shapes, flat_signal
from dreamjax.targets.banks import BankConfig
from dreamjax.targets.catalogue import catalogue
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.task import Batch, Metrics, PyTree, State, replace
from dreamjax.training.train_config import TrainConfig
from dreamjax.weights import brain_encoders
from dreamjax.weights.networks import Network

RANGE = 1.959964  # of a normal distribution: 95 % lie within so many standard deviations
KEPT = 0.7  # of the running mean, at each step
LOGITS = "logits"  # of the trials with their images, by which the blur is chosen
SHARPER, USUAL, SOFTER = range(3)


@dataclass(frozen=True)
class UbpModelConfig:
    """Which form of the blur, and the regularisation of the encoder."""

    variant: Literal["as_written", "as_released"] = "as_written"
    dropout: float = 0.3
    kernel: int = 51  # taps of the usual blur, of an image of 224 pixels
    step: int = 6  # by which an uncertain trial's kernel differs

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0 or self.step % 2 or not 0 <= self.step < self.kernel - 1:
            raise ValueError(
                f"model.kernel is {self.kernel} and model.step {self.step}, but the kernel is odd, the step even"
            )

    @property
    def kernels(self) -> tuple[int, int, int]:
        """Return the kernels of a sharper, the usual and a softer view."""
        smaller = self.kernel - self.step
        return (smaller, smaller, self.kernel) if self.variant == "as_released" else (
            (smaller, self.kernel, self.kernel + self.step)
        )  # fmt: skip


@dataclass(frozen=True)
class UbpConfig(RetrievalConfig):
    """A run of UBP; the defaults are those of the publication."""

    system: Literal["ubp"] = "ubp"
    model: UbpModelConfig = field(default_factory=UbpModelConfig)
    optim: OptimConfig = field(default_factory=lambda: adam(1e-4, weight_decay=1e-4))
    train: TrainConfig = field(default_factory=lambda: TrainConfig(batch_size=1024))
    loss: ContrastiveConfig = field(default_factory=lambda: ContrastiveConfig(normalise="image", scale="softplus"))
    epochs: int = 50


@dataclass(frozen=True)
class Ubp(RetrievalSystem):
    """The system UBP."""

    config: UbpConfig
    name: ClassVar[str] = "ubp"
    Config: ClassVar[type] = UbpConfig
    network: ClassVar[Network] = brain_encoders.EEG_PROJECT
    torch_twin: ClassVar[tuple[str, str]] = ("brain_encoders", "EEGProject")
    published: ClassVar[dict[str, Any]] = {"data.validation": "none", "choice": "last"}

    @classmethod
    def released_sizes(cls, shapes: Shapes, channels: int | None) -> dict[str, int] | None:
        return None if "brain.weight" in shapes else flat_signal(shapes, channels)  # NeuroBridge's have maps behind

    def arguments(self) -> dict[str, Any]:
        sizes = self.sizes
        shapes = {"channels": sizes.channels, "samples": sizes.samples, "features": sizes.features}
        return shapes | {"rate": self.config.model.dropout}

    def banks(self) -> dict[str, tuple[BankConfig, ...]]:
        target = self.config.target
        if not target.sees_images:
            return super().banks()  # vectors that are computed already are not blurred
        kernels = self.config.model.kernels
        return super().banks() | {
            VIEWS: tuple(dataclasses.replace(target, view="fovea", view_size=size) for size in kernels)
        }

    def init(self, rng: Array) -> State:
        state = super().init(rng)
        here = self.here  # without the data there is no training
        images = len(catalogue(self.config.data.path).images) if here else 1
        shape = (len(self.people) if here else 1, images)
        extra = {"similarity": jnp.ones(shape, jnp.float32), "level": jnp.full(shape, USUAL, jnp.int32)}
        return replace(state, extra=extra)

    def trained_vectors(self, batch: Batch) -> Float[Array, "B D"]:
        if VIEWS not in batch:
            return batch[VECTOR]
        level = batch.get("level", jnp.full(len(batch["image"]), USUAL, jnp.int32))
        return jnp.take_along_axis(batch[VIEWS], level[:, None, None], axis=1)[:, 0]

    def objective(self, params: PyTree, batch: Batch, brain: Float[Array, "B F"]) -> Loss:
        total, weight, metrics = super().objective(params, batch, brain)
        images = self.trained_vectors(batch)
        images = images * jax.lax.rsqrt(jnp.square(images).sum(-1, keepdims=True) + 1e-12)
        logits = self.contrast.factor(params["logit_scale"]) * (brain * images).sum(-1)
        return total, weight, dict[str, Any](metrics) | {LOGITS: jax.lax.stop_gradient(logits)}

    def update(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        rows = jnp.maximum(batch["subject"], 0), batch["image"]
        new, metrics = super().update(state, dict(batch) | {"level": state.extra["level"][rows]})
        metrics = dict[str, Any](metrics)
        there = (batch["weight"] > 0) & (metrics["finite"][0] > 0)
        similarity, level = self.blurred(metrics.pop(LOGITS), state.extra["similarity"][rows], there)
        spread = {"similarity": similarity, "level": level}
        extra = {name: x.at[rows].set(jnp.where(there, spread[name], x[rows])) for name, x in state.extra.items()}
        return replace(new, extra=extra), metrics

    def blurred(
        self, logit_B: Float[Array, "B"], before_B: Float[Array, "B"], there_B: Array
    ) -> tuple[Float[Array, "B"], Int[Array, "B"]]:
        """Return the running means of the logits, and the level of blur of each image the next time."""
        mean_B = (1 - KEPT) * logit_B + KEPT * before_B
        count = jnp.maximum(there_B.sum(), 2)
        middle = jnp.where(there_B, mean_B, 0).sum() / count
        sd = jnp.sqrt(jnp.where(there_B, jnp.square(mean_B - middle), 0).sum() / (count - 1))
        low, high = (SOFTER, SHARPER) if self.config.model.variant == "as_released" else (SHARPER, SOFTER)
        level = jnp.where(logit_B < middle - RANGE * sd, low, jnp.where(logit_B > middle + RANGE * sd, high, USUAL))
        return mean_B, level

    def held_out(self, params: PyTree, frozen: PyTree, source: Any) -> Metrics:
        metrics = dict(super().held_out(params, frozen, source))
        metrics.pop(LOGITS, None)
        return metrics


SYSTEM = Ubp
