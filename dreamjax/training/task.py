"""The loop's interface to a system: the `Task` protocol and its types."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import jax
import numpy as np
from etils import epath

from dreamjax.parallel.sharding import Rules

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PyTree = Any
Batch = Mapping[str, Any]  # name → array whose leading axis is the global batch
Metrics = Mapping[
    str, tuple[jax.Array | float, jax.Array | float]
]  # name → (sum, weight); the value shown is sum / weight


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Everything that a step reads and writes. A checkpoint holds this (without `frozen`) and the data position.

    `hyper` holds the hyper-parameters that change no shape (EMA decay, weight decay, …): arguments of the compiled step
    and not constants in it. `frozen` is read by the step and never written. `guard` holds the running statistics by
    which jumps of the loss are detected, where the run does that (`training.guard`). `extra` belongs to the system
    (running statistics, a second optimiser's state, a teacher).
    """

    step: jax.Array
    params: PyTree
    opt: PyTree = field(default_factory=dict)
    ema: PyTree = field(default_factory=dict)
    frozen: PyTree = field(default_factory=dict)
    hyper: PyTree = field(default_factory=dict)
    extra: PyTree = field(default_factory=dict)
    guard: PyTree = field(default_factory=dict)


replace = dataclasses.replace


class Stream(Protocol):
    """An addressable sequence of examples: global example index → example, the same in every process."""

    def element(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Return shape and type of one example, by name; without the batch axis."""
        ...

    def batches(
        self, *, start: int, batch_size: int, process: int = 0, processes: int = 1, workers: int = 0
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yield this process's rows of each global batch of `batch_size` examples, from global example `start` on.

        Global batch k holds examples start + k·batch_size … ; process p of P has rows p·B/P … (p+1)·B/P - 1 of it, in
        order. Every example carries `index`, uint32[2] = (high, low) half of its global example index, from which
        crops and masks are keyed, and `weight`, float32: 0 for the padding of a finite stream's last batch.
        """
        ...


@dataclass(frozen=True)
class BatchSpec:
    """The data that the pipeline must deliver for one split.

    With `passes`, training reads a finite stream exactly so often, whatever `train.steps` is: a closed-form solution
    needs every example once. The stream then has a length (`len(stream)` examples in a pass).
    """

    stream: Stream
    batch_size: int  # global
    passes: int | None = None

    def steps(self, default: int) -> int:
        """Return the number of steps of a run: those of the passes where they are fixed, else `default`."""
        if self.passes is None:
            return default
        return self.passes * math.ceil(len(self.stream) / self.batch_size)  # type: ignore[arg-type]


WeightSource = Callable[[PyTree], PyTree]  # abstract subtree (shapes, shardings) → arrays


class Task(Protocol):
    """A system as the training loop sees it (docs/architecture.md).

    A class that names `Task` as its base has to define `init`, `data` and `update`; the other methods have the
    defaults shown here.
    """

    sharding_rules: ClassVar[Rules] = ()  # (regex on a leaf's name, PartitionSpec), ahead of the general fallback

    def init(self, rng: jax.Array) -> State:
        """Return parameters, optimiser state and statistics. Traceable by `eval_shape`; reads no file."""
        ...

    def data(self, split: str) -> BatchSpec:
        """Return what `update` (split "train") and `evaluate` (split "val") are fed with."""
        ...

    def update(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        """Take one step. Pure: the loop compiles it with shardings and donation.

        Random numbers are keyed by `batch["index"]`, the examples' global indices, so that they do not depend on the
        number of devices. Metrics hold `finite` where a step can fail.
        """
        ...

    def weights(self) -> Mapping[str, WeightSource]:
        """Return parameter path prefix → where its values come from; they are streamed in after `init`."""
        return {}

    def finish(self, state: State) -> State:
        """Return the state after the last step: the identity, or a closed-form solution."""
        return state

    def evaluate(self, state: State, source: Stream) -> Metrics:
        """Return held-out metrics. Runs outside jit and may be slow.

        Every process of a run calls it, and each reads its rows alone where `training.feeding.Feeder` reads them for a
        jitted sum over the state's mesh.
        """
        return {}

    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Return shapes and types of one training example by name; the default opens the training data."""
        return self.data("train").stream.element()

    def flops(self) -> float | None:
        """Return the floating-point operations of a training step per example, forward and backward; None: unknown."""
        return None

    def preview(self, state: State, batch: Batch) -> "Figure | None":
        """Return a figure of a few held-out examples, which is logged while training, or None."""
        return None

    def check(self) -> None:
        """Raise UserError for a config that cannot be trained here; called before anything is written."""
        return None

    def keep(self, workdir: epath.PathLike) -> None:
        """Write files of the system's own into the work directory, before the first step (a tokenizer)."""
        return None
