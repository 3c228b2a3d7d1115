"""A real SLURM: two tasks train, the job is preempted, queued again, and ends as if nothing had been."""

import json
import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.command_line import dreamjax
from tests.slurm import cluster as clusters
from tests.support import make_shards
from tests.training.children import free_port

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(clusters.missing()), reason=clusters.missing() or "SLURM is there"),
]
CONFIG = str(Path(__file__).resolve().parents[2] / "configs/pretrain/tiny.py")
STEPS = 300


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with clusters.started(tmp_path_factory.mktemp("slurm"), (free_port(), free_port())) as found:
        yield found


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("shards"), subjects=3, windows=8)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """As a user's shell has it: dreamjax on the path, one CPU device a process."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin")
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")


def train(shards, workdir):
    settings = {"steps": STEPS, "batch_size": 8, "log_every": 1, "eval_every": 0, "checkpoint.every": 1000}
    keys = [f"--config.train.{name}={value}" for name, value in settings.items()]
    return ["train", "--config", CONFIG, "--workdir", str(workdir), f"--config.data.path={shards}", *keys]


def submitted(cluster, folder, *words):
    script = folder / "job.sh"
    done = dreamjax("launch", "slurm", "--out", str(script), *words)
    assert done.returncode == 0, done.stderr
    told = cluster.run("sbatch", "--parsable", str(script), cwd=folder)
    return told.strip()


def steps(workdir):
    path = workdir / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory):
    """The same run as two processes of this machine."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    done = dreamjax("launch", "local", "--processes", "2", "--", *train(shards, workdir), env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return workdir


def test_a_preempted_job_is_queued_again_and_ends_with_the_same_losses(cluster, shards, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    words = ("--topology", "cpu-1", "--processes", "2", "--name", "eeg", "--partition", "low", "--output", "job.log")
    job = submitted(cluster, tmp_path, *words, "--", *train(shards, workdir))
    log = tmp_path / "job.log"
    cluster.wait(job, "RUNNING", within_s=60)
    while steps(workdir) < 20:
        assert cluster.job(job)["JobState"] == "RUNNING", log.read_text()
    more = cluster.run("sbatch", "--parsable", "-p", "high", "-n", "2", "--wrap", "sleep 1", cwd=tmp_path).strip()
    cluster.wait(more, "COMPLETED", within_s=120)
    reached = steps(workdir)
    assert 20 <= reached < STEPS, log.read_text()
    ended = cluster.end(job, within_s=300)
    assert ended["JobState"] == "COMPLETED", log.read_text()
    assert ended["Restarts"] == "1"
    assert "continued from step" in log.read_text()
    assert (workdir / "metrics.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()
    attempts = json.loads((workdir / "goodput.json").read_text())["attempts"]
    assert [attempt["to_step"] for attempt in attempts][1:] == [STEPS]


def is_training(process, workdir):
    """Whether this is a task's own process, and not who watches it."""
    try:
        words = process.cmdline()
    except psutil.Error:  # it has ended meanwhile
        return False
    return words[1:4] == ["-m", "dreamjax", "train"] and str(workdir) in words


def test_a_lost_task_is_named_and_the_job_is_queued_again(cluster, shards, undisturbed, tmp_path):
    """SIGKILL to one task's process: both tasks leave with 75, and the batch script queues the job again."""
    workdir, log = tmp_path / "run", tmp_path / "job.log"
    words = ("--topology", "cpu-1", "--processes", "2", "--name", "eeg", "--output", "job.log")
    words = (*words, "--env", "DREAMJAX_HEARTBEAT_SECONDS=10")
    job = submitted(cluster, tmp_path, *words, "--", *train(shards, workdir))
    cluster.wait(job, "RUNNING", within_s=60)
    while steps(workdir) < 20:
        assert cluster.job(job)["JobState"] == "RUNNING", log.read_text()
    training = [process for process in psutil.process_iter() if is_training(process, workdir)]
    assert len(training) == 2
    training[-1].kill()
    ended = cluster.end(job, within_s=400)
    assert ended["JobState"] == "COMPLETED", log.read_text()
    assert ended["Restarts"] == "1"
    assert "was ended by SIGKILL" in log.read_text()
    assert "of the run is gone" in log.read_text()
    assert (workdir / "metrics.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()


def test_a_mistake_fails_the_job_at_once(cluster, tmp_path):
    words = ("--topology", "cpu-1", "--processes", "2", "--name", "eeg", "--output", "job.log")
    job = submitted(
        cluster, tmp_path, *words, "--", "train", "--config", "nowhere.py", "--workdir", str(tmp_path / "x")
    )
    ended = cluster.wait(job, "FAILED", within_s=90)
    assert ended["ExitCode"] == "2:0"
    assert "nowhere.py" in (tmp_path / "job.log").read_text()
    assert not (tmp_path / "x").exists()


SWEEP = """
from dreamjax.sweeps import axes, sweep_config
from dreamjax.systems.masked_presets import preset


def get_config():
    base = preset("tiny")
    base.data.path, base.optim.schedule = ({shards!r},), "constant"
    base.train.update({{"steps": 600, "batch_size": 8, "eval_every": 0, "log_every": 1, "tensorboard": False}})
    score = {{"windows": 8, "baselines": False}}
    sizes = axes.values("train.batch_size", 2, 64)  # 2,400 steps and 75
    return sweep_config.config("array", base, [sizes], compare=("examples",), score=score)
"""


def test_a_sweep_is_an_array_whose_jobs_are_preempted_by_themselves(cluster, tmp_path):
    """Each job runs its part. One is done when the other is preempted, which is queued again and continues its point:
    the finished one is not."""
    config, workdir = tmp_path / "sweep.py", tmp_path / "out"
    config.write_text(SWEEP.format(shards=make_shards(tmp_path / "shards", subjects=6, windows=8)))
    words = ("--topology", "cpu-1", "--name", "sizes", "--partition", "low", "--cpus", "1", "--parts", "2")
    job = submitted(cluster, tmp_path, *words, "--", "sweep", "--config", str(config), "--workdir", str(workdir))
    ends = time.monotonic() + 240
    while cluster.job(f"{job}_1")["JobState"] != "COMPLETED":
        assert time.monotonic() < ends, cluster.logs()
        assert cluster.job(f"{job}_1")["JobState"] != "FAILED", (tmp_path / f"sizes-{job}_1.log").read_text()
        time.sleep(0.1)
    assert cluster.job(f"{job}_0")["JobState"] == "RUNNING"
    more = cluster.run("sbatch", "--parsable", "-p", "high", "-n", "2", "--wrap", "sleep 1", cwd=tmp_path).strip()
    cluster.wait(more, "COMPLETED", within_s=120)
    ended = cluster.end(f"{job}_0", within_s=300)
    log = (tmp_path / f"sizes-{job}_0.log").read_text()
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), log
    assert cluster.job(f"{job}_1").get("Restarts", "0") == "0"
    assert "continued from step" in log
    scores = [json.loads(path.read_text()) for path in workdir.glob("points/*/score.json")]
    assert sorted(score["legs"]["examples"]["step"] for score in scores) == [75, 2400]
