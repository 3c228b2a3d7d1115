"""Compile a training step for TPUs or GPUs that are not attached: whether it compiles, and the memory of a chip.

    pod = topologies.pod("v5e-16")
    with ahead.unattached(pod):
        mesh = meshes.make(MeshConfig(data=1, fsdp=16), ahead.devices(pod))
        compiled = ahead.compile_step(task, mesh, 16 * 8, task.example())
    ahead.memory(compiled)["total"]          # bytes a chip

The TPU compiler runs on any machine with the package libtpu, without a TPU; that of GPUs (`pods.gpus`) likewise.
"""

import contextlib
import importlib.util
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh
from jax.stages import Compiled, Traced

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.parallel import sharding
from dreamjax.pods import gpus
from dreamjax.pods.topologies import Pod
from dreamjax.training import program
from dreamjax.training.task import Task

REMATERIALISED = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+\.remat[\w.\-]* = ", re.MULTILINE)  # as XLA names its copies
ATTEMPTS = 12  # at the largest batch
NEAR = 64  # from this many examples on, one more or less is not worth another compilation
# what libtpu would otherwise request from a metadata server or other processes
ABSENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",  # its lock is about devices, of which none is used
}


def available(pod: Pod | None = None) -> bool:
    """Return whether the compiler for a pod, by default of TPUs, is installed."""
    if pod is not None and not pod.is_tpu:
        return gpus.available()
    return importlib.util.find_spec("libtpu") is not None


def remedy(pod: Pod) -> str:
    """Return how to install the compiler for a pod."""
    return "pip install 'dreamjax[tpu]'" if pod.is_tpu else gpus.remedy()


def devices(pod: Pod) -> Sequence[jax.Device]:
    """Return the devices of a pod, none of which has to be attached. Raise UserError without its compiler."""
    if pod.is_tpu:
        return topology(pod.topology, pod.slices)
    return gpus.devices(pod.chip.name, pod.slices, pod.shape[0])


def unattached(pod: Pod) -> AbstractContextManager[None]:
    """Return a context in which programs are traced and lowered for a pod that is not attached."""
    return contextlib.nullcontext() if pod.is_tpu else gpus.unattached(pod.chip.name)


def topology(name: str, slices: int = 1) -> Sequence[jax.Device]:
    """Return the devices of a TPU pod's slices, such as `v5e:4x4`, `v6e:16x16` or `v5p:4x4x4`; none has to be attached.

    Raise UserError without libtpu and for a name that it does not know.
    """
    if not available():
        raise UserError(f"compiling for {name} takes the package libtpu: pip install 'dreamjax[tpu]'")
    from jax.experimental import topologies

    for variable, value in ABSENT.items():
        os.environ.setdefault(variable, value)
    bounds = (2, 2, 1)  # chips of a host; all generations have hosts of 4
    cores = {"chip_config_name": "megacore"} if name.startswith("v4:") else {}  # its two as one device, as later ones
    try:
        return topologies.get_topology_desc(
            platform="tpu", topology_name=name, chips_per_host_bounds=bounds, num_slices=slices, **cores
        ).devices
    except Exception as problem:  # JaxRuntimeError or ValueError, as the version of libtpu has it
        reason = str(problem).splitlines()[0]
        raise UserError(
            f"unknown TPU topology {name!r}: write it as v5e:4x4, v6e:16x16 or v5p:4x4x4 ({reason})"
        ) from problem


class DoesNotFit(UserError):
    """A step that takes more memory than a chip has; `used`: bytes, where the compiler reports it."""

    def __init__(self, message: str, used: float | None):
        super().__init__(message)
        self.used = used


def trace_step(task: Task, mesh: Mesh, batch_size: int, example: Mapping[str, jax.ShapeDtypeStruct]) -> Traced:
    """Trace the loop's step of `task` on the devices of `mesh`; nothing is allocated and no file is read.

    `example`: shape and type of one example by name, as in `Stream.element`. Raise UserError for a batch that does not
    divide.
    """
    sharding.check_batch(batch_size, mesh)
    batch = {name: jax.ShapeDtypeStruct((batch_size, *one.shape), one.dtype) for name, one in example.items()}
    with jax.set_mesh(mesh):
        built = program.build(task, mesh)
        step: Any = built.step  # jitted
        return step.trace(built.shapes, batch)


def compile_traced(traced: Traced, mesh: Mesh, effort: float | None = None) -> Compiled:
    """Compile for the devices of `mesh`. Raise DoesNotFit for a program that takes more memory than a chip has.

    `effort` -1 … 1: of the compiler in making the program fast. At -1 Stable Diffusion's step compiles in minutes
    instead of more than half an hour on 2 cores; the program is then not the one that a pod would run.
    """
    with jax.set_mesh(mesh):
        try:
            options = dict(gpus.OPTIONS) if mesh.devices.flat[0].platform == "gpu" else {}
            return traced.lower().compile(
                options if effort is None else options | {"exec_time_optimization_effort": effort}
            )
        except jax.errors.JaxRuntimeError as problem:
            if "RESOURCE_EXHAUSTED" not in str(problem):
                raise
            used = re.search(r"Used (([\d.]+)([KMGT]?)) of (\S+) hbm", str(problem))
            amount = f"{used[1]} of {used[4]}" if used else str(problem).splitlines()[0]
            raise DoesNotFit(
                f"the step takes more memory than a chip has ({amount}): a smaller batch, more fsdp or remat",
                float(used[2]) * 1024 ** " KMGT".index(used[3] or " ") if used else None,
            ) from problem


def compile_step(
    task: Task, mesh: Mesh, batch_size: int, example: Mapping[str, jax.ShapeDtypeStruct], *, effort: float | None = None
) -> Compiled:
    """Trace and compile a step: `trace_step`, then `compile_traced`."""
    return compile_traced(trace_step(task, mesh, batch_size, example), mesh, effort)


def loops(traced: Traced) -> list[int]:
    """Return how often each loop of a traced program runs in the model: lengths of scans, at any depth.

    A loop of one trip does not count, neither here nor in the compiled program.
    """
    lengths: list[int] = []

    def look(jaxpr: Any) -> None:
        for equation in jaxpr.eqns:
            if equation.primitive.name == "scan" and equation.params["length"] > 1:
                lengths.append(equation.params["length"])
            for value in equation.params.values():
                for inner in value if isinstance(value, tuple | list) else (value,):
                    inner = getattr(inner, "jaxpr", inner)
                    if hasattr(inner, "eqns"):
                        look(inner)

    look(traced.jaxpr.jaxpr)
    return lengths


def memory(compiled: Compiled) -> dict[str, int]:
    """Return the bytes of one chip by kind, their sum, and the `peak` in use at once, which has to fit.

    `arguments`: the state, which its result replaces in place, and the batch; `temporaries`: gradients, activations;
    `code`.
    """
    analysis: Any = compiled.memory_analysis()
    parts = {
        "arguments": analysis.argument_size_in_bytes,
        "results": analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
        "code": analysis.generated_code_size_in_bytes,
    }
    together = {"total": sum(parts.values()), "peak": analysis.peak_memory_in_bytes}
    return {name: int(size) for name, size in (parts | together).items()}


# --------------------------------------------------------------------------------------------------- the largest batch
@dataclass(frozen=True)
class Attempt:
    """`peak`: bytes held at once; None where the compiler did not say. `fits`: without computing parts twice."""

    rows: int  # a device
    peak: float | None
    fits: bool
    compiled: Any  # None where memory does not suffice


def twice(text: str) -> int:
    """Return how many instructions of a compiled program recompute values that did not fit in memory."""
    return len(REMATERIALISED.findall(text))


def largest(compile_of: Callable[[int], Compiled], usable: float, unit: int = 1) -> Attempt:
    """Return the largest multiple of `unit` rows a device whose step fits, to one in `NEAR`.

    One `unit` more does not fit, as extrapolated or as compiled.

    What a step holds at once grows almost evenly with its batch: two attempts give a line, the line a guess, and each
    guess is compiled. A program that fits only because the compiler computes parts of it twice counts as one that does
    not fit: rematerialisation is set by the config (`remat`).

    `compile_of(rows)` compiles, or raises DoesNotFit. Raise UserError where not even `unit` fits.
    """
    best = _attempt(unit, compile_of)
    if not best.fits:
        raise UserError(
            f"the step does not fit a chip with {unit} example{'s' if unit > 1 else ''} a device, the fewest there "
            "can be: more fsdp, or more remat"
        )
    tried = [best]
    while len(tried) < ATTEMPTS:
        guess, over = _guess(tried, best, usable), min((one.rows for one in tried if not one.fits), default=None)
        if over is not None and guess >= over:  # the line is wrong
            guess = (best.rows + over) // 2
        guess = guess // unit * unit
        if guess <= best.rows or (over is not None and over - best.rows <= max(unit, best.rows // NEAR)):
            break
        tried.append(_attempt(guess, compile_of))
        best = tried[-1] if tried[-1].fits else best
        log.info("%d examples a device: %s", guess, "fits" if tried[-1].fits else "does not fit")
    return best


def _attempt(rows: int, compile_of: Callable[[int], Compiled]) -> Attempt:
    try:
        compiled = compile_of(rows)
    except DoesNotFit as problem:
        return Attempt(rows, problem.used, False, None)
    return Attempt(rows, memory(compiled)["peak"], not twice(compiled.as_text() or ""), compiled)


def _guess(tried: list[Attempt], best: Attempt, usable: float) -> int:
    """Return the rows at which the line through the two largest attempts reaches the usable memory."""
    known = sorted((one.rows, one.peak) for one in tried if one.peak is not None and (one.fits or one.compiled is None))
    if len(known) < 2:
        return 2 * best.rows
    (rows, peak), (more, higher) = known[-2:]
    slope = (higher - peak) / (more - rows)
    return rows + int((usable - peak) // slope) if slope > 0 else 2 * best.rows
