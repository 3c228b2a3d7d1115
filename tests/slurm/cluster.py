"""A SLURM of this one machine: munged, slurmctld and slurmd, on the loopback address, as long as a test needs it."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
CONF = """
ClusterName=laptop
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
MpiDefault=none
KillWait=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=low Nodes=localhost Default=YES MaxTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=60 State=UP
PartitionName=high Nodes=localhost MaxTime=60 PriorityTier=10 PreemptMode=OFF State=UP
"""


def missing() -> str:
    """Why it cannot be started here, in a phrase; empty where it can."""
    if absent := [program for program in NEEDED if not _found(program)]:
        return f"{', '.join(absent)} not installed (apt-get install slurm-wlm munge; `make test-slurm` does, as root)"
    return "" if os.geteuid() == 0 else "SLURM's daemons are started by root"


def _found(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


class Cluster:
    """Its commands; `folder` holds all that it writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *words: str, check: bool = True, **options: object) -> str:
        done = subprocess.run(words, env=self.environment, text=True, capture_output=True, timeout=60, **options)
        assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def job(self, number: str) -> dict[str, str]:
        """What scontrol knows of a job; {} when it has forgotten it."""
        words = self.run("scontrol", "--oneliner", "show", "job", number, check=False).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, number: str, *states: str, within_s: float) -> dict[str, str]:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            found = self.job(number)
            if found.get("JobState") in states:
                return found
            time.sleep(0.2)
        raise AssertionError(f"job {number} is not {states} after {within_s} s: {self.job(number)}\n{self.logs()}")

    def end(self, number: str, within_s: float) -> dict[str, str]:
        """Wait for a job's end. SLURM lets a job that was queued again wait for two minutes: here it does not."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            found = self.job(number)
            if found.get("JobState") in ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED"):
                return found
            if found.get("JobState") == "PENDING" and found.get("Reason") == "BeginTime":
                self.run("scontrol", "update", f"jobid={number}", "starttime=now", check=False)
            time.sleep(0.5)
        raise AssertionError(f"job {number} has not ended after {within_s} s: {self.job(number)}\n{self.logs()}")

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in self.folder.glob("*.log"))


@contextlib.contextmanager
def started(folder: Path, ports: tuple[int, int]) -> Iterator[Cluster]:
    """The daemons, until the block ends."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    conf = CONF.format(folder=folder, controller=ports[0], daemon=ports[1]).lstrip()
    (folder / "slurm.conf").write_text(conf)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    cluster, daemons = Cluster(folder), []
    own = {"folder": folder}
    munge = "--foreground --force --key-file={folder}/munge.key --socket={folder}/munge.socket "
    munge += "--pid-file={folder}/munge.pid --log-file={folder}/munge.log --seed-file={folder}/munge.seed"
    commands = [
        [_found("munged"), *munge.format(**own).split()],
        [_found("slurmctld"), "-D", "-c", "-f", str(folder / "slurm.conf")],
        [_found("slurmd"), "-D", "-c", "-N", "localhost", "-f", str(folder / "slurm.conf")],
    ]
    try:
        for command in commands:
            with (folder / f"{Path(command[0]).name}.out").open("w") as out:
                daemons.append(subprocess.Popen(command, env=cluster.environment, stdout=out, stderr=out))
            time.sleep(0.5)
        deadline = time.monotonic() + 60
        while "idle" not in cluster.run("sinfo", "--noheader", "--format=%T", check=False):
            assert time.monotonic() < deadline, cluster.logs()
            time.sleep(0.2)
        yield cluster
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
            daemon.kill()
