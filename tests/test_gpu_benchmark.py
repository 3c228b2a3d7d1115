"""benchmarks/gpu.sh without its networks: budgets, a stop, the table, the largest kernels."""

import importlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
JOB = """
import json, sys, time
name, result = sys.argv[2], sys.argv[4]
if name != "broken":
    side = {"ms_per_step": 2.0, "ms_range": [1.0, 3.0]}
    json.dump({"contestants": {"dreamjax": side}, "failed": ""}, open(result, "w"))
if name == "slow":
    time.sleep(60)
sys.exit(name == "broken")
"""
DRIVER = """
import sys
from pathlib import Path
from gpu import jobs, running
chosen = [jobs.Job(name, name, "", 50) for name in ("first", "slow", "last")]
running.run(chosen, [sys.executable, "-c", sys.argv[2]], Path(sys.argv[1]), limit_s=100)
"""

SIDE = """
import json, os, sys, time
side = sys.argv[-1]
for line in sys.stdin:
    asked = json.loads(line)
    answer = {"seconds": 1.0, "wall": 0.01 * asked.get("steps", 0), "cpu": 0.01, "peak_mib": 7}
    if asked.get("fact") == "check":
        answer = {"differences": {"loss": 0.001, "gradient": 0.5}, "most": {"loss": 0.01, "gradient": 0.1}}
    if asked.get("fact") == "facts":
        answer = {"parameters": 5, "tflop": 3.0, "batch": 4} if side == "dreamjax" else {"parameters": 6}
        answer["steps"] = 4 if "4 seeds" in side else 1
    if "start" in asked and side == "torch large" and not os.path.exists(sys.argv[1]):
        open(sys.argv[1], "w").close()
        answer = {"error": "OutOfMemoryError: CUDA out of memory. Tried to allocate 40 GiB"}
    if "start" in asked and side == "torch slow":
        time.sleep(60)
    print(json.dumps(answer), flush=True)
    if "end" in asked:
        break
"""


@pytest.fixture
def gpu(monkeypatch):
    """Return a function that imports a module of the benchmark."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: importlib.import_module(f"gpu.{name}")


def test_reports_slow_and_broken_jobs_and_runs_the_next_one(gpu, tmp_path):
    running, jobs = gpu("running"), gpu("jobs")
    chosen = [jobs.Job(name, name, "", budget) for name, budget in (("slow", 1.5), ("broken", 5), ("last", 5))]
    results = running.run(chosen, [sys.executable, "-c", JOB], tmp_path, limit_s=100)
    assert {name: one["status"] for name, one in results["jobs"].items()} == {
        "slow": "out of time after 1.5 s",
        "broken": "failed: exit code 1",
        "last": "done",
    }
    assert results["jobs"]["slow"]["contestants"]["dreamjax"]["ms_per_step"] == 2.0  # what it had until then
    assert json.loads((tmp_path / "results.json").read_text()) == results


def test_starts_no_job_without_time_for_it(gpu, tmp_path):
    running, jobs = gpu("running"), gpu("jobs")
    results = running.run([jobs.Job("last", "last", "", 5)], ["false"], tmp_path, limit_s=3)
    assert results["jobs"]["last"]["status"] == "not started: 3 s of 3 left"


def test_a_stop_keeps_what_is_done(tmp_path):
    command = [sys.executable, "-c", DRIVER, str(tmp_path), JOB]
    process = subprocess.Popen(command, env={"PYTHONPATH": str(BENCHMARKS)})
    results = tmp_path / "results.json"
    end = time.monotonic() + 20
    while time.monotonic() < end and (
        not results.exists() or '"running"' not in results.read_text().split('"slow"')[-1]
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0
    kept = json.loads(results.read_text())["jobs"]
    assert [one["status"] for one in kept.values()] == ["done", "stopped", "not reached"]
    assert kept["first"]["contestants"]["dreamjax"]["ms_range"] == [1.0, 3.0]


def measured(gpu, folder, names, seconds):
    """Return the result of a job whose sides are `SIDE`."""
    measuring = gpu("measuring")
    command, until = [sys.executable, "-c", SIDE, str(folder / "tried")], time.time() + measuring.RESERVE_S + seconds
    job = measuring.Job(folder / "result.json")
    measuring.measure_sides(names, command, job, smoke=True, profiled=False, until=until)
    return json.loads((folder / "result.json").read_text())


def test_a_side_for_which_memory_was_too_small_is_measured_alone(gpu, tmp_path):
    result = measured(gpu, tmp_path, ["dreamjax", "torch large"], 60)
    ours, theirs = result["contestants"]["dreamjax"], result["contestants"]["torch large"]
    assert theirs["alone"]
    assert (ours["ms_per_step"], theirs["ms_per_step"]) == (10.0, 10.0)
    assert ours["tflop_per_s"] == pytest.approx(300)
    assert ours["examples_per_s"] == pytest.approx(400)
    assert result["failed"].split("; ") == [
        "gradient differs by 0.5 from the CPU's, but rounding explains at most 0.1",
        "the sides have different numbers of parameters: dreamjax 5, torch large 6",
    ]


def test_measures_the_other_side_when_one_is_not_ready_in_time(gpu, tmp_path):
    result = measured(gpu, tmp_path, ["dreamjax", "torch slow"], 1.5)
    assert result["contestants"]["dreamjax"]["ms_per_step"] == 10.0
    assert result["failed"].endswith("torch slow: not ready in time")


def test_the_table_has_every_figure_and_every_failure(gpu):
    ours = {"ms_per_step": 10.0, "ms_range": [9.0, 12.0], "tflop_per_s": 300.0, "peak_mib": 4096, "predicted_mib": 3072}
    theirs = {"ms_per_step": 13.0, "ms_range": [13.0, 14.0], "time / dreamjax": [1.3, 1.1, 1.4]}
    slower = {"ms_per_step": 20.0, "ms_range": [20.0, 20.0], "time / dreamjax": [2.0, 2.0, 2.0]}
    done = {
        "title": "a step",
        "status": "done",
        "batch": 32,
        "check": {"differences": {"loss": 0.001, "gradient": 0.02}},
    }
    results = {
        "jobs": {
            "ceiling": {
                "title": "product",
                "status": "done",
                "size": 8192,
                "device": "H200",
                "versions": {"jax": "0.11.2"},
                "tflop_per_s": {"dreamjax": 750.0, "torch": 700.0},
            },
            "one": done | {"contestants": {"dreamjax": ours, "torch eager": slower, "torch.compile": theirs}},
            "two": {
                "title": "another",
                "status": "out of time after 90 s",
                "contestants": {"dreamjax": {"error": "no"}},
            },
        }
    }
    text = gpu("table").of(results)
    assert "H200, jax 0.11.2" in text
    assert (
        "| a step, batch 32 | 10 (9-12) | 13 (13-14), torch.compile | 1.3 (1.1-1.4) | 300 | 40.0 | 4 | 3 | 0.02 |"
        in text
    )
    assert "| another: out of time after 90 s |  |  |  |  |  |  |  |  |" in text


def test_the_largest_kernels_are_those_of_the_streams(gpu):
    named = [("process_name", 1, None, "/device:GPU:0 NVIDIA H200"), ("thread_name", 1, 5, "Stream #5(Compute)")]
    named += [("thread_name", 1, 6, "XLA Ops"), ("process_name", 2, None, "/host:CPU")]
    events = [
        {"ph": "M", "name": kind, "pid": pid, "args": {"name": name}} | ({} if tid is None else {"tid": tid})
        for kind, pid, tid, name in named
    ]
    timed = [("gemm", 1, 5, 3000.0), ("gemm", 1, 5, 1000.0), ("softmax", 1, 5, 1000.0), ("fusion", 1, 6, 9000.0)]
    timed.append(("python", 2, 5, 9000.0))
    events += [{"ph": "X", "name": name, "pid": pid, "tid": tid, "dur": us} for name, pid, tid, us in timed]
    assert gpu("kernels").largest(events, steps=2) == [
        {"name": "gemm", "calls": 1.0, "ms": 2.0, "share": 0.8},
        {"name": "softmax", "calls": 0.5, "ms": 0.5, "share": 0.2},
    ]


def test_a_step_of_several_seeds_counts_once_for_each(gpu, tmp_path):
    """A program of 4 seeds whose turn takes as long as PyTorch's of one is 4 times as fast."""
    result = measured(gpu, tmp_path, ["dreamjax", gpu("jobs").TOGETHER, "torch"], 60)
    together = result["contestants"][gpu("jobs").TOGETHER]
    assert together["ms_per_step"] == pytest.approx(2.5)
    assert result["contestants"]["torch"]["time / dreamjax, 4 seeds as one"][0] == pytest.approx(4)
    one = result | {"title": "NICE", "status": "done"}
    assert "| 10 (10-10); 4 seeds as one: 2.5 (2.5-2.5) |" in gpu("table").of({"jobs": {"nice": one}})
