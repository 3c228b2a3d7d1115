"""The mesh of a run, with axes ("data", "fsdp", "tensor"): replicas, sharded parameters, split layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh

from dreamjax.errors import UserError
from dreamjax.parallel import torus

AXES = ("data", "fsdp", "tensor")


AnyMesh = Mesh | AbstractMesh  # an abstract mesh has no devices


@dataclass(frozen=True)
class MeshConfig:
    """Number of devices along each axis; one of them may be -1, which takes the remaining devices.

    With several slices (joined by a data-centre network, DCN) the axis `across` crosses them. With `data`, gradients
    are reduced over DCN once a step and parameters are gathered inside a slice; with `fsdp`, for models that do not fit
    a slice, parameters are gathered over DCN too.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    across: Literal["data", "fsdp"] = "data"


def sizes(config: MeshConfig, devices: int, slices: int = 1) -> tuple[int, int, int]:
    """Return (data, fsdp, tensor) with -1 filled in. Raise UserError where they do not make up `devices`."""
    requested = (config.data, config.fsdp, config.tensor)
    text = f"mesh data={config.data}, fsdp={config.fsdp}, tensor={config.tensor}"
    if requested.count(-1) > 1 or any(size < 1 and size != -1 for size in requested):
        raise UserError(f"{text}: sizes are positive, and at most one of them is -1")
    known = int(np.prod([size for size in requested if size != -1]))
    if devices % known or (-1 not in requested and known != devices):
        raise UserError(
            f"{text} takes {'a multiple of ' if -1 in requested else ''}{known} devices, but there are {devices}"
        )
    data, fsdp, tensor = (devices // known if size == -1 else size for size in requested)
    crossing = {"data": data, "fsdp": fsdp}[config.across]
    if crossing % slices:
        raise UserError(
            f"{text}: {config.across} is {crossing}, but it must divide by the {slices} slices that it crosses"
        )
    return data, fsdp, tensor


def make(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return the mesh over `devices` (default: all).

    Axis types are Auto on purpose: the compiler places activations.
    """
    devices = jax.devices() if devices is None else list(devices)
    # JAX numbers every node of GPUs as a slice, but any axis may cross nodes
    tpu = devices[0].platform == "tpu"
    slices = len({getattr(device, "slice_index", 0) for device in devices}) if tpu else 1
    shape = sizes(config, len(devices), slices)
    local = sum(device.process_index == devices[0].process_index for device in devices)
    if local % shape[2] and devices[0].platform != "tpu":
        raise UserError(
            f"train.mesh.tensor is {shape[2]}, but a process has {local} devices; choose a size that divides "
            "them, as tensor parallelism moves too much data for a network between processes"
        )
    if devices[0].platform != "tpu":
        array = np.asarray(devices).reshape(shape)  # process by process, as jax.devices() orders them
    else:
        crossing = AXES.index(config.across)
        inner = tuple(size // slices if axis == crossing else size for axis, size in enumerate(shape))
        by_slice: dict[int, list[jax.Device]] = {}
        for device in devices:
            by_slice.setdefault(getattr(device, "slice_index", 0), []).append(device)
        array = np.concatenate([torus.layout(by_slice[i], inner) for i in sorted(by_slice)], axis=crossing)
    return Mesh(array, AXES, axis_types=(AxisType.Auto,) * len(AXES))
