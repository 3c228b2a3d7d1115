"""`dreamjax sweep` from end to end on synthetic shards: its points, resuming, failures, mistakes."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from dreamjax.cli.main import main
from dreamjax.errors import UserError
from dreamjax.storage import manifest, sniffing
from dreamjax.sweeps import (
    batched_runs,
    crash_markers,
    partition,
    runs,
    scoring,
    summary,
    sweep_config,
)
from dreamjax.sweeps.partition import Part
from dreamjax.sweeps.run_folder import RunFolder
from dreamjax.sweeps.scoring import RunScore
from dreamjax.sweeps.study import Study
from dreamjax.systems import opening
from tests.support import held_elsewhere
from tests.sweeps.conftest import RATIOS, refused, scores, swept


def test_dry_run_lists_runs_with_fewer_steps_at_equal_flop(config, capsys, tmp_path):
    """At equal FLOP the point that hides less takes fewer steps; nothing is written."""
    found = swept(capsys, "--config", config(seeds=(0, 1)), "--workdir", str(tmp_path / "out"), "--dry-run")
    assert [(one["values"]["mask.ratio"], one["seed"]) for one in found["points"]] == [
        ("0.25", 0),
        ("0.25", 1),
        ("0.75", 0),
        ("0.75", 1),
    ]
    little, much = found["points"][0], found["points"][2]
    assert little["legs"]["examples"] == much["legs"]["examples"] == much["legs"]["flops"] == 6
    assert little["legs"]["flops"] < 6
    assert found["cost"]["flop"] == pytest.approx(sum(one["flop"] for one in found["points"]))
    assert not (tmp_path / "out").exists()
    assert main(["sweep", "--config", config(), "--workdir", str(tmp_path / "out"), "--dry-run"]) == 0
    assert "sweep tiny: 2 runs, 0 done" in capsys.readouterr().out


def test_finished_runs_are_kept_when_axes_grow(config, capsys, tmp_path, instant):
    """Equal FLOP stay what they were: the point that is cheaper than the first ones takes more steps for them."""
    words = ["--workdir", str(tmp_path / "out")]
    first = swept(capsys, "--config", config(steps=100), *words)
    assert (first["done"], first["failed"], first["left"]) == (2, 0, 0)
    before = scores(tmp_path / "out")
    assert [ratio for ratio, _ in instant] == [0.25, 0.25, 0.75]  # the cheaper one's two lengths are the same
    again = swept(capsys, "--config", config(steps=100), *words)
    assert (again["done"], again["done_before"]) == (2, 2)
    assert len(instant) == 3
    grown = swept(capsys, "--config", config('axes.values("mask.ratio", 0.25, 0.75, 0.95)', steps=100), *words)
    assert (grown["done"], grown["done_before"]) == (3, 2)
    assert instant[3:] == [(0.95, 100), (0.95, max(steps for _, steps in instant))]
    assert instant[-1][1] > 100
    assert scores(tmp_path / "out").items() >= before.items()
    assert before.popitem()[1]["cost"]["seconds"] == 2.0  # a restart is nobody's work


def test_resume_does_not_score_a_length_twice(config, capsys, tmp_path, instant, monkeypatch):
    """Stopped after the first of two lengths, and after the second was trained: it goes on where it was."""
    words = ["--config", config('axes.values("mask.ratio", 0.25, 0.75)', steps=100), "--workdir", str(tmp_path / "out")]
    measure, stops = scoring.measure, [1, 3]

    def stopped(folder, score, shared):
        found = measure(folder, score, shared)
        if instant and len(instant) in stops[1:]:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(scoring, "measure", stopped)
    assert main(["sweep", *words]) == 130
    monkeypatch.setattr(scoring, "measure", measure)
    assert swept(capsys, *words)["done"] == 2
    little = [steps for ratio, steps in instant if ratio == 0.25]
    assert little == sorted(little)
    assert len(set(little)) == 2


@pytest.mark.long
@pytest.mark.parametrize(("axes", "together"), [('axes.values("mask.ratio", 0.5)', 2), (RATIOS, 2)])
def test_runs_trained_as_one_score_as_alone(config, capsys, tmp_path, axes, together):
    words = ["--config", config(axes, seeds=(0, 1))]
    swept(capsys, *words, "--workdir", str(tmp_path / "alone"))
    swept(capsys, *words, "--workdir", str(tmp_path / "together"), f"--config.together={together}")
    alone, others = scores(tmp_path / "alone"), scores(tmp_path / "together")
    assert alone.keys() == others.keys()
    for name, one in alone.items():
        other = others[name]
        assert (one["cost"]["together"], other["cost"]["together"]) == (1, 2)
        for leg in ("examples", "flops"):
            assert other["legs"][leg]["step"] == one["legs"][leg]["step"]
            for mask, found in one["legs"][leg]["reconstruction"].items():
                same = other["legs"][leg]["reconstruction"][mask]
                assert same["error"]["model"] == pytest.approx(found["error"]["model"], rel=1e-5)


def test_failed_pack_is_retried_run_by_run(config, capsys, tmp_path, instant, monkeypatch):
    """Whatever it failed with; and of one that goes well, a point that was not finite."""
    tried = []

    def fails(workdir, pack, left, steps):
        tried.append([run.seed for run in pack.runs])
        if len(tried) == 1:
            raise MemoryError
        for run in left:
            instant.append(("pack", steps))
            monkeypatch.setitem(lengths, str(RunFolder.of(workdir, run).training(steps, run)), steps)
        return {"preempted": False, "time": {"seconds": {"step": 2.0}}, "refused": {left[0].name: 3}}

    lengths, measure = {}, scoring.measure
    monkeypatch.setattr(batched_runs, "train", fails)
    monkeypatch.setattr(
        scoring,
        "measure",
        lambda f, score, shared: RunScore(lengths[f], 0, "val") if f in lengths else measure(f, score, shared),
    )
    words = ["--config", config('axes.values("mask.ratio", 0.5)', seeds=(0, 1, 2, 3)), "--config.together=2"]
    found = swept(capsys, *words, "--workdir", str(tmp_path / "out"))
    assert (found["done"], found["failed"]) == (4, 0)
    assert tried == [[0, 1], [2, 3]]
    shared = {
        int(name.partition("seed=")[2][0]): one["cost"]["together"] for name, one in scores(tmp_path / "out").items()
    }
    assert shared == {0: 1, 1: 1, 2: 1, 3: 2}


def test_failed_run_is_reported_and_the_others_continue(config, capsys, tmp_path, instant, monkeypatch):
    """One is never finite, one is out of memory; both are tried twice, and not by a later call."""
    path = config('axes.values("optim.learning_rate", 1e-3, 1e30, 2e-3, 4e-3)')
    train, tried = opening.train, []
    raised = {1e30: UserError("step 3: the gradient is not finite"), 2e-3: MemoryError()}

    def some_fail(config, folder):
        tried.append(rate := config.optim.learning_rate)
        if rate in raised:
            raise raised[rate]
        return train(config, folder)

    monkeypatch.setattr(opening, "train", some_fail)
    words = ["--config", path, "--workdir", str(tmp_path / "out")]
    found = swept(capsys, *words, code=1)
    assert (found["done"], found["failed"], found["left"]) == (2, 2, 0)
    assert tried == [1e-3, 1e30, 1e30, 2e-3, 2e-3, 4e-3]
    told = {name.partition("-seed")[0]: sentence for name, sentence in found["failures"].items()}
    assert "not finite" in told["learning_rate=1e+30"]
    assert "out of memory" in told["learning_rate=0.002"]
    assert swept(capsys, *words, code=1)["failed"] == 2
    assert len(tried) == 6


def test_run_held_by_another_process_is_skipped_with_exit_75(config, capsys, tmp_path, instant):
    path, out = config(), tmp_path / "out"
    study = Study(sweep_config.load(path, []), str(out))
    first, other = study.expand()
    lock = study.folder(first).path / "lock"
    study.claim([first, other])
    lock.parent.mkdir(parents=True)
    with held_elsewhere(lock):
        found = swept(capsys, "--config", path, "--workdir", str(out), code=75)
        assert (found["done"], found["left"], found["failed"]) == (1, 1, 0)
        assert not (lock.parent / "begun.json").exists()
    assert swept(capsys, "--config", path, "--workdir", str(out))["done"] == 2


@pytest.mark.long
@pytest.mark.parametrize("together", [1, 2])
def test_killed_sweep_resumes(config, tmp_path, capsys, together):
    """SIGKILL in its second length: nothing is measured twice, and all ends with the scores of one call."""
    path = config('axes.values("mask.ratio", 0.25, 0.75)', seeds=tuple(range(together)), steps=200)
    command = [sys.executable, "-m", "dreamjax", "sweep", "--config", path, "--workdir", str(tmp_path / "killed")]
    settings = ["--config.base.train.checkpoint.every=20", f"--config.together={together}"]
    log = tmp_path / "log.txt"
    with log.open("w") as stream:  # where the threads stand if it crashes before it is killed
        variables = os.environ | {"PYTHONFAULTHANDLER": "1"}
        child = subprocess.Popen([*command, *settings], stdout=subprocess.DEVNULL, stderr=stream, env=variables)
    begun = "together/*/checkpoints" if together > 1 else "points/ratio=0.25*/run/checkpoints"
    first = runs.expand(sweep_config.load(path, []))[0].steps[0]

    def later():
        return [
            path for path in (tmp_path / "killed").glob(f"{begun}/*/manifest.json") if int(path.parent.name) > first
        ]

    while child.poll() is None and not later():
        time.sleep(0.01)
    child.kill()
    assert child.wait() == -signal.SIGKILL, log.read_text()
    assert scores(tmp_path / "killed") == {}
    assert swept(capsys, "--config", path, "--workdir", str(tmp_path / "killed"), *settings)["failed"] == 0
    swept(capsys, "--config", path, "--workdir", str(tmp_path / "whole"), *settings)
    killed, whole = scores(tmp_path / "killed"), scores(tmp_path / "whole")
    for name, one in whole.items():
        assert killed[name]["legs"] == one["legs"]


def test_rejects_invalid_sweeps(config, capsys, tmp_path):
    out = ["--workdir", str(tmp_path / "out")]
    for axes, says in (
        ('axes.values("train.steps", 1, 2)', "how long a run is trained follows from what is compared"),
        ('axes.rows("size", s={"model.dim": 16}), axes.values("model.dim", 8, 16)', "which axis size sets too"),
        ('axes.values("model.patch", 8, 16)', "set score.patch to a length that all of them divide"),
        (
            'axes.values("mask.kind", "block"), axes.values("mask.span", 8, when={"mask.kind": "blok"})',
            "depends on mask.kind=blok; its values are block",
        ),
        ('axes.values("data.samples", 128, 256)', "changes the windows that runs are scored on"),
    ):
        assert says in refused(capsys, "--config", config(axes), *out), axes
    says = refused(capsys, "--config", config('axes.values("mask.ration", 0.5)'), *out)
    assert "axis mask.ration has no key mask.ration; did you mean mask.ratio?" in says
    assert "axis mask.ratio is empty" in refused(capsys, "--config", config('axes.values("mask.ratio")'), *out)
    says = refused(capsys, "--config", config('axes.values("mask.ratio", 1.5)'), *out)
    assert "mask.ratio=1.5: mask.ratio is 1.5, but it is a share from 0 to below 1" in says
    says = refused(capsys, "--config", config(), *out, "--config.score.labels=rest,nothing")
    assert "split val has 0 subjects with windows of both rest and nothing" in says
    assert "sets seed; list the sweep's seeds" in refused(capsys, "--config", config('axes.values("seed", 1)'), *out)
    assert not (tmp_path / "out").exists()


def test_rejects_folder_of_another_sweep(config, capsys, tmp_path, instant):
    swept(capsys, "--config", config(), "--workdir", str(tmp_path / "out"))
    says = refused(capsys, "--config", config(), "--workdir", str(tmp_path / "out"), "--config.base.train.batch_size=4")
    assert "holds another sweep (base.train.batch_size was 8 and is now 4): choose another --workdir" in says
    words = ["--config", config(), "--workdir", str(tmp_path / "out"), "--config.score.windows=3", "--dry-run"]
    assert "holds another sweep (score.windows was 12 and is now 3)" in refused(capsys, *words)
    kept = json.loads((tmp_path / "out" / "sweep.json").read_text())
    manifest.write_json(tmp_path / "out" / "sweep.json", kept | {"shards": {"elsewhere": "0"}})
    assert "holds another sweep (shards." in refused(capsys, "--config", config(), "--workdir", str(tmp_path / "out"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("")
    says = refused(capsys, "--config", config(), "--workdir", str(tmp_path / "mine"))
    assert "holds something else than a sweep" in says


def test_hours_end_a_call_and_the_next_one_continues(config, capsys, tmp_path, instant):
    words = ["--config", config(), "--workdir", str(tmp_path / "out")]
    found = swept(capsys, *words, "--config.hours=1e-9")
    assert (found["done"], found["left"]) == (0, 2)
    assert main(["sweep", *words, "--config.hours=1e-9"]) == 0
    assert "2 runs left; the same command continues" in capsys.readouterr().out
    assert swept(capsys, *words)["done"] == 2


def test_random_sweep_draws_in_range(config, tmp_path):
    path = config('axes.between("optim.learning_rate", 1e-4, 1e-2, log=True)')
    sweep = sweep_config.load(path, [("search", "random"), ("trials", "5")])
    rates = [run.config.optim.learning_rate for run in runs.expand(sweep)]
    assert len(set(rates)) == 5
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)


def test_random_sweep_warns_of_too_few_values(config, tmp_path, caplog):
    sweep = sweep_config.load(config(), [("search", "random"), ("trials", "5")])
    assert len(runs.expand(sweep)) == 2
    assert "trials is 5, but the axes gave only 2" in caplog.text


def test_dry_run_reports_missing_data(config, capsys, tmp_path):
    words = ["--config", config(), "--workdir", str(tmp_path / "out"), "--dry-run"]
    assert swept(capsys, *words)["obstacle"] is None
    gone = f"--config.base.data.path={tmp_path}/gone"
    assert main(["sweep", *words, gone]) == 0
    assert f"! it would not start: {tmp_path}/gone" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_parts_are_disjoint_and_complete(config, tmp_path):
    """Whichever points are done; packs stay together."""
    sweep = sweep_config.load(config('axes.values("mask.ratio", 0.25, 0.5, 0.75)', seeds=(0, 1, 2)), [])
    every = runs.expand(sweep)
    for together, count in ((1, 2), (3, 2), (2, 4), (1, 20)):
        parts = [partition.runs_of(every, together, Part(index, count)) for index in range(count)]
        assert sorted(run.name for part in parts for run in part) == sorted(run.name for run in every)
        assert all(len(pack.runs) <= together for part in parts for pack in batched_runs.packs(part, together))
    assert [run.seed for run in partition.runs_of(every, 3, Part(1, 2))] == [0, 1, 2]


@pytest.mark.parametrize("text", ["2/2", "1", "-1/2", "a/b"])
def test_rejects_invalid_part(config, capsys, tmp_path, text):
    says = refused(capsys, "--config", config(), "--workdir", str(tmp_path / "out"), f"--part={text}")
    assert f"--part is {text}, but it must be I/N" in says


@pytest.mark.long
def test_two_processes_share_a_sweep(config, capsys, tmp_path):
    """Each its half, in one folder."""
    path = config(seeds=(0, 1), steps=4)
    words = ["--config", path, "--workdir", str(tmp_path / "out"), "--config.compare=examples"]
    found = swept(capsys, *words, "--processes", "2")
    assert (found["points"], found["done"], found["exit_code"]) == (4, 4, 0)
    assert len(scores(tmp_path / "out")) == 4


@pytest.mark.long
def test_killed_part_is_restarted(config, tmp_path):
    """A kill is no failure of the point."""
    path = config(seeds=(0, 1), steps=400)
    words = ["--config", path, "--workdir", str(tmp_path / "out"), "--config.compare=examples", "--processes", "2"]
    parent = subprocess.Popen([sys.executable, "-m", "dreamjax", "sweep", *words], stdout=subprocess.PIPE, text=True)
    while not list((tmp_path / "out").glob("points/*/run/metrics.jsonl")):
        time.sleep(0.05)
    found = subprocess.run(["pgrep", "-P", str(parent.pid), "-f", "part 0/2"], capture_output=True, text=True)
    os.kill(int(found.stdout.split()[0]), signal.SIGKILL)
    assert parent.wait() == 0
    assert len(scores(tmp_path / "out")) == 4
    assert not list((tmp_path / "out").glob("points/*/failed.json"))


def test_run_fails_after_repeated_crashes(config, capsys, tmp_path, instant):
    """Killed with nothing saved in between, as by a machine out of memory; with something saved it was a kill."""
    path = config('axes.values("mask.ratio", 0.25, 0.75)', steps=100)
    words = ["--config", path, "--workdir", str(tmp_path / "out")]
    study = Study(sweep_config.load(path, []), str(tmp_path / "out"))
    first, second = every = study.expand()
    study.claim(every)
    for run, saved in ((first, 0), (second, 7)):  # notes of processes that were killed when so many steps were saved
        study.folder(run).begin(run)
        note = {"deaths": crash_markers.LIMIT - 1, "reached": [0, *([saved] * len(run.steps))]}
        (study.folder(run).path / "begun.json").write_text(json.dumps(note))
    assert swept(capsys, *words)["done"] == 2
    failed = {path.parent.name: sniffing.read_json(path) for path in (tmp_path / "out").glob("points/*/failed.json")}
    assert failed == {first.name: {"sentences": [crash_markers.SENTENCE]}}
    assert not list((tmp_path / "out").glob("points/*/begun.json"))


def test_full_disk_ends_the_sweep_without_failing_a_run(config, capsys, tmp_path, instant, monkeypatch):
    train = opening.train

    def full(config, folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder)

    words = ["--config", config(), "--workdir", str(tmp_path / "out")]
    monkeypatch.setattr(opening, "train", full)
    assert "No space left on device" in refused(capsys, *words)
    assert not list((tmp_path / "out").glob("points/*/failed.json"))
    monkeypatch.setattr(opening, "train", train)
    assert swept(capsys, *words)["done"] == 2


RETRIEVAL = """
from dreamjax import config as configs
from dreamjax.sweeps import axes, sweep_config
from dreamjax.systems.shallow import ShallowConfig


def get_config():
    base = configs.to_config_dict(ShallowConfig(epochs=0))
    base.sizes.update({"channels": 6, "samples": 40, "people": 1, "features": 8})
    base.train.update({"steps": 60, "batch_size": 16})
    return sweep_config.config("tiny", base, [axes.values("model.width", 8, 16)])
"""


def test_gives_wider_retrieval_systems_fewer_steps_at_equal_flop(capsys, tmp_path):
    """Of 240 × W, 8 × W no gradient of the input; W² residual and 16 × W comparison take three times their forward."""
    (tmp_path / "sweep.py").write_text(RETRIEVAL)
    words = ["--config", str(tmp_path / "sweep.py"), "--workdir", str(tmp_path / "out")]
    narrow, wide = swept(capsys, *words, "--dry-run")["points"]
    flop = {width: 2 * (2 * 248 * width + 3 * width**2 + 3 * 16 * width) for width in (8, 16)}
    assert narrow["legs"] == {"examples": 60, "flops": 60}
    assert wide["legs"] == {"examples": 60, "flops": round(60 * flop[8] / flop[16])}
    assert "set base.epochs=0" in refused(capsys, *words, "--config.base.epochs=2", "--dry-run")


def test_rejects_run_too_expensive_for_equal_flop(config, capsys, tmp_path):
    """One step of it would be more than the others' whole training."""
    axes = 'axes.rows("size", small={"model.dim": 16}, large={"model.dim": 1024})'
    says = refused(capsys, "--config", config(axes), "--workdir", str(tmp_path / "out"), "--dry-run")
    assert "one step of size=large takes" in says
    assert "times the FLOP that every run is given" in says


def test_report_lists_runs_not_begun(config, capsys, tmp_path, instant):
    words = ["--config", config(), "--workdir", str(tmp_path / "out")]
    assert swept(capsys, *words, "--part", "1/2")["done"] == 1
    assert list(summary.unfinished(str(tmp_path / "out")).values()) == ["not begun"]
    swept(capsys, *words)
    assert summary.unfinished(str(tmp_path / "out")) == {}


@pytest.mark.long
def test_parts_end_with_their_parent(config, capsys, tmp_path):
    """SIGKILL of the one that started them: they save and leave, and the same command goes on."""
    path = config(seeds=(0, 1), steps=2000)
    words = ["--config", path, "--workdir", str(tmp_path / "out"), "--config.compare=examples", "--processes", "2"]
    parent = subprocess.Popen([sys.executable, "-m", "dreamjax", "sweep", *words], stdout=subprocess.PIPE, text=True)
    while len(list((tmp_path / "out").glob("points/*/run/metrics.jsonl"))) < 2:
        time.sleep(0.05)
    children = psutil.Process(parent.pid).children()
    assert len(children) == 2
    parent.kill()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    assert not list((tmp_path / "out").glob("points/*/begun.json"))
    assert scores(tmp_path / "out") == {}
    assert swept(capsys, *words)["done"] == 4
