"""`dreamjax prepare` under bad luck: crashing readers, a full disk, unreadable files, mistakes."""

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import failing_tasks
import numpy as np
import pytest
from edf_files import write_edf
from recorded import noise
from studies import INLINE, hidden, study

from dreamjax.cli import main
from dreamjax.signals.datasets import records
from dreamjax.signals.preparation import workers
from dreamjax.signals.preparation.prepare import prepare


def test_a_task_that_crashes_hangs_or_fails_costs_itself_alone():
    tasks = ["a", "segfault", "b", "hang", "exit", "c", "raise", "refuse", "d"]
    outcomes = {o.index: o for o in workers.run(failing_tasks.act, tasks, workers=2, timeout_s=3.0)}
    told = {tasks[i]: outcomes[i].result or outcomes[i].reason for i in range(len(tasks))}
    assert told == {
        "a": "A",
        "b": "B",
        "c": "C",
        "d": "D",
        "segfault": "the reader crashed (SIGSEGV)",
        "hang": "no progress for 3 s",
        "exit": "the reader ended its process (exit code 7)",
        "raise": "the reader failed (ValueError)",  # its text may name the patient
        "refuse": "the file is empty",
    }


def test_only_the_task_that_needs_more_memory_than_allowed_fails():
    tasks = ["a", "hoard", "b"]
    outcomes = {o.index: o for o in workers.run(failing_tasks.act, tasks, workers=1, memory=2 << 30)}
    assert [outcomes[i].result for i in range(3)] == ["A", None, "B"]
    assert outcomes[1].reason == "needs more memory than a reader may use (2 GiB); raise --memory-limit"


@pytest.mark.parametrize("count", [0, 1])
def test_a_full_disk_ends_the_run(count):
    with pytest.raises(OSError, match="No space left") as problem:
        list(workers.run(failing_tasks.act, ["a", "full", "b"], workers=count))
    assert problem.value.errno == errno.ENOSPC


def command(source: Path, out: Path, limit: int | None = None) -> subprocess.CompletedProcess:
    """`dreamjax prepare` with one worker; `limit`: no file of it, or of its children, may grow beyond so many bytes."""
    words = [sys.executable, "-m", "dreamjax", "prepare", str(source), "--out", str(out), "--workers", "1"]

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(words, capture_output=True, text=True, check=False, preexec_fn=limited)


def one_sentence(done: subprocess.CompletedProcess, why: str) -> None:
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert f"cannot be written ({why})" in last
    assert "Traceback" not in done.stderr


def test_a_disk_that_fills_in_a_child_stops_the_run_and_the_next_goes_on(tmp_path):
    """A short recording fits under the limit on file size, the long one after it does not."""
    source = study(tmp_path / "study", 1, 1, seconds=8)
    write_edf(source / "sub-09_ses-0.edf", np.rint(noise(8, 120) / 0.1))
    one_sentence(command(source, tmp_path / "out", limit=200_000), "File too large")
    assert hidden(tmp_path) == [".out.parts"]
    assert not (tmp_path / "out").exists()
    finished = [p.parent for p in tmp_path.glob(".out.parts/*/summary.json")]
    assert len(finished) == 1
    result = prepare([source], tmp_path / "out", options=INLINE)
    assert (result.reused, result.recordings, result.recordings_left_out) == (1, 2, 0)


def test_reports_small_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root; the test of a limit on file size stands in")
    try:
        source = study(tmp_path / "study", 1, 1, seconds=60)
        one_sentence(command(source, disk / "out"), "No space left on device")
        assert not (disk / "out").exists()
        assert list(disk.glob(".out.parts/*/*")) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_reports_full_disk_and_leaves_no_dataset(tmp_path, monkeypatch, capsys):
    source = study(tmp_path / "study", 3, 1)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "out"))

    monkeypatch.setattr(records, "merge", full)
    assert main.main(["prepare", str(source), "--out", str(tmp_path / "out"), "--workers", "0"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert "No space left on device" in said[-1]
    assert not (tmp_path / "out").exists()
    assert [n for n in hidden(tmp_path) if ".new" in n] == []


def test_unreadable_files_are_listed_and_the_rest_converted(tmp_path, capsys):
    source = study(tmp_path / "study", 3, 1)
    (source / "empty.edf").write_bytes(b"")
    (source / "letter.edf").write_text("Dear colleague, " * 40)
    whole = (source / "sub-00_ses-0.edf").read_bytes()
    (source / "cut.edf").write_bytes(whole[:600])
    assert main.main(["prepare", str(source), "--out", str(tmp_path / "out"), "--workers", "0", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["recordings"] == 3
    assert {Path(f["path"]).name for f in result["failed"]} == {"empty.edf", "letter.edf", "cut.edf"}
    assert all(f["reason"] and "\n" not in f["reason"] for f in result["failed"])
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert sum(r["whole"] for r in rejects) == 3


def test_nothing_readable_is_exit_2_with_the_reasons(tmp_path, capsys):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "empty.edf").write_bytes(b"")
    assert main.main(["prepare", str(tmp_path / "study"), "--out", str(tmp_path / "out"), "--workers", "0"]) == 2
    said = capsys.readouterr().err
    assert "no recording could be converted, of 1 given" in said
    assert "empty.edf" in said
    assert sorted(p.name for p in tmp_path.iterdir() if "out" in p.name and not p.name.endswith(".parts")) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--low", "90"], "pass band"),
        (["--splits", "0.5", "0.1", "0.1"], "sum to 1"),
        (["--events", "nowhere.csv", "--tmin", "0", "--tmax", "5"], "set samples to 1280"),
        (["--unit-scale", "volts"], "volts"),
        (["--name", "My Data"], "lower-case"),
        *((["--sfreq", rate], "sfreq is") for rate in ("0", "-5", "nan", "inf")),
        *((["--timeout", seconds], "the timeout is") for seconds in ("0", "-1", "nan", "inf")),
        (["--splits", "nan", "0", "0"], "sum to 1"),
        (["--unit-scale", "0"], "other than 0"),
        (["--unit-scale", "eegmat=nan"], "other than 0"),
        (["--events", "file", "--tmax", "inf"], "tmax is inf"),
        (["--events", "file", "--event-offset-ms", "nan"], "offset_ms is nan"),
    ],
)
def test_reports_wrong_command_lines(tmp_path, capsys, words, said):
    """Before anything is opened or written, and so once, not once per recording."""
    source = study(tmp_path / "study", 1, 1)
    assert main.main(["prepare", str(source), "--out", str(tmp_path / "out"), "--workers", "0", *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line
    assert [entry.name for entry in tmp_path.iterdir()] == ["study"]
