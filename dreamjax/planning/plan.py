"""What a run would need and how long it would take on a pod that is not here.

    found = plan(config, pods.pod("v5e-256"))

The real training step is compiled for the pod by TPU's own compiler: what a chip holds, and what crosses chips, is
*compiled*. Times are *predicted* from it. For GPUs, and where that compiler is not installed, what can be counted is.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh

from dreamjax.errors import UserError
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel import sharding
from dreamjax.planning import ahead, collectives, hlo, roofline
from dreamjax.planning.collectives import SLICES, Collective
from dreamjax.planning.inspect import activation_bytes, local_bytes
from dreamjax.planning.pods import Pod
from dreamjax.systems import registry
from dreamjax.systems.masked_pretraining import MaskedPretrainingConfig
from dreamjax.training.task import State

PARTS = ("params", "opt", "ema", "frozen", "extra")


def plan(config: Any, pod: Pod, *, per_chip: int | None = None, effort: float | None = None) -> dict[str, Any]:
    """One JSON-able dict. `per_chip`: examples a step and chip (of data × fsdp), else as the config has it.

    `effort`: of the compiler (see `ahead.compile_step`). Raises UserError for a mesh that the pod's devices do not make
    up, for a batch that does not divide, and for a step that does not fit.
    """
    data, fsdp, tensor = meshes.sizes(config.train.mesh, pod.devices, pod.slices if pod.is_tpu else 1)
    batch = config.train.batch_size if per_chip is None else per_chip * data * fsdp
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=batch))
    task = registry.build(config)
    if not hasattr(task, "example"):
        raise UserError(f"a plan of {config.system} cannot be made: what a step of it reads is not known in advance")
    axes = dict(zip(meshes.AXES, (data, fsdp, tensor), strict=True))
    flops = getattr(task, "flops_per_example", None)
    found: dict[str, Any] = {
        "system": config.system,
        "pod": {"name": pod.name, "topology": pod.topology, "slices": pod.slices, "chips": pod.chips},
        "mesh": axes,
        "batch": {"step": batch, "device": batch // (data * fsdp)},
        "steps": config.train.steps,
        "flop_per_example": flops() if flops else None,
    }
    if pod.is_tpu and ahead.available():
        found |= _compiled(task, pod, config, batch, effort)
    else:
        found |= _counted(task, pod, config, batch)
    return found | _outlook(found, pod)


def _compiled(task: Any, pod: Pod, config: Any, batch: int, effort: float | None) -> dict[str, Any]:
    devices = ahead.topology(pod.topology, pod.slices)
    mesh = meshes.make(config.train.mesh, devices)
    step = ahead.compile_step(task, mesh, batch, task.example(), effort=effort)
    program = hlo.read(step.as_text())
    moved = collectives.find(program, dict(mesh.shape))
    state: State = jax.eval_shape(task.init, jax.random.key(0))
    flop = (task.flops_per_example() if hasattr(task, "flops_per_example") else 0.0) * batch / mesh.size
    places = [tuple(device.coords) for device in mesh.devices.flat]
    times = roofline.times(pod, flop, roofline.traffic(program), moved.collectives, places, roofline.cycles(program))
    held = ahead.memory(step)
    return {
        "how": "compiled",
        "memory": _memory(state, mesh) | {name: held[name] for name in ("arguments", "temporaries", "code", "peak")},
        "usable": pod.chip.usable / pod.chip.cores,
        "unsharded": _unsharded(task, state, mesh),
        "collectives": _grouped(moved.collectives),
        "unrecognised": dict(moved.unknown),
        "loops": [trips for _, trips in program.loops()],
        "seconds": dataclasses.asdict(times) | {"low": times.low, "high": times.high},
    }


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
    moved = _by_layout(state, mesh, pod)
    flop = (task.flops_per_example() if hasattr(task, "flops_per_example") else 0.0) * batch / mesh.size
    stored = sum(held.values()) + gradients
    chips = np.arange(mesh.size) // pod.chip.cores % (pod.chips // pod.slices)
    places = np.stack(np.unravel_index(chips, pod.shape), axis=1).tolist()
    times = roofline.times(pod, flop, 2 * stored, moved, places, 0.0)
    return {
        "how": "counted",
        "memory": held | {"gradients": gradients, "activations": activations, "peak": stored + (activations or 0.0)},
        "usable": pod.chip.usable / pod.chip.cores,
        "unsharded": _unsharded(task, state, mesh),
        "collectives": _grouped(moved),
        "unrecognised": {},
        "loops": [],
        "seconds": dataclasses.asdict(times) | {"low": times.low, "high": times.high},
    }


def _by_layout(state: State, mesh: Any, pod: Pod) -> list[Collective]:
    """What data and fsdp make cross chips: kernels gathered forward and backward, gradients summed in float32.

    That is what the compiled programs of pretraining hold, to 1 % (tests/planning).
    """
    axes, count = dict(mesh.shape), sum(leaf.size for leaf in jax.tree.leaves(state.params))
    data, fsdp = axes["data"], axes["fsdp"]
    members = np.arange(mesh.size).reshape(data, fsdp, -1)

    def over(axis: str, group: np.ndarray) -> tuple[tuple[str, ...], tuple[int, ...]]:
        crosses = len(set((group // (pod.devices // pod.slices)).tolist())) > 1  # what is slowest is what all wait for
        return (SLICES if crosses else axis,), tuple(group.tolist())

    found = []
    if fsdp > 1:
        axis, group = over("fsdp", members[0, :, 0])
        found.append(Collective("all-gather", axis, fsdp, 2.0 * count, 2, ("bf16",), True, group, "kernels"))
        found.append(Collective("reduce-scatter", axis, fsdp, 4.0 * count, 1, ("f32",), False, group, "gradients"))
    if data > 1:
        axis, group = over("data", members[:, 0, 0])
        found.append(Collective("all-reduce", axis, data, 4.0 * count / fsdp, 1, ("f32",), False, group, "gradients"))
    return found


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
