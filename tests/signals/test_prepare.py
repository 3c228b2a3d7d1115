"""`dreamjax prepare` as a whole: what comes out."""

import json
from collections import Counter
from pathlib import Path

import edf_files
import numpy as np
import pytest
from recorded import noise
from studies import INLINE, all_windows, hidden, study

from dreamjax.cli import main, prepare_verb
from dreamjax.errors import UserError
from dreamjax.signals.datasets import records
from dreamjax.signals.preparation import convert
from dreamjax.signals.preparation.prepare import PrepareOptions, prepare, prepare_raws
from dreamjax.signals.preparation.window_settings import WindowSettings
from dreamjax.storage import manifest


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    result = prepare([study(root / "study")], root / "out", options=INLINE)
    return root / "out", result


# ------------------------------------------------------------------------------------------------------- what comes out
def test_the_folder_holds_shards_description_rejects_and_report(prepared):
    out, result = prepared
    names = {p.name for p in out.iterdir()}
    assert {"dataset.json", "dataset_info.json", "features.json", "rejects.jsonl", "report.html", "report.png"} <= names
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    assert result.windows == 8 * 4 == sum(result.splits.values())
    assert records.verify(out) == []
    assert hidden(out.parent) == []


def test_the_description_is_true(prepared):
    """Hours, subjects, channels, steps, versions and hashes, each against the files themselves."""
    out, _ = prepared
    dataset = json.loads((out / "dataset.json").read_text())
    windows = [w for ws in all_windows(out).values() for w in ws]
    assert dataset["totals"]["hours"] == pytest.approx(len(windows) * 2 / 3600, abs=1e-4)
    assert dataset["totals"]["subjects"] == len({w.subject for w in windows}) == 4
    assert dataset["channels"] == sorted(windows[0].ch_names)
    assert dataset["settings"]["low"] == 0.5
    assert dataset["settings"]["limits"]["plausible_high_uv"] == 100.0
    assert {"dreamjax", "numpy", "scipy", "python"} <= set(dataset["versions"])
    assert all(manifest.file_hash(out / name) == entry["sha256"] for name, entry in dataset["shards"].items())
    hashes = {convert.input_hash(s) for s in _sources(out.parent / "study")}
    assert {entry["sha256"] for entry in dataset["inputs"]} == hashes
    assert dataset["corpora"]["out"]["licences"] == ["unknown"]


def _sources(folder):
    from dreamjax.signals.recordings.opening import find_sources

    return find_sources([folder])


def test_tfds_opens_the_folder(prepared):
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder_from_directory(prepared[0])
    source = builder.as_data_source(split="train")
    assert len(source) == records.load_dataset(prepared[0])["splits"]["train"]
    assert source[0]["signal"].shape == (8, 512)


def test_no_subject_is_in_two_splits(prepared):
    people = {split: {w.subject for w in ws} for split, ws in all_windows(prepared[0]).items()}
    assert set(people) == {"train", "val", "test"}
    assert Counter(s for found in people.values() for s in found).most_common(1)[0][1] == 1


def test_two_recordings_of_a_person_share_a_pseudonym_but_not_a_session(prepared):
    seen = {(w.subject, w.session, w.recording) for ws in all_windows(prepared[0]).values() for w in ws}
    assert len(seen) == 8
    assert len({s for s, _, _ in seen}) == 4
    assert len({s for _, s, _ in seen}) == len({r for _, _, r in seen}) == 8


def test_children_and_one_process_write_the_same_bytes(prepared, tmp_path):
    """Two spawned workers, in whatever order they end: the shards equal those of the inline run."""
    out, _ = prepared
    prepare([out.parent / "study"], tmp_path / "out", options=PrepareOptions(workers=2))
    ours, theirs = (all_windows(f) for f in (out, tmp_path / "out"))
    assert ours.keys() == theirs.keys()
    for split, windows in ours.items():
        for a, b in zip(windows, theirs[split], strict=True):
            assert (a.recording, a.start, a.label) == (b.recording, b.start, b.label)
            np.testing.assert_array_equal(a.signal, b.signal)
    assert hidden(tmp_path) == []


# ------------------------------------------------------------------------------------------------------ Raws, real data
def test_any_iterable_of_raw(tmp_path):
    """Through MNE objects in memory; the split and the pseudonym follow `his_id`."""
    mne = pytest.importorskip("mne")

    def raws():
        for i in range(4):
            info = mne.create_info(["Fp1", "Cz", "O1", "ECG"], 250.0, ["eeg", "eeg", "eeg", "ecg"])
            info["subject_info"] = {"his_id": f"Mustermann{i // 2}"}
            yield mne.io.RawArray(noise(4, 10, 250.0, seed=i) * 1e-6, info, verbose="error")

    result = prepare_raws(
        raws(), tmp_path / "out", WindowSettings(reference="recorded"), PrepareOptions(dataset="mine")
    )
    windows = [w for ws in all_windows(tmp_path / "out").values() for w in ws]
    assert result.recordings == 4
    assert len({w.subject for w in windows}) == 2
    assert {w.ch_names for w in windows} == {("Fp1", "Cz", "O1")}
    assert 5 < np.std([w.signal for w in windows]) < 15
    with pytest.raises(UserError, match="exists"):
        prepare_raws(raws(), tmp_path / "out", WindowSettings(reference="recorded"))


def test_real_recordings(real_eeg, tmp_path):
    """Two subjects of eegmat: 19 of 21 channels, 45 Hz band of the header, average reference, no padded tail."""
    files = sorted((real_eeg / "eegmat").glob("Subject0[01]_2.edf"))
    result = prepare(files, tmp_path / "out", options=INLINE)
    assert result.recordings == 2
    windows = [w for ws in all_windows(tmp_path / "out").values() for w in ws]
    assert {len(w.ch_names) for w in windows} == {19}
    assert {w.reference for w in windows} == {"average"}
    assert {w.label for w in windows} == {"arithmetic"}
    assert max(w.start for w in windows) < 60
    assert 1 < np.median([w.signal.std() for w in windows]) < 100
    speed = result.speed  # only that it is said, and consistent: how fast it is depends on the machine
    assert speed["real_time_per_core"] == pytest.approx(3600 * speed["hours_per_second_per_core"], rel=0.05)
    assert f"= {speed['real_time_per_core']:.0f} x real time (" in prepare_verb.render(result)


def test_the_real_files_whose_units_are_wrong_are_refused(real_eeg, tmp_path):
    """EGI, eximia and asalab: the tool must say so, not rescale."""
    folder = real_eeg / "formats" / "mne-testing-data"
    files = [folder / "EGI" / "test_egi_multiepoch_eprime.mff", folder / "eximia" / "test_eximia.nxe"]
    good = real_eeg / "eegmat" / "Subject00_2.edf"
    result = prepare([*files, good], tmp_path / "out", options=INLINE)
    assert [Path(f["path"]).suffix for f in result.failed] == [".mff", ".nxe"]
    assert all("implausible amplitude" in f["reason"] for f in result.failed)


# -------------------------------------------------------------------------------------------------------- object stores
def test_a_dataset_in_an_object_store_is_committed_by_its_description(tmp_path, monkeypatch, object_store):
    """`s3://` held in memory, where nothing can be renamed: dataset.json is the last object that is written."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    source = study(tmp_path / "study", 3, 1)
    result = prepare([source], "s3://bucket/out", options=INLINE)
    import fsspec

    written = fsspec.get_filesystem_class("s3").store
    assert list(written)[-1].endswith("/out/dataset.json")
    assert len(records.read_windows("s3://bucket/out", "train")) == result.splits["train"]
    assert prepare([source], "s3://bucket/out", options=INLINE).already_prepared
    assert not list(tmp_path.glob("dreamjax-prepare-*/*"))


def test_prints_every_limit_as_the_option_that_changes_it(tmp_path, capsys):
    edf_files.write_edf(tmp_path / "a.edf", np.random.default_rng(0).integers(-300, 300, (4, 256 * 6)))
    argv = ["prepare", str(tmp_path / "a.edf"), "--out", str(tmp_path / "out"), "--workers", "0", "--line-ratio", "7"]
    assert main.main(argv) == 0
    limits = (
        "quality limits: --flat-uv 0.1 --noisy-uv 200 --clip-share 0.02 --clip-run-s 0.01 --held-run-s 0.1 "
        "--line-ratio 7 --min-good 0.5 --plausible-uv 1 100"
    )
    assert limits in capsys.readouterr().out
