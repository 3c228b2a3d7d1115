"""`--channels` and `--montage`: names and positions that a user gives."""

import numpy as np
import pytest
from edf_files import write_edf
from recorded import noise

from dreamjax.cli import main as cli
from dreamjax.errors import UserError
from dreamjax.signals.datasets import records
from dreamjax.signals.preparation import convert
from dreamjax.signals.recordings.electrodes import Electrodes, positions_in
from dreamjax.signals.recordings.montage import BIOSEMI32, standard_positions
from dreamjax.signals.recordings.opening import open_recording, source_of

NUMBERED = ["EXG Channel 0", "EXG Channel 1", "EXG Channel 2", "Trigger"]


@pytest.fixture
def numbered(tmp_path):
    """Three numbered electrodes and a stimulus channel."""
    signal = np.vstack([noise(3, 6) * 10, np.zeros((1, 6 * 256))]).astype(int)
    return write_edf(tmp_path / "cyton.edf", signal, labels=NUMBERED)


def opened(path, *channels, montage=""):
    return open_recording(path, electrodes=Electrodes(channels, montage))


def test_channels_are_named_in_the_order_of_the_file(numbered):
    recording = opened(numbered, "Fp1", "T3", "CB2")
    assert recording.ch_names == ("Fp1", "T7", "CB2")
    assert recording.sensor_kind == ("eeg",) * 3
    np.testing.assert_array_equal(recording.xyz, standard_positions(["Fp1", "T7", "CB2"]))
    assert "3 channels named by --channels" in recording.notes


def test_some_channels_are_named_by_their_labels(numbered):
    recording = opened(numbered, "exg channel 1=Oz", "EXG Channel 2=HEOG")
    assert recording.ch_names == ("EXG Channel 0", "Oz", "HEOG")
    assert recording.sensor_kind == ("eeg", "eeg", "eog")


def test_a_channel_that_was_not_used_becomes_an_electrode(tmp_path):
    path = write_edf(tmp_path / "a.edf", np.zeros((3, 512), int), labels=["Fz", "EXG1", "EXG2"])
    assert opened(path).sensor_kind == ("eeg", "misc", "misc")
    recording = opened(path, "EXG1=Cz", "EXG2=mine")
    assert (recording.ch_names, recording.sensor_kind) == (("Fz", "Cz", "mine"), ("eeg",) * 3)


@pytest.mark.parametrize(
    ("channels", "words"),
    [
        (("Fp1", "Fp2"), r"--channels gives 2 names, but the recording has 3 EEG channels of 3 in all: EXG Channel 0"),
        (("EXG Channel 7=Fp1",), r"no channel EXG Channel 7; the recording has EXG Channel 0"),
    ],
)
def test_reports_names_that_do_not_fit(numbered, channels, words):
    with pytest.raises(UserError, match=words):
        opened(numbered, *channels)


def test_refuses_names_of_two_forms():
    with pytest.raises(ValueError, match="or all of the form LABEL=NAME"):
        Electrodes(("Fp1", "EXG1=Fp2"))


@pytest.mark.parametrize(("scale", "separator", "comma"), [(1, ",", "."), (100, "\t", ","), (1000, ";", ",")])
def test_positions_come_from_a_table_in_metres_centimetres_or_millimetres(tmp_path, numbered, scale, separator, comma):
    names = ["Left", "Right", "Back"]
    xyz = standard_positions(["C3", "C4", "Oz"])
    rows = [[n, *(f"{v * scale:.6f}".replace(".", comma) for v in at)] for n, at in zip(names, xyz, strict=True)]
    table = tmp_path / ("cap.tsv" if separator == "\t" else "cap.csv")
    table.write_text("\n".join(separator.join(row) for row in [["name", "x", "y", "z"], *rows]))
    recording = opened(numbered, "Left", "right", "Back", montage=str(table))
    np.testing.assert_allclose(recording.xyz, xyz, atol=2e-6)
    assert "positions of 3 EEG channels from --montage" in recording.notes


def test_positions_come_from_a_montage_of_mne_and_from_its_files(tmp_path, numbered):
    mne = pytest.importorskip("mne")
    cap = mne.channels.make_standard_montage("biosemi128")
    info = mne.create_info(cap.ch_names, 256.0, "eeg").set_montage(cap)
    expected = {ch["ch_name"]: ch["loc"][:3] for ch in info["chs"]}
    recording = opened(numbered, "A1", "B12", "D32", montage="biosemi128")
    np.testing.assert_allclose(recording.xyz[1:], [expected["B12"], expected["D32"]], atol=1e-9)
    (tmp_path / "cap.xyz").write_text("1\t0.01\t0.06\t0.07\tSite1\n2\t-0.05\t0.0\t0.08\tSite2\n")
    recording = opened(numbered, "EXG Channel 0=Site1", montage=str(tmp_path / "cap.xyz"))
    np.testing.assert_allclose(recording.xyz[0], [0.01, 0.06, 0.07], atol=1e-6)


CED = "Number\tlabels\ttheta\tradius\tX\tY\tZ\tsph_theta\tsph_phi\tsph_radius\ttype\t\n"


def eeglab_positions(path, names, xyz, columns="all", scale=1e3, comma="."):
    """EEGLAB's two kinds of files, of electrodes at x right, y front, z up: EEGLAB has x to the nose, y to the left."""
    rows = [] if path.suffix == ".locs" else [CED]
    for i, (name, (right, front, up)) in enumerate(zip(names, xyz, strict=True), start=1):
        theta = np.degrees(np.arctan2(right, front))
        radius = 0.5 - np.degrees(np.arcsin(up / np.linalg.norm([right, front, up]))) / 180
        x, y, z = (f"{v * scale:.6f}".replace(".", comma) for v in (front, -right, up))
        if path.suffix == ".locs":
            rows.append(f"{i}\t{theta:.5f}\t{radius:.6f}\t{name:.<4}\n")
        else:
            cells = f"{x}\t{y}\t{z}" if columns == "all" else "\t\t"
            rows.append(f"{i}\t{name}\t{theta:.5f}\t{radius:.6f}\t{cells}\t\t\t\tEEG\t\n")
    path.write_text("".join(rows))
    return path


@pytest.mark.parametrize("next_to", [True, False])
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("cyton.ced", {}),
        ("cyton.CED", {"comma": ","}),
        ("cyton.ced", {"scale": 10.0}),
        ("cyton.ced", {"columns": "flat map"}),
        ("cyton.locs", {}),
    ],
)
def test_positions_come_from_a_file_of_eeglab(tmp_path, numbered, name, more, next_to):
    """Next to the recording or by --montage; left, right, front and back stay where they are."""
    pytest.importorskip("mne")
    names = ["L", "R", "Oz.", "F"]
    xyz = np.array([[-0.06, 0, 0.07], [0.06, 0, 0.07], [0, -0.08, 0.05], [0, 0.08, 0.05]])
    xyz *= 0.095 / np.linalg.norm(xyz, axis=1, keepdims=True)
    (tmp_path / "other").mkdir()
    file = eeglab_positions((tmp_path if next_to else tmp_path / "other") / name, names, xyz, **more)
    assert bool(convert.tables_hash(source_of(numbered), "")) == next_to
    labels = ["L", "R", "Oz", "Trigger"]
    recorded = write_edf(numbered, np.ones((4, 512), int), labels=[f"EEG {label}" for label in labels])
    recording = opened(recorded, montage="" if next_to else str(file))
    np.testing.assert_allclose(recording.xyz[:3], xyz[:3], atol=1e-5)
    origin = f"its {file.suffix.lower()} file" if next_to else "--montage"
    assert f"positions of 3 EEG channels from {origin}" in recording.notes


def test_a_file_of_positions_that_cannot_be_used_is_a_note(tmp_path, numbered):
    (tmp_path / "cyton.ced").write_text("Number\tlabels\n1\tFz\n")
    recording = opened(numbered)
    expected = "the positions in its .ced file are not used: expected the columns labels with x, y and z, or with "
    assert any(note.startswith(expected) for note in recording.notes)
    eeglab_positions(tmp_path / "cyton.ced", ["Q1"], np.array([[0, 0.05, 0.08]]))
    assert any("not used: it has no electrode of this recording" in note for note in opened(numbered).notes)


def test_sockets_of_biosemi_are_not_sites_of_the_same_name(tmp_path):
    """A cap of 32 is placed by its sites; of 128 by its sockets, and only where the montage has them."""
    pytest.importorskip("mne")
    sites = [*BIOSEMI32.split(), "A1", "A2"]
    xyz = standard_positions(sites)
    rows = [f"{n},{x:.6f},{y:.6f},{z:.6f}" for n, (x, y, z) in zip(sites, xyz, strict=True)]
    (tmp_path / "cap.csv").write_text("\n".join(["name,x,y,z", *rows]))
    for banks in ("A", "ABCD"):
        sockets = [f"{bank}{i}" for bank in banks for i in range(1, 33)]
        signal = np.zeros((len(sockets) + 1, 512), int)
        write_edf(tmp_path / f"{len(sockets)}.bdf", signal, bdf=True, labels=[*sockets, "Status"])
    recording = opened(tmp_path / "32.bdf", montage=str(tmp_path / "cap.csv"))
    np.testing.assert_allclose(recording.xyz, xyz[:32], atol=2e-6)
    assert "positions of 32 EEG channels from --montage" in recording.notes
    with pytest.raises(UserError, match=r"sockets of an amplifier.*such as biosemi128"):
        opened(tmp_path / "128.bdf", montage=str(tmp_path / "cap.csv"))
    expected = positions_in("biosemi128")
    recording = opened(tmp_path / "128.bdf", montage="biosemi128")
    np.testing.assert_allclose(recording.xyz, [expected[name] for name in sockets])


def test_reports_a_montage_that_cannot_be_used(tmp_path, numbered):
    (tmp_path / "flat.csv").write_text("name,x,y,z\n" + "".join(f"E{i},{i},0,0\n" for i in range(9)))
    (tmp_path / "words.csv").write_text("name,x,y,z\nE1,a,b,c\n")
    (tmp_path / "no.csv").write_text("label,theta\nE1,3\n")
    (tmp_path / "broken.elc").write_text("no positions")
    for montage, words in {
        "biosemi129": "neither a file nor a montage of MNE; did you mean biosemi128",
        str(tmp_path / "flat.csv"): "not on a head",
        str(tmp_path / "words.csv"): "not a number",
        str(tmp_path / "no.csv"): "expected the columns name, x, y and z",
        str(tmp_path / "broken.elc"): "not a file of positions",
    }.items():
        with pytest.raises(UserError, match=words):
            positions_in(montage)
    with pytest.raises(UserError, match="it has no electrode of this recording, whose channels are EXG Channel 0"):
        opened(numbered, montage="biosemi16")


def test_the_command_names_and_places_channels(numbered, tmp_path, capsys):
    pytest.importorskip("tensorflow_datasets")
    argv = ["prepare", str(numbered), "--out", str(tmp_path / "out"), "--workers", "0", "--channels", "O1", "Oz", "O2"]
    assert cli.main(argv) == 0
    dataset = records.load_dataset(str(tmp_path / "out"))
    assert dataset["channels"] == ["O1", "O2", "Oz"]
    capsys.readouterr()
    assert cli.main([*argv[:-2], "POz", "O2"]) == 2  # other records than those in the folder
    assert "with other settings" in capsys.readouterr().err
    assert cli.main([*argv, "--montage", "nothing"]) == 2
    assert "--montage nothing: neither a file nor a montage of MNE" in capsys.readouterr().err
