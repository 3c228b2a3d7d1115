"""THINGS-EEG2 as recorded: trials are cut where the stimulus channel rises, resampled, and whitened by session."""

import mne
import numpy as np
import pytest

from dreamjax.cli import main
from dreamjax.errors import UserError
from dreamjax.signals.datasets import records
from dreamjax.signals.preparation import mvnn
from dreamjax.signals.preparation.convert_trials import TrialReader, TrialSettings
from dreamjax.signals.preparation.epochs import EpochSettings
from dreamjax.signals.preparation.prepare import PrepareOptions, prepare
from dreamjax.signals.recordings.corpora import things_raw
from dreamjax.signals.recordings.corpora.things_layouts import CAP_ORDER, CHANNELS_17
from dreamjax.signals.simulation.things_eeg2_files import ThingsLayout, write_things_eeg2

SIZE = {"subjects": 1, "concepts": 2, "images_per_concept": 3, "test_concepts": 2} | {
    "sessions": 2,
    "test_repetitions": 4,
}
PLAIN = TrialSettings(epochs=EpochSettings(mvnn="off"))


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    out = tmp_path_factory.mktemp("things") / "raw"
    write_things_eeg2(out, ThingsLayout("raw", **SIZE))
    return out


def made(root, out, settings=None, **options):
    options = {"stimuli": str(root / "image_set")} | options
    return prepare([root / "eeg"], out, settings, PrepareOptions(workers=0, **options))


def reader(root, settings=PLAIN):
    return TrialReader(str(root / "eeg"), settings, str(root / "image_set"))


def by_mne(root, session, part):
    """MNE's epochs of one recording, in µV, with baseline, and the numbers of their images."""
    content = np.load(root / f"eeg/sub-01/ses-0{session}/raw_eeg_{part}.npy", allow_pickle=True).item()
    info = mne.create_info(content["ch_names"], content["sfreq"], content["ch_types"])
    recording = mne.io.RawArray(content["raw_eeg_data"], info, verbose="error")
    events = mne.find_events(recording, stim_channel="stim", verbose="error")
    events = events[events[:, 2] != 99999]
    epochs = mne.Epochs(recording, events, tmin=-0.2, tmax=1.0, baseline=(None, 0), preload=True, verbose="error")
    return epochs.get_data(picks="eeg", verbose="error") * 1e6, epochs.events


@pytest.mark.parametrize(("part", "split"), [("training", "train"), ("test", "test")])
def test_trials_are_those_of_mne(raw, part, split):
    data, events = by_mne(raw, 2, part)
    opened = reader(raw, TrialSettings(sfreq=1000.0, epochs=EpochSettings(mvnn="off")))
    trials = opened.trials
    ours = np.flatnonzero((trials.session == 2) & (trials.split == split))
    np.testing.assert_array_equal(trials.onset[ours], events[:, 0])
    names = [trials.stimulus(i) for i in ours]
    listed = np.load(raw / "image_set/image_metadata.npy", allow_pickle=True).item()
    assert [name.split("/")[1] for name in names] == [listed[f"{split}_img_files"][code - 1] for code in events[:, 2]]
    for i, epoch in zip(ours, data, strict=True):
        np.testing.assert_allclose(opened(int(i))[0], epoch[:, :-1], atol=1e-6)
    resampled = reader(raw)
    y_CxT, valid = resampled(int(ours[0]))
    assert (resampled.rate, y_CxT.shape, valid.all()) == (250.0, (63, 300), True)
    slow = mne.filter.resample(data[0][:, :1200], down=4, npad="auto", verbose="error")
    inner = slice(60, 240)
    assert np.corrcoef(y_CxT[:, inner].ravel(), slow[:, inner].ravel())[0, 1] > 0.95


def test_resampling_aligns_with_the_onset(raw):
    """A slow wave in the recording is read at the times of the records, wherever the onset lies on the grid of 4."""
    opened = reader(raw)
    trials = opened.trials
    wave = np.sin(2 * np.pi * 3 * np.arange(8000) / 1000) * 1e-6
    object.__setattr__(trials, "recordings", tuple(np.tile(wave, (64, 1)) for _ in trials.recordings))
    for shift in range(3):
        object.__setattr__(trials, "onset", np.full(len(trials), 3000 + shift))
        t = 3.0 + shift / 1000 - 0.2 + np.arange(300) / 250
        wanted = np.sin(2 * np.pi * 3 * t)
        wanted -= wanted[:51].mean()
        np.testing.assert_allclose(opened(0)[0][5], wanted, atol=2e-3)


def test_whitens_a_session_by_its_training_trials(raw, tmp_path):
    result = made(raw, tmp_path / "out")
    assert result.splits == {"train": 12, "test": 8}
    dataset = records.load_dataset(tmp_path / "out")
    assert (dataset["settings"]["tmin"], dataset["settings"]["mvnn"]) == (-0.2, "train")
    assert "training trials" in dataset["design"]["notes"][0]
    opened, trials = reader(raw), reader(raw).trials
    whiteners = {}
    for session in (1, 2):
        groups = {}
        for i in np.flatnonzero((trials.session == session) & (trials.split == "train")):
            groups.setdefault(trials.image[i], []).append(opened(int(i))[0])
        whiteners[session] = mvnn.whitener([mvnn.noise_covariance(map(np.stack, groups.values()))])
    for window in [*records.read_windows(tmp_path / "out", "train"), *records.read_windows(tmp_path / "out", "test")]:
        trial = next(int(flag[6:]) for flag in window.flags if flag.startswith("trial:"))
        wanted = whiteners[trials.session[trial]] @ opened(trial)[0]
        np.testing.assert_allclose(window.signal, wanted, atol=np.ptp(wanted, axis=1).max() / 65534)
        assert (window.unit, window.start) == ("SD", trials.onset[trial] / 1000)
    assert len({window.session for window in records.read_windows(tmp_path / "out", "test")}) == 2


def test_as_released_fits_on_test_trials_too_and_off_keeps_microvolts(raw, tmp_path):
    made(raw, tmp_path / "released", TrialSettings(epochs=EpochSettings(mvnn="as_released")))
    notes = records.load_dataset(tmp_path / "released")["design"]["notes"]
    assert "training and test trials" in notes[0]
    made(raw, tmp_path / "off", PLAIN)
    window = records.read_windows(tmp_path / "off", "test")[0]
    assert window.unit == "µV"
    assert window.ch_names == CAP_ORDER
    signals = [records.read_windows(tmp_path / name, "test")[0].signal for name in ("released", "off")]
    assert not np.allclose(*signals)


def test_options_choose_channels_and_time(raw, tmp_path, capsys):
    options = ["--tmin", "0", "--tmax", "0.5", "--baseline", "0", "0.1", "--sfreq", "100", "--channel-set", "17"]
    command = ["prepare", str(raw / "eeg"), "--stimuli", str(raw / "image_set"), "--workers", "0", "--mvnn", "off"]
    assert main.main([*command, "--out", str(tmp_path / "out"), *options]) == 0
    window = records.read_windows(tmp_path / "out", "train")[0]
    assert window.signal.shape == (17, 50)
    assert window.ch_names == CHANNELS_17
    np.testing.assert_allclose(window.signal[:, :11].mean(axis=1), 0, atol=1e-2)
    assert records.load_dataset(tmp_path / "out")["settings"]["baseline"] == [0, 0.1]
    assert main.main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "--tmax 0.5 (now 1)" in capsys.readouterr().err
    assert main.main([*command, "--out", str(tmp_path / "other"), "--high", "30"]) == 2
    assert main.main([*command, "--out", str(tmp_path / "other"), "--tmin", "2"]) == 2


@pytest.mark.long
def test_children_whiten_as_one_process(raw, tmp_path):
    made(raw, tmp_path / "one")
    images = str(raw / "image_set")
    prepare([raw / "eeg"], tmp_path / "two", None, PrepareOptions(workers=2, stimuli=images))
    for one, two in zip(*(records.read_windows(tmp_path / name, "test") for name in ("one", "two")), strict=True):
        np.testing.assert_array_equal(one.signal, two.signal)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("ses-01", "ses-01 is missing"),
        ("ses-02/raw_eeg_test.npy", r"ses-02: raw_eeg_test\.npy is missing, the recording of split test"),
    ],
)
def test_reports_a_partial_download(tmp_path, gone, message):
    write_things_eeg2(tmp_path / "set", ThingsLayout("raw", **SIZE))
    path = tmp_path / "set" / "eeg" / "sub-01" / gone
    path.rename(tmp_path / "gone")
    with pytest.raises(UserError, match=message):
        made(tmp_path / "set", tmp_path / "out")


def test_reports_a_dictionary_of_something_else(tmp_path):
    write_things_eeg2(tmp_path / "set", ThingsLayout("raw", **SIZE))
    path = tmp_path / "set" / "eeg" / "sub-01" / "ses-01" / "raw_eeg_test.npy"
    np.save(path, {"raw_eeg_data": np.zeros((2, 10)), "ch_names": ["Oz", "O1"], "sfreq": 1000})
    with pytest.raises(UserError, match="it has no channel stim"):
        made(tmp_path / "set", tmp_path / "out")
    np.save(path, {"raw_eeg_data": np.zeros((3, 10)), "ch_names": ["Oz", "stim"], "sfreq": 1000})
    with pytest.raises(UserError, match=r"shape \(3, 10\) for 2 channels"):
        made(tmp_path / "set", tmp_path / "out")


def test_targets_are_no_trials():
    stim = np.zeros(100)
    stim[10:20], stim[30:40], stim[50:60], stim[60:70] = 7, 99999, 3, 5
    at, code = things_raw.onsets(stim)
    assert (at.tolist(), code.tolist()) == ([10, 50, 60], [7, 3, 5])


def test_leaves_out_trials_beyond_the_recording(raw, tmp_path):
    result = made(raw, tmp_path / "out", TrialSettings(sfreq=50.0, epochs=EpochSettings(tmax=1.6, mvnn="off")))
    assert set(result.rejected) == {"its recording does not hold it whole"}
    assert 0 < result.rejected["its recording does not hold it whole"] < 10
    assert all(window.valid.all() for window in records.read_windows(tmp_path / "out", "test"))
