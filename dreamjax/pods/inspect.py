"""Count the parameters, operations, memory and shapes of a config, without allocating anything.

Everything comes from `jax.eval_shape` and analytic counts, so a model of any size can be inspected on any machine.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jax
from jax.sharding import AbstractMesh

from dreamjax.parallel import mesh as meshes
from dreamjax.parallel import sharding
from dreamjax.parallel.mesh import AnyMesh
from dreamjax.systems import registry
from dreamjax.systems.base import Plans, offered
from dreamjax.training.task import PyTree, State


@dataclass(frozen=True)
class Inspection:
    """A config in numbers; `gflop_per_window` and `shapes`: of a system that plans, None of another one."""

    system: str
    gflop_per_window: Mapping[str, float] | None
    run: Mapping[str, float]  # steps (0: as the data say), batch_size, windows or examples; exaflop where known
    memory_gib_per_device: Mapping[str, float]
    parameters: Mapping[str, Any]  # `parts`: name → how many; totals
    shapes: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, object]:
        """Return what is known, for JSON."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def inspect(config: Any, *, devices: int | None = None) -> Inspection:
    """Return the parameters by part, FLOP per window, GiB per device and shapes of a config.

    Of a system that does not plan: parameters by part, the run, the FLOP of an example where they are known, and GiB
    per device of what is stored. `devices`: of the run (default: as many as the config's mesh names, an open axis
    counting as one). Raise UserError where the mesh does not fit them or the batch does not divide.
    """
    task, train = registry.build(config), config.train
    state: State = jax.eval_shape(task.init, jax.random.key(0))
    requested = (train.mesh.data, train.mesh.fsdp, train.mesh.tensor)
    count = devices if devices is not None else math.prod(size for size in requested if size != -1)
    mesh = AbstractMesh(meshes.sizes(train.mesh, count), meshes.AXES)
    sharding.check_batch(train.batch_size, mesh, train.microbatches or 1)
    run: dict[str, float] = {"steps": task.length, "batch_size": train.batch_size}
    examples, plans = task.length * train.batch_size, offered(task, Plans)
    memory = _memory(config, state, mesh, plans)
    if plans is None:
        parts = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in state.params.items()}
        frozen = sum(leaf.size for leaf in jax.tree.leaves(state.frozen))
        parameters = {"parts": parts, "trained": sum(parts.values()), "frozen": frozen}
        run["examples"] = examples
        if flop := task.flops():
            run["gflop_per_example"] = float(f"{flop / 1e9:.4g}")
            if examples:
                run["exaflop"] = float(f"{flop * examples / 1e18:.4g}")
        return Inspection(config.system, None, run, memory, parameters)
    run |= {"windows": examples, "exaflop": float(f"{(task.flops() or 0) * examples / 1e18:.4g}")}
    return Inspection(config.system, plans.gflop(), run, memory, **plans.summary(state.params))


def _memory(config: Any, state: State, mesh: AnyMesh, plans: Plans | None) -> dict[str, float]:
    """Return GiB of one device: stored arrays, and an estimate of the values kept for the backward pass.

    `activations` are the residuals of the loss's vjp, by shape, after the config's rematerialisation. A compiler that
    fuses keeps fewer, and needs room to compute in: TPU's took 1.1 to 1.3 times the sum of it all (docs/scaling.md).
    Gradients are counted once in float32.
    """
    parts, train = {"parameters": local_bytes(state.params, mesh)}, config.train
    if plans is None:
        parts["frozen"] = local_bytes(state.frozen, mesh)
    parts |= {"optimiser": local_bytes(state.opt, mesh), "average": local_bytes(state.ema, mesh)}
    parts["gradients"] = parts["parameters"]
    counts: dict[str, float] = {}
    if plans is not None:
        counts["windows_per_device"] = rows = (
            train.batch_size // (mesh.shape["data"] * mesh.shape["fsdp"]) // (train.microbatches or 1)
        )
        parts["activations"] = plans.activation_bytes(state.params) * rows
    parts["total"] = sum(parts.values())
    return {name: float(f"{size / 2**30:.4g}") for name, size in parts.items()} | counts | {"devices": mesh.size}


def local_bytes(tree: PyTree, mesh: AnyMesh) -> float:
    """Return the bytes of one device's shards under the sharding rules that training uses."""
    leaves, places = jax.tree.leaves(tree), jax.tree.leaves(sharding.shardings(tree, mesh))
    pieces = (math.prod(place.shard_shape(leaf.shape)) for leaf, place in zip(leaves, places, strict=True))
    return float(sum(size * leaf.dtype.itemsize for size, leaf in zip(pieces, leaves, strict=True)))
