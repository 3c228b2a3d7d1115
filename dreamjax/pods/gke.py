"""GKE: a JobSet, one job a slice, one pod a host; all are started again when one of them is lost.

Of a sweep a JobSet for each of its parts, which are lost and started again by themselves.
"""

from dataclasses import dataclass, replace
from typing import Any

import yaml

from dreamjax.errors import UserError
from dreamjax.pods.launch_config import Launch
from dreamjax.typing import JsonDict

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


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """`image` holds dreamjax. `queue`: of Kueue. `service_account`: which may write to the bucket."""

    image: str
    namespace: str = "default"
    queue: str = ""
    service_account: str = ""
    spot: bool = False


def manifest(launch: Launch, cluster: Cluster) -> str:
    """YAML for `kubectl apply -f`. Raises UserError for devices that are no nodes of a cluster."""
    pod = launch.pod
    if pod.chip.name not in LABELS:
        raise UserError(f"{pod.name} are no nodes of GKE; name a pod such as v5e-256, or h100-8")
    launch.check_paths_are_everywhere()
    return yaml.safe_dump_all([_jobset(one, cluster) for one in _each(launch)], sort_keys=False, width=120)


def _each(launch: Launch) -> list[Launch]:
    """A launch for each part of a sweep."""
    if launch.parts is None:
        return [launch]
    return [replace(launch, name=f"{launch.name}-{i}", part=i) for i in range(launch.parts)]


def _jobset(launch: Launch, cluster: Cluster) -> JsonDict:
    pod, labels = launch.pod, {"kueue.x-k8s.io/queue-name": cluster.queue} if cluster.queue else {}
    # a TPU slice is a job of its hosts; nodes of GPUs are one job together, as any of them reaches any other
    replicas, hosts = (pod.slices, pod.hosts) if pod.is_tpu else (1, pod.slices)
    # a mistake (exit codes 1 and 2) ends the run; after anything else all hosts start again from the last saved step
    codes = {"containerName": CONTAINER, "operator": "In", "values": [1, 2]}
    rules = [{"name": "mistake", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}]
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": launch.name,
            "namespace": cluster.namespace,
            **({"labels": labels} if labels else {}),
            **({"annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": POOL}} if pod.is_tpu else {}),
        },
        "spec": {
            "failurePolicy": {"maxRestarts": launch.restarts, "rules": rules},
            "replicatedJobs": [
                {
                    "name": "slice" if pod.is_tpu else "nodes",
                    "replicas": replicas,
                    "template": {
                        "spec": {
                            "parallelism": hosts,
                            "completions": hosts,
                            "completionMode": "Indexed",
                            "backoffLimit": 0,
                            "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": codes}]},
                            "template": {"spec": _pod(launch, cluster, hosts)},
                        }
                    },
                }
            ],
        },
    }


def _pod(launch: Launch, cluster: Cluster, hosts: int) -> JsonDict:
    pod = launch.pod
    resource = "google.com/tpu" if pod.is_tpu else "nvidia.com/gpu"
    variables = dict(launch.environment)
    alone = launch.parts is not None  # a process that waits for no other
    if not alone:
        variables |= {"DREAMJAX_COORDINATOR": "auto"}
    if not pod.is_tpu and not alone:  # jobs of a JobSet know their own index, and the first pod by its name
        first = f"{launch.name}-nodes-0-0.{launch.name}"
        variables |= {"DREAMJAX_COORDINATOR": f"{first}:{COORDINATOR_PORT}", "DREAMJAX_PROCESSES": str(hosts)}
    environment: list[dict[str, Any]] = [
        {"name": name, "value": _as_it_is(value)} for name, value in sorted(variables.items())
    ]
    if not pod.is_tpu and not alone:
        index = {"fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
        environment.append({"name": "DREAMJAX_PROCESS", "valueFrom": index})
    script = "\n".join([*([f"{{ {launch.setup}; }} || exit 1"] if launch.setup else []), f"exec {launch.command}"])
    kind = "cloud.google.com/gke-tpu-accelerator" if pod.is_tpu else "cloud.google.com/gke-accelerator"
    selector = {kind: LABELS[pod.chip.name]}
    if pod.is_tpu:
        selector["cloud.google.com/gke-tpu-topology"] = "x".join(map(str, pod.shape))
    if cluster.spot:
        selector["cloud.google.com/gke-spot"] = "true"
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": launch.grace_s,
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        **({"serviceAccountName": cluster.service_account} if cluster.service_account else {}),
        "nodeSelector": selector,
        "containers": [
            {
                "name": CONTAINER,
                "image": cluster.image,
                "command": ["bash", "-c", _as_it_is(script)],
                "env": environment,
                "ports": [{"containerPort": COORDINATOR_PORT}],
                "resources": {"limits": {resource: pod.chips_of_a_host}},
            }
        ],
    }


def _as_it_is(text: str) -> str:
    """Kubernetes puts variables in place of $(NAME) and takes $$ for a dollar."""
    return text.replace("$", "$$")
