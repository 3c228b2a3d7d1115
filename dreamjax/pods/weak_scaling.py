"""Weak scaling: the same examples a device on ever more chips, each size planned anew."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.pods import plan, topologies
from dreamjax.pods.jobs import Job
from dreamjax.pods.topologies import Pod
from dreamjax.typing import JsonDict


def sizes(pod: Pod, least: int) -> list[Pod]:
    """Slices of the pod's kind that there are, of 8, 16, 32 … chips and of at least `least` devices, up to the pod."""
    pods = []
    for count in (2**k for k in range(3, pod.chips.bit_length())):
        if count * pod.chip.cores >= least and count < (pod.chips // pod.slices if pod.is_tpu else pod.chips):
            try:
                pods.append(topologies.pod(f"{pod.chip.name}-{count * (2 if pod.chip.counts_cores else 1)}"))
            except UserError:  # there is no slice of so many
                continue
    return [*pods, pod]


def weak(job: Job, smaller: Sequence[Pod], whole: Mapping[str, Any], effort: float | None = None) -> list[JsonDict]:
    """A row a pod, the smallest first: chips, seconds of a step (both ends) and of what crosses chips, efficiency.

    `found`: the plan of the whole pod, which is the last row. Efficiency is the first pod's time over a pod's own.
    """
    plans = []
    for one in smaller:
        log.info("planning %s", one.name)
        plans.append(plan.plan(job, one, per_chip=whole["batch"]["device"], effort=effort))
    if whole["examples_per_second"] is None:
        raise UserError(
            f"the time of {whole['what']} is unknown without the compiler, and so is how it scales; "
            "pip install 'dreamjax[tpu]'"
        )
    rows: list[dict[str, Any]] = []
    for size in [*plans, whole]:
        row = {**size["pod"], "how": size["how"], "batch": size["batch"]["step"]}
        row |= {part: size["seconds"][part] for part in ("low", "high", "crossing")}
        first = rows[0] if rows else row
        rows.append(row | {"efficiency": {end: first[end] / row[end] for end in ("low", "high")}})
    return rows


def least_devices(mesh: MeshConfig) -> int:
    """Devices that a mesh takes at the least: those of its axes that are not open."""
    asked = (mesh.data, mesh.fsdp, mesh.tensor)
    if -1 not in asked:
        raise UserError("--scaling makes the mesh larger: leave one axis open, --config.train.mesh.data=-1")
    return math.prod(size for size in asked if size != -1)
