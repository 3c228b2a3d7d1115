"""One mesh for a run, axes ("data", "fsdp", "tensor"): whole copies, sharded copies, split layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from dreamjax.errors import UserError

AXES = ("data", "fsdp", "tensor")


@dataclass(frozen=True)
class MeshConfig:
    """How many devices along each axis; one of them may be -1, which takes what is left.

    With several slices (joined by a data-centre network, DCN) only `data` crosses slices: gradients are reduced over
    DCN once a step, while parameters are gathered inside a slice.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def sizes(config: MeshConfig, devices: int, slices: int = 1) -> tuple[int, int, int]:
    """(data, fsdp, tensor) with -1 filled in. Raises UserError where they do not make up `devices`."""
    asked = (config.data, config.fsdp, config.tensor)
    text = f"mesh data={config.data}, fsdp={config.fsdp}, tensor={config.tensor}"
    if asked.count(-1) > 1 or any(size < 1 and size != -1 for size in asked):
        raise UserError(f"{text}: sizes are positive, and at most one of them is -1")
    known = int(np.prod([size for size in asked if size != -1]))
    if devices % known or (-1 not in asked and known != devices):
        raise UserError(
            f"{text} takes {'a multiple of ' if -1 in asked else ''}{known} devices, but there are {devices}"
        )
    data, fsdp, tensor = (devices // known if size == -1 else size for size in asked)
    if data % slices:
        raise UserError(f"{text}: data is {data}, but it must divide by the {slices} slices that it crosses")
    return data, fsdp, tensor


def make(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over `devices` (default: all). Axis types are Auto on purpose: the compiler places activations."""
    devices = jax.devices() if devices is None else list(devices)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    shape = sizes(config, len(devices), slices)
    if devices[0].platform != "tpu":
        array = np.asarray(devices).reshape(shape)  # process by process, as jax.devices() orders them
    elif slices > 1:
        inner = (shape[0] // slices, *shape[1:])
        array = mesh_utils.create_hybrid_device_mesh(inner, (slices, 1, 1), devices, allow_split_physical_axes=True)
    else:
        array = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(array, AXES, axis_types=(AxisType.Auto,) * len(AXES))
