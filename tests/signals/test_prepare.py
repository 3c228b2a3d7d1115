"""`dreamjax prepare` as a whole: what comes out, and what happens under bad luck."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from edf_files import write_edf
from recorded import noise

from dreamjax.cli import main
from dreamjax.errors import UserError
from dreamjax.signals import convert, identity, records, workers
from dreamjax.signals import prepare as prepare_module
from dreamjax.signals.prepare import Options, prepare, prepare_raws
from dreamjax.signals.preprocess import EventWindows, Settings
from dreamjax.storage import manifest

INLINE = Options(workers=0)
FAILING = "failing_tasks:act"


def study(folder: Path, subjects: int = 4, recordings: int = 2, seconds: int = 8) -> Path:
    """A small study of plausible EEG: `subjects` people with `recordings` each."""
    folder.mkdir(parents=True, exist_ok=True)
    for s in range(subjects):
        for r in range(recordings):
            digital = np.rint(noise(8, seconds, seed=10 * s + r) / 0.1)
            write_edf(folder / f"sub-{s:02d}_ses-{r}.edf", digital)
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    result = prepare([study(root / "study")], root / "out", options=INLINE)
    return root / "out", result


def hidden(folder: Path) -> list[str]:
    """Left-overs: names that begin with a dot."""
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


def all_windows(folder: Path) -> dict[str, list[records.Window]]:
    splits = records.load_dataset(folder)["splits"]
    return {split: list(records.read_windows(folder, split)) for split in splits}


# ------------------------------------------------------------------------------------------------------- what comes out
def test_the_folder_holds_shards_description_rejects_and_report(prepared):
    out, result = prepared
    names = {p.name for p in out.iterdir()}
    assert {"dataset.json", "dataset_info.json", "features.json", "rejects.jsonl", "report.html", "report.png"} <= names
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    assert result["windows"] == 8 * 4 == sum(result["splits"].values())
    assert records.verify(out) == []
    assert hidden(out.parent) == []


def test_the_description_is_true(prepared):
    """Hours, subjects, channels, steps, versions and hashes, each against the files themselves."""
    out, _ = prepared
    dataset = json.loads((out / "dataset.json").read_text())
    windows = [w for ws in all_windows(out).values() for w in ws]
    assert dataset["totals"]["hours"] == pytest.approx(len(windows) * 2 / 3600, abs=1e-4)
    assert dataset["totals"]["subjects"] == len({w.subject for w in windows}) == 4
    assert dataset["channels"] == sorted(windows[0].ch_names)
    assert dataset["settings"]["low"] == 0.5
    assert dataset["settings"]["limits"]["plausible_high_uv"] == 100.0
    assert {"dreamjax", "numpy", "scipy", "python"} <= set(dataset["versions"])
    assert all(manifest.file_hash(out / name) == entry["sha256"] for name, entry in dataset["shards"].items())
    hashes = {convert.input_hash(s) for s in _sources(out.parent / "study")}
    assert {entry["sha256"] for entry in dataset["inputs"]} == hashes
    assert dataset["corpora"]["out"]["licences"] == ["unknown"]


def _sources(folder):
    from dreamjax.signals.recordings import find_sources

    return find_sources([folder])


def test_tfds_opens_the_folder(prepared):
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder_from_directory(prepared[0])
    source = builder.as_data_source(split="train")
    assert len(source) == records.load_dataset(prepared[0])["splits"]["train"]
    assert source[0]["signal"].shape == (8, 512)


def test_nobody_is_in_two_splits(prepared):
    people = {split: {w.subject for w in ws} for split, ws in all_windows(prepared[0]).items()}
    assert set(people) == {"train", "val", "test"}
    assert Counter(s for found in people.values() for s in found).most_common(1)[0][1] == 1


def test_two_recordings_of_a_person_share_a_pseudonym_but_not_a_session(prepared):
    seen = {(w.subject, w.session, w.recording) for ws in all_windows(prepared[0]).values() for w in ws}
    assert len(seen) == 8
    assert len({s for s, _, _ in seen}) == 4
    assert len({s for _, s, _ in seen}) == len({r for _, _, r in seen}) == 8


def test_children_and_one_process_write_the_same_bytes(prepared, tmp_path):
    """Two spawned workers, in whatever order they end: the shards equal those of the inline run."""
    out, _ = prepared
    prepare([out.parent / "study"], tmp_path / "out", options=Options(workers=2))
    ours, theirs = (all_windows(f) for f in (out, tmp_path / "out"))
    assert ours.keys() == theirs.keys()
    for split, windows in ours.items():
        for a, b in zip(windows, theirs[split], strict=True):
            assert (a.recording, a.start, a.label) == (b.recording, b.start, b.label)
            np.testing.assert_array_equal(a.signal, b.signal)
    assert hidden(tmp_path) == []


# --------------------------------------------------------------------------------------------------------------- splits
FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}


def test_large_corpora_split_near_their_fractions_and_stay_put():
    """2,000 subjects: each share within 4 standard errors; 500 more change nobody's place."""
    people = [("corpus", f"s{i}") for i in range(2000)]
    splits = identity.assign_splits(people, FRACTIONS)
    counts = Counter(splits.values())
    for split, share in FRACTIONS.items():
        assert abs(counts[split] / 2000 - share) < 4 * np.sqrt(share * (1 - share) / 2000)
    more = identity.assign_splits([*people, *(("corpus", f"t{i}") for i in range(500))], FRACTIONS)
    assert all(more[p] == splits[p] for p in people)


@pytest.mark.parametrize(
    ("n", "expected"), [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (1, 1, 1)), (12, (8, 2, 2)), (19, (13, 3, 3))]
)
def test_small_corpora_have_every_split_from_three_subjects_on(n, expected):
    counts = Counter(identity.assign_splits([("c", str(i)) for i in range(n)], FRACTIONS).values())
    assert tuple(counts[s] for s in ("train", "val", "test")) == expected


def test_three_corpora_of_one_subject_each_have_every_split():
    splits = identity.assign_splits([("a", "1"), ("b", "1"), ("c", "1")], FRACTIONS)
    assert set(splits.values()) == {"train", "val", "test"}


def test_splits_do_not_depend_on_order_or_salt():
    people = [("c", str(i)) for i in range(9)]
    assert identity.assign_splits(people, FRACTIONS) == identity.assign_splits(people[::-1], FRACTIONS)
    assert identity.assign_splits(people, FRACTIONS) != identity.assign_splits(people, FRACTIONS, seed=1)


# ----------------------------------------------------------------------------------------------------- running it again
def test_a_second_run_does_nothing(prepared):
    out, first = prepared
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    again = prepare([out.parent / "study"], out, options=INLINE)
    assert again["already_prepared"]
    assert again["windows"] == first["windows"]
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before


@pytest.mark.parametrize("change", ["settings", "salt", "inputs"])
def test_a_folder_of_another_run_is_refused_in_one_sentence(prepared, tmp_path, change):
    out, _ = prepared
    before = (out / "dataset.json").read_bytes()
    settings = Settings(low=1.0) if change == "settings" else Settings()
    options = Options(workers=0, salt="secret") if change == "salt" else INLINE
    source = study(tmp_path / "study", subjects=1) if change == "inputs" else out.parent / "study"
    with pytest.raises(UserError, match="choose another --out or pass --overwrite"):
        prepare([source], out, settings, options)
    assert (out / "dataset.json").read_bytes() == before


def test_overwriting_replaces_the_folder_whole(tmp_path):
    source = study(tmp_path / "study", subjects=3, recordings=1)
    prepare([source], tmp_path / "out", options=INLINE)
    (tmp_path / "out" / "stray").write_text("x")
    prepare([source], tmp_path / "out", Settings(low=1.0), Options(workers=0, overwrite=True))
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["settings"]["low"] == 1.0
    assert not (tmp_path / "out" / "stray").exists()
    assert hidden(tmp_path) == []


def test_a_folder_of_something_else_is_never_touched(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="no dataset that `dreamjax prepare` wrote"):
        prepare([study(tmp_path / "study", 1, 1)], tmp_path / "out", options=INLINE)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, monkeypatch):
    """Stopped in the third of six recordings: the second run converts four and equals an undisturbed one."""
    source = study(tmp_path / "study", subjects=3)
    real, calls = convert.convert_recording, []

    def counted(recording, *args):
        calls.append(recording.path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(recording, *args)

    monkeypatch.setattr(convert, "convert_recording", counted)
    with pytest.raises(KeyboardInterrupt):
        prepare([source], tmp_path / "out", options=INLINE)
    assert not (tmp_path / "out").exists()
    result = prepare([source], tmp_path / "out", options=INLINE)
    assert result["reused"] == 2
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
    assert result["reused"] == finished
    assert result["recordings"] == 12
    assert hidden(tmp_path) == []


def test_two_runs_into_one_folder_exclude_each_other(tmp_path):
    source = study(tmp_path / "study", 1, 1)
    with prepare_module._working_folder(tmp_path / "out"), pytest.raises(UserError, match="another dreamjax prepare"):
        prepare([source], tmp_path / "out", options=INLINE)


# ------------------------------------------------------------------------------------------------------------- bad luck
def test_a_task_that_crashes_hangs_or_fails_costs_itself_alone():
    tasks = ["a", "segfault", "b", "hang", "exit", "c", "raise", "refuse", "d"]
    outcomes = {o.task: o for o in workers.run(FAILING, tasks, workers=2, timeout_s=3.0)}
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
    assert [tasks[o.task] for o in outcomes.values() if o.crashed] != []


@pytest.mark.parametrize("count", [0, 1])
def test_a_full_disk_ends_the_run(count):
    with pytest.raises(OSError, match="No space left") as problem:
        list(workers.run(FAILING, ["a", "full", "b"], workers=count))
    assert problem.value.errno == errno.ENOSPC


def test_a_full_disk_is_one_sentence_and_leaves_no_dataset(tmp_path, monkeypatch, capsys):
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
    assert "none of the 1 recordings could be converted" in said
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
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence(tmp_path, capsys, words, said):
    source = study(tmp_path / "study", 1, 1)
    assert main.main(["prepare", str(source), "--out", str(tmp_path / "out"), "--workers", "0", *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------------------------------- events
def events_csv(path: Path, onsets, label="house"):
    rows = "".join(f"{t},0.5,{label if i % 2 else 'face'},pic{i}.png\n" for i, t in enumerate(onsets))
    path.write_text("onset,duration,trial_type,stim_file\n" + rows)
    return path


def test_a_table_of_events_locks_windows_and_averages(tmp_path):
    """An evoked half wave of 10 µV after each face shows in that class's average and in no other."""
    onsets = np.arange(1.0, 59.0, 1.5)
    x = noise(8, 60, scale=5.0)
    for i, t in enumerate(onsets):
        if i % 2 == 0:
            first = round(t * 256) + 26
            x[:, first : first + 26] += 10 * np.sin(np.pi * np.arange(26) / 26)
    (tmp_path / "study").mkdir()
    write_edf(tmp_path / "study" / "one.edf", np.rint(x / 0.1))
    table = events_csv(tmp_path / "events.csv", onsets)
    locked = EventWindows(source=str(table), tmin=-0.1, tmax=0.4, baseline=(-0.1, 0.0))
    settings = Settings(samples=128, events=locked, reference="recorded")
    result = prepare([tmp_path / "study"], tmp_path / "out", settings, INLINE)
    dataset = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert dataset["labels"] == ["face", "house"]
    windows = [w for ws in all_windows(tmp_path / "out").values() for w in ws]
    assert Counter(w.label for w in windows) == {"face": 20, "house": 19}
    assert result["windows"] == 39
    assert {w.stimulus for w in windows} == {f"pic{i}.png" for i in range(39)}
    mean = {c: np.mean([w.signal.mean(axis=0) for w in windows if w.label == c], axis=0) for c in ("face", "house")}
    peak = 26 + 26 + 13  # 100 ms baseline, 100 ms delay, half of the half wave
    assert mean["face"][peak] == pytest.approx(10, abs=2.5)  # the high-pass takes a part of a slow wave
    assert abs(mean["house"][peak]) < 2.5
    assert "Average response at" in (tmp_path / "out" / "report.html").read_text()


def test_one_table_does_not_fit_two_recordings(tmp_path):
    source = study(tmp_path / "study", 2, 1)
    table = events_csv(tmp_path / "events.csv", [1.0])
    with pytest.raises(UserError, match="events of one recording"):
        prepare([source], tmp_path / "out", Settings(events=EventWindows(source=str(table))), INLINE)
    for s in range(2):
        events_csv(source / f"sub-{s:02d}_ses-0.csv", [1.0 + s, 4.0])
    settings = Settings(events=EventWindows(source="{stem}.csv"))
    edfs = sorted(source.glob("*.edf"))
    assert prepare(edfs, tmp_path / "out", settings, INLINE)["windows"] == 4


def test_missing_pictures_are_named(tmp_path, capsys):
    source = study(tmp_path / "study", 1, 1)
    table = events_csv(tmp_path / "events.csv", [1.0, 4.0])
    (tmp_path / "pictures").mkdir()
    words = ["--events", str(table), "--stimuli", str(tmp_path / "pictures"), "--workers", "0"]
    assert main.main(["prepare", str(source), "--out", str(tmp_path / "out"), *words]) == 2
    assert "pic0.png, pic1.png" in capsys.readouterr().err


def test_list_events_prints_codes_counts_and_intervals(tmp_path, capsys):
    from edf_files import tal

    tals = [tal(t) + tal(t + 0.25, "T1" if t % 2 else "T2") for t in range(8)]
    write_edf(tmp_path / "a.edf", np.rint(noise(4, 8) / 0.1), plus="C", tals=tals)
    assert main.main(["prepare", "--list-events", str(tmp_path / "a.edf")]) == 0
    printed = capsys.readouterr().out
    assert "8 events in 8 s at 256 Hz" in printed
    assert [line.split()[:2] for line in printed.splitlines() if line.strip().startswith("T")] == [
        ["T1", "4"],
        ["T2", "4"],
    ]
    assert "2 / 2 / 2" in printed


# ------------------------------------------------------------------------------------------------------ Raws, real data
def test_any_iterable_of_raw(tmp_path):
    """Through MNE objects in memory; the split and the pseudonym follow `his_id`."""
    mne = pytest.importorskip("mne")

    def raws():
        for i in range(4):
            info = mne.create_info(["Fp1", "Cz", "O1", "ECG"], 250.0, ["eeg", "eeg", "eeg", "ecg"])
            info["subject_info"] = {"his_id": f"Mustermann{i // 2}"}
            yield mne.io.RawArray(noise(4, 10, 250.0, seed=i) * 1e-6, info, verbose="error")

    result = prepare_raws(raws(), tmp_path / "out", Settings(reference="recorded"), Options(dataset="mine"))
    windows = [w for ws in all_windows(tmp_path / "out").values() for w in ws]
    assert result["recordings"] == 4
    assert len({w.subject for w in windows}) == 2
    assert {w.ch_names for w in windows} == {("Fp1", "Cz", "O1")}
    assert 5 < np.std([w.signal for w in windows]) < 15
    with pytest.raises(UserError, match="exists"):
        prepare_raws(raws(), tmp_path / "out", Settings(reference="recorded"))


def test_real_recordings(real_eeg, tmp_path):
    """Two subjects of eegmat: 19 of 21 channels, 45 Hz band of the header, average reference, no padded tail."""
    files = sorted((real_eeg / "eegmat").glob("Subject0[01]_2.edf"))
    result = prepare(files, tmp_path / "out", options=INLINE)
    assert result["recordings"] == 2
    windows = [w for ws in all_windows(tmp_path / "out").values() for w in ws]
    assert {len(w.ch_names) for w in windows} == {19}
    assert {w.reference for w in windows} == {"average"}
    assert {w.label for w in windows} == {"arithmetic"}
    assert max(w.start for w in windows) < 60
    assert 1 < np.median([w.signal.std() for w in windows]) < 100
    assert result["speed"]["real_time_per_core"] > 50  # a loaded machine; the figure is in docs/guides/prepare.md


def test_the_real_files_whose_units_are_wrong_are_refused(real_eeg, tmp_path):
    """EGI, eximia and asalab: the tool must say so, not rescale."""
    folder = real_eeg / "formats" / "mne-testing-data"
    files = [folder / "EGI" / "test_egi_multiepoch_eprime.mff", folder / "eximia" / "test_eximia.nxe"]
    good = real_eeg / "eegmat" / "Subject00_2.edf"
    result = prepare([*files, good], tmp_path / "out", options=INLINE)
    assert [Path(f["path"]).suffix for f in result["failed"]] == [".mff", ".nxe"]
    assert all("implausible amplitude" in f["reason"] for f in result["failed"])


# -------------------------------------------------------------------------------------------------------- object stores
def test_a_dataset_in_an_object_store_is_committed_by_its_description(tmp_path, monkeypatch, object_store):
    """`s3://` held in memory, where nothing can be renamed: dataset.json is the last object that is written."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    source = study(tmp_path / "study", 3, 1)
    result = prepare([source], "s3://bucket/out", options=INLINE)
    import fsspec

    written = fsspec.get_filesystem_class("s3").store
    assert list(written)[-1].endswith("/out/dataset.json")
    assert len(records.read_windows("s3://bucket/out", "train")) == result["splits"]["train"]
    assert prepare([source], "s3://bucket/out", options=INLINE)["already_prepared"]
    assert not list(tmp_path.glob("dreamjax-prepare-*/*"))
