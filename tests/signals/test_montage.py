"""Names, types and places of electrodes, against MNE's own montages."""

import sys

import numpy as np
import pytest

from dreamjax.errors import UserError
from dreamjax.signals.recordings.montage import (
    TEMPLATES,
    banked_names,
    biosemi_names,
    normalise_name,
    plausible,
    reference_of,
    standard_positions,
    template,
)
from dreamjax.signals.recordings.readers.recording import settle_names


@pytest.mark.parametrize(
    ("label", "name", "kind"),
    [
        ("EEG Fp1-Ref", "Fp1", "eeg"),
        ("EEG FP1-LE", "Fp1", "eeg"),
        ("Fc5.", "FC5", "eeg"),
        ("Cz..", "Cz", "eeg"),
        ("FPZ", "Fpz", "eeg"),
        ("T3", "T7", "eeg"),
        ("EEG T4-REF", "T8", "eeg"),
        ("T5", "P7", "eeg"),
        ("EEG T6", "P8", "eeg"),
        ("C3-A2", "C3", "eeg"),
        ("EEG A2-A1", "A2-A1", "ref"),
        ("A1", "A1", "ref"),
        ("M2", "M2", "ref"),
        ("FP1-F7", "Fp1-F7", "eeg"),
        ("ECG ECG", "ECG", "ecg"),
        ("Ekg1", "Ekg1", "ecg"),
        ("VEOG", "VEOG", "eog"),
        ("REOG", "REOG", "eog"),
        ("EOG1", "EOG1", "eog"),
        ("EMG chin", "chin", "emg"),
        ("EMGleft", "EMGleft", "emg"),
        ("Status", "Status", "stim"),
        ("STI 014", "STI 014", "stim"),
        ("EXG3", "EXG3", "misc"),
        ("POL DC01", "DC01", "misc"),
        ("SaO2 X9", "X9", "misc"),
        ("Right AUX", "Right AUX", "misc"),
        ("E12", "E12", "eeg"),
        ("EXG Channel 0", "EXG Channel 0", "eeg"),
        ("EEG 007", "007", "eeg"),
    ],
)
def test_labels(label, name, kind):
    assert normalise_name(label) == (name, kind)


def test_positions_are_mnes(recwarn):
    """standard_1005 placed on a Raw, as MNE puts it into the head frame; the package's table has 10 µm."""
    mne = pytest.importorskip("mne")
    for names in TEMPLATES.values():
        info = mne.create_info(list(names), 256.0, "eeg")
        info.set_montage("standard_1005")
        expected = np.array([ch["loc"][:3] for ch in info["chs"]])
        np.testing.assert_allclose(standard_positions(names), expected, atol=1e-5)


def test_templates_need_no_mne(monkeypatch):
    monkeypatch.setitem(sys.modules, "mne", None)
    assert [len(template(name)[0]) for name in ("1020-19", "1010-32", "1010-64")] == [19, 32, 64]
    for name in TEMPLATES:
        names, xyz = template(name)
        assert len(set(names)) == len(names)
        assert plausible(xyz)
        left = xyz[[i for i, n in enumerate(names) if n[-1] in "13579"]]
        assert (left[:, 0] < 0).all(), "odd numbers lie on the left, x to the right"
    with pytest.raises(UserError, match="did you mean 1020-19"):
        template("10-20-19")


def test_unknown_names_have_no_position():
    xyz = standard_positions(["Cz", "nowhere", "t3"])
    assert np.isfinite(xyz).all(axis=1).tolist() == [True, False, True]
    np.testing.assert_array_equal(xyz[2], standard_positions(["T7"])[0])


def test_biosemi_sockets_become_the_sites_of_mnes_caps():
    mne = pytest.importorskip("mne")
    a32 = [f"A{i}" for i in range(1, 33)]
    extras = ["EXG1", "Status"]
    for labels, cap in (
        (a32, "biosemi32"),
        (a32 + [f"B{i}" for i in range(1, 33)], "biosemi64"),
        (a32[:16], "biosemi16"),
    ):
        expected = [n for n in mne.channels.make_standard_montage(cap).ch_names if n not in ("Nz", "LPA", "RPA")]
        assert biosemi_names(labels + extras) == expected + extras
    assert biosemi_names(["A1", "A2", "Cz"]) is None


def test_sockets_of_large_grids_are_not_taken_for_sites():
    labels = [f"{bank}{i}" for bank in "ABCDEF" for i in range(1, 17)]
    names = banked_names(labels)
    assert names is not None
    assert not np.isfinite(standard_positions(names)).any()
    assert set(settle_names(names)[1]) == {"eeg"}
    assert banked_names(["C3", "F3", "A1"]) is None


def test_types_that_the_file_states_go_before_the_label():
    names, types = settle_names(["Cz", "Vb", "T7", "T3"], ["misc", "eeg", "eeg", "eeg"])
    assert types == ["misc", "misc", "eeg", "eeg"]
    assert names == ["Cz", "Vb", "T7", "T7_2"]
    assert settle_names(["left", "right", "EMG"])[1] == ["eeg", "eeg", "emg"]  # a cap of no known naming


@pytest.mark.parametrize(
    ("labels", "reference"),
    [
        (["EEG Fp1-LE", "EEG Fp2-LE", "ECG"], "linked ears"),
        (["C3-A2", "C4-A1", "O1-A2"], "A2"),
        (["EEG Fp1-Ref", "EEG Fp2-Ref"], "unknown"),
        (["FP1-F7", "F7-T7"], "bipolar"),
        (["EEG Cz-AVG"], "average"),
        (["Fp1"], "unknown"),
    ],
)
def test_references_in_labels(labels, reference):
    assert reference_of(labels) == reference


def test_rejects_positions_that_are_not_on_a_head():
    head = standard_positions(TEMPLATES["1020-19"])
    assert plausible(head)
    assert not plausible(head * 1000)  # millimetres
    assert not plausible(head * [1, 1, 0])  # a drawing
    assert not plausible(np.full((3, 3), np.nan))
