"""Predict the memory and the step time of a run on a pod, without the pod.

    result = plan(jobs.TrainingStep(config), topologies.pod("v5e-256"))

The real program is compiled for the pod by the compiler of its chips: the memory of a chip, the communication and, for
GPUs, the kernels are *compiled*. Times are *predicted* from them. Without that compiler the plan is *counted*.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import numpy as np
from jax.sharding import AbstractDevice, AbstractMesh
from jax.stages import Compiled

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.parallel import mesh as meshes
from dreamjax.pods import ahead, collectives, gpus, hlo, kernels, roofline, schedule, topologies
from dreamjax.pods.collectives import Collective
from dreamjax.pods.jobs import Job
from dreamjax.pods.kernels import Kernel, KernelGroup
from dreamjax.pods.roofline import Times
from dreamjax.pods.topologies import Pod

OUTLOOK = ("examples_per_second", "mfu", "hours", "chip_hours")


@dataclass(frozen=True)
class CollectiveGroup:
    """Collectives that differ only in size, together; bytes are of a step."""

    kind: str
    axes: tuple[str, ...]
    group: int  # chips that take part together
    types: tuple[str, ...]
    overlapped: bool  # other work goes on until they are done
    times: float
    payload: float
    received: float  # by a chip

    def as_json(self) -> dict[str, object]:
        """Return the group for JSON."""
        return {{"overlapped": "beside"}.get(name, name): value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class ScalingRow:
    """A pod of weak scaling: seconds of a step (`low`, `high`) and of communication; efficiency of both ends."""

    name: str
    topology: str
    slices: int
    chips: int
    how: str
    batch: int
    low: float
    high: float
    crossing: float
    efficiency: Mapping[str, float]  # the first pod's time over this one's


@dataclass(frozen=True)
class PodPlan:
    """A job on a pod. `memory`: bytes of a device by part, None where unknown; `seconds`: of a step."""

    job: Job
    pod: Pod
    mesh: Mapping[str, int]
    how: Literal["compiled", "counted"]
    memory: Mapping[str, float | None]
    unsharded: float  # share of the larger arrays' bytes that every device has whole
    collectives: Sequence[CollectiveGroup]  # the largest first
    seconds: Times
    computed_twice: int = 0  # instructions, as memory had no room for their results
    flop_compiled: float | None = None  # of an example: more than the model's where parts run twice
    unrecognised: Mapping[str, int] = field(default_factory=dict)  # form of a collective that is not known → how many
    loops: Sequence[int | None] = ()  # trips of each; None: unknown
    strange_loops: Sequence[int | None] = ()  # those that are not the model's
    kernels: Sequence[KernelGroup] = ()  # of a compiled program for GPUs
    traffic: Sequence[Kernel] = ()  # those without products that move the most bytes
    unfused: Mapping[str, float] = field(default_factory=dict)  # source of a `Kernel.unfused` → bytes moved in a step
    scaling: Sequence[ScalingRow] = ()
    files: Sequence[str] = ()

    @property
    def batch(self) -> dict[str, int]:
        """Return the examples of a step, and those of a device."""
        return {"step": self.job.examples, "device": self.job.examples // (self.mesh["data"] * self.mesh["fsdp"])}

    @property
    def usable(self) -> float:
        """Return the bytes of a device that a program may take."""
        return self.pod.chip.usable / self.pod.chip.cores

    @property
    def rates(self) -> dict[str, float]:
        """Return what a device computes and moves in a second, at its peak."""
        chip = self.pod.chip
        rates = {"flops": chip.flops, "memory": chip.bandwidth, "links": chip.link * chip.axes, "network": chip.network}
        return {name: rate / chip.cores for name, rate in rates.items()}

    @property
    def outlook(self) -> dict[str, tuple[float, float]] | None:
        """Return `OUTLOOK`, (worst, best) each; None where operations, and so the seconds, are not known."""
        batch, steps, chips = self.job.examples, self.job.runs, self.pod.chips
        if not (flop := self.job.flop or self.flop_compiled):
            return None
        peak = chips * self.pod.chip.flops
        ends = [
            (batch / s, flop * batch / (s * peak), steps * s / 3600, steps * s / 3600 * chips)
            for s in (self.seconds.high, self.seconds.low)
        ]
        return dict(zip(OUTLOOK, zip(*ends, strict=True), strict=True))

    def as_json(self) -> dict[str, object]:
        """Return plan.json."""
        optional = {"scaling": [asdict(row) for row in self.scaling], "files": list(self.files)}
        return {
            "system": self.job.config.system,
            "what": self.job.what,
            "pod": {name: getattr(self.pod, name) for name in ("name", "topology", "slices", "chips")},
            "mesh": dict(self.mesh),
            "batch": self.batch,
            "rates": self.rates,
            "usable": self.usable,
            "steps": self.job.runs,
            "flop_per_example": self.job.flop,
            "how": self.how,
            "memory": dict(self.memory),
            "computed_twice": self.computed_twice,
            "flop_compiled": self.flop_compiled,
            "unsharded": self.unsharded,
            "collectives": [group.as_json() for group in self.collectives],
            "unrecognised": dict(self.unrecognised),
            "loops": list(self.loops),
            "strange_loops": list(self.strange_loops),
            "seconds": self.seconds.as_json(),
            "kernels": [asdict(group) for group in self.kernels],
            "traffic": [asdict(kernel) for kernel in self.traffic],
            "unfused": dict(self.unfused),
            **(self.outlook or dict.fromkeys(OUTLOOK)),
        } | {name: value for name, value in optional.items() if value}


def plan(
    job: Job,
    pod: Pod,
    *,
    per_chip: int | Literal["auto"] | None = None,
    effort: float | None = None,
    scaling: bool = False,
) -> PodPlan:
    """Plan a job. `per_chip`: examples a device (of data × fsdp), else as the job has it; "auto": the most that fit.

    `effort`: of the compiler (see `ahead.compile_traced`). `scaling`: also plan every smaller slice, with as much on
    each device. Raise UserError for a mesh that the pod's devices do not make up, for a batch that does not divide, and
    for a program that does not fit.
    """
    smaller = _smaller(job, pod) if scaling else []
    sizes = meshes.sizes(job.config.train.mesh, pod.devices, pod.slices if pod.is_tpu else 1)
    compiles = ahead.available(pod)
    if per_chip == "auto" and not compiles:
        raise UserError(f"--batch-per-chip auto requires the compiler for {pod.name}: {ahead.remedy(pod)}")
    if isinstance(per_chip, int):
        job = job.with_examples(per_chip * sizes[0] * sizes[1])
    if compiles:
        with ahead.unattached(pod):
            result = _compiled(job, pod, effort, largest=per_chip == "auto")
    else:
        device = AbstractDevice(pod.chip.name, None, "tpu" if pod.is_tpu else "cuda")
        result = _counted(job, pod, AbstractMesh(sizes, meshes.AXES, abstract_device=device))
    return replace(result, scaling=_weak(result, smaller, effort)) if scaling else result


def _compiled(job: Job, pod: Pod, effort: float | None, *, largest: bool) -> PodPlan:
    """Compile a plan. `largest`: with the largest number of examples a device that fits."""
    mesh = meshes.make(job.config.train.mesh, ahead.devices(pod))
    ways, usable = mesh.shape["data"] * mesh.shape["fsdp"], pod.chip.usable / pod.chip.cores
    loops: dict[int, list[int]] = {}  # examples → those of the model

    def compiled(job: Job) -> Compiled:
        traced = job.trace(mesh)
        loops[job.examples] = ahead.loops(traced)
        step = ahead.compile_traced(traced, mesh, effort)
        peak = ahead.memory(step)["peak"]
        if largest and peak > usable:  # the compiler for GPUs does not refuse it
            raise ahead.DoesNotFit(f"the step takes {peak / 2**30:.2f} GiB", peak)
        return step

    if largest:
        best = ahead.largest(lambda rows: compiled(job.with_examples(rows * ways)), usable, job.unit)
        job, step = job.with_examples(best.rows * ways), best.compiled
    else:
        step = compiled(job)
    text = step.as_text() or ""
    program, held = hlo.read(text), ahead.memory(step)
    moved, runs = (
        collectives.find(program, dict(mesh.shape)),
        [] if pod.is_tpu else kernels.read(program, {mesh.shape[axis] for axis in ("fsdp", "tensor")}),
    )
    flop = roofline.flops(program) if pod.is_tpu else sum(one.flop * one.times for one in runs)
    trips = [trips for _, trips in program.loops()]
    parts = moved.collectives if pod.is_tpu else collectives.split_among_nodes(moved.collectives, pod)
    places = [tuple(device.coords) if pod.is_tpu else device.coords[-1:] for device in mesh.devices.flat]
    flop_of_device = flop if job.flop is None else job.flop * job.examples / mesh.size
    traffic, hurried = roofline.traffic(program), effort is not None and effort < 0
    seconds = roofline.times(pod, flop_of_device, traffic, parts, places, roofline.cycles(program), hurried=hurried)
    if runs:
        computing, scheduled = schedule.of_gpus(program, runs, parts, pod, places)
        seconds = replace(seconds, computing=computing, scheduled=scheduled)
    return PodPlan(
        job,
        pod,
        dict(mesh.shape),
        "compiled",
        job.stored(mesh) | {name: held[name] for name in ("arguments", "temporaries", "code", "peak")},
        job.unsharded(mesh),
        _grouped(moved.collectives),
        seconds,
        computed_twice=ahead.twice(text),
        flop_compiled=flop * mesh.size / job.examples,
        unrecognised=moved.unknown,
        loops=trips,
        strange_loops=strange(trips, loops[job.examples]),
        kernels=kernels.grouped(runs, pod.chip, gpus.TARGETS[pod.chip.name].multiprocessors) if runs else (),
        traffic=kernels.largest_traffic(runs),
        unfused=kernels.unfused(runs),
    )


def strange(trips: Iterable[int | None], model: Iterable[int]) -> list[int | None]:
    """Return the loops of a compiled program whose trip counts are not in the model, and those of the compiler itself.

    The compiler may unroll a loop of the model's, so that fewer are there; it may run one in the forward and once more
    in the backward pass, as the traced program does too; it may take the first, the last or both turns out, which then
    run before or after it.
    """
    left, strange_ones = Counter(model), []
    for count in trips:
        near = range(count, count + 3) if count is not None else ()
        known = next((trips for trips in near if left[trips]), None)
        if known is not None:
            left[known] -= 1
        elif count is None or count > 1:
            strange_ones.append(count)
    return strange_ones


def _counted(job: Job, pod: Pod, mesh: AbstractMesh) -> PodPlan:
    """Return a plan without a compiler: stored bytes, communication, operations; without activations' traffic."""
    held, passing, moved = job.stored(mesh), job.passing(mesh), job.moved(mesh, pod)
    chips = np.arange(mesh.size) // pod.chip.cores % (pod.chips // pod.slices)
    places = np.stack(np.unravel_index(chips, pod.shape), axis=1).tolist()
    once = sum(held.values()) + (passing.get("gradients") or 0.0)
    seconds = roofline.times(pod, (job.flop or 0.0) * job.examples / mesh.size, 2 * once, moved, places, 0.0)
    memory = held | passing | {"peak": sum(held.values()) + sum(size or 0.0 for size in passing.values())}
    return PodPlan(job, pod, dict(mesh.shape), "counted", memory, job.unsharded(mesh), _grouped(moved), seconds)


def _grouped(moved: Iterable[Collective]) -> list[CollectiveGroup]:
    groups: dict[tuple, CollectiveGroup] = {}
    for one in moved:
        key = (one.kind, one.axes, one.group, one.types, one.overlapped)
        group = groups.get(key) or CollectiveGroup(*key, 0.0, 0.0, 0.0)
        payload, received = group.payload + one.payload * one.times, group.received + one.received
        groups[key] = replace(group, times=group.times + one.times, payload=payload, received=received)
    return sorted(groups.values(), key=lambda group: -group.received)


# -------------------------------------------------------------------------------------------------------- weak scaling
def _smaller(job: Job, pod: Pod) -> list[Pod]:
    """Return the smaller slices of the pod's kind, of 8, 16, 32 … chips, whose number of devices the mesh allows."""
    mesh, chip = job.config.train.mesh, pod.chip
    requested = (mesh.data, mesh.fsdp, mesh.tensor)
    if -1 not in requested:
        raise UserError("--scaling makes the mesh larger: leave one axis open, --config.train.mesh.data=-1")
    least, pods = math.prod(size for size in requested if size != -1), []
    for count in (2**k for k in range(3, pod.chips.bit_length())):
        if count * chip.cores >= least and count < (pod.chips // pod.slices if pod.is_tpu else pod.chips):
            with contextlib.suppress(UserError):  # no slice has so many chips
                pods.append(topologies.pod(f"{chip.name}-{count * chip.named_cores}"))
    return pods


def _weak(whole: PodPlan, smaller: Sequence[Pod], effort: float | None) -> list[ScalingRow]:
    """Return a row per pod, the smallest first, with as many examples a device as the whole pod, which is the last."""
    if whole.outlook is None:
        raise UserError(
            f"the time of {whole.job.what} is unknown without the compiler, and so is how it scales: "
            f"{ahead.remedy(whole.pod)}"
        )
    plans, rows = [], list[ScalingRow]()
    for pod in smaller:
        log.info("planning %s", pod.name)
        plans.append(plan(whole.job, pod, per_chip=whole.batch["device"], effort=effort))
    for one in (*plans, whole):
        pod, seconds, first = one.pod, one.seconds, rows[0] if rows else one.seconds
        efficiency = {"low": first.low / seconds.low, "high": first.high / seconds.high}
        ends = (seconds.low, seconds.high, seconds.crossing)
        about = (pod.name, pod.topology, pod.slices, pod.chips, one.how, one.job.examples)
        rows.append(ScalingRow(*about, *ends, efficiency))
    return rows
