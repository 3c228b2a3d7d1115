"""`dreamjax prepare` run a second time: over a finished folder, after an interruption, beside itself."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edf_files import tal, write_edf
from recorded import noise
from studies import INLINE, all_windows, hidden, study

from dreamjax.errors import TryAgain, UserError
from dreamjax.signals.datasets import records
from dreamjax.signals.preparation import convert, dataset_folder, quality_report
from dreamjax.signals.preparation.prepare import PrepareOptions, prepare
from dreamjax.signals.preparation.quality import EegLimits
from dreamjax.signals.preparation.window_settings import EventWindows, WindowSettings
from dreamjax.signals.recordings.electrodes import Electrodes
from dreamjax.signals.recordings.identity import SplitRequest
from dreamjax.storage import locks
from tests.support import held_elsewhere


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    result = prepare([study(root / "study")], root / "out", options=INLINE)
    return root / "out", result


def test_a_second_run_does_nothing(prepared):
    out, first = prepared
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    again = prepare([out.parent / "study"], out, options=INLINE)
    assert again.already_prepared
    assert again.windows == first.windows
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before


@pytest.mark.parametrize("change", ["settings", "salt", "inputs"])
def test_rejects_folder_of_another_run(prepared, tmp_path, change):
    out, _ = prepared
    before = (out / "dataset.json").read_bytes()
    settings = WindowSettings(low=1.0) if change == "settings" else WindowSettings()
    options = PrepareOptions(workers=0, salt="secret") if change == "salt" else INLINE
    source = study(tmp_path / "study", subjects=1) if change == "inputs" else out.parent / "study"
    with pytest.raises(UserError, match="choose another --out or pass --overwrite"):
        prepare([source], out, settings, options)
    assert (out / "dataset.json").read_bytes() == before


def as_written_before(out: Path, line_ratio: float = 25.0) -> None:
    """Give a dataset the form of the version before this one (e69c665), as a run of it wrote dataset.json."""
    dataset = records.load_dataset(out)
    for name in ("rules", "choices", "copies", "recordings_of_unknown_subjects"):
        del dataset[name]
    dataset["inputs"] = [{k: v for k, v in e.items() if k not in ("tables", "subject_from")} for e in dataset["inputs"]]
    dataset["settings"]["limits"]["line_ratio"] = line_ratio
    dataset["settings_hash"] = {25.0: "65da1b217d207a28", 1.0: "f9558ccc6b641e0c"}[
        line_ratio
    ]  # as that version wrote them
    (out / "dataset.json").write_text(json.dumps(dataset, indent=1))
    parts = [json.loads(line) for line in (out / "parts.jsonl").read_text().splitlines()]
    later = ("sealed", "tables", "free_labels", "sketch")
    lines = [json.dumps({k: v for k, v in part.items() if k not in later}) for part in parts]
    (out / "parts.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_refuses_a_dataset_of_another_kind(prepared, tmp_path):
    out, _ = prepared
    shutil.copytree(out, tmp_path / "out")
    dataset = records.load_dataset(out)
    del dataset["unit_scales"]  # one of trials has none
    (tmp_path / "out" / "dataset.json").write_text(json.dumps(dataset | {"settings_hash": "of trials"}))
    with pytest.raises(UserError, match="is a dataset of another kind; choose another --out"):
        prepare([out.parent / "study"], tmp_path / "out", options=INLINE)


def test_names_the_limit_that_differs_from_an_earlier_version(prepared, tmp_path):
    out, _ = prepared
    shutil.copytree(out, tmp_path / "out")
    as_written_before(tmp_path / "out")
    expected = r"with other settings: --line-ratio 25 \(now 1\) \(an earlier version wrote it: .*; pass the earlier s"
    with pytest.raises(UserError, match=expected):
        prepare([out.parent / "study"], tmp_path / "out", options=INLINE)


def test_a_dataset_of_an_earlier_version_stays_or_is_converted_again_whole(tmp_path, said):
    """With equal settings it counts as prepared; with one more recording no window of the earlier rules is kept."""
    source, settings = study(tmp_path / "study", 2, 1), WindowSettings(limits=EegLimits(line_ratio=25.0))
    prepare([source], tmp_path / "out", settings, INLINE)
    as_written_before(tmp_path / "out")
    assert prepare([source], tmp_path / "out", settings, INLINE).already_prepared
    assert "an earlier version wrote it, and its windows stay as they are" in said()
    study(source, 3, 1)
    grown = prepare([source], tmp_path / "out", settings, INLINE)
    assert (grown.already_prepared, grown.recordings, grown.reused) == (False, 3, 0)
    assert "an earlier version wrote it, so all of its recordings are converted again" in said()
    assert prepare([source], tmp_path / "out", settings, INLINE).already_prepared


@pytest.mark.parametrize(
    ("settings", "options", "difference"),
    [
        (WindowSettings(low=1.0, high=None), INLINE, "--low 0.5 (now 1), --high 75 (now none)"),
        (WindowSettings(events=EventWindows("file", ("1", "2"))), INLINE,
         "--events none (now file), --event-codes none (now 1 2)"),
        (None, replace(INLINE, unit_scales={"": 2.0}), "--unit-scale none (now 2)"),
        (None, replace(INLINE, splits=SplitRequest(seed=3)), "--split-seed 0 (now 3)"),
        (None, replace(INLINE, splits=SplitRequest(fractions={"train": 1, "val": 0, "test": 0})),
         "--splits 0.7 0.15 0.15 (now 1 0 0)"),
        (None, replace(INLINE, strict=True), "another --strict"),
        (None, replace(INLINE, electrodes=Electrodes(("Fp1=Fpz",))), "another --channels"),
        (None, replace(INLINE, electrodes=Electrodes((), "standard_1020")), "another --montage"),
        (None, replace(INLINE, salt="secret"), "another --salt"),
    ],
)  # fmt: skip
def test_names_every_setting_that_differs(prepared, settings, options, difference):
    out, _ = prepared
    with pytest.raises(
        UserError, match=re.escape(f"with other settings: {difference}; pass the earlier settings, choose")
    ):
        prepare([out.parent / "study"], out, settings, options)


def test_overwriting_replaces_the_folder_whole(tmp_path):
    source = study(tmp_path / "study", subjects=3, recordings=1)
    prepare([source], tmp_path / "out", options=INLINE)
    (tmp_path / "out" / "stray").write_text("x")
    prepare([source], tmp_path / "out", WindowSettings(low=1.0), PrepareOptions(workers=0, overwrite=True))
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["settings"]["low"] == 1.0
    assert not (tmp_path / "out" / "stray").exists()
    assert hidden(tmp_path) == []


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("*.array_record-*")}


def test_recordings_added_to_a_finished_dataset_are_the_only_ones_converted(tmp_path, monkeypatch):
    """Three persons, then six and a file that had been broken: shards equal, byte for byte, those made at once."""
    source, late = study(tmp_path / "study", subjects=3), tmp_path / "late"
    broken = source / "sub-09_ses-0.edf"
    broken.write_bytes(b"0       ")
    tables = {"settings": WindowSettings(samples=128, stride=300), "options": INLINE}
    assert prepare([source], tmp_path / "out", **tables).recordings_left_out == 1
    for path in study(late, subjects=6).iterdir():
        if not (source / path.name).exists():
            path.rename(source / path.name)
    broken.write_bytes((late / "sub-00_ses-0.edf").read_bytes()[:-4096])
    real, calls = convert.convert_recording, []
    monkeypatch.setattr(convert, "convert_recording", lambda rec, *args: calls.append(rec.path) or real(rec, *args))
    result = prepare([source], tmp_path / "out", **tables)
    assert sorted(Path(c).name[:6] for c in calls) == ["sub-03"] * 2 + ["sub-04"] * 2 + ["sub-05"] * 2 + ["sub-09"]
    assert (result.reused, result.recordings, result.recordings_left_out) == (6, 13, 0)
    prepare([source], tmp_path / "at_once" / "out", **tables)
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "at_once" / "out") != {}
    assert (tmp_path / "out" / "parts.jsonl").read_bytes() == (tmp_path / "at_once/out/parts.jsonl").read_bytes()
    assert hidden(tmp_path) == []
    assert prepare([source], tmp_path / "out", **tables).already_prepared


def test_a_damaged_dataset_is_not_taken_over(tmp_path, monkeypatch):
    source = study(tmp_path / "study", subjects=3, recordings=1)
    prepare([source], tmp_path / "out", options=INLINE)
    shard = next((tmp_path / "out").glob("*.array_record-*"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    study(source, subjects=4, recordings=1)
    assert prepare([source], tmp_path / "out", options=INLINE).reused == 0
    assert records.verify(tmp_path / "out") == []


def test_averages_survive_an_addition(tmp_path, monkeypatch):
    """The report's averages of recordings that were taken over, from their windows."""
    for s in range(2):
        digital = np.rint(noise(8, 20, seed=s) / 0.1)
        tals = [tal(t) + tal(t + 0.5, "T1") for t in range(20)]
        write_edf(tmp_path / f"sub-{s}.edf", digital, plus="C", tals=tals)
    settings = WindowSettings(samples=128, reference="recorded", events=EventWindows(source="file"))
    prepare([tmp_path / "sub-0.edf"], tmp_path / "out", settings, INLINE)
    real, kept = quality_report.average_response, []
    monkeypatch.setattr(quality_report, "average_response", lambda *args: kept.append(real(*args)) or kept[-1])
    both = [tmp_path / "sub-0.edf", tmp_path / "sub-1.edf"]
    assert prepare(both, tmp_path / "out", settings, INLINE).reused == 1
    prepare(both, tmp_path / "at_once", settings, PrepareOptions(workers=0, name="out"))
    half = len(kept) // 2
    for grown, at_once in zip(kept[:half], kept[half:], strict=True):
        assert grown["T1"][0] == at_once["T1"][0] == 40
        np.testing.assert_allclose(grown["T1"][1], at_once["T1"][1], atol=1e-2)


def test_a_folder_of_something_else_is_never_touched(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not a dataset that `dreamjax prepare` wrote"):
        prepare([study(tmp_path / "study", 1, 1)], tmp_path / "out", options=INLINE)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, monkeypatch):
    """Stopped in the third of six recordings: the second run converts four and equals an undisturbed one."""
    source = study(tmp_path / "study", subjects=3)
    real, calls = convert.convert_recording, []

    def counted(recording, *args):
        calls.append(recording.path)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGTERM)
        return real(recording, *args)

    monkeypatch.setattr(convert, "convert_recording", counted)
    with pytest.raises(TryAgain, match="stopped while recordings were being converted; start the same command again"):
        prepare([source], tmp_path / "out", options=INLINE)
    assert not (tmp_path / "out").exists()
    result = prepare([source], tmp_path / "out", options=INLINE)
    assert result.reused == 2
    assert len(calls) == 3 + 4
    monkeypatch.setattr(convert, "convert_recording", real)
    prepare([source], tmp_path / "undisturbed", options=INLINE)
    for split, windows in all_windows(tmp_path / "undisturbed").items():
        for a, b in zip(windows, records.read_windows(tmp_path / "out", split), strict=True):
            np.testing.assert_array_equal(a.signal, b.signal)
            assert a.recording == b.recording


def test_a_killed_run_leaves_no_half_dataset_and_resumes(tmp_path):
    """SIGKILL to the whole process group as soon as the first part is there."""
    source = study(tmp_path / "study", subjects=6, recordings=2, seconds=60)
    command = [
        sys.executable,
        "-m",
        "dreamjax",
        "prepare",
        str(source),
        "--out",
        str(tmp_path / "out"),
        "--workers",
        "1",
    ]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".out.parts/*/summary.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out").exists()
    finished = len(list(tmp_path.glob(".out.parts/*/summary.json")))
    assert finished >= 1
    result = prepare([source], tmp_path / "out", options=INLINE)
    assert result.reused == finished
    assert result.recordings == 12
    assert hidden(tmp_path) == []


def test_subjects_named_later_are_not_already_prepared(tmp_path):
    """The recordings are the same, and the splits must not be: the first run knew no subjects."""
    study(tmp_path / "study", subjects=3, recordings=1)
    for i, file in enumerate(sorted((tmp_path / "study").rglob("*.edf"))):
        (tmp_path / "plain").mkdir(exist_ok=True)
        file.rename(tmp_path / "plain" / f"rec{i}.edf")
    first = prepare([tmp_path / "plain"], tmp_path / "out", options=INLINE)
    assert first.recordings_of_unknown_subjects == first.recordings == 3
    named = replace(INLINE, subject_pattern=r"rec(\d)")
    second = prepare([tmp_path / "plain"], tmp_path / "out", options=named)
    assert not second.already_prepared
    assert second.subjects == 3
    assert prepare([tmp_path / "plain"], tmp_path / "out", options=named).already_prepared


def test_two_runs_into_one_folder_exclude_each_other(tmp_path):
    source = study(tmp_path / "study", 1, 1)
    with (
        held_elsewhere(tmp_path / ".out.lock"),
        pytest.raises(locks.Busy, match=r"out is in use by another process"),
    ):
        prepare([source], tmp_path / "out", options=INLINE)


def test_a_dataset_whose_replacement_was_killed_gets_its_name_back(prepared, tmp_path):
    """`prepare` was killed between the two renames: the next command of any kind has the whole folder."""
    out, first = prepared
    shutil.copytree(out, tmp_path / ".out.old")
    assert len(records.read_windows(tmp_path / "out", "train")) == first.splits["train"]
    shutil.move(tmp_path / "out", tmp_path / ".out.new")
    assert prepare([out.parent / "study"], tmp_path / "out", options=INLINE).already_prepared
    assert hidden(tmp_path) == []


def test_a_second_run_sees_what_the_first_one_wrote_while_it_waited(tmp_path, monkeypatch):
    """It found no dataset, and got the lock when the first one had ended: it must not replace the dataset."""
    source = study(tmp_path / "study", 1, 1)
    lock = dataset_folder.parts_folder

    def first_ends(final, local):
        monkeypatch.setattr(dataset_folder, "parts_folder", lock)
        prepare([source], tmp_path / "out", WindowSettings(low=2.0), INLINE)
        return lock(final, local)

    monkeypatch.setattr(dataset_folder, "parts_folder", first_ends)
    with pytest.raises(UserError, match="with other settings"):
        prepare([source], tmp_path / "out", options=INLINE)
    assert records.load_dataset(tmp_path / "out")["settings"]["low"] == 2.0


def test_overwriting_never_deletes_what_is_not_its_own(tmp_path):
    """A folder with other files, and one that is or holds an input: refused, and nothing is touched."""
    source = study(tmp_path / "study", subjects=1, recordings=1)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    again = PrepareOptions(workers=0, overwrite=True)
    for out in (mine, source, source.parent):
        with pytest.raises(UserError, match="not a dataset that `dreamjax prepare` wrote, so --overwrite does not"):
            prepare([source], out, options=again)
    prepare([source], tmp_path / "out", options=INLINE)
    inside = shutil.copytree(source, tmp_path / "out" / "study")
    with pytest.raises(UserError, match=r"holds the input .*, which --overwrite would delete"):
        prepare([inside], tmp_path / "out", options=again)
    assert (mine / "thesis.txt").read_text() == "years of work"
    assert sorted(p.name for p in inside.rglob("*") if p.is_file()) == sorted(
        p.name for p in source.rglob("*") if p.is_file()
    )
