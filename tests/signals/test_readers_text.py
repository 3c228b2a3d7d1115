"""Tables of headsets, their clocks, UCI trials cut short, NumPy arrays with sidecars."""

import gzip
import json
import time
import zipfile
from datetime import datetime, timedelta

import numpy as np
import pytest

from dreamjax.errors import UserError
from dreamjax.signals.recordings.opening import find_sources, open_recording, survey
from dreamjax.signals.recordings.readers.tables import counter_spans, dejitter


def bursts(n=256 * 60, rate=256.0, lost=(), seed=0):
    """Stamps of packets of 12 samples, each held back by up to 20 ms, at 1 ms resolution; `lost`: {sample: s}."""
    rng = np.random.default_rng(seed)
    true = np.arange(n) / rate
    for at, seconds in dict(lost).items():
        true[at:] += seconds
    late = np.repeat(rng.uniform(0, 0.020, n // 12 + 1), 12)[:n]
    return np.round(true + late, 3)


def test_bursts_are_not_gaps():
    sfreq, spans, notes = dejitter(bursts(), 256.0)
    assert sfreq == 256.0
    assert spans == [(0, 256 * 60)]
    assert "dejittered" in notes[0]


@pytest.mark.parametrize("seconds", [12 / 256, 0.1, 0.4, 2.0, 30.0])
def test_a_lost_packet_is_a_discontinuity(seconds):
    """12 samples (one packet, 47 ms) to 30 s lost at sample 7000: one cut, within a packet of the place."""
    _, spans, _ = dejitter(bursts(lost={7000: seconds}), 256.0)
    assert len(spans) == 2
    assert abs(spans[0][1] - 7000) <= 12


def test_an_unknown_rate_is_measured():
    """200 Hz where 256 was expected: the slope says so, to 1e-4."""
    sfreq, _, _ = dejitter(bursts(rate=200.0), 256.0)
    assert sfreq == pytest.approx(200.0, rel=1e-4)


def test_two_gaps_do_not_bend_the_rate():
    sfreq, spans, _ = dejitter(bursts(lost={5000: 3.0, 9000: 1.0}), None)
    assert len(spans) == 3
    assert sfreq == pytest.approx(256.0, rel=1e-3)


@pytest.mark.parametrize("stamps", [[1.0], [2.0, 1.0], [0.0, np.nan, 1.0]])
def test_time_stamps_that_are_not_a_clock(stamps):
    with pytest.raises(ValueError, match="do not run forwards"):
        dejitter(np.array(stamps))


def test_a_wrapping_counter_and_its_gaps():
    counter = np.arange(1000) % 256
    assert counter_spans(counter.astype(float)) == [(0, 1000)]
    assert counter_spans(np.delete(counter, slice(300, 310)).astype(float)) == [(0, 300), (300, 990)]


def test_real_muse_files_are_dejittered_and_say_so(real_eeg):
    files = sorted((real_eeg / "muse").rglob("*.csv"))
    assert len(files) == 7
    for path in files:
        recording = open_recording(path)
        assert recording.sfreq == 256.0
        assert recording.segments == ((0, recording.n_samples),)
        assert any("clock dejittered" in note for note in recording.notes)
        assert recording.ch_names[:4] == ("TP9", "AF7", "AF8", "TP10")


def test_muse_rows_and_markers_come_back(tmp_path):
    stamps = bursts(2560)
    values = np.round(np.random.default_rng(1).normal(size=(2560, 4)) * 30, 3)
    marker = np.zeros(2560, int)
    marker[[300, 900]] = [1, 2]
    rows = [f"{t:.3f}," + ",".join(map(str, v)) + f",{m}" for t, v, m in zip(stamps, values, marker, strict=True)]
    path = tmp_path / "data.csv"
    path.write_text("\n".join(["timestamps,TP9,AF7,AF8,TP10,Marker0", *rows]) + "\n")
    recording = open_recording(path)
    np.testing.assert_allclose(recording.read(0, 2560), values.T, atol=1e-4)
    assert [(e.sample, e.code) for e in recording.events] == [(300, "1"), (900, "2")]
    path.write_text("\n".join(["timestamps,TP9,AF7,AF8,TP10,Marker0", *rows[:50], "1.0,oops,2,3,4,0"]) + "\n")
    with pytest.raises(UserError, match="not a row of numbers"):
        open_recording(path)
    path.write_text("timestamps,TP9,AF7,AF8,TP10,Marker0\n")
    with pytest.raises(UserError, match="without rows"):
        open_recording(path)


def test_averages_of_an_app_are_refused(real_eeg):
    with pytest.raises(UserError, match=r"1\.0 s apart, so they are averages"):
        open_recording(real_eeg / "eeglab/test_data/testmusemonitor.csv")


def test_openbci_counter_gap(tmp_path):
    head = "%OpenBCI Raw EXG Data\n%Number of channels = 2\n%Sample Rate = 250 Hz\n%Board = X\n"
    names = "Sample Index, EXG Channel 0, EXG Channel 1, Timestamp, Marker Channel\n"
    keep = [i for i in range(1000) if not 400 <= i < 420]
    body = "".join(f"{i % 256}, {i}.5, -{i}.25, 0, {3 if i == 600 else 0}\n" for i in keep)
    path = tmp_path / "bci.txt"
    path.write_text(head + names + body)
    recording = open_recording(path)
    assert recording.segments == ((0, 400), (400, 980))
    np.testing.assert_array_equal(recording.read(0, 2), [[0.5, 1.5], [-0.25, -1.25]])
    assert [(e.sample, e.code) for e in recording.events] == [(580, "3")]


def test_an_archive_is_as_many_recordings_as_it_has_tables(real_eeg, tmp_path):
    sources = find_sources([real_eeg / "formats/emotiv-insight/Datasets/1.Baseline.zip"])
    assert len(sources) == 10
    assert {s.subject for s in sources} == {"20sx1"}
    labels = [open_recording(s).segment_labels[0] for s in sources]
    assert sorted(labels) == ["eyes-closed"] * 5 + ["eyes-open"] * 5
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 no more")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.csv", "x,y\n1,2\n")
    _, ignored = survey([tmp_path])
    assert ["cannot be opened" in ignored[0].reason, "without a table" in ignored[1].reason] == [True, True]


def test_eye_state_events_cover_the_recording(real_eeg):
    recording = open_recording(real_eeg / "formats/emotiv-eye-state/EEG Eye State.arff")
    assert {e.code for e in recording.events} == {"eyes-open", "eyes-closed"}
    assert sum(e.duration for e in recording.events) == pytest.approx(14980 / 128)
    closed = sum(round(e.duration * 128) for e in recording.events if e.code == "eyes-closed")
    assert closed == 6723  # of 14980 instances: the data set's own description


def test_a_trial_cut_short_is_named(tmp_path):
    good = "# co2a1.rd\n# 120 trials\n# 3.9 msecs uV\n# S1 obj , trial 0\n# FP1 chan 0\n"
    good += "".join(f"0 FP1 {i} {i / 10:.3f}\n" for i in range(256))
    good += "# FP2 chan 1\n" + "".join(f"0 FP2 {i} {-i / 10:.3f}\n" for i in range(256))
    (tmp_path / "co2a0000001.rd.000.gz").write_bytes(gzip.compress(good.encode()))
    (tmp_path / "co2a0000001.rd.001.gz").write_bytes(gzip.compress(good.encode()[:-700]))
    recording = open_recording(tmp_path / "co2a0000001.rd.000.gz")
    np.testing.assert_allclose(recording.read(1, 3), [[0.1, 0.2], [-0.1, -0.2]], atol=1e-6)
    with pytest.raises(UserError, match=r"rd\.001\.gz: not a whole trial"):
        recording.read(256, 512)
    (tmp_path / "co2a0000001.rd.000.gz").write_bytes(gzip.compress(good.encode())[:200])
    with pytest.raises(UserError, match="not a whole trial"):
        open_recording(tmp_path / "co2a0000001.rd.000.gz")


def save(folder, array, **facts):
    np.save(folder / "a.npy", array, allow_pickle=array.dtype == object)
    (folder / "a.json").write_text(json.dumps(facts))
    return folder / "a.npy"


def test_numpy_arrays_in_every_layout(tmp_path):
    data = np.random.default_rng(0).normal(size=(2, 300))
    facts = {"sfreq": 100, "ch_names": ["Fz", "T3"], "reference": "A1", "line_freq": 50}
    recording = open_recording(save(tmp_path, data, unit="mV", **facts))
    np.testing.assert_allclose(recording.read(5, 9), data[:, 5:9] * 1e3)
    assert (recording.ch_names, recording.reference, recording.line_freq) == (("Fz", "T7"), "A1", 50)
    recording = open_recording(save(tmp_path, data.T.copy(), axes="time channels", **facts))
    np.testing.assert_allclose(recording.read(5, 9, [1]), data[1:, 5:9])
    trials = data.reshape(2, 3, 100).swapaxes(0, 1)
    recording = open_recording(save(tmp_path, trials, labels=["face", "house", "face"], **facts))
    assert recording.precut
    assert recording.segments == ((0, 100), (100, 200), (200, 300))
    assert recording.segment_labels == ("face", "house", "face")
    np.testing.assert_allclose(recording.read(95, 205), data[:, 95:205])


def test_numpy_mistakes(tmp_path):
    data = np.zeros((2, 300))
    (tmp_path / "lone.npy").write_bytes(b"")
    with pytest.raises(UserError, match="needs a sidecar"):
        open_recording(tmp_path / "lone.npy")
    with pytest.raises(UserError, match="lacks sfreq"):
        open_recording(save(tmp_path, data, ch_names=["a", "b"]))
    with pytest.raises(UserError, match="did you mean sfreq"):
        open_recording(save(tmp_path, data, sfrq=100, ch_names=["a", "b"]))
    with pytest.raises(UserError, match="subject is not read from a sidecar; say it by --subject-pattern"):
        open_recording(save(tmp_path, data, sfreq=100, ch_names=["Fz", "Cz"], subject="07"))
    with pytest.raises(UserError, match="2 channels but 1 ch_names"):
        open_recording(save(tmp_path, data, sfreq=100, ch_names=["Fz"]))
    with pytest.raises(UserError, match="unit is 'volts'"):
        open_recording(save(tmp_path, data, sfreq=100, ch_names=["Fz", "Cz"], unit="volts"))


class Bomb:
    def __reduce__(self):
        import os

        return os.system, ("touch /tmp/dreamjax-bomb-went-off",)


def test_a_pickled_array_is_refused_and_never_runs(tmp_path):
    from pathlib import Path

    path = save(tmp_path, np.array([Bomb()], dtype=object), sfreq=100, ch_names=["Fz"])
    with pytest.raises(UserError, match="not a plain NumPy array"):
        open_recording(path)
    assert not Path("/tmp/dreamjax-bomb-went-off").exists()


def muse(stamps, names="timestamps,TP9,AF7,AF8,TP10,Marker0", extra=""):
    """A table of muse-lsl with these stamps."""
    marker = np.zeros(len(stamps), int)
    marker[::500] = 1
    rows = [f"{t:.4f},{np.sin(t):.3f},1.5,-2,{np.cos(t):.3f}{extra},{m}" for t, m in zip(stamps, marker, strict=True)]
    return "\n".join([names, *rows]) + "\n"


def test_refuses_rows_with_more_fields_than_names(tmp_path):
    """muse-lsl writes an auxiliary channel that its header lacks: its noise is not taken for markers."""
    (tmp_path / "a.csv").write_text(muse(np.arange(2560) / 256, extra=",-5.91"))
    with pytest.raises(UserError, match=r"2,560 rows with 7 fields under 6 names, .* name every column in the first"):
        open_recording(tmp_path / "a.csv")
    lines = muse(np.arange(2560) / 256).splitlines()
    lines[700] += ",3"  # two rows that ran into each other
    (tmp_path / "a.csv").write_text("\n".join(lines))
    recording = open_recording(tmp_path / "a.csv")
    assert recording.n_samples == 2559
    assert "1 row with more fields than names left out" in recording.notes


@pytest.mark.parametrize("seconds", [-3600.0, -5.0, -0.2, 7200.0])
def test_a_clock_that_was_set_back_or_forward_gives_two_segments(tmp_path, seconds):
    stamps = 1.6e9 + np.arange(2560) / 256
    stamps[1280:] += seconds
    (tmp_path / "a.csv").write_text(muse(stamps))
    recording = open_recording(tmp_path / "a.csv")
    assert (recording.sfreq, recording.segments) == (256.0, ((0, 1280), (1280, 2560)))
    assert len(recording.events) == 6
    back = "the clock was set back 1 time: a new segment begins there"
    assert (back in recording.notes) == (seconds < 0)


@pytest.mark.parametrize(("unit", "turn"), [(1.0, 256), (1e3, 256), (1.0, 200)])
@pytest.mark.parametrize("turns", [1, 3])
def test_a_loss_of_whole_turns_of_the_counter_is_seen_in_the_time(tmp_path, unit, turn, turns):
    """Packets arrive in bursts of 60 ms, and one is 0.8 s late: neither of these is a gap."""
    kept = np.array([i for i in range(3000) if not 1000 <= i < 1000 + turn * turns])
    late = np.repeat(np.random.default_rng(0).uniform(0, 0.06, len(kept) // 15 + 1), 15)[: len(kept)]
    arrival = kept / 250 + late
    at = 2000
    arrival[at : at + 200] = np.maximum(arrival[at : at + 200], arrival[at] + 0.8)
    head = "%OpenBCI Raw EXG Data\n%Number of channels = 1\n%Sample Rate = 250 Hz\n"
    rows = [f"{i % turn}, {i}.5, {1.6e9 * unit + t * unit:.4f}\n" for i, t in zip(kept, arrival, strict=True)]
    path = tmp_path / "bci.txt"
    path.write_text(head + "Sample Index, EXG Channel 0, Timestamp\n" + "".join(rows))
    recording = open_recording(path)
    assert recording.segments == ((0, 1000), (1000, len(kept)))
    assert recording.notes[0] == "1 gap of whole turns of the sample counter, by the time stamps"


def test_real_openbci_time_stamps_show_no_gap(real_eeg):
    folder = real_eeg / "formats/openbci/OpenBCI_GUI/data/EEG_Sample_Data"
    recording = open_recording(folder / "OpenBCI_GUI-v6-blinks-jawClench-alpha.txt")
    assert len(recording.segments) == 1


@pytest.mark.parametrize("zone", ["Europe/Berlin", "UTC"])
def test_the_time_zone_of_the_reader_does_not_matter(tmp_path, monkeypatch, zone):
    """25 October 2026, 3:00 in Berlin: clocks there go back an hour, those of the headset need not."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    start = datetime(2026, 10, 25, 2, 59, 55)
    rows = [f"{start + timedelta(seconds=i / 256)},{i % 7},1,2,3,0\n" for i in range(2560)]
    (tmp_path / "a.csv").write_text("TimeStamp,RAW_TP9,RAW_AF7,RAW_AF8,RAW_TP10,AUX_RIGHT\n" + "".join(rows))
    recording = open_recording(tmp_path / "a.csv")
    monkeypatch.undo()
    time.tzset()
    assert (recording.sfreq, recording.segments) == (256.0, ((0, 2560),))
