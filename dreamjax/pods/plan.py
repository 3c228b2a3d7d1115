"""What a run would need and how long it would take on a pod that is not here.

    found = plan(jobs.TrainingStep(config), pods.pod("v5e-256"))

The real program is compiled for the pod by TPU's own compiler: what a chip holds, and what crosses chips, is
*compiled*. Times are *predicted* from it. For GPUs, and where that compiler is not installed, what can be counted is.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jax.sharding import AbstractMesh, Mesh

from dreamjax.errors import UserError
from dreamjax.parallel import mesh as meshes
from dreamjax.pods import ahead, collectives, hlo, largest_batch, operations, roofline
from dreamjax.pods.collectives import Collective
from dreamjax.pods.jobs import Job
from dreamjax.pods.topologies import Pod
from dreamjax.typing import JsonDict


def plan(job: Job, pod: Pod, *, per_chip: int | Literal["auto"] | None = None, effort: float | None = None) -> JsonDict:
    """One JSON-able dict. `per_chip`: examples a device (of data × fsdp), else as the job has it; "auto": the most that
    fit.

    `effort`: of the compiler (see `ahead.compile_traced`). Raises UserError for a mesh that the pod's devices do not
    make up, for a batch that does not divide, and for a program that does not fit.
    """
    data, fsdp, tensor = meshes.sizes(job.mesh, pod.devices, pod.slices if pod.is_tpu else 1)
    compiles = pod.is_tpu and ahead.available()
    if per_chip == "auto" and not compiles:
        raise UserError(
            "--batch-per-chip auto compiles for TPUs: name a pod of them, and pip install 'dreamjax[tpu]'"
            if pod.is_tpu
            else f"--batch-per-chip auto compiles, which only goes for TPUs: give a number for {pod.name}"
        )
    if isinstance(per_chip, int):
        job = job.with_examples(per_chip * data * fsdp)
    if not compiles:
        described = _counted(job, pod)
    else:
        mesh = meshes.make(job.mesh, ahead.topology(pod.topology, pod.slices))
        job, program = _largest(job, mesh, pod, effort) if per_chip == "auto" else (job, _program(job, mesh, effort))
        described = _compiled(job, pod, mesh, program, hurried=effort is not None and effort < 0)
    chip = pod.chip
    result: dict[str, Any] = {
        "system": job.system,
        "what": job.what,
        "pod": {"name": pod.name, "topology": pod.topology, "slices": pod.slices, "chips": pod.chips},
        "mesh": dict(zip(meshes.AXES, (data, fsdp, tensor), strict=True)),
        "batch": {"step": job.examples, "device": job.examples // (data * fsdp)},
        "rates": {
            "flops": chip.flops / chip.cores,
            "memory": chip.bandwidth / chip.cores,
            "links": chip.link * chip.axes / chip.cores,
            "network": chip.network / chip.cores,
        },
        "usable": chip.usable / chip.cores,
        "steps": job.runs,
        "flop_per_example": job.flop,
        **described,
    }
    return result | _outlook(result, pod)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A job's program, compiled, and the loops that its model has."""

    compiled: Any
    loops: list[int]

    def as_text(self) -> str:
        return self.compiled.as_text()

    def memory_analysis(self) -> Any:
        return self.compiled.memory_analysis()


def _program(job: Job, mesh: Mesh, effort: float | None) -> Compiled:
    traced = job.trace(mesh)
    return Compiled(ahead.compile_traced(traced, mesh, effort), ahead.loops(traced))


def _largest(job: Job, mesh: Mesh, pod: Pod, effort: float | None) -> tuple[Job, Compiled]:
    """The job with the most examples a device that fit, and its program."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    best = largest_batch.largest(
        lambda rows: _program(job.with_examples(rows * ways), mesh, effort), pod.chip.usable / pod.chip.cores, job.unit
    )
    return job.with_examples(best.rows * ways), best.compiled


def _compiled(job: Job, pod: Pod, mesh: Mesh, step: Compiled, *, hurried: bool) -> JsonDict:
    text = step.as_text()
    program = hlo.read(text)
    moved = collectives.find(program, dict(mesh.shape))
    counted = operations.flops(program)
    flop = counted if job.flop is None else job.flop * job.examples / mesh.size
    places = [tuple(device.coords) for device in mesh.devices.flat]
    cycles, traffic = roofline.cycles(program), roofline.traffic(program)
    times = roofline.times(pod, flop, traffic, moved.collectives, places, cycles, hurried=hurried)
    held = ahead.memory(step)
    trips = [trips for _, trips in program.loops()]
    return {
        "how": "compiled",
        "memory": job.stored(mesh) | {name: held[name] for name in ("arguments", "temporaries", "code", "peak")},
        "computed_twice": largest_batch.twice(text),
        "flop_compiled": counted * mesh.size / job.examples,  # more than the model's where parts run twice
        "unsharded": job.unsharded(mesh),
        "collectives": _grouped(moved.collectives),
        "unrecognised": dict(moved.unknown),
        "loops": trips,
        "strange_loops": strange(trips, step.loops),
        "seconds": times.as_json(),
    }


def strange(trips: Sequence[int | None], model: Sequence[int]) -> list[int | None]:
    """Loops of a compiled program that the model does not have so often: unknown ones, and such of the compiler's own.

    The compiler may unroll a loop of the model's, so that fewer are there; it may run one in the forward and once more
    in the backward pass, as the traced program does too; it may take the first or the last turn out, which then runs
    before or after it.
    """
    left, strange_ones = Counter(model), []
    for count in trips:
        known = next((trips for trips in (count, count + 1) if left[trips]), None) if count is not None else None
        if known is not None:
            left[known] -= 1
        elif count is None or count > 1:
            strange_ones.append(count)
    return strange_ones


def _counted(job: Job, pod: Pod) -> JsonDict:
    """Without a compiler: what is stored, what the layout makes cross chips, operations; no activations' traffic."""
    mesh = AbstractMesh(meshes.sizes(job.mesh, pod.devices), meshes.AXES)
    held, passing = job.stored(mesh), job.passing(mesh)
    moved, flop = job.moved(mesh, pod), (job.flop or 0.0) * job.examples / mesh.size
    once = sum(held.values()) + (passing.get("gradients") or 0.0)
    chips = np.arange(mesh.size) // pod.chip.cores % (pod.chips // pod.slices)
    places = np.stack(np.unravel_index(chips, pod.shape), axis=1).tolist()
    times = roofline.times(pod, flop, 2 * once, moved, places, 0.0)
    return {
        "how": "counted",
        "memory": held | passing | {"peak": sum(held.values()) + sum(size or 0.0 for size in passing.values())},
        "computed_twice": 0,
        "flop_compiled": None,
        "unsharded": job.unsharded(mesh),
        "collectives": _grouped(moved),
        "unrecognised": {},
        "loops": [],
        "strange_loops": [],
        "seconds": times.as_json(),
    }


def _grouped(collectives: list[Collective]) -> list[JsonDict]:
    """Collectives that differ in nothing but their size, together; the largest first."""
    groups: dict[tuple, dict[str, Any]] = {}
    for one in collectives:
        key = (one.kind, one.axes, one.group, one.types, one.overlapped)
        row = groups.setdefault(
            key,
            {
                "kind": one.kind,
                "axes": list(one.axes),
                "group": one.group,
                "types": list(one.types),
                "beside": one.overlapped,
                "times": 0.0,
                "payload": 0.0,
                "received": 0.0,
            },
        )
        row["times"] += one.times
        row["payload"] += one.payload * one.times
        row["received"] += one.received
    return sorted(groups.values(), key=lambda row: -row["received"])


def _outlook(result: JsonDict, pod: Pod) -> JsonDict:
    """What follows from the range of seconds: examples a second, MFU, hours, chip-hours; [worst, best] each."""
    seconds = (result["seconds"]["high"], result["seconds"]["low"])
    batch, steps = result["batch"]["step"], result["steps"]
    flop = result["flop_per_example"] or result["flop_compiled"]
    peak = pod.chips * pod.chip.flops
    if not flop:  # whatever the step computes is missing from its seconds
        return dict.fromkeys(("examples_per_second", "mfu", "hours", "chip_hours"))
    return {
        "examples_per_second": [batch / s for s in seconds],
        "mfu": [flop * batch / (s * peak) for s in seconds],
        "hours": [steps * s / 3600 for s in seconds],
        "chip_hours": [steps * s / 3600 * pod.chips for s in seconds],
    }
