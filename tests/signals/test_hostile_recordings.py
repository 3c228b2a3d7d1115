"""Files that would hold `prepare` up, fill the memory, crash it by their names, or read what lies elsewhere."""

import gzip
import json
import os
import signal
import stat
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from edf_files import write_edf
from recorded import noise
from studies import INLINE, study

from dreamjax.cli import main
from dreamjax.errors import UserError
from dreamjax.signals.preparation import convert
from dreamjax.signals.preparation.prepare import PrepareOptions, prepare
from dreamjax.signals.preparation.window_settings import EventWindows, WindowSettings
from dreamjax.signals.recordings.opening import open_recording, source_of, survey
from dreamjax.signals.recordings.readers import companions
from dreamjax.signals.recordings.readers.recording import Source
from dreamjax.storage import paths

VHDR = (
    "Brain Vision Data Exchange Header File Version 1.0\n[Common Infos]\nDataFile={data}\n{more}DataFormat=BINARY\n"
    "DataOrientation=MULTIPLEXED\nNumberOfChannels=2\nSamplingInterval=4000\n[Binary Infos]\nBinaryFormat=INT_16\n"
    "[Channel Infos]\nCh1=Fz,,1,µV\nCh2=Cz,,1,µV\n"
)
EMOTIV = b"COUNTER,AF3,F7,F3,FC5,T7,P7,O1,O2,P8,T8,FC6,F4,F8,AF4\n"


@pytest.fixture
def soon():
    """A wait of more than 20 s fails."""

    def late(*_):
        raise TimeoutError("still waiting after 20 s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def brainvision(folder: Path, data: str = "old.eeg", more: str = "", seed: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    x = (np.random.default_rng(seed).standard_normal((5000, 2)) * 20).astype("<i2")
    (folder / "old.eeg").write_bytes(x.tobytes())
    (folder / "new.vhdr").write_text(VHDR.format(data=data, more=more), encoding="utf-8")
    return folder / "new.vhdr"


def eeglab(path: Path, data: str, pnts: float = 5000, trials: int = 1, trials_stated=0, nbchan=4, **options) -> Path:
    """A .set of 4 channels at 250 Hz whose signal is in the file `data`."""
    scipy_io = pytest.importorskip("scipy.io")
    places = np.array([(n,) for n in ("Fz", "Cz", "Pz", "Oz")], dtype=[("labels", "O")])
    epochs = np.zeros(trials if trials > 1 else 0, dtype=[("event", "O"), ("eventtype", "O"), ("eventlatency", "O")])
    events = np.zeros(trials if trials > 1 else 0, dtype=[("type", "O"), ("latency", "O"), ("epoch", "O")])
    for i in range(len(epochs)):
        epochs[i], events[i] = (i + 1, "a", 0.0), ("a", i * pnts + 1.0, i + 1)
    eeg = {
        "nbchan": float(nbchan), "trials": float(trials_stated or trials), "pnts": float(pnts), "srate": 250.0,
        "xmin": 0.0, "xmax": 20.0,
        "data": data, "chanlocs": places, "event": events, "ref": "", "setname": "", "filename": path.name,
        "filepath": "", "epoch": epochs,
    }  # fmt: skip
    scipy_io.savemat(path, {"EEG": eeg}, appendmat=False, **options)
    return path


def fdt(path: Path, seed: int = 0, samples: int = 5000) -> Path:
    path.write_bytes((np.random.default_rng(seed).standard_normal((4, samples)) * 20).astype("<f4").tobytes())
    return path


# ------------------------------------------------------------------------------------------------------ odd entries
def test_pipes_devices_and_links_to_them_are_left_out_with_a_reason(tmp_path, soon):
    source = study(tmp_path / "study", 1, 1)
    for name in ("a.csv", "b.edf", "c.cnt", "d.zip", "e.eeg"):
        os.mkfifo(tmp_path / f"pipe to {name}")
        (source / name).symlink_to(tmp_path / f"pipe to {name}")
    (source / "f.edf").symlink_to("/dev/zero")
    (source / "g.edf").symlink_to("/proc/kmsg")  # a regular file, of no bytes, which is never read to its end
    result = prepare([source], tmp_path / "out", options=INLINE)
    assert (result.recordings, result.recordings_left_out) == (1, 1)
    _, ignored = survey([source])
    assert {Path(item.path).name for item in ignored if "pipe, socket or device" in item.reason} == {
        "a.csv", "b.edf", "c.cnt", "d.zip", "e.eeg", "f.edf",
    }  # fmt: skip


@pytest.mark.parametrize("companion", ["new.vmrk", "a.json"])
def test_a_companion_that_is_a_pipe_costs_only_its_recording(tmp_path, soon, companion):
    source = study(tmp_path / "study", 1, 1)
    if companion == "a.json":
        np.save(source / "a.npy", noise(2, 4))
    else:
        brainvision(source, more="MarkerFile=new.vmrk\n")
    os.mkfifo(source / companion)
    result = prepare([source], tmp_path / "out", options=INLINE)
    assert [Path(entry["path"]).suffix for entry in result.failed] == [".npy" if companion == "a.json" else ".vhdr"]


def test_reports_a_pipe_given_as_input(tmp_path, soon, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert main.main(["prepare", str(tmp_path / "pipe"), "--out", str(tmp_path / "out")]) == 2
    assert "neither a regular file nor a folder" in capsys.readouterr().err


def test_an_endless_file_is_not_read_again_to_name_it(tmp_path, soon):
    """A sparse file of 8 TiB: its hash takes longer than any timeout, in the child and afterwards."""
    source = study(tmp_path / "study", 1, 1)
    write_edf(source / "long.edf", np.rint(noise(8, 4) / 0.1))
    os.truncate(source / "long.edf", 8 << 40)
    result = prepare([source], tmp_path / "out", options=PrepareOptions(workers=0, timeout_s=1.0))
    assert [Path(entry["path"]).name for entry in result.failed] == ["long.edf"]


# ------------------------------------------------------------------------------------------------------------ names
def test_names_in_another_encoding_do_not_stop_prepare(tmp_path, capsys):
    source = study(tmp_path / "study", 2, 1)
    name = os.fsdecode(b"M\374ller.edf")
    try:
        (source / name).write_bytes((source / "sub-00_ses-0.edf").read_bytes()[:-512])
    except OSError:
        pytest.skip("this file system takes no name in another encoding")
    (source / os.fsdecode(b"\374.edf")).write_bytes(b"")
    with zipfile.ZipFile(source / "a.zip", "w") as archive:
        archive.writestr("Mä.csv", EMOTIV)
    (source / "a.zip").write_bytes((source / "a.zip").read_bytes().replace("ä".encode(), b"\xe4\xe4"))
    words = ["prepare", str(source), "--out", str(tmp_path / "out"), "--workers", "0"]
    assert main.main([*words, "--key-file", str(tmp_path / "key.jsonl")]) == 0
    printed = capsys.readouterr()
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["totals"]["recordings"] == 3
    assert "a zip archive that cannot be opened (UnicodeDecodeError" in printed.err
    assert "\\udcfc.edf: the file is empty" in printed.out
    assert stat.S_IMODE((tmp_path / "key.jsonl").stat().st_mode) == 0o600  # it names people


@pytest.mark.long
def test_folders_too_deep_or_closed_are_left_out_with_what_is_in_them(tmp_path, monkeypatch):
    source = study(tmp_path / "study", 1, 1)
    deep = source
    try:
        for _ in range(1200):  # beyond Python's limit of recursion
            deep = deep / "d"
            deep.mkdir()
        (deep / "sub-7.edf").write_bytes((source / "sub-00_ses-0.edf").read_bytes())
        assert {Path(s.path).name for s in survey([source])[0]} == {"sub-00_ses-0.edf", "sub-7.edf"}
    finally:
        subprocess.run(["rm", "-rf", str(source / "d")], check=True)
    (source / "closed").mkdir()
    listed = Path.iterdir

    def closed(folder):
        if folder.name == "closed":
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", closed)
    assert [Path(s.path).name for s in survey([source])[0]] == ["sub-00_ses-0.edf"]


# ----------------------------------------------------------------------------------------------------------- claims
EEGLAB = {
    "eeglab samples": {"pnts": 2**40},
    "eeglab trials": {"trials_stated": 2**30},
    "eeglab channels": {"nbchan": 2**31},
    "eeglab negative": {"pnts": -5},
    "eeglab NaN": {"pnts": float("nan")},
}


def claimed(kind: str, folder: Path) -> Path:
    if kind == "gdf":
        header = bytearray(b"GDF 1.25".ljust(512))
        header[184:192], header[192:236], header[236:244] = (256).to_bytes(8, "little"), bytes(44), bytes([1, *[0] * 7])
        header[244:252], header[252:256] = bytes([1, 0, 0, 0] * 2), (2**31 - 1).to_bytes(4, "little")
        (folder / "a.gdf").write_bytes(header)
        return folder / "a.gdf"
    if kind in EEGLAB:
        fdt(folder / "a.fdt")
        return eeglab(folder / "a.set", "a.fdt", **EEGLAB[kind])
    if kind == "numpy":
        np.save(folder / "a.npy", np.zeros((1 << 40, 2, 0)))
        (folder / "a.json").write_text('{"sfreq": 250, "ch_names": ["Fz", "Cz"]}')
        return folder / "a.npy"
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", EMOTIV + b"\n" * (40 << 20))
    return folder / "a.zip"


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("gdf", "its header promises 2147483647 channels in 512 bytes"),
        *((kind, r"its header promises .* values, which its \d+ bytes do not hold") for kind in EEGLAB),
        ("numpy", "it holds no signal"),
        ("zip", "40 MiB of text packed too tightly"),
    ],
)
def test_refuses_claims_that_the_file_cannot_hold(tmp_path, kind, sentence):
    pytest.importorskip("mne")
    with pytest.raises(UserError, match=sentence):
        open_recording(claimed(kind, tmp_path))


# ------------------------------------------------------------------------------------------------------- companions
def fif_parts(folder: Path) -> tuple[Path, Path]:
    mne = pytest.importorskip("mne")
    raw = mne.io.RawArray(
        noise(4, 150) * 1e-6, mne.create_info(["Fz", "Cz", "Pz", "Oz"], 256.0, "eeg"), verbose="ERROR"
    )
    raw.save(folder / "a_raw.fif", split_size="2MB", buffer_size_sec=10, verbose="ERROR", fmt="double")
    return folder / "a_raw.fif", folder / "a_raw-1.fif"


def uci_trials(folder: Path) -> tuple[Path, Path]:
    text = "# co2a0000001.rd\n# 1\n# 1\n# S1 obj , trial {}\n# FP1 chan 0\n" + "0 FP1 0 1.5\n" * 4
    for i in range(2):
        (folder / f"co2a0000001.rd.00{i}.gz").write_bytes(gzip.compress(text.format(i).encode()))
    return folder / "co2a0000001.rd.000.gz", folder / "co2a0000001.rd.001.gz"


COMPANIONS = {
    "brainvision": lambda folder: (brainvision(folder), folder / "old.eeg"),
    "eeglab": lambda folder: (eeglab(folder / "b.set", "other.fdt"), fdt(folder / "other.fdt")),
    "eeglab compressed": lambda folder: (
        eeglab(folder / "b.set", "other.fdt", do_compression=True),
        fdt(folder / "other.fdt"),
    ),
    "fif": fif_parts,
    "uci": uci_trials,
}


@pytest.mark.parametrize("kind", COMPANIONS)
def test_the_hash_of_a_recording_covers_files_that_its_content_names(tmp_path, kind):
    path, companion = COMPANIONS[kind](tmp_path)
    source = source_of(path)
    before = convert.input_hash(source)
    for name in ("ther.fdt", "another.eeg", "another.fif", "1.fif", "co2a0000002.rd.000.gz"):
        (tmp_path / name).write_bytes(b"of another recording")
    assert convert.input_hash(source) == before
    content = bytearray(companion.read_bytes())
    content[-30] ^= 1
    companion.write_bytes(content)
    assert convert.input_hash(source) != before


def test_many_neighbours_of_a_split_recording_are_searched_in_one_pass(tmp_path, monkeypatch):
    """A part is named at the end of its predecessor, in either encoding; a name that is the end of another is not."""
    searched = []
    pattern = companions._pattern
    monkeypatch.setattr(companions, "_pattern", lambda name: searched.append(name) or pattern(name))
    for i in range(300):
        (tmp_path / f"run {i} of (x).fif").write_bytes(b"")
        (tmp_path / f"x{i}.fif").write_bytes(b"")
    text = b"\x01/y/x7.fif\x00ax8.fif\x00" + "\x01x9.fif\x01run 5 of (x).fif".encode("utf-16-le")
    (tmp_path / "first.fif").write_bytes(b"\xff\x00 " * 1000 + text)
    parts = companions.named_in(Source(str(tmp_path / "first.fif"), "fif"))
    assert [path.name for path in parts] == ["run 5 of (x).fif", "x7.fif", "x9.fif"]
    assert len({name for name in searched if name.startswith("x")}) == 2


def test_a_changed_table_of_events_is_converted_again(tmp_path):
    """The signal is the same, and so is its name; the labels are new."""
    folder = tmp_path / "study" / "sub-01" / "eeg"
    folder.mkdir(parents=True)
    (tmp_path / "study" / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    write_edf(folder / "sub-01_task-x_eeg.edf", np.rint(noise(4, 8) / 0.1))
    settings = WindowSettings(samples=128, events=EventWindows(source="file"))
    for label, already in (("face", False), ("face", True), ("house", False), ("house", True)):
        (folder / "sub-01_task-x_events.tsv").write_text(f"onset\tduration\ttrial_type\n1\t0\t{label}\n3\t0\t{label}\n")
        result = prepare([tmp_path / "study"], tmp_path / "out", settings, INLINE)
        assert result.already_prepared == already
        assert json.loads((tmp_path / "out" / "dataset.json").read_text())["labels"] == [label]


@pytest.mark.parametrize("trials", [1, 5])
@pytest.mark.parametrize("way", ["absolute", "above"])
def test_refuses_a_signal_file_in_another_folder(tmp_path, way, trials):
    pytest.importorskip("mne")
    secret = fdt(tmp_path / "secret.fdt")
    (tmp_path / "in").mkdir()
    name = str(secret) if way == "absolute" else "../secret.fdt"
    with pytest.raises(UserError, match="names a signal file in another folder"):
        open_recording(eeglab(tmp_path / "in" / "a.set", name, pnts=5000 // trials, trials=trials))


def test_refuses_a_marker_file_in_another_folder(tmp_path):
    (tmp_path / "secret.vmrk").write_text("Brain Vision Data Exchange Marker File, Version 1.0\n[Marker Infos]\n")
    with pytest.raises(UserError, match="MarkerFile does not name a file in the same folder"):
        open_recording(brainvision(tmp_path / "in", more="MarkerFile=../secret.vmrk\n"))


def test_a_folder_in_the_temporary_folder_is_private_to_the_user(tmp_path):
    folder = paths.private_folder(tmp_path / "cache")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    assert stat.S_IMODE(paths.private_folder(folder).stat().st_mode) == 0o700
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(UserError, match="not a folder of yours"):
        paths.private_folder(tmp_path / "link")
