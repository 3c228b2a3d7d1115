"""What `prepare` leaves out is counted the same everywhere, and notes of readers reach the terminal."""

import json
import re

import numpy as np
import pytest
from edf_files import write_edf
from recorded import TEN_TWENTY, noise

from dreamjax.cli import main
from dreamjax.cli.prepare_verb import render
from dreamjax.signals.preparation import prepare as preparation

pytest.importorskip("matplotlib")


def run(capsys, *words):
    """(what --json prints, lines of the terminal) of one `dreamjax prepare`."""
    assert main.main(["prepare", *map(str, words), "--workers", "0", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    return result, render(preparation.PreparedDataset(**result)).splitlines()


def test_rejected_windows_are_counted_alike_everywhere(tmp_path, capsys):
    """Events 0.2 s before the end and one in a flat stretch: two kinds of reject, of which one was never judged."""
    x = noise(8, 20)
    x[:, 10 * 256 : 12 * 256] = 0.0
    write_edf(tmp_path / "sub-01.edf", np.rint(x / 0.1))
    (tmp_path / "events.csv").write_text(
        "onset,duration,trial_type\n" + "".join(f"{t},0,a\n" for t in (2, 5, 10.5, 19.8))
    )
    words = [tmp_path / "sub-01.edf", "--out", tmp_path / "out", "--events", tmp_path / "events.csv", "--tmax", "1"]
    result, lines = run(capsys, *words, "--samples", "256")
    listed = [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").read_text().splitlines()]
    assert sorted(entry["reason"].split(" (")[0] for entry in listed)[-1] == "the event's window crosses an edge"
    counted = sum(entry["windows"] for entry in listed if not entry["whole"])
    assert (result["windows"], result["windows_rejected"], counted) == (2, 2, 2)
    assert any(line.startswith("2 windows rejected, 0 recordings left out") for line in lines)
    dataset = json.loads((tmp_path / "out/dataset.json").read_text())
    assert dataset["totals"]["windows_rejected"] == 2
    page = re.sub(r"<[^>]+>", " ", (tmp_path / "out/report.html").read_text())
    assert "2/4" in page
    assert re.search(r"50\.0 %\s+of windows rejected", page)


def test_notes_of_readers_are_printed_with_the_recording(tmp_path, capsys):
    rows = [",".join(map(str, row)) for row in np.column_stack((np.arange(5120) / 256, noise(19, 20).T)).round(4)]
    rows[3] += ",7"
    (tmp_path / "sub-01.csv").write_text("\n".join([",".join(["time", *TEN_TWENTY]), *rows]))
    result, lines = run(capsys, tmp_path / "sub-01.csv", "--out", tmp_path / "out")
    note = "1 rows do not have 20 fields: missing samples"
    assert {"path": str(tmp_path / "sub-01.csv"), "note": note} in result["notes"]
    assert f"note: {tmp_path / 'sub-01.csv'}: {note}" in lines


def test_a_note_of_many_recordings_is_one_line():
    notes = [{"path": f"{i}.edf", "note": f"{i + 1} channels at another sampling rate left out"} for i in range(9)]
    fields = dict.fromkeys(("recordings", "hours", "windows", "windows_rejected", "subjects"), 0)
    result = preparation.PreparedDataset(
        out="x", already_prepared=False, splits={}, notes=notes, speed={"real_time_per_core": None}, **fields
    )
    lines = [line for line in render(result).splitlines() if line.startswith("note: ")]
    assert lines == ["note: 0.edf: 1 channels at another sampling rate left out (similar in 8 other recordings, see "
                     "report.html)"]  # fmt: skip
