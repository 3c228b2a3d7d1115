"""BIDS sidecars: found by inheritance, applied over the header, harmless where absent."""

import json

import numpy as np
import pytest
from edf_files import write_edf

from dreamjax.errors import UserError
from dreamjax.signals.recordings.montage import standard_positions
from dreamjax.signals.recordings.opening import find_sources, open_recording
from dreamjax.signals.recordings.readers.bids import entities, head_frame, licence_of, reference_named


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "ds000117" / "sub-03" / "ses-b" / "eeg"
    folder.mkdir(parents=True)
    write_edf(folder / "sub-03_ses-b_task-faces_eeg.edf", np.zeros((4, 2560), int), labels=["Fz", "Cz", "X1", "Oz"])
    description = {"Name": "Faces", "BIDSVersion": "1.8.0", "License": "CC0"}
    (tmp_path / "ds000117" / "dataset_description.json").write_text(json.dumps(description))
    return tmp_path / "ds000117"


def sidecar(root, suffix, text, top=False):
    folder = root if top else root / "sub-03" / "ses-b" / "eeg"
    name = f"task-faces{suffix}" if top else f"sub-03_ses-b_task-faces{suffix}"
    (folder / name).write_text(text if isinstance(text, str) else json.dumps(text))


def opened(root):
    (source,) = find_sources([root])
    return open_recording(source)


def test_a_root_without_sidecars_is_fine(root):
    (source,) = find_sources([root])
    assert (source.dataset, source.subject, source.session) == ("ds000117", "03", "b")
    assert source.licence == "CC0-1.0"
    assert open_recording(source).sensor_kind == ("eeg", "eeg", "misc", "eeg")


def test_sidecars_go_before_the_header_and_the_nearest_first(root):
    sidecar(
        root, "_channels.tsv", "name\ttype\tunits\tstatus\nFz\tEEG\tuV\tgood\nX1\tEOG\tuV\tgood\nOz\tEEG\tuV\tbad\n"
    )
    facts = {"PowerLineFrequency": 60, "EEGReference": "placed on FCz", "SoftwareFilters": "n/a"}
    sidecar(root, "_eeg.json", facts | {"PowerLineFrequency": 50}, top=True)
    sidecar(root, "_eeg.json", {"PowerLineFrequency": 60, "HardwareFilters": {"HighpassFilter": {"CutoffHz": 1.0}}})
    recording = opened(root)
    assert recording.sensor_kind == ("eeg", "eeg", "eog", "eeg")
    assert recording.bad_channels == ("Oz",)
    assert recording.line_freq == 60.0
    assert recording.reference == "FCz"
    assert recording.highpass == 1.0


@pytest.mark.parametrize(
    ("header", "table", "factor", "note"),
    [
        ("uV", "\u00b5V", 1.0, None),
        ("uV", "\u03bcV", 1.0, None),
        ("mV", "n/a", 1e3, None),
        (
            "mV",
            "uV",
            1e3,
            "2 channels (Fz, Oz): units 'uV' in channels.tsv contradicts 'mV' in the header, which is used",
        ),
        (
            "",
            "mV",
            1e3,
            "2 channels (Fz, Oz): read in mV as channels.tsv says, since the header states no unit of voltage",
        ),
        ("", "nanovolts", 1e-3, "2 channels (Fz, Oz): read in nanovolts as channels.tsv says, since"),
        ("", "\u03bcV", 1.0, None),
        ("uV", "ohm", 1.0, "2 channels (Fz, Oz): units 'ohm' in channels.tsv is not one of voltage, not used"),
    ],
)
def test_units_of_channels_tsv_are_used_or_their_contradiction_is_named(root, header, table, factor, note):
    rows = "".join(f"{name}\t{kind}\t{table}\n" for name, kind in (("Fz", "EEG"), ("Oz", "EEG"), ("X1", "MISC")))
    sidecar(root, "_channels.tsv", f"name\ttype\tunits\n{rows}")
    (file,) = root.rglob("*.edf")
    write_edf(file, np.full((4, 512), 100), labels=["Fz", "Cz", "X1", "Oz"], unit=header)
    recording = opened(root)
    np.testing.assert_allclose(recording.read(0, 1)[[0, 3]], 10 * factor)
    notes = [entry for entry in recording.notes if "channels.tsv" in entry]
    assert len(notes) == (note is not None)
    assert all(entry.startswith(note) for entry in notes)


def test_events_tsv_replaces_the_files_own(root):
    rows = "0.5\t0.2\tface\tf1.png\n1.5\t0.2\tn/a\tn/a\nn/a\t0\tface\tf2.png\n99\t0\tface\tf3.png\n"
    sidecar(root, "_events.tsv", "onset\tduration\ttrial_type\tstim_file\n" + rows)
    recording = opened(root)
    assert [(e.sample, e.code, e.stimulus) for e in recording.events] == [(128, "face", "f1.png"), (384, "", "")]
    assert any("2 rows of events.tsv" in note for note in recording.notes)


def electrodes(xyz):
    rows = "".join(f"{n}\t{x}\t{y}\t{z}\n" for n, (x, y, z) in zip(("Fz", "Cz", "Oz"), xyz, strict=True))
    return "name\tx\ty\tz\n" + rows + "X1\tn/a\tn/a\tn/a\n"


def test_positions_in_another_frame_and_unit_reach_the_head_frame(root):
    """The template's places written in mm with x to the nose (CTF) come back in metres with x to the right."""
    head = standard_positions(["Fz", "Cz", "Oz"])
    ctf = np.stack([head[:, 1], -head[:, 0], head[:, 2]], axis=1) * 1e3
    sidecar(root, "_electrodes.tsv", electrodes(ctf))
    sidecar(root, "_coordsystem.json", {"EEGCoordinateSystem": "CTF", "EEGCoordinateUnits": "mm"})
    recording = opened(root)
    np.testing.assert_allclose(recording.xyz[[0, 1, 3]], head, atol=1e-9)
    assert np.isnan(recording.xyz[2]).all()


def test_positions_follow_the_landmarks(root):
    """Any rigid placement is undone by nasion and ear points: here a rotation about z and a shift."""
    head = standard_positions(["Fz", "Cz", "Oz"])
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    place = lambda points: np.asarray(points) @ turn.T + [0.01, -0.02, 0.03]  # noqa: E731
    landmarks = {k: place(v).tolist() for k, v in
                 {"NAS": [0, 0.1, 0], "LPA": [-0.08, 0, 0], "RPA": [0.08, 0, 0]}.items()}  # fmt: skip
    sidecar(root, "_electrodes.tsv", electrodes(place(head)))
    system = {"EEGCoordinateSystem": "Other", "EEGCoordinateUnits": "m", "AnatomicalLandmarkCoordinates": landmarks}
    sidecar(root, "_coordsystem.json", system)
    np.testing.assert_allclose(opened(root).xyz[[0, 1, 3]], head, atol=1e-9)


def test_positions_in_an_unknown_frame_are_not_used(root):
    sidecar(root, "_electrodes.tsv", electrodes(np.ones((3, 3)) * 0.05))
    recording = opened(root)
    np.testing.assert_allclose(recording.xyz[[0, 1, 3]], standard_positions(["Fz", "Cz", "Oz"]))
    assert any("not used" in note for note in recording.notes)


def test_a_broken_sidecar_is_named(root):
    sidecar(root, "_eeg.json", "{not json")
    with pytest.raises(UserError, match=r"_eeg\.json: not a JSON file"):
        opened(root)


def test_folders_that_hold_no_recordings_are_left_out(root):
    for folder in ("derivatives", "sourcedata", "code"):
        (root / folder).mkdir()
        write_edf(root / folder / "sub-09_eeg.edf", np.zeros((1, 256), int))
    assert [s.subject for s in find_sources([root])] == ["03"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("placed on Cz", "Cz"),
        ("linked mastoids", "linked mastoids"),
        ("common average reference", "average"),
        ("M1, M2", "M1+M2"),
        ("see the protocol of Dr Smith", None),
        ("n/a", None),
    ],
)
def test_references_in_prose_are_reduced_to_names(text, name):
    assert reference_named(text) == name


@pytest.mark.parametrize(
    ("stated", "spdx"),
    [("CC0", "CC0-1.0"), ("PDDL", "PDDL-1.0"), ("CC-BY-4.0", "CC-BY-4.0"), ("ask Jane", "unknown"), ("", "unknown")],
)
def test_licences_become_spdx_ids(tmp_path, stated, spdx):
    (tmp_path / "dataset_description.json").write_text(json.dumps({"License": stated}))
    assert licence_of(tmp_path) == spdx


def test_entities_and_frames():
    assert entities("sub-01_ses-2_task-rest_eeg.edf") == {"sub": "01", "ses": "2", "task": "rest"}
    assert head_frame("unheard of", {}) is None


def test_decimal_commas_in_sidecars_are_read_as_points(root):
    head = standard_positions(["Fz", "Cz", "Oz"])
    sidecar(root, "_electrodes.tsv", electrodes(head + 1e-3).replace(".", ","))
    sidecar(root, "_coordsystem.json", {"EEGCoordinateSystem": "CapTrak", "EEGCoordinateUnits": "meters"})
    sidecar(root, "_events.tsv", "onset\tduration\ttrial_type\n0,5\t0,25\ta\n1.5\t0\tb\n")
    sidecar(root, "_eeg.json", {"PowerLineFrequency": "50"})
    recording = opened(root)
    np.testing.assert_allclose(recording.xyz[[0, 1, 3]], head + 1e-3, atol=1e-9)
    assert [(e.sample, e.duration, e.code) for e in recording.events] == [(128, 0.25, "a"), (384, 0.0, "b")]
    assert recording.line_freq == 50.0


def test_what_is_left_out_of_sidecars_is_counted_by_reason(root):
    head = standard_positions(["Fz", "Cz", "Oz"])
    text = electrodes(head).replace(f"{head[1, 0]}", "1.000,5", 1)
    sidecar(root, "_electrodes.tsv", text)
    sidecar(root, "_coordsystem.json", {"EEGCoordinateSystem": "CapTrak", "EEGCoordinateUnits": "m"})
    rows = "0.5\t0\ta\nn/a\t0\tb\n1,000.5\t0\tc\n2\tlong\td\n99\t0\te\n98\t0\tf\n"
    sidecar(root, "_events.tsv", "onset\tduration\ttrial_type\n" + rows)
    recording = opened(root)
    assert "1 position of electrodes.tsv without three numbers left out: Cz" in recording.notes
    assert (
        "5 rows of events.tsv left out: 2 outside the recording, 1 whose duration is not a number, "
        "1 whose onset is not a number, 1 without an onset"
    ) in recording.notes
