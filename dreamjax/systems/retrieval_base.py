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
from jaxtyping import Array, Float, Int

from dreamjax.errors import UserError
from dreamjax.models import flops
from dreamjax.models.brain_layers import Statistic, Trials
from dreamjax.objectives.contrastive import ContrastiveConfig, contrastive
from dreamjax.signals.datasets import records
from dreamjax.systems import retrieval_released, retrieval_torch
from dreamjax.systems.base import (
    Bank,
    Checkpoint,
    Exported,
    Exports,
    Format,
    GradientSystem,
    Imported,
    ImportOptions,
    Imports,
    Loss,
    Retrieves,
    Run,
    System,
    Vectorises,
)
from dreamjax.systems.compute import GradientConfig
from dreamjax.systems.retrieval_streams import WithVectors, example, vectors_of
from dreamjax.targets import responses
from dreamjax.targets.banks import BankConfig
from dreamjax.targets.responses import ResponseConfig, Responses, Split
from dreamjax.training import optimiser
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.task import Batch, BatchSpec, Metrics, PyTree, State, replace
from dreamjax.training.update import gradient_update
from dreamjax.weights.networks import Network

DIRECTIONS = ("brain_to_image", "image_to_brain")  # metrics of the contrastive loss
VIEWS = "views"  # name, in a batch, of vectors of changed views that are trained on
VECTOR = "vector"  # name, in a batch, of what images are retrieved by
POSITIONS = "positions"  # name, among the parameters, of the sensors' positions


@dataclass(frozen=True)
class SizesConfig:
    """The shapes that a network is built for; 0: those of the data, which must then be there."""

    channels: int = 0
    samples: int = 0
    people: int = 0
    features: int = 0  # width of the image vectors
    latent: int = 0  # width of what a second head predicts; 0: there is none, or as the data

    def filled(self, others: Mapping[str, int]) -> "SizesConfig":
        """Return the sizes with those of the data in place of 0. Raise UserError where the two differ."""
        for name, value in others.items():
            if (given := getattr(self, name)) not in (0, value):
                raise UserError(f"sizes.{name} is {given}, but the data have {value}; leave it at 0")
        return dataclasses.replace(self, **others)

    @property
    def known(self) -> bool:
        return min(self.channels, self.samples, self.people, self.features) > 0


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


@dataclass(frozen=True)
class Examples:
    """The trials of a split as arrays, and the image vectors that they refer to."""

    trials: Responses
    rows: Mapping[str, np.ndarray]  # of each trial: signal, subject, image (a row of the vectors)
    vectors: Mapping[str, Float[np.ndarray, "images *D"]]  # of every image of the corpora, by bank


class RetrievalData(System):
    """What systems of this family share whether they are trained by gradients or solved: data, banks, sizes."""

    config: Any

    def banks(self) -> dict[str, tuple[BankConfig, ...]]:
        """Return the banks of image vectors by name in a batch; of several for one name the vectors are stacked.

        "vector" is what the images are retrieved by.
        """
        return {VECTOR: (self.config.target,)}

    @functools.cached_property
    def vectors(self) -> Mapping[str, Float[np.ndarray, "images *D"]]:
        """Return the vectors of every image of the corpora, in the order of the catalogue, by bank."""
        images = responses.catalogue(self.config.data.path).images
        return {name: vectors_of(each, images) for name, each in self.banks().items()}

    def examples(self, split: Split) -> Examples:
        """Return the trials of a split in memory."""
        trials = responses.load(self.config.data, split)
        rows = {
            "signal": trials.signal,
            "subject": self.numbers(trials).astype(np.int32),
            "image": trials.image.astype(np.int32),
        }
        return Examples(trials, rows, self.vectors)

    @property
    def people(self) -> tuple[str, ...]:
        """Return the people that are trained on, by their numbers; one name where they are not told apart."""
        if not self.config.data.identified:
            return ("anyone",)
        return self.config.data.people or responses.catalogue(self.config.data.path).subjects

    def numbers(self, trials: Responses) -> Int[np.ndarray, "N"]:
        """Return the number of each trial's person among those trained on; -1 for others."""
        if not self.config.data.identified:
            return np.zeros(len(trials), int)
        of = {name: i for i, name in enumerate(self.people)}
        return np.array([of.get(name, -1) for name in trials.subjects])[trials.subject]

    @property
    def here(self) -> bool:
        """Return whether the data are where the config says; a run opens and exports without them."""
        paths = self.config.data.path
        return bool(paths) and all(records.is_dataset(path) for path in paths)

    @functools.cached_property
    def sizes(self) -> SizesConfig:
        """Return the shapes of the network, from the config or else from the data."""
        if self.config.sizes.known:
            return self.config.sizes
        trials = responses.load(self.config.data, "test")
        _, channels, samples = trials.signal.shape
        shapes = {"channels": channels, "samples": samples, "people": len(self.people)}
        return self.config.sizes.filled(shapes | {"features": self.vectors[VECTOR].shape[-1]})

    def filled(self) -> Any:
        """Return the config with the sizes of the data, as a run keeps it so that it opens without them."""
        return dataclasses.replace(self.config, sizes=self.sizes)

    @functools.cached_property
    def positions(self) -> Float[np.ndarray, "C 3"]:
        """Return the sensors' positions in metres, 0 where unknown; all 0 where the data are not here."""
        if self.config.sizes.known and not self.here:
            return np.zeros((self.sizes.channels, 3), np.float32)
        xyz = np.nan_to_num(responses.load(self.config.data, "test").xyz).astype(np.float32)
        if not xyz.any():
            folders = ", ".join(self.config.data.path)
            raise UserError(
                f"{self.config.system} reads the positions of the sensors, but {folders} has none; prepare the "
                "recordings with --montage, or choose a system that does without"
            )
        return xyz

    def image_side(self, params: PyTree, vectors: Float[Array, "M *D"]) -> Float[Array, "M F"]:
        """Return the images' vectors as they are compared; as they are where the system does not map them."""
        return vectors

    def query(self, params: PyTree, batch: Batch) -> Float[Array, "B F"]:
        """Return the responses' vectors as they are compared with those of images."""
        raise NotImplementedError

    def trained_vectors(self, batch: Batch) -> Float[Array, "B *D"]:
        """Return the image vectors that training compares with: those of retrieval, where there are no other views."""
        return batch[VECTOR]

    def bank(self, params: PyTree, split: str) -> Bank:
        """Return the images that were shown in a split."""
        trials = responses.load(self.config.data, split)  # type: ignore[arg-type]
        gallery = trials.gallery
        vectors = np.asarray(self.image_side(params, jnp.asarray(self.vectors[VECTOR][gallery])))
        return Bank(vectors, [trials.images[i] for i in gallery])

    def spec_of(self, split: Split, batch_size: int, endless: bool) -> BatchSpec:
        """Return the stream of a split for the loop: signal, subject, image, vector; `target`: a row of the gallery."""
        examples = self.examples(split)
        target = np.searchsorted(examples.trials.gallery, examples.trials.image)
        rows = dict(examples.rows) | {"target": target.astype(np.int32)}
        stream = WithVectors(rows, vectors=examples.vectors, seed=self.config.seed, endless=endless)
        return BatchSpec(stream, min(batch_size, len(stream)))


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
