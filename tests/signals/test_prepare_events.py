"""`dreamjax prepare` around events, and `--list-events`."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from edf_files import write_edf
from recorded import noise
from studies import INLINE, all_windows, study

from dreamjax.cli import main
from dreamjax.errors import UserError
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
