"""What a run would need and how long it would take on a pod that is not here.

    found = plan(config, pods.pod("v5e-256"))

The real training step is compiled for the pod by TPU's own compiler: what a chip holds, and what crosses chips, is
*compiled*. Times are *predicted* from it. For GPUs, and where that compiler is not installed, what can be counted is.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AbstractMesh

from dreamjax.errors import UserError
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel import sharding
from dreamjax.planning import ahead, batches, collectives, hlo, layout, roofline
from dreamjax.planning.collectives import Collective
from dreamjax.planning.inspect import activation_bytes, local_bytes
from dreamjax.planning.pods import Pod
from dreamjax.systems import registry
from dreamjax.systems.masked_pretraining import MaskedPretrainingConfig
from dreamjax.training.task import State

PARTS = ("params", "opt", "ema", "frozen", "extra")


def plan(
    config: Any, pod: Pod, *, per_chip: int | Literal["auto"] | None = None, effort: float | None = None
) -> dict[str, Any]:
    """One JSON-able dict. `per_chip`: examples a step and device (of data × fsdp), else as the config has it; "auto"
    for the most that fit.

    `effort`: of the compiler (see `ahead.compile_traced`). Raises UserError for a mesh that the pod's devices do not
    make up, for a batch that does not divide, and for a step that does not fit.
    """
    data, fsdp, tensor = meshes.sizes(config.train.mesh, pod.devices, pod.slices if pod.is_tpu else 1)
    compiles = pod.is_tpu and ahead.available()
    if per_chip == "auto" and not compiles:
        raise UserError(
            "--batch-per-chip auto compiles for TPUs: name a pod of them, and pip install 'dreamjax[tpu]'"
            if pod.is_tpu
            else f"--batch-per-chip auto compiles, which only goes for TPUs: give a number for {pod.name}"
        )
    if isinstance(per_chip, int):
        config = _with_batch(config, per_chip * data * fsdp)
    task = registry.build(config)
    if not hasattr(task, "example"):
        raise UserError(f"a plan of {config.system} cannot be made: what a step of it reads is not known in advance")
    if not compiles:
        described = _counted(task, pod, config, config.train.batch_size)
    else:
        mesh = meshes.make(config.train.mesh, ahead.topology(pod.topology, pod.slices))
        if per_chip == "auto":
            config, step = _largest(config, mesh, pod, effort)
            task = registry.build(config)
        else:
            step = _step(task, mesh, config.train.batch_size, effort)
        described = _compiled(task, pod, mesh, step, config.train.batch_size)
    flops, batch = getattr(task, "flops_per_example", None), config.train.batch_size
    found: dict[str, Any] = {
        "system": config.system,
        "pod": {"name": pod.name, "topology": pod.topology, "slices": pod.slices, "chips": pod.chips},
        "mesh": dict(zip(meshes.AXES, (data, fsdp, tensor), strict=True)),
        "batch": {"step": batch, "device": batch // (data * fsdp)},
        "rates": {
            "flops": pod.chip.flops / pod.chip.cores,
            "memory": pod.chip.bandwidth / pod.chip.cores,
            "links": pod.chip.link * pod.chip.axes / pod.chip.cores,
            "network": pod.chip.network / pod.chip.cores,
        },
        "steps": config.train.steps,
        "flop_per_example": flops() if flops else None,
        **described,
    }
    return found | _outlook(found, pod)


def _with_batch(config: Any, batch: int) -> Any:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=batch))


@dataclasses.dataclass(frozen=True)
class Step:
    """A step, compiled, and the loops that its model has."""

    compiled: Any
    loops: list[int]

    def as_text(self) -> str:
        return self.compiled.as_text()

    def memory_analysis(self) -> Any:
        return self.compiled.memory_analysis()


def _step(task: Any, mesh: Any, batch: int, effort: float | None) -> Step:
    traced = ahead.trace_step(task, mesh, batch, task.example())
    return Step(ahead.compile_traced(traced, mesh, effort), ahead.loops(traced))


def _largest(config: Any, mesh: Any, pod: Pod, effort: float | None) -> tuple[Any, Step]:
    """The config with the most examples a device that fit, and its step."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]

    def compile_of(rows: int) -> Step:
        own = _with_batch(config, rows * shards)
        return _step(registry.build(own), mesh, rows * shards, effort)

    usable = pod.chip.usable / pod.chip.cores
    best = batches.largest(compile_of, usable, config.train.microbatches or 1)
    return _with_batch(config, best.rows * shards), best.compiled


def _compiled(task: Any, pod: Pod, mesh: Any, step: Step, batch: int) -> dict[str, Any]:
    text = step.as_text()
    program = hlo.read(text)
    moved = collectives.find(program, dict(mesh.shape))
    state: State = jax.eval_shape(task.init, jax.random.key(0))
    flop = (task.flops_per_example() if hasattr(task, "flops_per_example") else 0.0) * batch / mesh.size
    places = [tuple(device.coords) for device in mesh.devices.flat]
    times = roofline.times(pod, flop, roofline.traffic(program), moved.collectives, places, roofline.cycles(program))
    held = ahead.memory(step)
    trips = [trips for _, trips in program.loops()]
    return {
        "how": "compiled",
        "memory": _memory(state, mesh) | {name: held[name] for name in ("arguments", "temporaries", "code", "peak")},
        "usable": pod.chip.usable / pod.chip.cores,
        "computed_twice": batches.twice(text),
        "unsharded": _unsharded(task, state, mesh),
        "collectives": _grouped(moved.collectives),
        "unrecognised": dict(moved.unknown),
        "loops": trips,
        "strange_loops": strange(trips, step.loops),
        "seconds": dataclasses.asdict(times) | {"low": times.low, "high": times.high},
    }


def strange(trips: Sequence[int | None], model: Sequence[int]) -> list[int | None]:
    """Loops of a compiled program that the model does not have so often: unknown ones, and such of the compiler's own.

    The compiler may unroll a loop of the model's, so that fewer are there; it may run one in the forward and once more
    in the backward pass, as the traced program does too.
    """
    left, found = Counter(model), []
    for count in trips:
        if count is not None and left[count]:
            left[count] -= 1
        elif count is None or count > 1:
            found.append(count)
    return found


def _counted(task: Any, pod: Pod, config: Any, batch: int) -> dict[str, Any]:
    """Without a compiler: what is stored, what the layout makes cross chips, operations; no activations' traffic."""
    mesh = AbstractMesh(meshes.sizes(config.train.mesh, pod.devices), meshes.AXES)
    sharding.check_batch(batch, mesh, config.train.microbatches or 1)
    state: State = jax.eval_shape(task.init, jax.random.key(0))
    held = _memory(state, mesh)
    gradients = local_bytes(state.params, mesh)
    activations = None
    if isinstance(config, MaskedPretrainingConfig):
        rows = batch // (mesh.shape["data"] * mesh.shape["fsdp"]) // (config.train.microbatches or 1)
        activations = activation_bytes(config, state.params) * rows
    moved = layout.moved(state, mesh, pod)
    flop = (task.flops_per_example() if hasattr(task, "flops_per_example") else 0.0) * batch / mesh.size
    stored = sum(held.values()) + gradients
    chips = np.arange(mesh.size) // pod.chip.cores % (pod.chips // pod.slices)
    places = np.stack(np.unravel_index(chips, pod.shape), axis=1).tolist()
    times = roofline.times(pod, flop, 2 * stored, moved, places, 0.0)
    return {
        "how": "counted",
        "memory": held | {"gradients": gradients, "activations": activations, "peak": stored + (activations or 0.0)},
        "usable": pod.chip.usable / pod.chip.cores,
        "computed_twice": 0,
        "unsharded": _unsharded(task, state, mesh),
        "collectives": _grouped(moved),
        "unrecognised": {},
        "loops": [],
        "strange_loops": [],
        "seconds": dataclasses.asdict(times) | {"low": times.low, "high": times.high},
    }


def _unsharded(task: Any, state: State, mesh: Any) -> float:
    """The share of the larger arrays' bytes that every device of an fsdp mesh has whole."""
    rules = getattr(task, "sharding_rules", ())
    return sharding.unsharded_share(state, sharding.shardings(state, mesh, rules))[0] if mesh.shape["fsdp"] > 1 else 0.0


def _memory(state: State, mesh: Any) -> dict[str, float]:
    """Bytes that a device stores of each part of the state."""
    return {name: local_bytes(getattr(state, name), mesh) for name in PARTS if jax.tree.leaves(getattr(state, name))}


def _grouped(found: list[Collective]) -> list[dict[str, Any]]:
    """Collectives that differ in nothing but their size, together; the largest first."""
    groups: dict[tuple, dict[str, Any]] = {}
    for one in found:
        key = (one.kind, one.axes, one.group, one.types, one.beside)
        row = groups.setdefault(
            key,
            {
                "kind": one.kind,
                "axes": list(one.axes),
                "group": one.group,
                "types": list(one.types),
                "beside": one.beside,
                "times": 0.0,
                "payload": 0.0,
                "received": 0.0,
            },
        )
        row["times"] += one.times
        row["payload"] += one.payload * one.times
        row["received"] += one.received
    return sorted(groups.values(), key=lambda row: -row["received"])


def _outlook(found: dict[str, Any], pod: Pod) -> dict[str, Any]:
    """What follows from the step's range: examples a second, MFU, hours, chip-hours; [worst, best] each."""
    seconds = (found["seconds"]["high"], found["seconds"]["low"])
    batch, steps, flop = found["batch"]["step"], found["steps"], found["flop_per_example"]
    peak = pod.chips * pod.chip.flops
    return {
        "examples_per_second": [batch / s for s in seconds],
        "mfu": [flop * batch / (s * peak) for s in seconds] if flop else None,
        "hours": [steps * s / 3600 for s in seconds],
        "chip_hours": [steps * s / 3600 * pod.chips for s in seconds],
    }
