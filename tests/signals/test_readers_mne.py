"""Formats read through MNE: EEGLAB boundaries and epochs, BrainVision segments, FIF parts, corrupted files."""

import shutil
import warnings

import numpy as np
import pytest
import scipy.io

from dreamjax.errors import UserError
from dreamjax.signals.recordings.opening import open_recording, recording_from_raw, survey
from dreamjax.signals.recordings.readers.mne_formats import sample_bits

mne = pytest.importorskip("mne")


def write_set(path, data, events=(), xmin=0.0, srate=100.0):
    """A .set with its data inside, from EEGLAB's description of the EEG structure; latencies count from 1."""
    trials = data.shape[2] if data.ndim == 3 else 1
    fields = [("type", object), ("latency", object), ("duration", object), ("epoch", object)]
    table = np.zeros(len(events), dtype=fields)
    for i, event in enumerate(events):
        table[i] = (event[0], event[1], event[2] if len(event) > 2 else 0, i + 1)
    locations = np.zeros(data.shape[0], dtype=[("labels", object)])
    locations["labels"] = ["Fz", "Cz", "T3"][: data.shape[0]]
    epochs = np.zeros(trials, dtype=[("event", object), ("eventtype", object), ("eventlatency", object)])
    for i in range(trials if trials > 1 else 0):
        epochs[i] = (i + 1, events[i][0], 0.0)
    eeg = {
        "setname": "x", "nbchan": data.shape[0], "trials": trials, "pnts": data.shape[1], "srate": srate,
        "xmin": xmin, "xmax": xmin + (data.shape[1] - 1) / srate, "data": data, "chanlocs": locations, "event": table,
        "epoch": epochs if trials > 1 else np.array([]), "icawinv": [], "icaweights": [], "icasphere": [], "icaact": [],
        "ref": "common", "urevent": [], "times": xmin * 1e3 + np.arange(data.shape[1]) / srate * 1e3,
    }  # fmt: skip
    scipy.io.savemat(path, {"EEG": eeg}, appendmat=False)
    return path


def test_eeglab_boundaries_cut_segments(tmp_path):
    """A boundary at latency 300.5 lies between samples 300 and 301 (from 1): the new segment starts at index 300.

    Its duration is that of the data that was cut out, not of data that is there.
    """
    data = np.random.default_rng(0).normal(size=(3, 1000)).astype(np.float32)
    events = [("face", 101.0, 0.0), ("boundary", 300.5, 250.0), ("face", 701.0, 0.0)]
    recording = open_recording(write_set(tmp_path / "a.set", data, events))
    assert recording.segments == ((0, 300), (300, 1000))
    assert [(e.sample, e.code) for e in recording.free_text] == [(100, "face"), (700, "face")]
    np.testing.assert_allclose(recording.read(290, 310), data[:, 290:310], rtol=1e-5)
    assert recording.ch_names == ("Fz", "Cz", "T7")


def test_eeglab_epochs_are_precut_trials(tmp_path):
    data = np.random.default_rng(0).normal(size=(3, 120, 4)).astype(np.float32)
    kinds = ["face", "house", "face", "house"]
    events = [(kind, 21.0 + 120 * i) for i, kind in enumerate(kinds)]  # 0.2 s after each trial's start
    recording = open_recording(write_set(tmp_path / "a.set", data, events, xmin=-0.2))
    assert recording.precut
    assert recording.segments == tuple((i * 120, i * 120 + 120) for i in range(4))
    assert recording.segment_labels == tuple(kinds)
    assert [e.sample for e in recording.events] == [20, 140, 260, 380]
    np.testing.assert_allclose(recording.read(120, 240), data[:, :, 1], rtol=1e-4)


def test_a_first_sample_shifts_no_event_of_an_undated_recording(tmp_path):
    """An anonymised FIF has no measurement date; MNE still counts its onsets with the first sample of 500."""
    info = mne.create_info(["Fz", "Cz"], 100.0, "eeg")
    raw = mne.io.RawArray(np.random.default_rng(0).normal(size=(2, 1000)) * 1e-5, info, first_samp=500, verbose="ERROR")
    raw.set_annotations(mne.Annotations([2.0, 4.0, 6.0], [0, 0, 1.0], ["T1", "T1", "BAD_x"]))
    raw.save(tmp_path / "a_raw.fif", verbose="ERROR")
    recording = open_recording(tmp_path / "a_raw.fif")
    expected = mne.events_from_annotations(raw, event_id={"T1": 1}, verbose="ERROR")[0][:, 0] - raw.first_samp
    assert [e.sample for e in recording.events] == expected.tolist() == [200, 400]
    assert recording.segments == ((0, 600), (700, 1000))


def test_fif_parts_and_annotations(tmp_path):
    """Recordings with a measurement date count annotations from it; a first sample of 500 must not shift them."""
    import datetime

    info = mne.create_info(["Fz", "Cz"], 100.0, "eeg")
    info.set_meas_date(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
    raw = mne.io.RawArray(np.random.default_rng(0).normal(size=(2, 1000)) * 1e-5, info, first_samp=500, verbose="ERROR")
    onsets = [raw.first_time + 2.0, raw.first_time + 4.0, raw.first_time + 6.0]
    raw.set_annotations(mne.Annotations(onsets, [0, 0, 1.0], ["T1", "T1", "BAD_x"], orig_time=info["meas_date"]))
    raw.save(tmp_path / "a_raw.fif", verbose="ERROR")
    recording = open_recording(tmp_path / "a_raw.fif")
    assert [e.sample for e in recording.events] == [200, 400]
    assert recording.segments == ((0, 600), (700, 1000))
    assert "2020" not in repr(recording)
    (tmp_path / "a_raw-1.fif").write_bytes(b"")
    (tmp_path / "sub-1_split-02_meg.fif").write_bytes(b"")
    sources, ignored = survey([tmp_path])
    assert len(sources) == 1
    assert all(item.companion for item in ignored)


@pytest.mark.parametrize("name", ["a-epo.fif", "a_epo.fif.gz", "a.fif"])
def test_fif_epochs_are_precut_trials(tmp_path, name):
    """0.2 s before to 0.3 s after the onsets, at 100 Hz; the name of the file does not matter."""
    signal = np.random.default_rng(0).normal(size=(4, 3, 51)) * 1e-5
    events = np.column_stack((np.arange(4) * 100, np.zeros(4, int), [1, 2, 1, 2]))
    info = mne.create_info(["Fz", "Cz", "STI 014"], 100.0, ["eeg", "eeg", "stim"])
    epochs = mne.EpochsArray(signal, info, events, -0.2, {"face/old": 1, "house": 2}, verbose="error")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that does not end in -epo.fif
        epochs.save(tmp_path / name, fmt="double", verbose="error")
    recording = open_recording(tmp_path / name)
    assert recording.precut
    assert recording.ch_names == ("Fz", "Cz")
    assert recording.segment_labels == ("face/old", "house", "face/old", "house")
    assert [e.sample for e in recording.events] == [20, 71, 122, 173]
    np.testing.assert_allclose(recording.read(51, 102), signal[1, :2] * 1e6, rtol=1e-6)


def test_fif_epochs_of_free_text_differ_by_number(tmp_path):
    events = np.column_stack((np.arange(4) * 100, np.zeros(4, int), [1, 2, 1, 2]))
    info = mne.create_info(["Fz", "Cz"], 100.0, "eeg")
    names = {"what Igor saw first": 1, "house": 2}
    mne.EpochsArray(np.zeros((4, 2, 51)), info, events, -0.2, names, verbose="error").save(tmp_path / "a-epo.fif")
    recording = open_recording(tmp_path / "a-epo.fif")
    assert recording.segment_labels == ("1", "house", "1", "house")
    assert "2 trials have the number of their event as label, not its free text" in recording.notes


def test_n400_of_real_fif_epochs(real_data):
    """Unrelated words are more negative than related ones at Pz, 300 to 500 ms, by as much as in MNE."""
    path = real_data / "responses/eeg_words_n400/subject04-epo.fif"
    recording = open_recording(path)
    assert (len(recording.segments), recording.sfreq) == (200, 50.0)
    trials = recording.read(0, recording.n_samples, [recording.ch_names.index("Pz")]).reshape(200, 60)[:, 25:35]
    labels = np.array(recording.segment_labels)
    difference = trials[labels == "unrelated"].mean() - trials[labels == "related"].mean()
    epochs = mne.read_epochs(path, verbose="error")
    theirs = [epochs[kind].copy().pick("Pz").get_data(tmin=0.3, tmax=0.5).mean() for kind in ("unrelated", "related")]
    assert difference == pytest.approx(1e6 * (theirs[0] - theirs[1]), rel=1e-5)
    assert difference < -3.0


def test_names_in_the_header_of_a_fif_never_become_codes(tmp_path):
    info = mne.create_info(["Fz"], 100.0, "eeg")
    info["subject_info"] = {"last_name": "Mueller", "first_name": "Anna", "his_id": "K17"}
    raw = mne.io.RawArray(np.zeros((1, 1000)), info, verbose="ERROR")
    raw.set_annotations(mne.Annotations([1, 2, 3, 4], 0, ["Mueller", "Mueller", "go", "go"]))
    raw.save(tmp_path / "a_raw.fif", verbose="ERROR")
    recording = open_recording(tmp_path / "a_raw.fif")
    assert [e.code for e in recording.free_text] == ["go", "go"]
    assert recording.events == ()
    assert "Mueller" not in repr(recording)
    assert "K17" not in repr(recording)


@pytest.mark.parametrize(
    "suffix", ["gdf", "set", "fif", "vhdr", "nxe", "mff", "npy", "arff", "csv", "zip", "xdf", "mat", "csv.gz"]
)
def test_reports_garbage_under_any_suffix(tmp_path, suffix):
    for name, content in (
        ("empty", b""),
        ("text", b"hello, world\n" * 40),
        ("noise", np.random.default_rng(1).bytes(3000)),
    ):
        path = tmp_path / f"{name}.{suffix}"
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            open_recording(path)
        assert "\n" not in str(caught.value)
        assert path.name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "suffix", "note"),
    [("Brainvision/test_NO", ".vmrk", "the marker file that the header names is missing"),
     ("NihonKohden/MB0400FU", ".LOG", "its .LOG file is missing: no annotations"),
     ("NihonKohden/MB0400FU", ".21E", "its .21E file is missing: electrodes have the names")],
)  # fmt: skip
def test_a_missing_companion_file_is_noted(real_eeg, tmp_path, name, suffix, note):
    files = [p for p in (real_eeg / "formats/mne-testing-data" / name).parent.glob("*") if p.suffix != ".EDF"]
    files = [p for p in files if p.stem == name.split("/")[1]]
    for path in files:
        shutil.copyfile(path, tmp_path / path.name)
    opened = next(p for p in tmp_path.iterdir() if p.suffix in (".vhdr", ".EEG"))
    assert not any("is missing" in entry for entry in open_recording(opened).notes)
    opened.with_suffix(suffix).unlink()
    assert any(entry.startswith(note) for entry in open_recording(opened).notes)


@pytest.mark.parametrize("suffix", ["gdf", "set", "fif"])
def test_truncated_real_files_open_or_are_reported(real_eeg, tmp_path, suffix):
    """Cut to a third, and to 700 bytes: no traceback, whatever MNE makes of them."""
    whole = {
        "gdf": "ssvep-exo/record-[2012.07.06-19.02.16].gdf",
        "fif": "ssvep-exo/record-[2012.07.06-19.02.16]_raw.fif",
        "set": "eeglab/eeglab_data.set",
    }[suffix]
    data = (real_eeg / whole).read_bytes()
    for length in (len(data) // 3, 700):
        path = tmp_path / f"cut{length}.{suffix}"
        path.write_bytes(data[:length])
        sentence = ""
        try:
            recording = open_recording(path)
        except UserError as e:
            sentence = str(e)
        else:
            assert recording.read(0, min(100, recording.n_samples)).shape[0] == len(recording.ch_names)
        assert "\n" not in sentence


def test_the_width_of_neuroscan_samples_is_seen_in_the_samples(tmp_path):
    """A walk of 16-bit numbers and one of 32-bit numbers behind the same header."""
    rng = np.random.default_rng(0)
    for bits in (16, 32):
        walk = np.cumsum(rng.integers(-50, 51, (5000, 3)), axis=0) + np.array([100, -2000, 900])
        path = tmp_path / f"{bits}.cnt"
        path.write_bytes(bytes(900 + 75 * 3) + walk.astype(f"<i{bits // 8}").tobytes())
        assert sample_bits(str(path), 3, 5000 * 3 * bits // 8) == bits


def test_nothing_is_printed_while_reading(real_eeg, capfd):
    """Results go to stdout as JSON: the chatter of the libraries below must not."""
    recording = open_recording(real_eeg / "formats/mne-testing-data/EGI/test_egi_multiepoch_eprime.mff")
    recording.read(0, 100)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("unit", "factor"), [("µV", 1.0), ("", 1.0), ("μV", 1.0), ("UV", 1.0), ("mV", 1e3), ("MV", 1e3), ("microVolt", 1.0)]
)
def test_units_of_brainvision_are_understood(tmp_path, unit, factor):
    recording = brainvision(tmp_path, unit)
    np.testing.assert_allclose(recording.read(0, 4)[0], [0, 10 * factor, 20 * factor, 30 * factor])
    assert recording.sensor_kind == ("eeg", "eeg")
    assert recording.notes == ("1 discontinuities in the file",)


def test_a_brainvision_channel_without_voltage_is_not_used_and_named(tmp_path):
    recording = brainvision(tmp_path, "µS")
    assert recording.sensor_kind == ("misc", "eeg")
    assert "channels in 'µS' hold no voltage" in recording.notes


def test_equal_names_are_renamed_with_a_note(tmp_path):
    """T3 is T7. MNE numbers equal names itself (Cz-0, Cz-1), but opens no BrainVision file that has them."""
    mne = pytest.importorskip("mne")
    recording = brainvision(tmp_path, "µV", ("T3", "T7"))
    assert [recording.ch_names, recording.sensor_kind] == [("T7", "T7_2"), ("eeg", "eeg")]
    np.testing.assert_array_equal(recording.xyz[0], recording.xyz[1])
    assert "1 channel renamed, as another has the same name: T7_2" in recording.notes
    raw = mne.io.RawArray(np.zeros((3, 100)), mne.create_info(["Cz-0", "Cz-1", "Pz"], 100.0, "eeg"), verbose="error")
    assert recording_from_raw(raw).ch_names == ("Cz", "Cz_2", "Pz")
    with pytest.raises(UserError, match="several channels are named T7; give each another name"):
        brainvision(tmp_path, "µV", ("T7", "T7"))


def brainvision(folder, unit, names=("Fz", "Cz")):
    """Two channels of 1,024 samples 0, 100, 200, … at 0.1 of a unit, with a `New Segment` in the middle."""
    (folder / "a.vhdr").write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n[Common Infos]\nCodepage=UTF-8\nDataFile=a.eeg\n"
        "MarkerFile=a.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\nNumberOfChannels=2\n"
        "SamplingInterval=4000\n[Binary Infos]\nBinaryFormat=INT_16\n[Channel Infos]\n"
        f"Ch1={names[0]},,0.1,{unit}\nCh2={names[1]},,0.1,µV\n",
        encoding="utf-8",
    )
    (folder / "a.vmrk").write_text(
        "Brain Vision Data Exchange Marker File Version 1.0\n[Common Infos]\nCodepage=UTF-8\nDataFile=a.eeg\n"
        "[Marker Infos]\nMk1=New Segment,,1,1,0,20200101000000000000\nMk2=New Segment,,513,1,0,20200101000100000000\n"
    )
    samples = (np.arange(1024) * 100 % 30_000).astype("<i2")
    (folder / "a.eeg").write_bytes(np.stack([samples, samples], axis=1).tobytes())
    return open_recording(folder / "a.vhdr")


@pytest.mark.parametrize(("unit", "factor"), [("uV", 1.0), ("mV", 1e3), ("V", 1e6), ("nV", 1e-3)])
def test_units_of_gdf_are_understood(real_eeg, tmp_path, unit, factor):
    """The text of the unit of all eight channels of a GDF 1.25 file, replaced."""
    real = (real_eeg / "ssvep-exo/record-[2012.07.06-19.02.16].gdf").read_bytes()
    head = 256 + 96 * 8
    (tmp_path / "a.gdf").write_bytes(real[:head] + unit.encode().ljust(8, b"\x00") * 8 + real[head + 64 :])
    (tmp_path / "b.gdf").write_bytes(real)
    plain = open_recording(tmp_path / "b.gdf").read(0, 8)
    np.testing.assert_allclose(open_recording(tmp_path / "a.gdf").read(0, 8), plain * factor)
