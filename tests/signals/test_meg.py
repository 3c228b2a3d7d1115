"""MEG recordings: CTF, FIF, KIT and BTi through MNE, in fT, with kinds of sensor and positions in the head."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
from meg_files import meg_raw, short_ctf

from dreamjax.errors import UserError
from dreamjax.signals.datasets.records import load_dataset, read_windows
from dreamjax.signals.preparation.inputs import PrepareOptions
from dreamjax.signals.preparation.prepare import prepare, prepare_raws
from dreamjax.signals.preparation.quality import EegLimits, MegLimits, limits_for
from dreamjax.signals.preparation.window_settings import EventWindows, WindowSettings
from dreamjax.signals.recordings.opening import find_sources, open_recording, recording_from_raw, survey
from dreamjax.signals.recordings.readers.meg_sensors import MEG

mne = pytest.importorskip("mne")

HEAD = "coil positions are in device coordinates: the recording does not say where the head was"
REAL = {  # → (MNE's reader, kinds of sensor, grade of compensation, whether the head's place is known)
    "CTF/testdata_ctf_short_discontinuous.ds": ("ctf", {"grad_axial": 273, "ref_meg": 28}, 0, True),
    "CTF/somMDYO-18av.ds": ("ctf", {"grad_axial": 151, "ref_meg": 29}, 3, True),
    "KIT/MQKIT_125_2sec.con": ("kit", {"grad_axial": 125, "ref_meg": 3}, None, False),
    "mne-python_BSD3/test.sqd": ("kit", {"grad_axial": 157, "ref_meg": 3}, None, True),
    "BTi/4Dsim/c,rfDC": ("bti", {"mag": 248, "ref_meg": 23}, None, True),
    "misc/neuromag122_test_file-raw.fif": ("fif", {"grad_planar": 122}, None, False),
    "SSS/sample_audvis_trunc_raw_sss.fif": ("fif", {"grad_planar": 204, "mag": 102}, None, True),
    "mne-python_BSD3/test_ctf_comp_raw.fif": ("fif", {"grad_axial": 274, "ref_meg": 29}, 3, True),
}  # fmt: skip


@pytest.fixture
def real_meg(real_data):
    if not (real_data / "meg").is_dir():
        pytest.skip(f"real MEG recordings not found at {real_data / 'meg'}")
    return real_data / "meg"


def in_mne(path, reader, **near):
    with mne.utils.use_log_level("ERROR"):
        return getattr(mne.io, f"read_raw_{reader}")(path, verbose="ERROR", **near)


@pytest.mark.parametrize("name", REAL)
def test_samples_kinds_and_positions_equal_those_of_mne(real_meg, name):
    reader, kinds, compensation, placed = REAL[name]
    recording = open_recording(real_meg / name)
    near = {}
    if name.endswith("test.sqd"):
        near = {what: real_meg / f"mne-python_BSD3/test_{what}.{end}" for what, end in
                {"mrk": "sqd", "elp": "txt", "hsp": "txt"}.items()}  # fmt: skip
    if reader == "bti":
        near = {f"{what}_fname": str(real_meg / f"BTi/4Dsim/{file}") for what, file in
                {"config": "config", "head_shape": "hs_file"}.items()}  # fmt: skip
    raw = in_mne(real_meg / name, reader, **near)
    assert (recording.modality, recording.unit, recording.reference) == ("meg", "fT", "none")
    assert Counter(kind for kind in recording.sensor_kind if kind in (*MEG, "ref_meg")) == kinds
    assert recording.compensation == compensation
    picks = mne.pick_types(raw.info, meg=True, ref_meg=False, exclude=[])
    mine = [i for i, kind in enumerate(recording.sensor_kind) if kind in MEG]
    planar = np.array([recording.sensor_kind[i] == "grad_planar" for i in mine])
    theirs = raw.get_data(picks=picks) * np.where(planar, 1e13, 1e15)[:, None]
    np.testing.assert_allclose(recording.read(0, recording.n_samples, mine), theirs, rtol=1e-12, atol=1e-9)
    matrix = raw.info["dev_head_t"]["trans"] if placed else np.eye(4)
    coils = np.array([raw.info["chs"][i]["loc"][:3] for i in picks]) @ matrix[:3, :3].T + matrix[:3, 3]
    np.testing.assert_allclose(recording.xyz[mine], coils, atol=1e-9)
    assert (HEAD in recording.notes) != placed
    if placed:  # the helmet is around the head: above the ears, and as much left as right
        assert coils[:, 2].mean() > 0.02
        assert abs(coils[:, 0].mean()) < 0.02


@pytest.mark.parametrize("name", [n for n in REAL if "somMDYO" not in n and "SSS" not in n])
def test_prepare_takes_every_format(real_meg, tmp_path, name):
    """The averages are of implausible amplitude without a high-pass; the FIF of both modalities has its own test."""
    settings = WindowSettings(samples=24, sfreq=120.0, low=None, limits=EegLimits(implausible="flag"))
    result = prepare([real_meg / name], tmp_path / "out", settings, PrepareOptions(workers=0))
    dataset = load_dataset(tmp_path / "out")
    split = next(iter(dataset["splits"]))
    window = read_windows(tmp_path / "out", split)[0]
    kinds = {kind for kind in REAL[name][1] if kind != "ref_meg"}
    assert (window.modality, window.unit, set(window.sensor_kind)) == ("meg", "fT", kinds)
    assert (dataset["inputs"][0]["modality"], dataset["inputs"][0]["unit"]) == ("meg", "fT")
    assert dataset["inputs"][0]["compensation"] == REAL[name][2]
    assert (dataset["modalities"], dataset["unit"]) == ({"meg": 1}, "fT")
    assert result.windows > 0


def test_trials_of_a_ctf_recording_that_do_not_follow_each_other_are_segments(real_meg):
    """The clock of this recording jumps between its two trials; that of the averages is not recorded."""
    recording = open_recording(real_meg / "CTF/testdata_ctf_short_discontinuous.ds")
    assert recording.segments == ((0, 1201), (1201, 2402))
    assert "1 gap between trials of the recording" in recording.notes
    averages = open_recording(real_meg / "CTF/somMDYO-18av.ds")
    assert averages.segments == ((0, 313), (313, 626))
    assert "averages of 302 trials, not a recording of single ones" in averages.notes


def test_reads_the_sensors_of_which_there_are_more_unless_asked_for_others(real_meg):
    path = real_meg / "SSS/sample_audvis_trunc_raw_sss.fif"
    for modality, expected, note in (
        ("auto", "meg", "60 EEG channels left out; --modality eeg reads them instead"),
        ("meg", "meg", "60 EEG channels left out; --modality eeg reads them instead"),
        ("eeg", "eeg", "306 MEG channels left out; --modality meg reads them instead"),
    ):
        recording = open_recording(path, modality=modality)
        assert recording.modality == expected
        assert note in recording.notes
    assert recording.unit == "µV"


@pytest.mark.parametrize("name", ["misc/test_elekta-ave.fif", "mne-python_BSD3/test-ave.fif.gz"])
def test_refuses_averages_with_what_they_are(real_meg, name):
    with pytest.raises(UserError, match=r"averages \(evoked responses\), not a recording"):
        open_recording(real_meg / name)


def test_refuses_averages_under_another_name(tmp_path):
    raw = meg_raw(2)
    with mne.utils.use_log_level("ERROR"):
        mne.EvokedArray(raw.get_data()[:, :50], raw.info).save(tmp_path / "sub-01_meg-ave.fif")
    (tmp_path / "sub-01_meg-ave.fif").rename(tmp_path / "sub-01_meg.fif")
    with pytest.raises(UserError, match=r"a FIF file with averages \(evoked responses\), not a recording"):
        open_recording(tmp_path / "sub-01_meg.fif")


# -------------------------------------------------------------------------------------------------- damaged recordings
def cut_signal(ds):
    path = ds / "a.meg4"
    path.write_bytes(path.read_bytes()[:-1000])


def fewer_bytes_than_a_header(ds):
    (ds / "a.res4").write_bytes((ds / "a.res4").read_bytes()[:500])


def impossible_counts(ds):
    data = bytearray((ds / "a.res4").read_bytes())
    data[1288:1294] = b"\x7f\xff\xff\xff\x7f\xff"
    (ds / "a.res4").write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_signal, r"a\.meg4: 452224 bytes of signal are not a whole number of trials of 181 channels x 313 samples"),
        (lambda ds: (ds / "a.res4").unlink(), r"a\.ds: a\.res4 is missing; restore the whole folder"),
        (lambda ds: (ds / "a.meg4").unlink(), r"a\.ds: a\.meg4 is missing; restore the whole folder"),
        (lambda ds: (ds / "a.meg4").write_bytes(b""), r"a\.meg4: 0 bytes of signal are not a whole number of trials"),
        (fewer_bytes_than_a_header, r"a\.res4: not the header of a CTF recording"),
        (impossible_counts, r"a\.res4: it promises 32767 channels of 2147483647 samples, which cannot be"),
    ],
)
def test_reports_a_damaged_ctf_folder(real_meg, tmp_path, damage, message):
    path = short_ctf(real_meg.parent, tmp_path)
    damage(path)
    with pytest.raises(UserError, match=message):
        open_recording(path)


def test_reports_a_renamed_ctf_folder_and_a_file_of_its_name(real_meg, tmp_path):
    path = short_ctf(real_meg.parent, tmp_path)
    path.rename(tmp_path / "b.ds")
    with pytest.raises(
        UserError, match=r"b\.ds: holds a\.res4, but .* have its folder's name; rename the folder to a\.ds"
    ):
        open_recording(tmp_path / "b.ds")
    (tmp_path / "c.ds").write_bytes(b"MEG41CP")
    with pytest.raises(UserError, match=r"c\.ds: a file, but a CTF recording is a folder with a \.res4 and a \.meg4"):
        open_recording(tmp_path / "c.ds")


def test_a_ctf_folder_without_head_coils_has_positions_in_the_device(real_meg, tmp_path):
    path = short_ctf(real_meg.parent, tmp_path)
    (path / "a.hc").unlink()
    recording = open_recording(path)
    assert HEAD in recording.notes
    assert np.isfinite(recording.xyz[[k in MEG for k in recording.sensor_kind]]).all()


def test_files_of_a_folder_are_parts_of_its_recording(real_meg, tmp_path):
    """The files of BTi and KIT that complete a signal are companions; a signal without its config is named."""
    for name in ("c,rfDC", "config", "hs_file"):
        shutil.copyfile(real_meg / "BTi/4Dsim" / name, tmp_path / name)
    (tmp_path / "x_mrk.sqd").write_bytes(b"0")
    sources, ignored = survey([tmp_path])
    assert [(source.reader, source.path) for source in sources] == [("bti", str(tmp_path / "c,rfDC"))]
    assert all(item.companion for item in ignored)
    (tmp_path / "config").unlink()
    with pytest.raises(UserError, match=r"BTi, 4D Neuroimaging\) without its config next to it"):
        find_sources([tmp_path / "c,rfDC"])


@pytest.mark.parametrize("name", ["a.sqd", "a.con"])
def test_reports_what_is_no_kit_recording(tmp_path, name):
    (tmp_path / name).write_bytes(b"\0" * 4096)
    with pytest.raises(UserError, match=r"MNE cannot read it as kit"):
        open_recording(tmp_path / name)


# -------------------------------------------------------------------------------------------------- from raw to windows
def test_a_raw_keeps_kinds_units_names_and_positions_in_the_head():
    raw = meg_raw(4, eeg=2)
    recording = recording_from_raw(raw)
    kinds = dict(zip(recording.ch_names, recording.sensor_kind, strict=True))
    assert kinds == {"MLC11": "grad_axial", "MLC12": "grad_axial", "BG1": "ref_meg", "MEG0112": "grad_planar",
                     "MEG0113": "grad_planar", "MEG0111": "mag", "Fz": "eeg", "Cz": "eeg"}  # fmt: skip
    factors = np.array([1e15, 1e15, 1e15, 1e13, 1e13, 1e15, 1e6, 1e6])[:, None]
    picks = [i for i, name in enumerate(raw.ch_names) if name != "UPPT001"]
    np.testing.assert_allclose(recording.read(0, 100), raw.get_data(picks)[:, :100] * factors, rtol=1e-12)
    moved = np.array([np.add(channel["loc"][:3], (0, 0, 0.04)) for channel in raw.info["chs"][:6]])
    moved[2] = np.nan  # the reference
    np.testing.assert_allclose(recording.xyz[:6], moved, atol=1e-9)
    assert {"1 MEG reference sensor left out", "2 EEG channels left out; --modality eeg reads them instead"} <= set(
        recording.notes
    )
    assert recording_from_raw(raw, modality="eeg").modality == "eeg"


def test_a_raw_without_a_transform_has_positions_in_the_device():
    raw = meg_raw(4)
    raw.info["dev_head_t"] = None
    recording = recording_from_raw(raw)
    np.testing.assert_allclose(recording.xyz[0], raw.info["chs"][0]["loc"][:3])
    assert HEAD in recording.notes


ONSETS = {300 + 600 * i: 64 for i in range(6)}


def test_windows_around_triggers_as_in_the_paper(tmp_path):
    """-0.5 to 1 s at 120 Hz, baseline before the image: 180 samples (tmax is not among them), fT, no reference."""
    raw = meg_raw(20, 240.0, codes=ONSETS)
    settings = WindowSettings(
        low=None, sfreq=120.0, samples=180, notch="off",
        events=EventWindows("file", ("64",), tmin=-0.5, tmax=1.0, baseline=(-0.5, 0.0)),
    )  # fmt: skip
    prepare_raws([raw], tmp_path / "out", settings, PrepareOptions(workers=0))
    dataset = load_dataset(tmp_path / "out")
    windows = [w for split in dataset["splits"] for w in read_windows(tmp_path / "out", split)]
    assert [round(w.start * 240) for w in windows] == [onset - 120 for onset in ONSETS]
    assert {w.signal.shape for w in windows} == {(5, 180)}
    assert {w.reference for w in windows} == {"none"}
    assert windows[0].montage_rank == 5
    assert all(w.valid.all() for w in windows)
    for window in windows:
        np.testing.assert_allclose(window.signal[:, :60].mean(axis=1), 0, atol=0.05)
    assert windows[0].signal[0].std() == pytest.approx(100 / np.sqrt(2), rel=0.2)  # fT, half of the band
    assert windows[0].sensor_kind == ("grad_axial", "grad_axial", "grad_planar", "grad_planar", "mag")
    assert dataset["inputs"][0]["plan"]["unit"] == "fT"
    assert "median SD, fT" in (tmp_path / "out" / "report.html").read_text()
    whole = WindowSettings(sfreq=120.0, samples=181, events=EventWindows("file", tmin=-0.5, tmax=1.0 + 1 / 120))
    assert whole.event_samples == 181


def test_events_of_a_neuromag_system_come_from_its_combined_channel():
    raw = meg_raw(4, codes={100: 5, 300: 9})
    with mne.utils.use_log_level("ERROR"):
        info = mne.create_info(["STI 001", "STI 014"], raw.info["sfreq"], "stim")
        line = (raw.get_data(["UPPT001"]) > 0).astype(float)
        raw.add_channels(
            [mne.io.RawArray(np.concatenate([line, raw.get_data(["UPPT001"])]), info)], force_update_info=True
        )
    raw.drop_channels(["UPPT001"])
    recording = recording_from_raw(raw)
    assert [(event.sample, event.code) for event in recording.events] == [(100, "5"), (300, "9")]
    assert "events from STI 014, which has the codes of the other 1 stimulus channel" in recording.notes


def test_bids_sidecars_of_meg_apply(tmp_path):
    folder = tmp_path / "sub-01" / "meg"
    folder.mkdir(parents=True)
    (tmp_path / "dataset_description.json").write_text('{"Name": "x"}')
    raw = meg_raw(8)
    with mne.utils.use_log_level("ERROR"):
        raw.save(folder / "sub-01_task-x_meg.fif", verbose="ERROR")
    (folder / "sub-01_task-x_meg.json").write_text(json.dumps({"PowerLineFrequency": 60}))
    rows = ["name\ttype\tunits\tstatus", "MLC11-2908\tMEGGRADAXIAL\tT\tbad", "MLC12-2908\tMEGMAG\tT\tgood",
            "MEG 0111\tMISC\tT\tgood"]  # fmt: skip
    (folder / "sub-01_task-x_channels.tsv").write_text("\n".join(rows))
    (folder / "sub-01_task-x_events.tsv").write_text("onset\tduration\ttrial_type\n1.5\t0.5\timage\n")
    recording = open_recording(folder / "sub-01_task-x_meg.fif")
    assert recording.line_freq == 60
    assert recording.bad_channels == ("MLC11",)
    assert recording.sensor_kind[:2] == ("grad_axial", "grad_axial")
    assert recording.sensor_kind[5] == "misc"
    assert [(event.sample, event.code) for event in recording.events] == [(360, "image")]


def test_parts_of_a_split_bids_recording_are_one(tmp_path):
    folder = tmp_path / "sub-01" / "meg"
    folder.mkdir(parents=True)
    (tmp_path / "dataset_description.json").write_text('{"Name": "x"}')
    raw = meg_raw(60, 1200.0)
    with mne.utils.use_log_level("ERROR"):
        raw.save(folder / "sub-01_task-x_meg.fif", split_naming="bids", split_size="2MB", verbose="ERROR")
    assert len(list(folder.glob("*_split-*_meg.fif"))) > 1
    sources = find_sources([tmp_path])
    assert len(sources) == 1
    assert open_recording(sources[0]).n_samples == 60 * 1200


def test_epochs_of_meg_are_trials_in_femtotesla(tmp_path):
    raw = meg_raw(8, codes={300: 64, 900: 64})
    with mne.utils.use_log_level("ERROR"):
        epochs = mne.Epochs(raw, np.array([[300, 0, 64], [900, 0, 64]]), tmin=0, tmax=0.5, baseline=None, preload=True)
        epochs.save(tmp_path / "a-epo.fif", verbose="ERROR")
    recording = open_recording(tmp_path / "a-epo.fif")
    assert (recording.modality, recording.precut) == ("meg", True)
    np.testing.assert_allclose(
        recording.read(0, 121, [0, 3]), epochs.get_data()[0, [0, 3]] * [[1e15], [1e13]], rtol=1e-5
    )


def test_limits_without_a_unit_hold_for_meg_too():
    chosen = EegLimits(min_good=0.2, flat_uv=5.0, implausible="flag")
    limits = limits_for("meg", chosen, MegLimits(noisy_ft=9.0))
    assert limits == MegLimits(min_good=0.2, implausible="flag", noisy_ft=9.0)


def test_changed_limits_of_meg_are_settings_and_defaults_are_as_before():
    assert "meg_limits" not in WindowSettings().as_json()
    changed = WindowSettings(meg_limits=MegLimits(noisy_ft=9.0)).as_json()
    assert changed["meg_limits"]["noisy_ft"] == 9.0


def test_prepares_sensors_of_the_asked_modality(tmp_path):
    with mne.utils.use_log_level("ERROR"):
        meg_raw(8, eeg=4).save(tmp_path / "a_raw.fif", verbose="ERROR")
    for modality, channels in (("auto", 5), ("eeg", 4)):
        out = tmp_path / modality
        prepare([tmp_path / "a_raw.fif"], out, WindowSettings(), PrepareOptions(workers=0, modality=modality))
        assert load_dataset(out)["inputs"][0]["channels"] == channels
    with pytest.raises(UserError, match="another --modality"):
        prepare([tmp_path / "a_raw.fif"], tmp_path / "eeg", WindowSettings(), PrepareOptions(workers=0))


def test_a_recording_without_sensors_of_the_modality_names_the_option(tmp_path):
    with mne.utils.use_log_level("ERROR"):
        meg_raw(8).save(tmp_path / "a_raw.fif", verbose="ERROR")
    with pytest.raises(UserError, match="no recording could be converted"):
        prepare([tmp_path / "a_raw.fif"], tmp_path / "out", WindowSettings(), PrepareOptions(workers=0, modality="eeg"))
