"""No name, date, technician or remark of any header reaches a shard, a report, a log or a description."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from edf_files import write_edf
from planted import SECRETS, everything_written, leaks, planted_edf, planted_eeglab, planted_fif, planted_raw
from recorded import noise

from dreamjax.cli import main
from dreamjax.errors import UserError
from dreamjax.signals.preparation import convert
from dreamjax.signals.preparation.prepare import PrepareOptions, prepare, prepare_raws
from dreamjax.signals.preparation.window_settings import EventWindows, WindowSettings
from dreamjax.signals.recordings import scrub
from dreamjax.signals.recordings.readers.recording import Source


def planted_brainvision(folder: Path) -> Path:
    x = np.rint(noise(4, 8) / 0.1).astype("<i2")
    (folder / "a.eeg").write_bytes(x.T.tobytes())
    channels = "".join(f"Ch{i + 1}={n},,0.1,µV\n" for i, n in enumerate(("Fp1", "Cz", "O1", "O2")))
    (folder / "a.vhdr").write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n; Subject Mustermann Hannelore, 1951-05-02\n"
        "[Common Infos]\nCodepage=UTF-8\nDataFile=a.eeg\nMarkerFile=a.vmrk\nDataFormat=BINARY\n"
        "DataOrientation=MULTIPLEXED\nNumberOfChannels=4\nSamplingInterval=3906.25\n[Binary Infos]\n"
        f"BinaryFormat=INT_16\n[Channel Infos]\n{channels}[Comment]\nTechnician_Igor, Station_7B: epilepsy\n",
        encoding="utf-8",
    )
    (folder / "a.vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n[Common Infos]\nCodepage=UTF-8\nDataFile=a.eeg\n"
        "[Marker Infos]\nMk1=New Segment,,1,1,0,20030317094127000000\nMk2=Stimulus,S  1,400,1,0\n"
        "Mk3=Comment,Mustermann Hannelore coughs,700,1,0\nMk4=Comment,Dr_Frankenstein,900,1,0\n",
        encoding="utf-8",
    )
    return folder / "a.vhdr"


WRITERS = {
    "edf": lambda folder: planted_edf(folder / "a.edf"),
    "bdf": lambda folder: planted_edf(folder / "a.bdf", bdf=True),
    "brainvision": planted_brainvision,
    "fif": planted_fif,
    "eeglab": planted_eeglab,
}


@pytest.mark.parametrize("events", ["", "file"])
@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_no_header_field_reaches_any_output(kind, events, tmp_path, said):
    if kind in ("brainvision", "fif", "eeglab"):
        pytest.importorskip("mne")
    (tmp_path / "in").mkdir()
    path = WRITERS[kind](tmp_path / "in")
    planted = b"".join(p.read_bytes() for p in convert.input_files(Source(str(path), kind)))
    assert b"Mustermann" in planted or "Mustermann".encode("utf-16-le") in planted  # the test itself is honest
    settings = WindowSettings(reference="recorded", samples=64, events=EventWindows(source=events))
    prepare([path], tmp_path / "out", settings, PrepareOptions(workers=0, verbose=True))
    assert leaks(tmp_path / "out", said()) == []


def test_the_search_finds_what_is_planted(tmp_path):
    """The control of all tests here: a label, an event code and a note that carry a secret are each found."""
    path = write_edf(tmp_path / "a.edf", np.rint(noise(2, 4) / 0.1), labels=["EEG Cz", "Frankenstein"])
    prepare([path], tmp_path / "out", WindowSettings(reference="recorded"), PrepareOptions(workers=0, dataset="igor"))
    found = {secret for secret, _ in leaks(tmp_path / "out", "")}
    assert "Igor" in found
    where = {place for secret, place in leaks(tmp_path / "out", "read Frankenstein") if secret == "Frankenstein"}
    assert "the log" in where


def test_a_name_in_a_file_or_folder_name_stays_with_the_user(tmp_path):
    """The log and the result name paths to whoever gave them; what lies in the dataset does not."""
    folder = tmp_path / "in" / "Mustermann_Hannelore_1951"
    folder.mkdir(parents=True)
    planted_edf(folder / "Mustermann_Hannelore.edf")
    (folder / "Frankenstein_Igor.edf").write_bytes(b"0       " + b"Mustermann Hannelore" * 30)
    (folder / "Igor.vhdr").write_text("Brain Vision, Technician_Igor")
    result = prepare(
        [tmp_path / "in"], tmp_path / "out", WindowSettings(reference="recorded"), PrepareOptions(workers=0)
    )
    assert {Path(f["path"]).name for f in result.failed} == {"Frankenstein_Igor.edf", "Igor.vhdr"}
    assert leaks(tmp_path / "out", "") == []
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert all(r["reason"] and r["recording"] for r in rejects)


def test_the_key_is_written_only_on_request_and_elsewhere(tmp_path):
    path = planted_edf(tmp_path / "Hannelore.edf")
    options = PrepareOptions(workers=0, key_file=str(tmp_path / "key.jsonl"))
    prepare([path], tmp_path / "out", WindowSettings(reference="recorded"), options)
    (line,) = [json.loads(text) for text in (tmp_path / "key.jsonl").read_text().splitlines()]
    (entry,) = json.loads((tmp_path / "out" / "dataset.json").read_text())["inputs"]
    assert (line["recording"], line["path"]) == (entry["recording"], str(path))
    assert leaks(tmp_path / "out", "") == []


@pytest.mark.parametrize("inside", ["key.jsonl", "keys/key.jsonl", "../out/key.jsonl", "../.out.parts/key.jsonl"])
def test_a_key_among_the_shards_is_refused_before_anything_is_written(tmp_path, capsys, inside):
    """It would be published with them; a link to the folder is the folder."""
    path = planted_edf(tmp_path / "a.edf")
    (tmp_path / "alias").symlink_to(tmp_path / "out")
    for folder in ("out", "alias"):
        words = ["prepare", str(path), "--out", str(tmp_path / "out"), "--key-file", str(tmp_path / folder / inside)]
        assert main.main([*words, "--workers", "0"]) == 2
        assert "keep it away from the dataset" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.edf", "alias"]
    with pytest.raises(UserError, match="keep it away"):
        prepare([path], "s3://bucket/out", options=PrepareOptions(workers=0, key_file="s3://bucket/out/key.jsonl"))


def test_raws_in_memory_leak_nothing(tmp_path, said):
    prepare_raws([planted_raw()], tmp_path / "out", WindowSettings(reference="recorded"))
    assert leaks(tmp_path / "out", said()) == []


def test_the_averages_of_the_report_leak_nothing(tmp_path):
    """The parts, which outlive a killed run, hold no more than the dataset."""
    path = planted_edf(tmp_path / "Hannelore.edf")
    settings = WindowSettings(reference="recorded", samples=64, events=EventWindows(source="file"))
    source = Source(str(path), "edf", subject="MCH-0234567")
    task = convert.RecordingTask(source, settings, str(tmp_path / "parts"), PrepareOptions())
    convert.convert(task, lambda: None)
    for file in (tmp_path / "parts").rglob("*"):
        if file.is_file() and file.suffix in (".json", ".npz"):
            content = file.read_bytes()
            if file.suffix == ".npz":
                content = " ".join(zipfile.ZipFile(file).namelist()).encode()
            assert not [s for s in SECRETS if s.lower().encode() in content.lower()]


def test_a_salt_changes_every_pseudonym_and_is_not_kept(tmp_path):
    path = planted_edf(tmp_path / "a.edf")
    source = Source(str(path), "edf", subject="MCH-0234567")
    ids = [convert.identity_of(source, salt) for salt in (None, "swordfish", "other")]
    assert len({i.subject for i in ids} | {i.recording for i in ids} | {i.session for i in ids}) == 9
    prepare(
        [source], tmp_path / "out", WindowSettings(reference="recorded"), PrepareOptions(workers=0, salt="swordfish")
    )
    written = everything_written(tmp_path / "out")
    assert json.loads(written["dataset.json"])["salt"] == "given"
    assert ids[1].subject.encode() in written["dataset.json"]
    assert not any(b"swordfish" in content for content in written.values())


LI = Source("/home/Bo An/Li/a/in.edf", "edf", subject="Li", session="7")


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("Li has 7 channels in 3 rows", "the file has 7 channels in 3 rows"),  # a figure is a count, not an id
        (
            "/home/Bo An/Li/a/in.edf: holds no signal; remove it from the input",
            "holds no signal; remove it from the input",
        ),
        ("Bo An and Bo", "the file and Bo"),  # Bo alone is nobody's here
        (
            "/home/Bo An/Li/a/events of Li.csv: row 3 has the onset 'Bo', which is not a number",
            "row 3 has the onset …, which is not a number",
        ),
        ("the events of /home/Bo/x.csv, of gs://bucket/Bo/y.csv", "the events of the file, of the file"),
        ("2 of its images are not in '/home/Bo An/pics': add them", "2 of its images are not in …: add them"),
        (
            "/home/Bo An/Li/a/in.eeg: MNE cannot read it as cnt (error: Bo (1951): x)",
            "MNE cannot read it as cnt (error)",
        ),
        ("the recordings' names and the header's number", "the recordings' names and the header's number"),
    ],
)
def test_names_of_any_length_are_scrubbed_and_our_own_words_stay(reason, kept):
    assert scrub.scrubbed(reason, LI) == kept


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        (
            "/data/Hans Muster.edf: cannot be read as edf (ValueError: Hans Muster)",
            "cannot be read as edf (ValueError)",
        ),
        (
            "/data/Hans Muster.edf: holds no signal; remove it from the input",
            "holds no signal; remove it from the input",
        ),
        ("the table of Hans Muster.edf is empty", "the table of the file is empty"),
    ],
)
def test_reasons_are_scrubbed(reason, kept):
    assert scrub.scrubbed(reason, Source("/data/Hans Muster.edf", "edf", subject="Hans Muster")) == kept


@pytest.mark.parametrize("option", ["licence", "dataset"])
def test_refuses_a_licence_and_a_corpus_name_that_could_be_read_as_more(option):
    for text in ("MIT\nlicense: other", "a | b", "<script>", "[x](y)", "", "x" * 65):
        with pytest.raises(UserError, match=f"--{option} is "):
            PrepareOptions(**{option: text})
    PrepareOptions(licence="CC-BY-4.0 OR LicenseRef-x", dataset="my_study-2 (pilot)")
