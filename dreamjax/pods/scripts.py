"""Render a launch as a batch script of SLURM, a request for Cloud TPUs, or JobSets of Kubernetes."""

import shlex
from dataclasses import replace

import yaml

from dreamjax.errors import UserError
from dreamjax.pods import topologies
from dreamjax.pods.launch_config import NUMBERED, Launch, refuse_lines
from dreamjax.reports import pages
from dreamjax.typing import JsonDict

# chip → (accelerator type, runtime version), as Cloud TPU calls them (docs.cloud.google.com/tpu/docs/runtimes)
CLOUD_TPUS = {
    "v4": ("v4", "tpu-ubuntu2204-base"),
    "v5e": ("v5litepod", "v2-alpha-tpuv5-lite"),
    "v5p": ("v5p", "v2-alpha-tpuv5"),
    "v6e": ("v6e", "v2-alpha-tpuv6e"),
}
# chip → the label that its nodes carry (docs.cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus)
LABELS = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
    "tpu7x": "tpu7x",
    "h100": "nvidia-h100-80gb",
    "h200": "nvidia-h200-141gb",
}
COORDINATOR_PORT = 8476
CONTAINER = "dreamjax"
POOL = "cloud.google.com/gke-nodepool"


def slurm(
    launch: Launch,
    *,
    processes: int = 1,
    partition: str = "",
    account: str = "",
    qos: str = "",
    time: str = "",
    output: str = "",
    cpus: int = 0,
) -> str:
    """Return a batch script of a task for each process, or an array of independent parts, queued again when preempted.

    Raise UserError for TPUs, which SLURM does not have.

    Args:
        processes: of each host, 1 with all its GPUs or as many as it has of them.
        time: of one attempt, as SLURM writes it; `partition`, `account` and `qos` are sbatch's own.
        output: empty: NAME-JOB.log, of an array NAME-JOB_PART.log.
        cpus: of a task; 0: what SLURM gives.
    """
    if launch.pod.is_tpu:
        raise UserError(
            f"{launch.pod.name} are TPUs, which SLURM does not have; launch tpu or gke, or name h100-8, cpu-2"
        )
    gpus = 0 if launch.pod.chip.name == "cpu" else launch.pod.chips_of_a_host
    if gpus and processes not in (1, gpus):
        raise UserError(f"--processes is {processes}, but of {gpus} GPUs a process has all or one; give 1 or {gpus}")
    options = {
        "job-name": launch.name,
        "array": f"0-{launch.parts - 1}" if launch.parts else None,
        "nodes": launch.pod.slices,
        "ntasks-per-node": processes,
        "gpus-per-node": gpus or None,  # of the node, not of the task: each task would then see its own as number 0
        "cpus-per-task": cpus or None,
        **{"partition": partition, "account": account, "qos": qos, "time": time},
        "output": output or ("%x-%A_%a.log" if launch.parts else "%x-%j.log"),
        "open-mode": "append",
        "signal": f"TERM@{launch.grace_s}",
    }
    for name, value in options.items():
        if any(character.isspace() for character in str(value or "")):
            raise UserError(f"--{name} is {value!r}, but it has no spaces")
    if launch.parts and processes != 1:
        raise UserError(f"--processes is {processes}, but a part is one process; leave it out")
    numbered = launch.parts and launch.arguments[0] == NUMBERED
    part = f' "--part=$SLURM_ARRAY_TASK_ID/{launch.parts}"' if numbered else ""
    return pages.render(
        "pods/templates/slurm.sh.j2",
        options=[f"--{name}={value}" for name, value in options.items() if value not in (None, "")],
        launch=launch,
        devices=gpus if processes == 1 else 0,
        command=launch.command + part,
    )


def tpu(
    launch: Launch,
    *,
    project: str,
    zone: str,
    terms: str = "on-demand",
    package: str = "dreamjax[tpu,data]",
    runtime: str = "",
) -> str:
    """Return a request for queued resources, whose hosts set themselves up and start the run once they are there.

    `terms`: on-demand, spot or reserved. `package`: what pip installs on every host. `runtime`: empty: the usual one of
    the chip. Raise UserError for what queued resources do not have.
    """
    pod = launch.pod
    if pod.chip.name not in CLOUD_TPUS:
        reason = "are asked for through Kubernetes alone; launch gke" if pod.is_tpu else "are no TPUs; launch slurm"
        raise UserError(f"{pod.name} {reason}")
    launch.check_paths_are_everywhere()
    launch.check_config_is_brought()
    refuse_lines(**{"--project": project, "--zone": zone, "--package": package, "--runtime": runtime})
    kind, usual_runtime = CLOUD_TPUS[pod.chip.name]
    count = pod.chips // pod.slices * pod.chip.named_cores
    usual = topologies.pod(f"{pod.chip.name}-{count}")
    if usual.shape != pod.shape:
        raise UserError(
            f"{pod.topology} cannot be asked for: {usual.name} is {usual.topology}; ask for that, or launch gke"
        )
    what = {"accelerator-type": f"{kind}-{count}", "runtime-version": runtime or usual_runtime}
    nodes = {"node-count": pod.slices, "node-prefix": launch.name} if pod.slices > 1 else {"node-id": launch.name}
    options = {"project": project, "zone": zone, **what, **nodes}
    words = [f"--{name}={shlex.quote(str(value))}" for name, value in options.items()]
    return pages.render(
        "pods/templates/tpu.sh.j2",
        launch=launch,
        options=words + ([] if terms == "on-demand" else [f"--{terms}"]),
        package=shlex.quote(package),
        where=" ".join(words[:2]),
    )


# ---------------------------------------------------------------------------------------------------------------- GKE
def gke(
    launch: Launch,
    *,
    image: str,
    namespace: str = "default",
    queue: str = "",
    service_account: str = "",
    spot: bool = False,
) -> str:
    """Return YAML for `kubectl apply -f`: a JobSet, one job a slice, one pod a host; all start again when one is lost.

    Of a sweep or a comparison a JobSet for each part, which is lost and started again by itself. `image` holds
    dreamjax; `queue`: of Kueue; `service_account`: which may write to the bucket. Raise UserError for devices that are
    no nodes of a cluster.
    """
    pod = launch.pod
    if pod.chip.name not in LABELS:
        raise UserError(f"{pod.name} are no nodes of GKE; name a pod such as v5e-256, or h100-8")
    launch.check_paths_are_everywhere()
    metadata: JsonDict = {"namespace": namespace}
    if queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": queue}
    if pod.is_tpu:
        metadata["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology": POOL}
    parts = [replace(launch, name=f"{launch.name}-{i}", part=i) for i in range(launch.parts or 0)] or [launch]
    sets = [
        {
            "apiVersion": "jobset.x-k8s.io/v1alpha2",
            "kind": "JobSet",
            "metadata": {"name": part.name, **metadata},
            "spec": _jobs(part, _pod(part, image, service_account, spot)),
        }
        for part in parts
    ]
    return yaml.safe_dump_all(sets, sort_keys=False, width=120)


def _hosts(launch: Launch) -> int:
    """Return the hosts of one job: those of a TPU slice, or all nodes of GPUs, as these all reach each other."""
    return launch.pod.hosts if launch.pod.is_tpu else launch.pod.slices


def _jobs(launch: Launch, pod: JsonDict) -> JsonDict:
    # a mistake (exit codes 1 and 2) ends the run; after anything else all hosts start again from the last saved step
    codes = {"containerName": CONTAINER, "operator": "In", "values": [1, 2]}
    rules = [{"name": "mistake", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}]
    job = {
        "parallelism": _hosts(launch),
        "completions": _hosts(launch),
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": codes}]},
        "template": {"spec": pod},
    }
    name, replicas = ("slice", launch.pod.slices) if launch.pod.is_tpu else ("nodes", 1)
    return {
        "failurePolicy": {"maxRestarts": launch.restarts, "rules": rules},
        "replicatedJobs": [{"name": name, "replicas": replicas, "template": {"spec": job}}],
    }


def _pod(launch: Launch, image: str, service_account: str, spot: bool) -> JsonDict:
    pod, variables, index = launch.pod, dict(launch.environment), list[JsonDict]()
    if launch.parts is None:  # a part waits for no other process
        variables["DREAMJAX_COORDINATOR"] = "auto"
        if not pod.is_tpu:  # jobs of a JobSet know their own index, and the first pod by its name
            first = f"{launch.name}-nodes-0-0.{launch.name}:{COORDINATOR_PORT}"
            variables |= {"DREAMJAX_COORDINATOR": first, "DREAMJAX_PROCESSES": str(_hosts(launch))}
            place = {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}
            index = [{"name": "DREAMJAX_PROCESS", "valueFrom": {"fieldRef": place}}]
    environment = [{"name": name, "value": _as_it_is(value)} for name, value in sorted(variables.items())]
    script = "\n".join([*([f"{{ {launch.setup}; }} || exit 1"] if launch.setup else []), f"exec {launch.command}"])
    kind, resource = ("tpu-accelerator", "google.com/tpu") if pod.is_tpu else ("accelerator", "nvidia.com/gpu")
    selector = {f"cloud.google.com/gke-{kind}": LABELS[pod.chip.name]}
    if pod.is_tpu:
        selector["cloud.google.com/gke-tpu-topology"] = "x".join(map(str, pod.shape))
    if spot:
        selector["cloud.google.com/gke-spot"] = "true"
    container = {
        "name": CONTAINER,
        "image": image,
        "command": ["bash", "-c", _as_it_is(script)],
        "env": environment + index,
        "ports": [{"containerPort": COORDINATOR_PORT}],
        "resources": {"limits": {resource: pod.chips_of_a_host}},
    }
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": launch.grace_s,
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        **({"serviceAccountName": service_account} if service_account else {}),
        "nodeSelector": selector,
        "containers": [container],
    }


def _as_it_is(text: str) -> str:
    """Escape text for Kubernetes, which replaces $(NAME) by a variable and takes $$ for a dollar."""
    return text.replace("$", "$$")
