"""A training step compiled for TPUs that are not here: whether it compiles, and what a chip then holds.

    with_devices = meshes.make(MeshConfig(data=1, fsdp=16), ahead.topology("v5e:4x4"))
    compiled = ahead.compile_step(task, with_devices, 16 * 8)
    ahead.memory(compiled)["total"]          # bytes a chip

TPU's own compiler runs on any machine where the package libtpu is installed; no TPU is looked for.
"""

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
from jax.sharding import Mesh
from jax.stages import Compiled, Traced

from dreamjax.errors import UserError
from dreamjax.parallel import sharding
from dreamjax.training import program
from dreamjax.training.task import Task

# what libtpu would else ask a metadata server, or other processes
ABSENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",  # its lock is about devices, of which none is used
}


def available() -> bool:
    """Whether the compiler is installed."""
    return importlib.util.find_spec("libtpu") is not None


def topology(name: str, slices: int = 1) -> Sequence[jax.Device]:
    """The devices of so many slices of a pod such as `v5e:4x4`, `v6e:16x16` or `v5p:4x4x4`, none of which is here.

    Raises UserError without libtpu and for a name that it does not know.
    """
    if not available():
        raise UserError(f"compiling for {name} takes the package libtpu: pip install 'dreamjax[tpu]'")
    from jax.experimental import topologies

    for variable, value in ABSENT.items():
        os.environ.setdefault(variable, value)
    bounds = (2, 2, 1)  # chips of a host; all generations have hosts of 4
    cores = {"chip_config_name": "megacore"} if name.startswith("v4:") else {}  # its two as one device, as later ones
    try:
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=name, chips_per_host_bounds=bounds, num_slices=slices, **cores
        )
    except Exception as problem:  # JaxRuntimeError or ValueError, as the version of libtpu has it
        reason = str(problem).splitlines()[0]
        raise UserError(
            f"unknown TPU topology {name!r}: write it as v5e:4x4, v6e:16x16 or v5p:4x4x4 ({reason})"
        ) from problem
    return described.devices


class DoesNotFit(UserError):
    """A step that takes more memory than a chip has; `used`: bytes, where the compiler says how many."""

    def __init__(self, message: str, used: float | None):
        super().__init__(message)
        self.used = used


def trace_step(task: Task, mesh: Mesh, batch_size: int, example: Mapping[str, jax.ShapeDtypeStruct]) -> Traced:
    """The loop's step of `task` on the devices of `mesh`, as JAX traces it; nothing is allocated, no file is read.

    `example`: shape and type of one example by name, as `Stream.element` tells them. Raises UserError for a batch that
    does not divide.
    """
    sharding.check_batch(batch_size, mesh)
    batch = {name: jax.ShapeDtypeStruct((batch_size, *one.shape), one.dtype) for name, one in example.items()}
    with jax.set_mesh(mesh):
        built = program.build(task, mesh)
        step: Any = built.step  # jitted
        return step.trace(built.shapes, batch)


def compile_traced(traced: Traced, mesh: Mesh, effort: float | None = None) -> Compiled:
    """Compiled for the devices of `mesh`. Raises DoesNotFit for a program that takes more memory than a chip has.

    `effort` -1 … 1: of the compiler in making the program fast. At -1 Stable Diffusion's step takes minutes where it
    else takes more than half an hour of 2 cores; the program is then not the one that a pod would run.
    """
    with jax.set_mesh(mesh):
        try:
            return traced.lower().compile({} if effort is None else {"exec_time_optimization_effort": effort})
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
    """`trace_step` and `compile_traced` in one."""
    return compile_traced(trace_step(task, mesh, batch_size, example), mesh, effort)


def loops(traced: Traced) -> list[int]:
    """How often each loop of a traced program runs, as the model has it: lengths of scans, of any depth.

    A loop of one trip is none, neither here nor in what the compiler makes of it.
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


class CompiledProgram(Protocol):
    """What `memory` reads of a compiled program."""

    def memory_analysis(self) -> Any: ...


def memory(compiled: CompiledProgram) -> dict[str, int]:
    """Bytes of one chip: `arguments` (the state, which its result replaces in place, and the batch), `temporaries`
    (gradients, activations), `code`, and what they make together; `peak` is what is alive at once, which has to fit.
    """
    analysis = compiled.memory_analysis()
    parts = {
        "arguments": analysis.argument_size_in_bytes,
        "results": analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
        "code": analysis.generated_code_size_in_bytes,
    }
    together = {"total": sum(parts.values()), "peak": analysis.peak_memory_in_bytes}
    return {name: int(size) for name, size in (parts | together).items()}
