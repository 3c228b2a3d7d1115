"""No name, date or remark of any format's header reaches an output, nor the name of a file or folder the dataset."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from planted import SECRETS, leaks, planted_edf
from planted_formats import REAL, WRITERS

from dreamjax.cli import main, prepare_verb
from dreamjax.signals.preparation import quality
from dreamjax.signals.recordings.opening import find_sources
from dreamjax.signals.recordings.readers import mne_reader

PERSON = "anna_schmidt_1985"  # what folder and file are called
NAMES = (PERSON, "anna", "schmidt", "_1985")
BIRTHDAYS = ("1047894087", "1951-05-02", "2003-03-17", "20030317")
# real recordings are odd, and all of them shall be converted
ANY = quality.EegLimits(implausible="flag", min_good=0.0, flat_uv=0.0, noisy_uv=1e12)
MNE = (*REAL, "gdf 2", "eximia")


def planted(kind: str, folder: Path, request) -> Path:
    if kind in MNE:
        pytest.importorskip("mne")
    if kind in ("ant", "egi"):
        pytest.importorskip({"ant": "antio", "egi": "mffpy"}[kind])
    real = request.getfixturevalue("real_eeg") if kind in REAL else Path()
    folder.mkdir(parents=True)
    return WRITERS[kind](folder, PERSON, real)


def with_companions(folder: Path, path: Path) -> None:
    """A recording that opens whatever else does, and a copy of `path` that ends in the middle of its header."""
    planted_edf(folder / f"{PERSON}_control.edf")
    cut = folder / f"{PERSON}_cut{path.suffix}"
    if path.is_dir():
        shutil.copytree(path, cut)
        (cut / "signal1.bin").write_bytes(b"Mustermann Hannelore")
    elif path.name.startswith(PERSON):
        cut.write_bytes(path.read_bytes()[: max(120, path.stat().st_size // 4000)])
        for near in path.parent.glob(f"{PERSON}.*"):
            if near != path:
                (folder / f"{PERSON}_cut{near.suffix}").write_bytes(near.read_bytes())


@pytest.mark.parametrize("kind", WRITERS)
def test_no_format_leaks_a_header_or_a_name(kind, tmp_path, request, monkeypatch, said):
    real = prepare_verb._window_settings
    monkeypatch.setattr(prepare_verb, "_window_settings", lambda args: replace(real(args), limits=ANY))
    path = planted(kind, tmp_path / PERSON, request)
    with_companions(tmp_path / PERSON, path)
    words = ["--samples", "64", "--stride", "512", "--reference", "recorded", "--workers", "0"]
    words += ["--unit-scale", f"{PERSON}=1.5"]  # a corpus is named by its folder
    for events in ([], ["--events", "file"]):
        out = tmp_path / f"out{len(events)}"
        code = main.main(["prepare", str(tmp_path / PERSON), "--out", str(out), "--json", "--verbose", *words, *events])
        printed = said()
        assert code == 0, printed
        assert leaks(out, "", (*SECRETS, *NAMES, *BIRTHDAYS)) == []
        shown = printed.replace(str(tmp_path), "")  # the user's own paths are told to the user
        for written in sorted(tmp_path.rglob("*"), key=lambda p: -len(str(p))):
            shown = shown.replace(str(written).removeprefix(str(tmp_path)), "").replace(written.name, "")
        assert [s for s in (*SECRETS, *BIRTHDAYS) if s.lower() in shown.lower()] == []
        formats = {entry["format"] for entry in json.loads((out / "dataset.json").read_text())["inputs"]}
        assert events or kind == "bids" or len(formats) == 2, "the planted recording itself was left out"


@pytest.mark.parametrize("kind", [k for k in WRITERS if k not in ("eximia", "muse", "emotiv")])
def test_the_plants_are_there(kind, tmp_path, request):
    """The control: what the tests above search for is in the input, uncompressed but for UCI's."""
    path = planted(kind, tmp_path / PERSON, request)
    folder = path if path.is_dir() else tmp_path / PERSON
    (source, *_) = find_sources([path])
    content = b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())
    if source.reader == "uci":
        import gzip

        content = gzip.decompress(path.read_bytes())
    assert b"Mustermann" in content
    assert b"Igor" in content or kind == "mind monitor"


def test_words_of_a_header_are_not_event_codes(tmp_path, request):
    """A name that was annotated twice would otherwise pass for a trial type."""
    path = planted("gdf 2", tmp_path / PERSON, request)
    words = mne_reader.header_words(path, "gdf")
    assert {"mustermann", "hannelore", "igor", "frankenstein"} <= words
    import mne
    import numpy as np

    raw = mne.io.RawArray(np.zeros((1, 2560)), mne.create_info(["Cz"], 256.0, "eeg"), verbose="error")
    raw.set_annotations(mne.Annotations([1, 2, 3, 4], [0] * 4, ["Mustermann", "face", "Mustermann", "face"]))
    contents = mne_reader.contents_of_raw(raw, "gdf", words)
    assert {event.code for event in contents.free_text} == {"face"}
    assert contents.events == []
