"""What a config means in numbers, without allocating anything: parameters, operations, memory, shapes.

Everything comes from `jax.eval_shape` and from counting by hand, so a model of any size is inspected on any machine.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh

from dreamjax.parallel import mesh as meshes
from dreamjax.parallel import sharding
from dreamjax.parallel.mesh import AnyMesh
from dreamjax.parallel.tree_paths import named_leaves
from dreamjax.systems import registry
from dreamjax.systems.base import Plans, offered
from dreamjax.training.task import PyTree, State
from dreamjax.typing import JsonDict


def inspect(config: Any, *, devices: int | None = None) -> JsonDict:
    """Parameters by part, FLOP per window, GiB per device and shapes, as one JSON-able dict.

    Of another system than masked pretraining: parameters by part, the run, and GiB per device of what is stored.
    `devices` is the number of devices that the run would have (default: as many as the config's mesh names, an open
    axis counting as one). Raises UserError where the mesh does not fit them or the batch does not divide.
    """
    task = registry.build(config)
    state: State = jax.eval_shape(task.init, jax.random.key(0))
    mesh = abstract_mesh(config, devices)
    sharding.check_batch(config.train.batch_size, mesh, config.train.microbatches or 1)
    if (plans := offered(task, Plans)) is None:
        return stored(config, state, mesh)
    examples = config.train.steps * config.train.batch_size
    return {
        "system": config.system,
        "gflop_per_window": plans.gflop(),
        "run": {
            "steps": config.train.steps,
            "batch_size": config.train.batch_size,
            "windows": examples,
            "exaflop": float(f"{(task.flops() or 0) * examples / 1e18:.4g}"),
        },
        "memory_gib_per_device": memory(task, state, mesh),
        **plans.summary(state.params),
    }


def stored(config: Any, state: State, mesh: AnyMesh) -> JsonDict:
    """What is known of any system: its parameters by their first name, and what a device stores of its state."""
    count = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in state.params.items()}
    frozen = sum(leaf.size for leaf in jax.tree.leaves(state.frozen))
    parts = {
        "parameters": local_bytes(state.params, mesh),
        "frozen": local_bytes(state.frozen, mesh),
        "optimiser": local_bytes(state.opt, mesh),
        "average": local_bytes(state.ema, mesh),
        "gradients": local_bytes(state.params, mesh),
    }
    train = config.train
    return {
        "system": config.system,
        "parameters": {"parts": count, "trained": sum(count.values()), "frozen": frozen},
        "run": {
            "steps": train.steps,
            "batch_size": train.batch_size,
            "examples": train.steps * train.batch_size,
        },
        "memory_gib_per_device": {name: float(f"{size / 2**30:.4g}") for name, size in parts.items()}
        | {"total": float(f"{sum(parts.values()) / 2**30:.4g}"), "devices": int(mesh.size)},
    }


def abstract_mesh(config: Any, devices: int | None) -> Any:
    """The config's mesh over so many devices that need not be there."""
    mesh = config.train.mesh
    requested = (mesh.data, mesh.fsdp, mesh.tensor)
    count = devices if devices is not None else int(np.prod([size for size in requested if size != -1]))
    return AbstractMesh(meshes.sizes(mesh, count), meshes.AXES)


def memory(task: Any, state: State, mesh: AnyMesh) -> dict[str, float]:
    """GiB of one device: what is stored, and an estimate of what the backward pass keeps of its micro-batch.

    `activations` are the residuals of the loss's vjp, by shape, after the config's rematerialisation. A compiler that
    fuses keeps fewer, and needs room to compute in: TPU's took 1.1 to 1.3 times the sum of it all (docs/scaling.md).
    Gradients are counted once in float32.
    """
    train = task.config.train
    rows = train.batch_size // (mesh.shape["data"] * mesh.shape["fsdp"]) // (train.microbatches or 1)
    parts = {
        "parameters": local_bytes(state.params, mesh),
        "optimiser": local_bytes(state.opt, mesh),
        "average": local_bytes(state.ema, mesh),
        "gradients": local_bytes(state.params, mesh),
        "activations": task.activation_bytes(state.params) * rows,
    }
    gib = {name: float(f"{size / 2**30:.4g}") for name, size in parts.items()}
    total = float(f"{sum(parts.values()) / 2**30:.4g}")
    return gib | {"total": total, "windows_per_device": rows, "devices": int(mesh.size)}


def local_bytes(tree: PyTree, mesh: AnyMesh) -> float:
    """Bytes of one device's pieces under the sharding rules that training uses."""
    total = 0.0
    for name, leaf in named_leaves(tree).items():
        axes = [axis for entry in sharding.spec_of(name, leaf, mesh) if entry for axis in np.atleast_1d(entry)]
        pieces = int(np.prod([mesh.shape[axis] for axis in axes]))
        total += leaf.size * leaf.dtype.itemsize / pieces
    return total
