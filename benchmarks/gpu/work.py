"""What a job has to give, and the parts that jobs share: our step, the check against the CPU, the twin's device."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import common
import numpy as np

UNOPTIMISED = {"xla_backend_optimization_level": 0}  # of programs on CPU, of which compiling takes the time
# of a step; PyTorch's autocast differs from its float32 by 0.0003, 0.001 and 0.013 on the small U-Net
MOST = {"loss": 0.01, "grad_norm": 0.03, "gradient": 0.06}
Sides = tuple[Any, dict[str, np.ndarray]]  # a Task, and a batch for it


@dataclass(frozen=True)
class Ours:
    """Our program: `run` takes steps and waits, `compiled` knows its memory."""

    run: common.Step
    compiled: Any
    compile_s: float
    parameters: int
    steps: int = 1  # of one run, that each of `run` takes


@dataclass(frozen=True)
class Theirs:
    """The twin's program."""

    run: common.Step
    parameters: int
    steps: int = 1


class Work(Protocol):
    """A job at its size: `Work(smoke, batch)`, where `batch` None is the job's number of examples."""

    batch: int
    dtype: str  # of the measured step: see `dtype_of`
    most: Mapping[str, float]  # of the differences by name: what rounding explains

    def __init__(self, smoke: bool, batch: int | None): ...

    def ours(self) -> Ours: ...

    def flops(self) -> float:
        """Return the operations of a step, counted analytically and without rematerialisation."""
        ...

    def check(self) -> dict[str, float]:
        """Return relative differences of the accelerator in `dtype` to the CPU in float32, at a smaller size."""
        ...

    def theirs(self, mode: str | None, *, compiled: bool) -> Theirs:
        """Return the twin; `mode`: of `torch.compile`."""
        ...


def device() -> Any:
    """Return the device that is measured. Raise RuntimeError without a GPU, except in the smoke test."""
    import os

    import jax

    first = jax.devices()[0]
    if first.platform == "cpu" and os.environ.get("JAX_PLATFORMS") != "cpu":
        raise RuntimeError("JAX has no GPU here; --smoke runs on CPU")
    return first


def dtype_of(smoke: bool) -> str:
    """Return the type that is measured. XLA on CPU has no product of bfloat16 operands with a float32 result."""
    return "float32" if smoke else "bfloat16"


def count(tree: Any) -> int:
    import jax

    return sum(x.size for x in jax.tree.leaves(tree))


def step_of(task: Any, data: Any) -> Ours:
    """Return the real Task's step on the measured device."""
    at = device()
    made = common.compiled_step(task, task.config.train.mesh, data, [at], options(at))
    parameters = count((made.state.params, made.state.frozen.get("unet", {})))
    return Ours(made.run, made.compiled, made.compile_s, parameters)


def options(at: Any) -> dict[str, Any]:
    return UNOPTIMISED if at.platform == "cpu" else {}


def filled(task: Any, *prefixes: str) -> Any:
    """Return the Task with the weights under `prefixes` drawn on the host.

    They are the same on every device, and no program has to be compiled that draws them.
    """

    class Filled(type(task)):
        def weights(self) -> Any:
            return dict.fromkeys(prefixes, common.random_params)

    return Filled(task.config)


def compared(make: Callable[[str], Sides], dtype: str) -> dict[str, float]:
    """Return how far a step's loss, gradient norm and gradient are from those on the CPU.

    `make(dtype)` gives the Task and its batch. The gradient is read from the optimiser's first moments, which after one
    step are a multiple of it.
    """
    import jax

    here, there = (dtype, device()), ("float32", jax.devices("cpu")[0])
    steps = {kind: _first_step(*make(kind[0]), kind[1]) for kind in {here, there}}  # in the smoke test they are one
    return {name: relative(value, steps[there][name]) for name, value in steps[here].items()}


def _first_step(task: Any, data: Any, at: Any) -> dict[str, Any]:
    """Return loss, gradient norm and first moments after a step on the device `at`."""
    import jax
    import optax

    with jax.default_device(at):
        made = common.compiled_step(task, task.config.train.mesh, data, [at], options(at))
        made.run(1)
    values = {name: float(made.metrics[name][0] / made.metrics[name][1]) for name in ("loss", "grad_norm")}
    moments = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(optax.tree.get(made.state.opt, "mu"))]
    return values | {"gradient": np.concatenate(moments)}


def relative(value: Any, reference: Any) -> float:
    """Return ‖value - reference‖ / ‖reference‖."""
    return float(np.linalg.norm(np.subtract(value, reference)) / np.linalg.norm(reference))
