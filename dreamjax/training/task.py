"""What the loop knows about a system: the `Task` protocol, and the types that cross it."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import numpy as np

PyTree = Any
Batch = Mapping[str, Any]  # name → array whose leading axis is the global batch
Metrics = Mapping[str, tuple[Any, Any]]  # name → (sum, weight); the value shown is sum / weight


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Everything that a step reads and writes. A checkpoint holds exactly this and the data position.

    `guard` holds the running statistics that a jump of the loss is told by, where jumps are looked for
    (`training.guard`).

    `hyper` holds the hyper-parameters that change no shape (EMA decay, weight decay, …): arguments of the
    compiled step and not constants in it. `frozen` is read by the step and never written; `extra` is the system's own
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
    """An addressable sequence of examples: global example index → example, the same whoever asks."""

    def element(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and type of one example, by name; without the batch axis."""
        ...

    def batches(
        self, *, start: int, batch_size: int, process: int = 0, processes: int = 1, workers: int = 0
    ) -> Iterator[dict[str, np.ndarray]]:
        """This process's rows of each global batch of `batch_size` examples, from global example `start` on.

        Global batch k holds examples start + k·batch_size … ; process p of P has rows p·B/P … (p+1)·B/P - 1 of it, in
        order. Every example carries `index`, uint32[2] = (high, low) half of its global example index, from which
        crops and masks are keyed, and `weight`, float32: 0 for the padding of a finite stream's last batch.
        """
        ...


@dataclass(frozen=True)
class BatchSpec:
    """What the pipeline must deliver for one split."""

    stream: Stream
    batch_size: int  # global


WeightSource = Callable[[PyTree], PyTree]  # abstract subtree (shapes, shardings) → arrays


class Task(Protocol):
    """A system, as the loop sees it (docs/architecture.md)."""

    def init(self, rng: jax.Array) -> State:
        """Parameters, optimiser state, statistics. Traceable by `eval_shape`; reads no file."""
        ...

    def weights(self) -> Mapping[str, WeightSource]:
        """Parameter path prefix → where its values come from, streamed in after `init`."""
        ...

    def data(self, split: str) -> BatchSpec:
        """What `update` (split "train") and `evaluate` (split "val") are fed with."""
        ...

    def update(self, state: State, batch: Batch, rng: jax.Array) -> tuple[State, Metrics]:
        """One step: pure; the loop jits it with shardings and donation. Metrics hold `finite` where a step can fail."""
        ...

    def finish(self, state: State) -> State:
        """After the last step: the identity, or a closed-form solve."""
        ...

    def evaluate(self, state: State, source: Stream) -> Metrics:
        """Held-out metrics; outside jit, may be slow.

        Every process of a run calls it, and each reads its rows alone where `training.feeding.Feeder` reads them for a
        jitted sum over the state's mesh.
        """
        ...
