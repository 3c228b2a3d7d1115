"""Odd recordings: events that are listed twice, sidecars that contradict an array, tables in other languages."""

import json

import numpy as np
import pytest
from edf_files import tal, write_edf
from recorded import noise
from studies import INLINE
from xdf_files import SITES, header, samples, signal_chunks, write_xdf

from dreamjax.errors import UserError
from dreamjax.signals.datasets import records
from dreamjax.signals.preparation.prepare import prepare
from dreamjax.signals.preparation.window_settings import EventWindows, WindowSettings
from dreamjax.signals.recordings.events import with_event_table
from dreamjax.signals.recordings.opening import open_recording


def test_an_event_that_is_listed_twice_makes_one_window(tmp_path):
    """As files have them that were merged or exported twice; another code at the same sample stays."""
    twice = [tal(t) + tal(t + 0.25, "T1") + tal(t + 0.25, "T1") + tal(t + 0.25, "T2") for t in range(6)]
    path = write_edf(tmp_path / "a.edf", np.rint(noise(4, 6) / 0.1), plus="C", tals=twice)
    recording = open_recording(path)
    assert [event.code for event in recording.events] == ["T1", "T2"] * 6
    assert "6 events left out: listed before at the same sample" in recording.notes
    result = prepare([path], tmp_path / "out", WindowSettings(samples=128, events=EventWindows("file")), INLINE)
    assert result.windows == 12
    assert records.load_dataset(tmp_path / "out")["labels"] == ["T1", "T2"]
    (tmp_path / "mine.csv").write_text("onset,trial_type\n1,a\n1,a\n2,a\n1,b\n")
    recording = with_event_table(recording, tmp_path / "mine.csv")
    assert [(event.sample, event.code) for event in recording.events] == [(256, "a"), (256, "b"), (512, "a")]
    assert "1 event left out: listed before at the same sample" in recording.notes


def test_says_how_to_turn_an_array_whose_other_axis_has_the_channels(tmp_path):
    np.save(tmp_path / "a.npy", noise(2, 4).T)
    (tmp_path / "a.json").write_text(json.dumps({"sfreq": 256, "ch_names": ["Fz", "Cz"]}))
    with pytest.raises(UserError, match=r"shape \(1024, 2\) .* other axis, add \"axes\": \"time channels\""):
        open_recording(tmp_path / "a.npy")
    (tmp_path / "a.json").write_text(json.dumps({"sfreq": 256, "ch_names": ["Fz", "Cz"], "axes": "time channels"}))
    np.testing.assert_allclose(open_recording(tmp_path / "a.npy").read(0, 1024), noise(2, 4))


def test_a_table_in_another_language_has_its_time_and_units(tmp_path):
    x, stamps = noise(3, 4), np.arange(1024) / 256
    rows = [[stamps[i], x[0, i] / 1e3, x[1, i], x[2, i]] for i in range(1024)]
    text = "\n".join(";".join(f"{value:.7f}".replace(".", ",") for value in row) for row in rows)
    (tmp_path / "a.csv").write_text(f"Zeit [s];Fp1 [mV];Cz [\u00b5V];Oz [uV]\n{text}", encoding="utf-8")
    recording = open_recording(tmp_path / "a.csv")
    assert (recording.ch_names, recording.sfreq) == (("Fp1", "Cz", "Oz"), 256.0)
    np.testing.assert_allclose(recording.read(0, 1024), x, atol=1e-3)


def test_a_constant_channel_next_to_an_empty_one_is_named(tmp_path):
    signal = noise(4, 8)
    signal[1], signal[2] = np.nan, 37.0
    np.save(tmp_path / "a.npy", signal)
    (tmp_path / "a.json").write_text(json.dumps({"sfreq": 256, "ch_names": ["Fz", "Cz", "Pz", "Oz"]}))
    notes = [entry["note"] for entry in prepare([tmp_path / "a.npy"], tmp_path / "out", options=INLINE).notes]
    assert notes == ["1 channel without a finite sample: Cz", "1 channel stuck at one value: Pz"]


@pytest.mark.parametrize("rate", [0, -250])
def test_uses_the_measured_rate_of_a_stream_that_states_none_or_a_negative_one(tmp_path, rate):
    signal, stamps = noise(6, 8, 250.0).T, 500 + np.arange(2000) / 250
    marks = [samples(2, [("S 1",)], [at], "string") for at in (501.0, 501.0, 503.0)]
    chunks = [header(1, "EEG", "float32", 6, rate, SITES), header(2, "Markers", "string", 1, 0)]
    recording = open_recording(write_xdf(tmp_path / "a.xdf", *chunks, *signal_chunks(1, signal, stamps), *marks))
    assert recording.sfreq == 250.0
    assert [event.sample for event in recording.events] == [250, 750]
    np.testing.assert_allclose(recording.read(0, 2000), signal.T, atol=1e-4)
