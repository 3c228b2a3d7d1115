"""The base of systems that retrieve which image was seen: a brain encoder, an image side, a contrastive objective.

A system of this family is a file with a network and what its publication does differently; the data, the banks of
image features, training alone or as one program with others, retrieval, and the scores come from here.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from dreamjax.models import flops
from dreamjax.models.brain_layers import Statistic, Trials
from dreamjax.objectives.contrastive import ContrastiveConfig, contrastive
from dreamjax.systems import retrieval_released, retrieval_torch
from dreamjax.systems.base import GradientSystem, Loss, Retrieves, Run, Vectorises
from dreamjax.systems.compute import GradientConfig
from dreamjax.systems.exchange import Checkpoint, Exported, Exports, Format, Imported, ImportOptions, Imports
from dreamjax.systems.retrieval_data import RetrievalData, SizesConfig
from dreamjax.systems.retrieval_streams import example
from dreamjax.targets.banks import BankConfig
from dreamjax.targets.responses import ResponseConfig
from dreamjax.training import optimiser
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.task import Batch, BatchSpec, Metrics, PyTree, State, replace
from dreamjax.training.update import gradient_update
from dreamjax.weights.networks import Network

DIRECTIONS = ("brain_to_image", "image_to_brain")  # metrics of the contrastive loss
VIEWS = "views"  # name, in a batch, of vectors of changed views that are trained on
POSITIONS = "positions"  # name, among the parameters, of the sensors' positions


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(GradientConfig):
    """A run of a system that retrieves images."""

    data: ResponseConfig = field(default_factory=ResponseConfig)
    target: BankConfig = field(default_factory=BankConfig)
    sizes: SizesConfig = field(default_factory=SizesConfig)
    loss: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    epochs: int = 0  # passes over the training trials; 0: as long as train.steps says
    warmup: float = 0.0  # share of the steps over which the rate grows; 0: optim.warmup_steps

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs < 0:
            raise ValueError(f"epochs is {self.epochs}, but it must be at least 0 (0: as long as train.steps says)")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup}, but it must be a share of the steps, at least 0 and below 1")
        if (self.train.microbatches or 1) > 1:
            raise ValueError(
                f"train.microbatches is {self.train.microbatches}, but a contrastive loss needs its whole batch at once"
            )


def gathered(rows: Mapping[str, Array], vectors: Mapping[str, Array]) -> dict[str, Array]:
    """Return a batch for training in memory: rows of the trials, and of the vectors that all runs share."""
    return dict(rows) | {name: x[rows["image"]] for name, x in vectors.items()}


@dataclass(frozen=True)
class RetrievalSystem(GradientSystem, RetrievalData):
    """A retrieval system that is trained by gradients: give `network`, `arguments`, and what else differs."""

    config: RetrievalConfig
    capabilities: ClassVar[tuple[type, ...]] = (Retrieves, Vectorises, Exports, Imports)
    formats: ClassVar[tuple[Format, ...]] = ("torch",)
    network: ClassVar[Network]
    torch_twin: ClassVar[tuple[str, str]]  # module of systems/pytorch, and the encoder's class in it
    parity_tolerance: ClassVar[float | None] = None  # of an export; None: that of the format
    released: ClassVar[Mapping[str, Any]] = {}  # fields of the loss, where `model.variant` is as_released
    needs_positions: ClassVar[bool] = False  # whether the encoder reads where the sensors are; kept with the parameters

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the network for the sizes of the data."""
        raise NotImplementedError

    @functools.cached_property
    def _arguments(self) -> dict[str, Any]:
        return self.arguments()

    # ------------------------------------------------------------------------------------------------ the two sides
    def inputs(self, batch: Batch) -> Trials:
        """Return what the encoder reads of a batch."""
        return Trials(batch["signal"], batch.get("subject"), weight=batch.get("weight"))

    def encode(
        self, params: PyTree, batch: Batch, key: Array | None = None, call: str = "__call__"
    ) -> tuple[Any, PyTree]:
        """Return the brain's vectors [B, F], and with a `key` (of dropout, in training) the new running statistics.

        `call`: the method of the network, where it has one with further outputs.
        """
        model = self.network.bind(self._arguments, params["encoder"])
        inputs = self.inputs(batch)._replace(xyz=params.get(POSITIONS))
        vectors = getattr(model, call)(inputs, key)
        return vectors, {} if key is None else nnx.to_pure_dict(nnx.state(model, Statistic))

    # ------------------------------------------------------------------------------------------------------ training
    def init_params(self, rng: Array) -> dict[str, PyTree]:
        """Return the parameters of the encoder and the scale of the logits; a subclass adds those of its image side."""
        params = {
            "encoder": self.network.init(self._arguments, rng),
            "logit_scale": jnp.float32(self.config.loss.initial),
        }
        return params | ({POSITIONS: jnp.asarray(self.positions)} if self.needs_positions else {})

    def init(self, rng: Array) -> State:
        return replace(self.fresh(self.init_params(rng)), hyper=self.hyper())

    def hyper(self, targets: bool = False) -> dict[str, Array]:
        optim = self.config.optim
        if self.config.warmup:
            optim = dataclasses.replace(optim, warmup_steps=round(self.config.warmup * self.steps))
        values = optimiser.hyper(optim, self.steps)
        return values | {"seed": jnp.uint32(self.config.seed)}

    @functools.cached_property
    def steps(self) -> int:
        """Return the number of steps of the run, by which schedules are measured."""
        steps: int = self.config.train.steps
        return self.data("train").steps(steps) if self.config.epochs and self.here else steps

    @property
    def length(self) -> int:
        return 0 if self.config.epochs and not self.here else self.steps

    def data(self, split: str) -> BatchSpec:
        spec = self.spec_of(split, self.config.train.batch_size, endless=split == "train")  # type: ignore[arg-type]
        return replace(spec, passes=self.config.epochs or None) if split == "train" else spec

    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        sizes = self.sizes  # which the config may state where the data are not here
        counts = {name: len(each) for name, each in self.banks().items()}
        return example(sizes.channels, sizes.samples, {n: (sizes.features, count) for n, count in counts.items()})

    def flops(self) -> float:
        rows, key = self.config.train.batch_size, jax.random.key(0)  # every row is compared with the whole batch
        batch = {name: jax.ShapeDtypeStruct((rows, *x.shape), x.dtype) for name, x in self.example().items()}
        step = jax.grad(lambda params, batch: self.loss(params, {}, batch, 0, training=True)[0])
        return flops.products(step, jax.eval_shape(self.init_params, key), batch) / rows

    @property
    def microbatches(self) -> int:
        return 1  # negatives come from the whole batch

    def loss(self, params: PyTree, frozen: PyTree, batch: Batch, seed: Array | int, training: bool) -> Loss:
        """Return the objective; while training, the metrics also hold the new running `statistics`."""
        key = batch_key(seed, batch["index"]) if training else None
        outputs, statistics = self.encode(params, batch, key, self.call)
        total, weight, metrics = self.objective(params, batch, outputs)
        return total, weight, metrics | ({"statistics": statistics} if training and statistics else {})

    @property
    def call(self) -> str:
        """Return the method of the network whose outputs the objective reads."""
        return "__call__"

    def objective(self, params: PyTree, batch: Batch, brain: Any) -> Loss:
        """Return the loss of the network's outputs: by default the contrastive one of the config."""
        images = self.image_side(params, self.trained_vectors(batch))
        scale, group, weight = params["logit_scale"], batch["image"], batch["weight"]
        return contrastive(brain, images, scale, group, weight, DIRECTIONS, self.contrast)

    @property
    def contrast(self) -> ContrastiveConfig:
        """Return the form of the contrastive loss: the config's, where no variant changes it.

        As released, every other trial of the batch is a negative, and the scale has no limit; what the config sets to
        another value than the system's default stays.
        """
        loss = self.config.loss
        if getattr(self.config.model, "variant", "as_written") != "as_released":  # type: ignore[attr-defined]
            return loss
        usual = type(self.config)().loss
        changes: dict[str, Any] = {"equal": "negative", "largest": math.inf, **self.released}
        return replace(loss, **{n: x for n, x in changes.items() if getattr(loss, n) == getattr(usual, n)})

    def update(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        loss = functools.partial(self.loss, seed=state.hyper["seed"], training=True)
        new, metrics = gradient_update(loss, optimiser.build(), microbatches=1)(state, batch)
        metrics = dict(metrics)
        statistics = metrics.pop("statistics", None)
        if statistics is not None:
            good = metrics["finite"][0] > 0
            encoder = _with_statistics(new.params["encoder"], statistics, good)
            new = replace(new, params=new.params | {"encoder": encoder})
        if self.needs_positions:  # which the optimiser takes for a matrix that decays
            new = replace(new, params=new.params | {POSITIONS: state.params[POSITIONS]})
        return new, metrics

    # ----------------------------------------------------------------------------------------------------- retrieval
    def query(self, params: PyTree, batch: Batch) -> Float[Array, "B F"]:
        return self.encode(params, batch)[0]

    # ------------------------------------------------------------------------------------------- PyTorch, both ways
    def export(self, run: Run, format: Format) -> Exported:
        return retrieval_torch.export(self, run, format)

    @classmethod
    def imported(cls, checkpoint: Checkpoint, options: ImportOptions) -> Imported | None:
        if "run" in checkpoint.settings or checkpoint.exported:
            return retrieval_torch.imported(cls, checkpoint, options)
        return retrieval_released.imported(cls, checkpoint, options)

    @classmethod
    def released_sizes(cls, shapes: retrieval_released.Shapes, channels: int | None) -> dict[str, int] | None:
        """Return the fields of `sizes` that the shapes of released weights state; None where they are of another."""
        return None

    @classmethod
    def released_model(cls, shapes: retrieval_released.Shapes) -> dict[str, Any]:
        """Return the fields of `model` that the shapes of released weights state."""
        return {}

    def image_config(self) -> dict[str, Any]:
        """Return how PyTorch computes the image's side, and what follows the encoder, as in config.json."""
        return {"image_side": "same"}

    def image_tensors(self, params: PyTree) -> dict[str, Any]:
        """Return the tensors of both, in PyTorch's names and layout."""
        return {}

    def image_params(self, tensors: Mapping[str, np.ndarray]) -> dict[str, PyTree]:
        """Return the parameters of both, from what `image_tensors` returned."""
        return {}


def adam(rate: float, *, beta1: float = 0.9, weight_decay: float = 0.0) -> OptimConfig:
    """Return Adam at a constant rate without clipping, as most published systems of retrieval are trained."""
    return OptimConfig(
        learning_rate=rate, schedule="constant", beta1=beta1, beta2=0.999, weight_decay=weight_decay, clip=None
    )


def batch_key(seed: Array | int, index_Bx2: Array) -> Array:
    """Return the key of a batch's random numbers, from the run's seed and its first example's global index."""
    key = jax.random.fold_in(jax.random.key(seed), index_Bx2[0, 0])
    return jax.random.fold_in(key, index_Bx2[0, 1])


def _with_statistics(params: PyTree, statistics: PyTree, good: Array | bool) -> PyTree:
    """Return parameters with the running statistics in place of what the optimiser made of them."""
    if not isinstance(statistics, Mapping):
        return jnp.where(good, statistics, params)
    return {n: _with_statistics(x, statistics[n], good) if n in statistics else x for n, x in params.items()}
