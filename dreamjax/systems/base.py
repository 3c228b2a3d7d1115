"""The system: a `Task` that the training loop drives, and the capabilities that the other verbs ask for.

A system is one file. It names its data, targets, networks and objective, and lists in `capabilities` what can be done
with a trained one. No verb, loop, report or sweep knows a system by name: it asks for a capability,

    retrieving = capability(run.task, Retrieves, "score retrieval")     # UserError where the system has none

Most systems are a `GradientSystem` (give a loss) or a `ClosedFormSystem` (give statistics and their solution).
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from dreamjax.errors import UserError
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.training import optimiser
from dreamjax.training.held_out import averaged, summed
from dreamjax.training.task import Batch, BatchSpec, Metrics, PyTree, State, Stream, Task, replace
from dreamjax.training.update import gradient_update
from dreamjax.typing import JsonDict

if TYPE_CHECKING:
    from dreamjax.runs.components import Components
    from dreamjax.runs.latent_diffusion import LatentDiffusion
    from dreamjax.targets.trials import TargetConfig

Loss = tuple[Array, Array, dict[str, tuple[Array, Array]]]  # (sum, weight, {metric: (sum, weight)})
C = TypeVar("C")


class System(Task, Protocol):
    """A published method: a `Task` with a name, a config and capabilities."""

    name: ClassVar[str]  # the value of `config.system`
    Config: ClassVar[type]  # frozen dataclass of its config
    capabilities: ClassVar[tuple[type, ...]] = ()  # the protocols of this module that it implements
    config: Any

    @property
    def length(self) -> int:
        """Return the number of steps of training; 0 where that depends on data that are not here."""
        return self.config.train.steps


@dataclass(frozen=True)
class Run:
    """A trained system as opened from its work directory; `params` are averaged where the run kept an average."""

    workdir: str
    config: Any  # the frozen dataclass of its system
    task: System
    params: PyTree
    step: int
    examples: int  # consumed by training
    averaged: bool


# --------------------------------------------------------------------------------------------------------- capabilities
class Embedding(NamedTuple):
    """The output of an encoder."""

    tokens: Float[Array, "B N D"]
    pooled: Float[Array, "B D"]


class Signals(Protocol):
    """Reads windows of a signal as `signals.datasets` prepares them."""

    @property
    def signal(self) -> DataConfig:
        """Return how the windows are prepared: montage, rate, samples and scaling."""


class Reconstructs(Signals, Protocol):
    """Masked input → reconstruction, in the scaled unit of the input."""

    @property
    def patch(self) -> int:
        """Return the number of samples of a patch, the unit that is hidden."""

    def reconstruct(
        self,
        params: PyTree,
        signal: Float[Array, "B C T"],
        hidden: Bool[Array, "B N"],
        valid: Float[Array, "B T"] | None = None,
    ) -> Float[Array, "B C T"]:
        """Return the whole signal, predicted from the patches that are not `hidden`."""


class Embeds(Signals, Protocol):
    """Signals → tokens and one vector a window."""

    def embed(
        self, params: PyTree, signal: Float[Array, "B C T"], valid: Float[Array, "B T"] | None = None
    ) -> Embedding:
        """Return the tokens of windows, nothing hidden, and their mean over real patches.

        `signal`: in the network's units, as the data pipeline scales it; `dreamjax.load(…).encode` takes µV.
        """


class Bank(NamedTuple):
    """The targets of retrieval: `vectors` (N, D), and a name for each."""

    vectors: np.ndarray
    names: Sequence[str]


class Retrieves(Protocol):
    """Batch → vectors that are compared with a bank of targets by cosine similarity."""

    def query(self, params: PyTree, batch: Batch) -> Float[Array, "B D"]:
        """Return a vector for each example."""

    def bank(self, params: PyTree, split: str) -> Bank:
        """Return the targets of a split; `batch["target"]` of an example is the row of its target."""


class Predicts(Protocol):
    """Batch → vectors in the unit of the batch's own `target` (ridge regression, encoding models)."""

    def predict(self, params: PyTree, batch: Batch) -> Float[Array, "B D"]:
        """Return a prediction of `batch["target"]` for each example."""


class Diffuses(Protocol):
    """Holds the networks of a latent diffusion model, by config alone where there are no weights."""

    @property
    def parts(self) -> "Components":
        """Return where the networks come from."""

    @property
    def context_shape(self) -> tuple[int, int]:
        """Return (tokens, width) of the context that an image is generated from."""

    def pipeline(self, run: Run, mesh: jax.sharding.Mesh, *, dtype: str, attention: str) -> "LatentDiffusion":
        """Return the run's networks on `mesh`, ready to sample from."""


class GeneratesFromText(Diffuses, Protocol):
    """Prompts → images."""


class GeneratesFromTrials(Signals, Diffuses, Protocol):
    """Windows of brain signal → images."""

    @property
    def target(self) -> "TargetConfig":
        """Return which images were seen in the trials, and which of them are held out."""

    @property
    def embedding_dim(self) -> int:
        """Return the width of the embedding that is aligned with the images'; 0 without one."""

    @property
    def guided(self) -> bool:
        """Return whether the model has an unconditional prediction, as guidance needs it."""

    def conditioning(self, run: Run, mesh: jax.sharding.Mesh) -> tuple[PyTree, PyTree]:
        """Return (params, frozen) on `mesh` of the networks that turn windows into conditions."""

    def condition(self, params: PyTree, frozen: PyTree, batch: Batch) -> dict[str, Array]:
        """Return the conditions of images: `context`, and where the model has them `time_offset` and `embedding`."""

    def unconditional(self, params: PyTree, frozen: PyTree) -> dict[str, Array]:
        """Return the unconditional input of guidance. Raise UserError for a model that is not `guided`."""


class Plans(Protocol):
    """Knows its own cost in more detail than the compiler reports."""

    def gflop(self) -> dict[str, float]:
        """Return the floating-point operations of an example by part of the network."""

    def activation_bytes(self, params: PyTree) -> float:
        """Return the bytes that the backward pass keeps per example."""

    def summary(self, params: PyTree) -> JsonDict:
        """Return the counts of parameters and the shapes that `dreamjax inspect` prints."""


class Vectorises(Protocol):
    """Runs that differ only in arguments of the step can be trained as one program (`sweeps.vectorised`)."""

    def hyper(self, targets: bool = False) -> dict[str, Array]:
        """Return the arguments of the step; with `targets` also which ones are predicted."""


class Pretrained(Protocol):
    """Starts from an encoder that another run has trained."""

    encoder_key: ClassVar[str]  # dotted config key of the run's folder; its group also has `start` and `model`
    shared_data: ClassVar[tuple[str, ...]]  # keys of `data` that the encoder's run and this one share

    @property
    def encoder_run(self) -> str:
        """Return the folder of the run whose weights training starts from; "" for random ones."""


def capability(task: Task, kind: type[C], purpose: str) -> C:
    """Return `task` as a `kind`. Raise UserError, with the `purpose` (an infinitive), where it does not list that."""
    if (offer := offered(task, kind)) is not None:
        return offer
    raise UserError(f"a run of {name_of(task)} cannot {purpose}; {what_it_can(task)}")


def offered(task: Task, kind: type[C]) -> C | None:
    """Return `task` as a `kind`; None where the system does not list this capability."""
    return task if any(kind in one.__mro__ for one in capabilities(task)) else None  # type: ignore[return-value]


def generator(run: Run, kind: type[C], purpose: str) -> C:
    """Return a run's system as a `kind` that generates images. Raise UserError, which for retrieval names evaluate."""
    if offered(run.task, Retrieves) and not offered(run.task, kind):
        raise UserError(
            f"{run.workdir}: a run of {name_of(run.task)} retrieves images and generates none; the nearest images of "
            f"its trials are on the page of dreamjax evaluate {run.workdir}"
        )
    return capability(run.task, kind, purpose)


def capabilities(task: Task | type[Task]) -> tuple[type, ...]:
    """Return the capabilities of a system or of its class."""
    return tuple(getattr(task, "capabilities", ()))


def name_of(task: Task) -> str:
    """Return the name of a system."""
    return str(getattr(task, "name", type(task).__name__))


def what_it_can(task: Task) -> str:
    """Return a clause that lists a system's capabilities."""
    names = [kind.__name__ for kind in capabilities(task)]
    return f"its capabilities: {', '.join(names)}" if names else "it has no capability other than training"


# -------------------------------------------------------------------------------------------------------------- systems
@dataclass(frozen=True)
class GradientSystem(System):
    """A system trained by gradient descent: give `config`, `init`, `data` and `loss`.

    `config` has `seed`, `optim` (an `OptimConfig`) and `train` (a `TrainConfig`).
    """

    config: Any

    def loss(self, params: PyTree, frozen: PyTree, batch: Batch, seed: Array | int, training: bool) -> Loss:
        """Return (sum, weight, metrics) of a batch. Random numbers are keyed by (seed, batch["index"])."""
        raise NotImplementedError

    @property
    def microbatches(self) -> int | None:
        """Return the number of micro-batches of a batch; None: chosen for the device."""
        return self.config.train.microbatches

    def fresh(self, params: PyTree, *, frozen: PyTree = None, extra: PyTree = None) -> State:
        """Return the state before the first step, with optimiser state and average as configured."""
        rest = {"frozen": frozen or {}, "extra": extra or {}}
        return optimiser.fresh(params, self.config.optim, self.config.train.steps, **rest)

    def spec(self, stream: Stream) -> BatchSpec:
        """Return `stream` in the batches of the config."""
        return BatchSpec(stream, self.config.train.batch_size)

    def update(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        loss = functools.partial(self.loss, seed=self.config.seed, training=True)
        return gradient_update(loss, optimiser.build(), microbatches=self.microbatches)(state, batch)

    def evaluate(self, state: State, source: Stream) -> Metrics:
        """Return the held-out loss and metrics of the averaged parameters where they are kept; keyed by seed + 1."""
        return self.held_out(averaged(state), state.frozen, source)

    def held_out(self, params: PyTree, frozen: PyTree, source: Stream) -> Metrics:
        """Return the loss and the metrics of given parameters over a finite stream."""
        return summed(self._held_out, (params, frozen), self.spec(source))

    @functools.cached_property
    def _held_out(self) -> Callable[[tuple[PyTree, PyTree], Batch], Metrics]:
        def metrics(trees: tuple[PyTree, PyTree], batch: Batch) -> dict[str, tuple[Array, Array]]:
            total, weight, others = self.loss(*trees, batch, self.config.seed + 1, training=False)
            return {"loss": (total, weight)} | others

        return jax.jit(metrics)


@dataclass(frozen=True)
class ClosedFormSystem(System):
    """A system without gradients: `statistics` of a batch are summed over exactly one pass, then solved.

    Give `config`, `data` (with `BatchSpec.passes = 1`), `statistics` and `solve`. Statistics are sums over examples,
    each weighted by `batch["weight"]`, which is 0 for padding.
    """

    config: Any

    def statistics(self, batch: Batch) -> PyTree:
        """Return the sums that the solution needs, over the examples of a batch."""
        raise NotImplementedError

    def solve(self, statistics: PyTree) -> PyTree:
        """Return the parameters that the sums over all examples determine."""
        raise NotImplementedError

    def init(self, rng: jax.Array) -> State:
        batch = {name: jax.ShapeDtypeStruct((1, *x.shape), x.dtype) for name, x in self.example().items()}
        shapes = jax.eval_shape(self.statistics, batch)
        zeros = functools.partial(jax.tree.map, lambda x: jnp.zeros(x.shape, x.dtype))
        params = zeros(jax.eval_shape(self.solve, shapes))
        return State(step=jnp.zeros((), jnp.int32), params=params, extra=zeros(shapes))

    def update(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        extra = jax.tree.map(jnp.add, state.extra, self.statistics(batch))
        examples = batch["weight"].astype(jnp.float32).sum()
        return replace(state, step=state.step + 1, extra=extra), {"examples": (examples, jnp.float32(1))}

    def finish(self, state: State) -> State:
        params = jax.jit(self.solve)(state.extra)
        return replace(state, params=jax.tree.map(lambda x, old: jax.device_put(x, old.sharding), params, state.params))
