"""`dreamjax prepare` around events, and `--list-events`."""

import io
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from edf_files import tal, write_edf
from planted import everything_written
from recorded import noise
from studies import INLINE, all_windows, study

from dreamjax.cli import main
from dreamjax.errors import UserError
from dreamjax.signals.preparation import workers
from dreamjax.signals.preparation.prepare import prepare
from dreamjax.signals.preparation.window_settings import EventWindows, WindowSettings


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
    settings = WindowSettings(samples=128, events=locked, reference="recorded")
    result = prepare([tmp_path / "study"], tmp_path / "out", settings, INLINE)
    dataset = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert dataset["labels"] == ["face", "house"]
    windows = [w for ws in all_windows(tmp_path / "out").values() for w in ws]
    assert Counter(w.label for w in windows) == {"face": 20, "house": 19}
    assert result.windows == 39
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
        prepare([source], tmp_path / "out", WindowSettings(events=EventWindows(source=str(table))), INLINE)
    for s in range(2):
        events_csv(source / f"sub-{s:02d}_ses-0.csv", [1.0 + s, 4.0])
    settings = WindowSettings(events=EventWindows(source="{stem}.csv"))
    edfs = sorted(source.glob("*.edf"))
    assert prepare(edfs, tmp_path / "out", settings, INLINE).windows == 4


def test_missing_images_are_named(tmp_path, capsys):
    source = study(tmp_path / "study", 1, 1)
    table = events_csv(tmp_path / "events.csv", [1.0, 4.0])
    (tmp_path / "images").mkdir()
    words = ["--events", str(table), "--stimuli", str(tmp_path / "images"), "--workers", "0"]
    assert main.main(["prepare", str(source), "--out", str(tmp_path / "out"), *words]) == 2
    assert "pic0.png, pic1.png" in capsys.readouterr().err


def test_list_events_prints_codes_counts_and_intervals(tmp_path, capsys):
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


def worded(folder: Path) -> Path:
    """An EDF and a BrainVision recording with codes, words and names as annotations, each of which occurs twice."""
    from test_privacy import planted_brainvision

    folder.mkdir()
    words = ["ZqxAnna", "T1", "eyes open", "ZqxAnna", "T1", "eyes open", "ZqxMueller", "ZqxMueller"]
    tals = [tal(t) + tal(t + 0.25, word) for t, word in enumerate(words)]
    write_edf(folder / "ZqxAnna_ZqxMueller.edf", np.rint(noise(4, 8) / 0.1), plus="C", tals=tals)
    header = planted_brainvision(folder)
    markers = "".join(f"Mk{i}=Comment,ZqxTwice,{200 * i},1,0\n" for i in (4, 5))
    text = header.with_suffix(".vmrk").read_text(encoding="utf-8").split("Mk3=")[0]
    header.with_suffix(".vmrk").write_text(text + markers, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ([], ["Stimulus/S1", "T1"]),
        (["--event-codes", "T1", "eyes open"], ["T1", "eyes open"]),
        (["--keep-labels"], ["Comment/ZqxTwice", "Stimulus/S1", "T1", "ZqxAnna", "ZqxMueller", "eyes open"]),
    ],
)
def test_free_text_becomes_a_label_only_on_request(tmp_path, capsys, options, labels):
    pytest.importorskip("mne")
    source, out = worded(tmp_path / "in"), tmp_path / "out"
    words = ["prepare", str(source), "--out", str(out), "--workers", "0", "--samples", "64", "--events", "file"]
    assert main.main([*words, *options]) == 0
    printed = capsys.readouterr().err
    dataset = json.loads((out / "dataset.json").read_text())
    assert dataset["labels"] == labels
    assert {w.label for ws in all_windows(out).values() for w in ws} == set(labels)
    if "--keep-labels" in options:
        assert "stored as labels, as --keep-labels asks: 'Comment/ZqxTwice', 'ZqxAnna', 'ZqxMueller', 'eyes" in printed
    else:
        assert not [p for p, content in everything_written(out).items() if b"Zqx" in content]
        assert "Zqx" not in printed.replace("ZqxAnna_ZqxMueller.edf", "")
    if not options:
        notes = [note for entry in dataset["inputs"] for note in entry["notes"]]
        assert {"6 free-text annotations dropped", "2 free-text annotations dropped"} <= set(notes)


def test_list_events_offers_free_text_apart_from_codes(tmp_path, capsys):
    pytest.importorskip("mne")
    assert main.main(["prepare", "--list-events", str(worded(tmp_path / "in"))]) == 0
    printed = capsys.readouterr().out
    assert "--keep-labels: 'ZqxAnna' (2), 'eyes open' (2), 'ZqxMueller' (2)\n" in printed
    assert [line.split()[0] for line in printed.splitlines() if line.startswith("  T1")] == ["T1"]


def test_says_what_to_do_where_all_annotations_are_words(tmp_path, capsys):
    path = write_edf(
        tmp_path / "a.edf", np.rint(noise(4, 8) / 0.1), plus="C", tals=[tal(t) + tal(t, "go") for t in range(8)]
    )
    words = ["prepare", str(path), "--out", str(tmp_path / "out"), "--workers", "0", "--events"]
    assert main.main([*words, "file", "--tmax", "0.4"]) == 2
    assert "its annotations are free text: name the ones to use in --event-codes" in capsys.readouterr().err
    (tmp_path / "e.csv").write_text("onset,trial_type\n1,go\n")
    assert main.main([*words, str(tmp_path / "e.csv"), "--keep-labels"]) == 2
    assert "--keep-labels would have no effect with a table of events" in capsys.readouterr().err


@pytest.fixture
def in_this_process(monkeypatch):
    """Workers that are this process: starting another takes two seconds."""
    run = workers.run
    monkeypatch.setattr(workers, "run", lambda function, tasks, **how: run(function, tasks, workers=0))


def test_list_events_ends_with_an_error_where_nothing_opens(tmp_path, capsys, in_this_process):
    for name in "ab":
        (tmp_path / f"{name}.edf").write_bytes(b"0       " + b"x" * 300)
    assert main.main(["prepare", "--list-events", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count(str(tmp_path / "a.edf")) == 1
    write_edf(tmp_path / "c.edf", np.rint(noise(4, 8) / 0.1))
    assert main.main(["prepare", "--list-events", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count(str(tmp_path / "a.edf")) == 1
    assert "c.edf: 0 events in 8 s" in printed


def test_a_terminal_that_cannot_show_a_letter_gets_its_number(tmp_path, monkeypatch, in_this_process):
    write_edf(tmp_path / "a.edf", np.rint(noise(4, 8) / 0.1), unit="furlong")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main.main(["prepare", "--list-events", str(tmp_path / "a.edf")]) == 0
    assert b"unit 'furlong' read as \\xb5V" in terminal.buffer.getvalue()
