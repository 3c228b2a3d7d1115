"""SAMGA (arXiv 2604.17782): several layers of a vision model, mixed by a router that knows the person.

The brain's side is the flat signal, projected; the image's side mixes the vectors of `model.layers` by the router, and
maps them by two linear layers to the common space. Stage 1 (a third of the epochs) minimises (1 - m) · contrast + m ·
MMD with m from 0.9 to 0.5; stage 2 the contrast alone, at half of the rate. Only the image's side is normalised, and
the scale of the logits is softplus(log(1 / 0.07)) = 2.727, not learned. With `model.variant=as_released` trials of
equal images are negatives; that the checkpoint is chosen by the test set is the protocol `paper`.

From a summary of the released code (LinJiang8/SAMGA 1a63745), not its text: that stage 2 also freezes an encoder that
both sides share is left out here, as its place in the network was not stated.

Expected on THINGS-EEG2, 200-way, 17 channels, InternViT-6B, mean of 10 people: 91.3 / 98.8 % (top-1 / top-5), stopped
and chosen by the test set; an independent run of person 8 fell from 94.8 to 46.5 % top-1 with the checkpoint of
held-out concepts.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from dataclasses import replace as changed
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from dreamjax.errors import UserError
from dreamjax.models.layers import Keys, gelu
from dreamjax.models.projections import LayerRouter
from dreamjax.objectives.contrastive import ContrastiveConfig, contrastive, unit
from dreamjax.objectives.mmd import mmd
from dreamjax.objectives.regression_loss import combined
from dreamjax.systems.base import Loss
from dreamjax.systems.retrieval_base import DIRECTIONS, RetrievalConfig, RetrievalSystem, adam
from dreamjax.systems.retrieval_data import VECTOR
from dreamjax.targets.banks import BankConfig
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.task import Batch, Metrics, PyTree, State, replace
from dreamjax.training.train_config import TrainConfig
from dreamjax.weights import brain_encoders
from dreamjax.weights.networks import Network

PROGRESS, ROUTE = "progress", "route"  # names in a batch: share of the steps done; key of the router's dropout


@dataclass(frozen=True)
class SamgaModelConfig:
    """The layers of the vision model, and the common space."""

    variant: Literal["as_written", "as_released"] = "as_written"
    layers: tuple[int, ...] = (20, 24, 28, 32, 36)  # of the vision model; empty: target.layer alone
    centre: int = 28  # the layer with the largest weight at the start
    width: int = 512
    hidden: int = 1024  # of the image's side
    dropout: float = 0.3
    router_dropout: float = 0.3  # of a person's part of the weights
    first_stage: float = 1 / 3  # share of the epochs
    mmd_from: float = 0.9
    mmd_to: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.mmd_to <= self.mmd_from <= 1:
            raise ValueError(f"model.mmd_from is {self.mmd_from} and mmd_to {self.mmd_to}, but 1 ≥ from ≥ to ≥ 0")
        if not 0 < self.first_stage <= 1:
            raise ValueError(f"model.first_stage is {self.first_stage}, but it must be a share above 0 and at most 1")


@dataclass(frozen=True)
class SamgaConfig(RetrievalConfig):
    """A run of SAMGA; the defaults are those of the publication."""

    system: Literal["samga"] = "samga"
    model: SamgaModelConfig = field(default_factory=SamgaModelConfig)
    optim: OptimConfig = field(default_factory=lambda: adam(1e-4, weight_decay=1e-4))
    train: TrainConfig = field(default_factory=lambda: TrainConfig(batch_size=512))
    loss: ContrastiveConfig = field(
        default_factory=lambda: ContrastiveConfig(normalise="image", scale="softplus", learned=False)
    )
    epochs: int = 60


class ImageSide(nnx.Module):
    """The router of layers, and the map to the common space."""

    def __init__(self, *, layers: tuple[int, ...], people: int, features: int, model: SamgaModelConfig, rngs: Keys):
        self.router = LayerRouter(layers=layers, people=people, centre=model.centre, rate=model.router_dropout)
        self.fc1 = nnx.Linear(features, model.hidden, rngs=nnx.Rngs(rngs.params()))
        self.fc2 = nnx.Linear(model.hidden, model.width, rngs=nnx.Rngs(rngs.params()))

    def __call__(self, vectors: Float[Array, "M L D"], subject: Array, key: Array | None = None) -> Float[Array, "M F"]:
        mixed = jnp.einsum("mld,ml->md", vectors, self.router(subject, key))
        return self.fc2(gelu(self.fc1(mixed)))


@dataclass(frozen=True)
class Samga(RetrievalSystem):
    """The system SAMGA."""

    config: SamgaConfig
    name: ClassVar[str] = "samga"
    Config: ClassVar[type] = SamgaConfig
    network: ClassVar[Network] = brain_encoders.EEG_PROJECT
    torch_twin: ClassVar[tuple[str, str]] = ("brain_encoders", "EEGProject")
    published: ClassVar[dict[str, Any]] = {"data.validation": "none", "choice": "test"}

    def arguments(self) -> dict[str, Any]:
        sizes, model = self.sizes, self.config.model
        shapes = {"channels": sizes.channels, "samples": sizes.samples, "features": model.width}
        return shapes | {"rate": model.dropout}

    @property
    def layers(self) -> tuple[int, ...]:
        """Return the layers whose vectors are mixed: one where the vectors are computed already."""
        return self.config.model.layers if self.config.target.has_layers and self.config.model.layers else (0,)

    def banks(self) -> dict[str, tuple[BankConfig, ...]]:
        if len(self.layers) == 1:
            return super().banks()
        return {VECTOR: tuple(changed(self.config.target, layer=layer) for layer in self.layers)}

    @functools.cached_property
    def vectors(self) -> Mapping[str, Float[np.ndarray, "images *D"]]:
        try:
            return super().vectors
        except UserError as problem:
            if len(self.layers) > 1 and "does not exist" in str(problem):
                layers = ", ".join(map(str, self.layers))
                raise UserError(f"{problem}; model.layers is {layers}: choose layers of this model") from problem
            raise

    def _image_module(self, key: Array) -> ImageSide:
        sizes, model = self.sizes, self.config.model
        return ImageSide(layers=self.layers, people=sizes.people, features=sizes.features, model=model, rngs=Keys(key))

    def init_params(self, rng: Array) -> dict[str, PyTree]:
        of_encoder, of_image = jax.random.split(rng)
        image = nnx.to_pure_dict(nnx.state(self._image_module(of_image), nnx.Param))
        return super().init_params(of_encoder) | {"image": image}

    def image_side(
        self, params: PyTree, vectors: Float[Array, "M *L D"], subject: Array | None = None, key: Array | None = None
    ) -> Float[Array, "M F"]:
        graph = nnx.split(nnx.eval_shape(lambda: self._image_module(jax.random.key(0))), nnx.Param)[0]
        stacked = vectors if vectors.ndim == 3 else vectors[:, None]
        return nnx.merge(graph, params["image"])(
            stacked, jnp.full(len(vectors), -1) if subject is None else subject, key
        )

    def image_config(self) -> dict[str, Any]:
        return {"image_side": "layers", "layers": len(self.layers), "hidden": self.config.model.hidden}

    def image_tensors(self, params: PyTree) -> dict[str, Any]:
        image = params["image"]
        tensors = {"logits": image["router"]["logits"], "router.subject_bias": image["router"]["bias"]}
        for number, name in ((0, "fc1"), (2, "fc2")):
            tensors[f"image.{number}.weight"] = np.asarray(image[name]["kernel"]).T.copy()
            tensors[f"image.{number}.bias"] = image[name]["bias"]
        return tensors

    def image_params(self, tensors: Mapping[str, np.ndarray]) -> dict[str, PyTree]:
        def linear(number: int) -> dict[str, np.ndarray]:
            return {"kernel": tensors[f"image.{number}.weight"].T.copy(), "bias": tensors[f"image.{number}.bias"]}

        router = {"logits": tensors["logits"], "bias": tensors["router.subject_bias"]}
        return {"image": {"router": router, "fc1": linear(0), "fc2": linear(2)}}

    def objective(self, params: PyTree, batch: Batch, brain: Float[Array, "B F"]) -> Loss:
        images = self.image_side(params, batch[VECTOR], batch["subject"], batch.get(ROUTE))
        scale, weight = params["logit_scale"], batch["weight"]
        contrast = contrastive(brain, images, scale, batch["image"], weight, DIRECTIONS, self.contrast)
        model, progress = self.config.model, batch.get(PROGRESS, jnp.float32(1))
        within = jnp.clip(progress / model.first_stage, 0, 1)
        share = jnp.where(progress < model.first_stage, model.mmd_from + (model.mmd_to - model.mmd_from) * within, 0.0)
        distance = mmd(unit(brain), unit(images), weight)
        return combined({"contrast": (1 - share, contrast), "mmd": (share, distance)})

    def update(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        progress = state.step.astype(jnp.float32) / max(self.steps, 1)
        key = jax.random.fold_in(jax.random.key(state.hyper["seed"]), state.step)
        second = progress >= self.config.model.first_stage
        rate = jnp.where(second, 0.5, 1.0) * state.hyper["learning_rate"]
        hyper = state.hyper | {"learning_rate": rate, "min_learning_rate": rate}
        new, metrics = super().update(replace(state, hyper=hyper), dict(batch) | {PROGRESS: progress, ROUTE: key})
        return replace(new, hyper=state.hyper), metrics


SYSTEM = Samga
