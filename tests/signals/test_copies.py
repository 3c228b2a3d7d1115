"""A recording that is given twice: the same bytes, a link, or its signal re-exported, resampled or cut."""

import json
import shutil

import numpy as np
import pytest
from edf_files import write_edf
from recorded import noise, recording
from scipy.signal import resample_poly
from studies import INLINE, study

from dreamjax.signals.preparation import copies
from dreamjax.signals.preparation.prepare import WindowSettings, prepare
from dreamjax.signals.preparation.windows import RecordingWindows
from dreamjax.signals.recordings.identity import Identity

SMALL = WindowSettings(samples=256, reference="recorded")
RATE = 256.0


def brain(seconds=40, seed=0, channels=6, sfreq=RATE):
    """1/f noise, µV."""
    white = np.fft.rfft(np.random.default_rng(seed).normal(size=(channels, round(seconds * sfreq))))
    signal = np.fft.irfft(white / np.sqrt(np.maximum(np.arange(white.shape[1]), 1)))
    return 15 * signal / signal.std()


def sketch(signal, sfreq=RATE):
    windows = RecordingWindows(recording(signal, sfreq), SMALL, Identity("s", "", "r"))
    learned = copies.Sketch()
    assert len(list(learned.watched(windows)))
    return learned.as_json()


def test_recognises_a_signal_that_was_exported_again():
    x = brain()
    again = {
        "another unit, coarser steps": np.rint(3 * x / 2) * 2,
        "another reference": x - x[2],
        "another order of channels": x[::-1],
        "cut": x[:, 3000 : 3000 + 15 * 256],
    }
    sketches = [sketch(x), sketch(brain(seed=1)), *map(sketch, again.values())]
    sketches += [
        sketch(resample_poly(x, *ratio, axis=1), rate) for rate, ratio in ((128.0, (1, 2)), (500.0, (125, 64)))
    ]
    pairs = copies.alike(sketches)
    assert {other for one, other in pairs if one == 0} == {2, 3, 4, 5, 6, 7}
    assert not any(1 in pair for pair in pairs)


def test_different_recordings_are_not_copies(real_eeg):
    """Not those of one person, nor rhythms: a periodic signal has no pattern that occurs once."""
    t = np.arange(20 * 256) / RATE
    rhythms = [20 * np.sin(2 * np.pi * f * t + np.arange(6)[:, None]) + noise(6, 20, seed=i, scale=0.5)
               for i, f in enumerate((10.0, 10.0, 12.0))]  # fmt: skip
    assert copies.alike([sketch(x) for x in (*rhythms, *(brain(seed=i) for i in range(8)))]) == []


def test_equal_content_is_one_recording(tmp_path):
    folder = study(tmp_path / "in", subjects=3, recordings=1, seconds=6)
    shutil.copy(folder / "sub-01_ses-0.edf", folder / "sub-07_ses-0.edf")
    result = prepare([folder], tmp_path / "out", SMALL, INLINE)
    assert (result.recordings, result.subjects, result.recordings_left_out) == (3, 3, 1)
    (copy,) = result.copies
    assert (copy["path"], copy["of"]) == (str(folder / "sub-07_ses-0.edf"), str(folder / "sub-01_ses-0.edf"))
    (line,) = (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "the same content (SHA-256) as another recording, which is kept"
    assert prepare([folder], tmp_path / "out", SMALL, INLINE).already_prepared


def test_people_who_share_a_recording_are_in_one_split(tmp_path):
    folder = study(tmp_path / "in", subjects=6, recordings=1, seconds=6)
    shutil.copy(folder / "sub-01_ses-0.edf", folder / "sub-07_ses-0.edf")
    x = brain(20)
    for name, signal in (("sub-07_ses-1", brain(6, seed=5)), ("sub-08_a", x), ("sub-09_b", np.rint(2 * x[::-1]) / 4)):
        write_edf(folder / f"{name}.edf", np.rint(signal / 0.1))
    result = prepare([folder], tmp_path / "out", SMALL, INLINE)
    assert sorted(copy["how"] for copy in result.copies) == [
        "the same content, left out", "the same signal, kept in the same split"]  # fmt: skip
    dataset = json.loads((tmp_path / "out" / "dataset.json").read_text())
    split = {entry["recording"]: entry["split"] for entry in dataset["inputs"]}
    signal_copy = next(copy for copy in dataset["copies"] if "signal" in copy["how"])
    assert split[signal_copy["recording"]] == split[signal_copy["of"]]


def test_links_do_not_give_a_recording_twice(tmp_path):
    folder = tmp_path / "in"
    for person, seed in (("anna", 1), ("ben", 2), ("carl", 3)):
        (folder / person).mkdir(parents=True)
        write_edf(folder / person / "rest.edf", np.rint(noise(4, 6, seed=seed) / 0.1))
    (folder / "a_copy").symlink_to(folder / "ben")
    (folder / "current").symlink_to(".")
    (folder / "up").symlink_to("..")
    (folder / "anna" / "again.edf").symlink_to("../carl/rest.edf")
    result = prepare([folder], tmp_path / "out", SMALL, INLINE)
    assert (result.recordings, result.subjects, result.copies) == (3, 3, [])
    assert result.splits.keys() == {"train", "val", "test"}


def test_an_annexed_file_is_read_through_its_link(tmp_path):
    store = tmp_path / "in" / ".git" / "annex"
    store.mkdir(parents=True)
    write_edf(store / "SHA256-1", np.rint(noise(4, 6) / 0.1))
    (tmp_path / "in" / "sub-01.edf").symlink_to(".git/annex/SHA256-1")
    assert prepare([tmp_path / "in"], tmp_path / "out", SMALL, INLINE).subjects == 1


@pytest.mark.parametrize("known", [True, False])
def test_a_copy_of_a_known_subjects_recording_is_left_out_whatever_the_order(tmp_path, known):
    folder = study(tmp_path / "in", subjects=1, recordings=1, seconds=6)
    shutil.copy(folder / "sub-00_ses-0.edf", folder / ("sub-00_a.edf" if known else "a.edf"))
    result = prepare([folder], tmp_path / "out", SMALL, INLINE)
    assert (result.recordings, result.subjects, result.recordings_of_unknown_subjects) == (1, 1, 0)
