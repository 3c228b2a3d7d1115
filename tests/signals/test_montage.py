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
from dreamjax.signals.recordings.readers.recording import Contents, Source, assemble, settle_names


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
        ("EEG Fp1-M1Ref", "Fp1", "eeg"),
        ("EEG M1-M1Ref", "M1", "ref"),
        ("EEG HEOG-M1Ref", "HEOG", "eog"),
        ("HEOG_left", "HEOG_left", "eog"),
        ("HEO", "HEO", "eog"),
        ("EEG ECG-Ref", "ECG", "ecg"),
        ("Fp1 - (A1+A2)/2", "Fp1", "eeg"),
        ("EEGFP2", "Fp2", "eeg"),
        ("EEG C3-Cz Reference", "C3", "eeg"),
        ("FZ-CZ", "Fz-Cz", "eeg"),
        ("CB1", "CB1", "eeg"),
        ("C3'", "C3'", "eeg"),
        ("Cp4''", "Cp4''", "eeg"),
        ("T1", "T1", "eeg"),
        ("FAF5", "AFF5", "eeg"),
        ("CFC7", "FTT7", "eeg"),
        ("CCP8", "TTP8", "eeg"),
        ("PCP1", "CPP1", "eeg"),
        ("OPO2", "POO2", "eeg"),
        ("P300", "P300", "misc"),
        ("OSAT", "OSAT", "misc"),
        ("Vb", "Vb", "misc"),
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
        (["EEG Fp1-M1Ref", "EEG Fp2-M1Ref"], "M1"),
        (["EEG FP1-REF", "EEG FP2-REF"], "unknown"),
        (["Fp1-(M1+M2)/2"], "linked mastoids"),
        (["Fp1-Pz", "Fp2-Pz", "EOG"], "Pz"),
        (["Fz-Cz"], "bipolar"),
        (["T8-P8", "T8-P8", "ECG"], "bipolar"),  # one derivation, twice
    ],
)
def test_references_in_labels(labels, reference):
    assert reference_of(labels) == reference


def opened(labels, types=(), format_="edf"):
    """A recording of these channels."""
    reader = lambda start, stop, picks: np.zeros((len(picks), stop - start))  # noqa: E731
    return assemble(Source("a", "edf"), Contents(format_, labels, 256.0, 512, reader, types=types))


def test_bipolar_channels_lie_midway_between_their_electrodes():
    recording = opened(["FP1-F7", "F7-T3", "T3-T5", "T3-T5", "ECG"])
    assert recording.ch_names == ("Fp1-F7", "F7-T7", "T7-P7", "T7-P7_2", "ECG")
    ends = standard_positions(["Fp1", "F7", "T7", "P7"])
    middle = (ends[:-1] + ends[1:]) / 2
    np.testing.assert_allclose(recording.xyz, [*middle, middle[2], [np.nan] * 3])
    assert recording.reference == "bipolar"
    assert recording.notes == (
        "1 channel renamed, as another has the same name: T7-P7_2",
        "4 bipolar channels placed midway between two electrodes: Fp1-F7, F7-T7, T7-P7, T7-P7_2",
    )


def test_pairs_that_share_their_second_electrode_have_it_as_reference():
    recording = opened(["EEG Fp1-Pz", "EEG Fp2-Pz", "EEG Cz-Pz"])
    assert (recording.ch_names, recording.reference) == (("Fp1", "Fp2", "Cz"), "Pz")
    np.testing.assert_array_equal(recording.xyz, standard_positions(["Fp1", "Fp2", "Cz"]))


def test_an_unknown_eeg_name_keeps_its_data_and_what_is_not_used_is_counted():
    labels = ["FP1", "POZ", "CB1", "C3'", "Inner7", "FAF5", "Trigger", "EXG1", "Foo", "Vb"]
    recording = opened(labels, ["eeg"] * 8 + ["misc", "eeg"])
    kinds = dict(zip(recording.ch_names, recording.sensor_kind, strict=True))
    assert [name for name, kind in kinds.items() if kind == "eeg"] == ["Fp1", "POz", "CB1", "C3'", "Inner7", "AFF5"]
    assert np.isfinite(recording.xyz).all(axis=1).tolist() == [
        True,
        True,
        False,
        False,
        False,
        True,
        False,
        False,
        False,
    ]
    assert recording.notes == (
        "3 channels not used (misc): EXG1, Foo, Vb",
        "3 EEG channels without a known position: CB1, C3', Inner7",
    )


def test_names_of_the_berlin_caps_are_sites_of_the_1005_system():
    for name in ("FAF1", "FAF6", "FFC7", "CFC5", "CFC8", "CCP7", "PCP2", "PPO1", "OPO1"):
        assert np.isfinite(standard_positions([name])).all(), name
    front, rear = standard_positions(["FAF5", "OPO1"])
    assert standard_positions(["F5"])[0, 1] < front[1] < standard_positions(["AF5"])[0, 1]
    assert standard_positions(["O1"])[0, 1] < rear[1] < standard_positions(["PO1"])[0, 1]


def test_rejects_positions_that_are_not_on_a_head():
    head = standard_positions(TEMPLATES["1020-19"])
    assert plausible(head)
    assert not plausible(head * 1000)  # millimetres
    assert not plausible(head * [1, 1, 0])  # a drawing
    assert not plausible(np.full((3, 3), np.nan))
