"""SLURM: a batch script of a task for each process, or an array of a sweep's parts, queued again after a preemption."""

from dataclasses import dataclass

from dreamjax.errors import UserError
from dreamjax.pods.launch_config import Launch
from dreamjax.reports import templates


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """`processes`: of each host, 1 with all its GPUs or as many as it has of them. `time`: of one attempt, as SLURM
    writes it; the others are sbatch's own."""

    processes: int = 1
    partition: str = ""
    account: str = ""
    qos: str = ""
    time: str = ""
    output: str = ""  # empty: NAME-JOB.log, of an array NAME-JOB_PART.log
    cpus: int = 0  # a task; 0: what SLURM gives


def script(launch: Launch, slurm: Slurm) -> str:
    """Raises UserError for TPUs, which SLURM does not have."""
    if launch.pod.is_tpu:
        raise UserError(
            f"{launch.pod.name} are TPUs, which SLURM does not have; launch tpu or gke, or name h100-8, cpu-2"
        )
    gpus = 0 if launch.pod.chip.name == "cpu" else launch.pod.chips_of_a_host
    if gpus and slurm.processes not in (1, gpus):
        raise UserError(
            f"--processes is {slurm.processes}, but of {gpus} GPUs a process has all or one; give 1 or {gpus}"
        )
    options = {
        "job-name": launch.name,
        "array": f"0-{launch.parts - 1}" if launch.parts else None,
        "nodes": launch.pod.slices,
        "ntasks-per-node": slurm.processes,
        "gpus-per-node": gpus or None,  # of the node, not of the task: each task would then see its own as number 0
        "cpus-per-task": slurm.cpus or None,
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "time": slurm.time,
        "output": slurm.output or ("%x-%A_%a.log" if launch.parts else "%x-%j.log"),
        "open-mode": "append",
        "signal": f"TERM@{launch.grace_s}",
    }
    for name, value in options.items():
        if any(character.isspace() for character in str(value or "")):
            raise UserError(f"--{name} is {value!r}, but it has no spaces")
    if launch.parts and slurm.processes != 1:
        raise UserError(f"--processes is {slurm.processes}, but a part of a sweep is one process; leave it out")
    part = f' "--part=$SLURM_ARRAY_TASK_ID/{launch.parts}"' if launch.parts else ""
    return templates.render(
        "pods/templates/slurm.sh.j2",
        options=[f"--{name}={value}" for name, value in options.items() if value not in (None, "")],
        launch=launch,
        devices=gpus if slurm.processes == 1 else 0,
        command=launch.command + part,
    )
