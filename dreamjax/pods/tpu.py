"""Cloud TPU by queued resources: a request that waits for a slice, whose hosts set themselves up and start the run."""

import shlex
from dataclasses import dataclass
from typing import Literal

from dreamjax.errors import UserError
from dreamjax.pods import topologies
from dreamjax.pods.launch_config import Launch, refuse_lines
from dreamjax.reports import templates

# chip → (accelerator type, runtime version), as Cloud TPU calls them (docs.cloud.google.com/tpu/docs/runtimes)
KINDS = {
    "v4": ("v4", "tpu-ubuntu2204-base"),
    "v5e": ("v5litepod", "v2-alpha-tpuv5-lite"),
    "v5p": ("v5p", "v2-alpha-tpuv5"),
    "v6e": ("v6e", "v2-alpha-tpuv6e"),
}


@dataclass(frozen=True, kw_only=True)
class QueuedResource:
    """Where it is asked for, and on what terms. `package`: what pip installs on every host."""

    project: str
    zone: str
    terms: Literal["on-demand", "spot", "reserved"] = "on-demand"
    package: str = "dreamjax[tpu,data]"
    runtime: str = ""  # none: the usual one of the chip


def script(launch: Launch, queued: QueuedResource) -> str:
    """Raises UserError for what queued resources do not have."""
    pod = launch.pod
    if pod.chip.name not in KINDS:
        reason = "are asked for through Kubernetes alone; launch gke" if pod.is_tpu else "are no TPUs; launch slurm"
        raise UserError(f"{pod.name} {reason}")
    launch.check_paths_are_everywhere()
    launch.check_config_is_brought()
    fields = {f"--{name}": getattr(queued, name) for name in ("project", "zone", "package", "runtime")}
    refuse_lines(**fields)
    kind, runtime = KINDS[pod.chip.name]
    count = pod.chips // pod.slices * (2 if pod.chip.counts_cores else 1)
    usual = topologies.pod(f"{pod.chip.name}-{count}")
    if usual.shape != pod.shape:
        raise UserError(
            f"{pod.topology} cannot be asked for: {usual.name} is {usual.topology}; ask for that, or launch gke"
        )
    options = {
        "project": queued.project,
        "zone": queued.zone,
        "accelerator-type": f"{kind}-{count}",
        "runtime-version": queued.runtime or runtime,
    }
    several = {"node-count": pod.slices, "node-prefix": launch.name} if pod.slices > 1 else {"node-id": launch.name}
    words = [f"--{name}={shlex.quote(str(value))}" for name, value in (options | several).items()]
    words += [] if queued.terms == "on-demand" else [f"--{queued.terms}"]
    return templates.render(
        "pods/templates/tpu.sh.j2",
        launch=launch,
        options=words,
        package=shlex.quote(queued.package),
        where=f"--project={shlex.quote(queued.project)} --zone={shlex.quote(queued.zone)}",
    )
