"""Tables of any origin, MATLAB arrays, and the stimulus channels of arrays with a sidecar."""

import gzip
import json

import numpy as np
import pytest

from dreamjax.errors import UserError
from dreamjax.signals.recordings.opening import open_recording, survey

SITES = ("Fp1", "Fp2", "C3", "C4", "O1", "O2")
RATE = 250.0


def noise(n=500, channels=6):
    return np.random.default_rng(0).normal(size=(n, channels)) * 15


def table(path, names, columns, delimiter=",", decimal="."):
    rows = [delimiter.join(str(cell).replace(".", decimal) for cell in row) for row in zip(*columns, strict=True)]
    text = "\n".join([delimiter.join(names), *rows]) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def sidecar(path, **facts):
    path.write_text(json.dumps(facts))


def onsets(recording):
    return [(event.sample, event.code) for event in recording.events]


@pytest.mark.parametrize(
    ("name", "delimiter", "decimal"),
    [("a.csv", ",", "."), ("a.tsv", "\t", "."), ("a.txt", ";", ","), ("a.csv.gz", ",", "."), ("a.tsv.gz", "\t", ",")],
)
def test_reads_a_table_with_a_clock_and_markers(tmp_path, name, delimiter, decimal):
    x, marker = noise(), np.zeros(500, int)
    marker[[100, 101, 300]] = [3, 3, 4]
    columns = [np.arange(500) / RATE, *np.round(x.T, 3), marker]
    recording = open_recording(table(tmp_path / name, ["time", *SITES, "Trigger"], columns, delimiter, decimal))
    assert (recording.format, recording.sfreq, recording.ch_names) == ("csv", RATE, SITES)
    np.testing.assert_allclose(recording.read(0, 500), np.round(x.T, 3), rtol=1e-6)
    assert onsets(recording) == [(100, "3"), (300, "4")]
    assert "no unit is stated: values are taken as µV" in recording.notes


@pytest.mark.parametrize(
    ("name", "stamps"),
    [("time_ms", np.arange(500) * 4), ("Time:250Hz", np.arange(500) / RATE), ("timestamp (us)", np.arange(500) * 4000),
     ("DateTime", [f"2003-03-17 09:41:{27 + i / RATE:09.6f}" for i in range(500)])],
)  # fmt: skip
def test_reads_the_unit_of_the_clock(tmp_path, name, stamps):
    path = table(tmp_path / "a.csv", [name, *(f"{s} (mV)" for s in SITES)], [stamps, *noise().T])
    recording = open_recording(path)
    assert (recording.sfreq, recording.ch_names) == (RATE, SITES)
    np.testing.assert_allclose(recording.read(0, 500), noise().T * 1e3, rtol=1e-6)


def test_a_rate_that_is_not_whole_is_measured(tmp_path):
    path = table(tmp_path / "a.csv", ["t", *SITES], [np.arange(5000) * 3 / 512, *noise(5000).T])
    assert open_recording(path).sfreq == pytest.approx(512 / 3, rel=1e-5)


@pytest.mark.parametrize("rate", [255.9, 256.1])
def test_a_rate_measured_near_a_whole_number_is_that_number(tmp_path, rate):
    """Jitter hides the rate from the median step; the fitted one has no ratio of whole numbers to a model's."""
    stamps = np.arange(2000) / rate + np.random.default_rng(0).exponential(2e-3, 2000)
    path = table(tmp_path / "a.csv", ["time", *SITES], [stamps, *noise(2000).T])
    assert open_recording(path).sfreq == 256


def test_the_sidecar_gives_rate_unit_types_and_the_choice_of_columns(tmp_path):
    columns = [range(500), *noise().T, [0] * 250 + [2] * 250]
    path = table(tmp_path / "a.csv", ["sample", "a", "b", "c", "d", "e", "f", "pulse"], columns)
    facts = {"sfreq": 500, "unit": "V", "ch_names": ["c", "d", "pulse"], "ch_types": ["eeg", "eog", "stim"]}
    sidecar(tmp_path / "a.json", **facts)
    recording = open_recording(path)
    assert (recording.sfreq, recording.ch_names, recording.sensor_kind) == (500, ("c", "d"), ("eeg", "eog"))
    np.testing.assert_allclose(recording.read(0, 9), noise()[:9, 2:4].T * 1e6, rtol=1e-6)
    assert onsets(recording) == [(250, "2")]


def test_wrong_rows_keep_their_place_and_are_counted(tmp_path):
    """A field too many, one too few, a word and an empty cell: missing samples, and nothing moves into a marker."""
    x, marker = np.round(noise(), 3), np.zeros(500, int)
    marker[400] = 8
    path = table(tmp_path / "a.csv", ["time", *SITES, "Marker"], [np.arange(500) / RATE, *x.T, marker])
    lines = path.read_text().splitlines()
    lines[101] += ",55"
    lines[201] = lines[201].rsplit(",", 2)[0]
    lines[301] = lines[301].replace(str(x[300, 0]), "lost")
    lines[351] = lines[351].replace(str(x[350, 0]), "")
    path.write_text("\n".join(lines))
    recording = open_recording(path)
    assert recording.n_samples == 500
    assert onsets(recording) == [(400, "8")]
    missing = np.isnan(recording.read(0, 500))
    assert missing.sum(axis=0).nonzero()[0].tolist() == [100, 200, 300, 350]
    notes = ["2 rows do not have 8 fields", "1 cells are not numbers", "1 cells are empty"]
    assert [f"{note}: missing samples" for note in notes] == list(recording.notes[:3])
    with pytest.raises(UserError, match=r"2 rows do not have 8 fields.*leave out --strict"):
        open_recording(path, strict=True)


def test_columns_that_are_not_signals_are_named(tmp_path):
    remark, dates = ["calm"] * 500, np.arange(500) / 7
    columns = [np.arange(500) / RATE, *noise().T, remark, dates]
    recording = open_recording(table(tmp_path / "a.csv", ["time", *SITES, "mood", "Event Date"], columns))
    assert recording.ch_names == SITES
    left_out = "2 columns that are neither channels nor markers left out: 'mood', 'Event Date'"
    assert left_out in recording.notes


def test_a_class_column_labels_every_row_even_where_it_is_0(tmp_path):
    columns = [np.arange(500) / RATE, *noise().T, [0] * 200 + [1] * 300]
    recording = open_recording(table(tmp_path / "a.csv", ["time", *SITES, "label"], columns))
    assert onsets(recording) == [(0, "label/0"), (200, "label/1")]
    assert [event.duration for event in recording.events] == [0.8, 1.2]
    columns[-1] = ["face"] * 200 + ["house"] * 300
    recording = open_recording(table(tmp_path / "a.csv", ["time", *SITES, "trial_type"], columns))
    assert onsets(recording) == [(0, "trial_type/face"), (200, "trial_type/house")]


def test_words_of_a_marker_column_are_free_text(tmp_path):
    cells = [""] * 500
    cells[100], cells[300] = "Hannelore", "S 7"
    columns = [np.arange(500) / RATE, *noise().T, cells]
    recording = open_recording(table(tmp_path / "a.csv", ["time", *SITES, "Marker"], columns))
    assert onsets(recording) == [(300, "S7")]
    assert [(event.sample, event.code) for event in recording.free_text] == [(100, "Hannelore")]


@pytest.mark.parametrize(
    ("first", "columns", "message"),
    [("index", range(500), "no column of time and no rate; write a.json"),
     ("time", np.arange(500) * 4, "runs at 0.25 rows a second, too slow for EEG; name its unit in the header"),
     ("time", [7] * 500, "do not run forwards; record again or repair the column 'time'")],
)  # fmt: skip
def test_reports_a_table_without_a_clock(tmp_path, first, columns, message):
    path = table(tmp_path / "a.csv", [first, *SITES], [columns, *noise().T])
    with pytest.raises(UserError, match=message):
        open_recording(path)


def test_refuses_a_rate_that_contradicts_the_clock(tmp_path):
    path = table(tmp_path / "a.csv", ["time", *SITES], [np.arange(500) / RATE, *noise().T])
    sidecar(tmp_path / "a.json", sfreq=500)
    with pytest.raises(UserError, match="500 Hz is stated, but the column 'time' runs at 250 rows a second"):
        open_recording(path)


def test_tables_of_something_else_are_not_recordings(tmp_path):
    table(tmp_path / "participants.tsv", ["participant_id", "age"], [["sub-01"], [30]], "\t")
    table(tmp_path / "events.csv", ["onset", "duration", "trial_type"], [[1], [0], ["face"]])
    table(tmp_path / "electrodes.tsv", ["name", "x", "y", "z"], [["Fp1"], [1], [2], [3]], "\t")
    table(tmp_path / "results.csv", ["1", "2", "time"], [[1], [2], [3]])
    sidecar(tmp_path / "participants.json", age="years")
    assert survey([tmp_path])[0] == []


# --------------------------------------------------------------------------------------------------------- .mat
def save_mat(path, version, **arrays):
    if version == "7.3":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w", userblock_size=512) as file:
            for name, array in arrays.items():
                file[name] = np.asarray(array).T
        return
    from scipy.io import savemat

    savemat(path, arrays, do_compression=version == "7", format="4" if version == "4" else "5")


@pytest.mark.parametrize("version", ["4", "5", "7", "7.3"])
def test_reads_a_matlab_array_with_its_sidecar(tmp_path, version):
    save_mat(tmp_path / "a.mat", version, signal=noise(), other=np.ones(3))
    sidecar(tmp_path / "a.json", sfreq=RATE, ch_names=SITES, axes="time channels", unit="mV", variable="signal")
    recording = open_recording(tmp_path / "a.mat")
    assert (recording.format, recording.sfreq, recording.ch_names) == ("matlab", RATE, SITES)
    np.testing.assert_allclose(recording.read(0, 500), noise().T * 1e3)


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_reads_trials_in_the_order_of_matlab(tmp_path, version):
    trials = noise(5 * 100).reshape(5, 100, 6).transpose(2, 1, 0)  # channels time trials
    save_mat(tmp_path / "a.mat", version, data=trials)
    sidecar(tmp_path / "a.json", sfreq=RATE, ch_names=SITES, axes="channels time trials", labels=[*"ababa"])
    recording = open_recording(tmp_path / "a.mat")
    assert recording.precut
    assert recording.segment_labels == tuple("ababa")
    np.testing.assert_allclose(recording.read(100, 200), trials[:, :, 1])


def test_reports_a_matlab_file_without_a_choice_or_a_sidecar(tmp_path):
    save_mat(tmp_path / "a.mat", "5", one=noise(), two=noise())
    assert survey([tmp_path])[1][0].reason.startswith("a MATLAB array without a sidecar; write a .json")
    facts = {"sfreq": RATE, "ch_names": SITES}
    sidecar(tmp_path / "a.json", **facts)
    with pytest.raises(UserError, match=r'Name it as "variable" in the sidecar; present: one \(500, 6\), two'):
        open_recording(tmp_path / "a.mat")
    sidecar(tmp_path / "a.json", **facts, variable="three")
    with pytest.raises(UserError, match="has no array of numbers 'three'"):
        open_recording(tmp_path / "a.mat")


@pytest.mark.parametrize("kind", ["claim", "link"])
def test_refuses_a_matlab_file_that_claims_too_much_or_points_elsewhere(tmp_path, kind):
    h5py = pytest.importorskip("h5py")
    save_mat(tmp_path / "b.mat", "7.3", signal=noise())
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        if kind == "link":
            file["signal"] = h5py.ExternalLink("b.mat", "signal")
        else:
            file.create_dataset("signal", (6, 1 << 40), "f8", chunks=(1, 1024))
    sidecar(tmp_path / "a.json", sfreq=RATE, ch_names=SITES)
    message = "claims 6597069766656 values" if kind == "claim" else "present: none"
    with pytest.raises(UserError, match=message):
        open_recording(tmp_path / "a.mat")


# ------------------------------------------------------------------------------------------- stimulus channels
@pytest.mark.parametrize("named", ["by type", "by name"])
@pytest.mark.parametrize("unit", ["uV", "V"])
def test_a_stimulus_channel_of_an_array_becomes_events(tmp_path, named, unit):
    """A code has no unit, whatever that of the signal."""
    x = np.vstack((noise().T, np.zeros(500)))
    x[6, [0, 100, 101, 300]] = [1, 3, 3, 4]
    np.save(tmp_path / "a.npy", x)
    facts = {"ch_types": ["eeg"] * 6 + ["stim"]} if named == "by type" else {}
    names = [*SITES, "pulses" if named == "by type" else "STI 014"]
    sidecar(tmp_path / "a.json", sfreq=RATE, ch_names=names, unit=unit, **facts)
    recording = open_recording(tmp_path / "a.npy")
    assert recording.ch_names == SITES
    assert onsets(recording) == [(0, "1"), (100, "3"), (300, "4")]


def test_listed_events_win_over_a_stimulus_channel_and_late_ones_are_counted(tmp_path):
    np.save(tmp_path / "a.npy", np.vstack((noise().T, np.arange(500) == 100)))
    events = [{"sample": 20, "code": "face"}, {"sample": 500, "code": "face"}]
    sidecar(tmp_path / "a.json", sfreq=RATE, ch_names=[*SITES, "STI"], events=events)
    recording = open_recording(tmp_path / "a.npy")
    assert onsets(recording) == [(20, "face")]
    assert "1 events before or after the signal left out" in recording.notes


def test_noise_on_a_stimulus_channel_is_not_an_event(tmp_path):
    np.save(tmp_path / "a.npy", noise(500, 7).T)
    sidecar(tmp_path / "a.json", sfreq=RATE, ch_names=[*SITES, "STI"])
    recording = open_recording(tmp_path / "a.npy")
    assert recording.events == ()
    assert any("changes on a stimulus channel are noise" in note for note in recording.notes)


def test_trials_with_a_stimulus_channel_have_an_event_each(tmp_path):
    x = np.concatenate((noise(400).T.reshape(6, 4, 100).swapaxes(0, 1), np.full((4, 1, 100), 5.0)), axis=1)
    np.save(tmp_path / "a.npy", x)
    sidecar(tmp_path / "a.json", sfreq=RATE, ch_names=[*SITES, "STI"])
    assert onsets(open_recording(tmp_path / "a.npy")) == [(i * 100, "5") for i in range(4)]


def test_reports_types_that_do_not_match_the_channels(tmp_path):
    np.save(tmp_path / "a.npy", noise().T)
    sidecar(tmp_path / "a.json", sfreq=RATE, ch_names=SITES, ch_types=["eeg"])
    with pytest.raises(UserError, match="1 ch_types but 6 ch_names"):
        open_recording(tmp_path / "a.npy")
