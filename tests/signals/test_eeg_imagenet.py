"""EEG-ImageNet's files: read without executing or holding them, and fit for stage B as prepared."""

import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from eeg_imagenet_files import CHANNELS, CLASSES, IMAGES, PEOPLE, RAW, STD, made, small_file, splits_of

from dreamjax.cli import main
from dreamjax.errors import UserError
from dreamjax.signals.datasets import pipeline, records
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.signals.preparation import parts
from dreamjax.signals.preparation.convert_trials import TrialSettings, identity_of
from dreamjax.signals.preparation.prepare import PrepareOptions, prepare
from dreamjax.signals.preparation.window_settings import WindowSettings
from dreamjax.signals.recordings.corpora import eeg_imagenet
from dreamjax.signals.recordings.identity import SplitRequest
from dreamjax.signals.simulation import head
from dreamjax.targets import image_folder
from dreamjax.targets import trials as stage_b
from dreamjax.targets.trials import TargetConfig


def person_4(published):
    opened = eeg_imagenet.open_trials(published / STD)
    return identity_of(opened, None, int(np.flatnonzero(opened.subject == 4)[0]))


@pytest.fixture(scope="module")
def theirs(published):
    return torch.load(published / STD, weights_only=True)


# ------------------------------------------------------------------------------------------------------------- reading
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_file_gives_the_numbers_that_torch_loads(published, theirs, tmp_path, legacy):
    path = tmp_path / STD
    torch.save(theirs, path, _use_new_zipfile_serialization=not legacy)
    found = eeg_imagenet.open_trials(path)
    assert len(found) == len(theirs["dataset"]) == PEOPLE * CLASSES * IMAGES - 1
    assert found.labels == tuple(theirs["labels"])
    assert found.images == tuple(theirs["images"])
    for i, entry in enumerate(theirs["dataset"]):
        assert (found.image[i], found.label[i], found.subject[i]) == (entry["image"], entry["label"], entry["subject"])
        np.testing.assert_array_equal(found.signal(i), entry["eeg"].numpy())
    assert found.band == (5.0, 95.0)


def test_the_raw_file_is_normalised_by_its_own_statistics(published):
    theirs = torch.load(published / RAW, weights_only=True)
    found = eeg_imagenet.open_trials(published / RAW)
    for i in (0, 50):
        wanted = (theirs["dataset"][i]["eeg"] - theirs["means"]) / theirs["stddevs"]
        np.testing.assert_allclose(found.signal(i), wanted.numpy(), rtol=1e-6)


def test_the_generator_writes_the_published_structure(published, theirs):
    """What a third party measured of the real files, in the small: keys, types, lengths, who is where."""
    assert set(theirs) == {"dataset", "labels", "images"}
    assert set(theirs["dataset"][0]) == {"eeg", "image", "label", "subject"}
    lengths = [entry["eeg"].shape[1] for entry in theirs["dataset"]]
    assert min(lengths) == 491
    assert max(lengths) == 1527
    assert theirs["dataset"][0]["eeg"].dtype == torch.float32
    assert {entry["subject"] for entry in theirs["dataset"]} == {1, 2, 3, 4}
    for entry in theirs["dataset"]:
        assert theirs["images"][entry["image"]].split("_")[0] == theirs["labels"][entry["label"]]
    for name in theirs["images"]:
        assert (published / "imagenet" / name.split("_")[0] / f"{name}.JPEG").exists()
    every = torch.load(published / "block_splits_by_image_all.pth", weights_only=True)["splits"]
    assert len(every) == 6
    assert sorted(i for part in every[0].values() for i in part) == list(range(len(theirs["dataset"])))
    (single,) = torch.load(published / "block_splits_by_image_single.pth", weights_only=True)["splits"]
    own = sum(entry["subject"] == 4 for entry in theirs["dataset"])
    assert sorted(i for part in single.values() for i in part) == list(range(own // 2))
    blocks = json.loads((published / "truth.json").read_text())["trials"]
    for person in (1, 2, 3, 4):  # in the order of time every class is one stretch
        seen = sorted((t["sample"], t["image"] // IMAGES) for t in blocks if t["subject"] == person)
        assert sum(a[1] != b[1] for a, b in itertools.pairwise(seen)) == CLASSES - 1


def test_a_cap_of_128_has_as_many_places():
    cap = head.draw_head(np.random.default_rng(0), 128, 0)
    assert len(set(cap.ch_names)) == 128
    np.testing.assert_allclose(np.linalg.norm(cap.electrodes, axis=1), 1)
    nominal = dict(zip(cap.ch_names, head.nominal_positions(cap.ch_names), strict=True))
    apart = [np.linalg.norm(nominal[a] - nominal[b]) for a in nominal for b in nominal if a < b]
    assert min(apart) > 0.1  # radii: 9 mm of a head of 9 cm
    for between, one, other in (("CCP1h", "C1", "CP1"), ("PPO1h", "P1", "PO3"), ("FCC4h", "FC4", "C4")):
        middle = nominal[one] + nominal[other]  # 10-5 names lie between those they are made of, and a quarter beside
        assert nominal[between] @ middle / np.linalg.norm(middle) > np.cos(np.deg2rad(14))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_memory_stays_near_one_trial(tmp_path, legacy):
    """A file of 79 MB is opened and read through; the process grows by less than a sixth of it, with its pages."""
    shape = (128, 512)
    path = small_file(tmp_path / "large.pth", np.zeros((300, *shape), np.float32) + np.arange(300)[:, None, None])
    value = torch.load(path, weights_only=True)
    for entry in value["dataset"]:
        entry["eeg"] = entry["eeg"].float().clone()  # a storage of its own each, as published
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    size = path.stat().st_size
    assert size > 75e6
    code = (
        "import resource, sys, numpy as np\n"
        "from dreamjax.signals.recordings.corpora import eeg_imagenet\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = peak()\n"
        "found = eeg_imagenet.open_trials(sys.argv[1])\n"
        "total = sum(float(found.signal(i)[0, 0]) for i in range(len(found)))\n"
        "print(total, peak() - before)\n"
    )
    said = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout
    total, grown = map(float, said.split())
    assert total == 299 * 300 / 2
    assert grown < size / 6


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("place", ["root", "trial", "signal"])
def test_a_hostile_pickle_is_refused_and_not_executed(tmp_path, theirs, place):
    mark, path = tmp_path / "executed", tmp_path / STD
    evil = Evil(mark)
    trial = {**theirs["dataset"][0], "eeg": evil}
    value = {"root": evil, "trial": {**theirs, "dataset": [evil]}, "signal": {**theirs, "dataset": [trial]}}[place]
    if place == "root":
        path.write_bytes(pickle.dumps(value))
    else:
        torch.save(value, path)
    with pytest.raises(UserError, match=r"system, which is not executed"):
        prepare([path], tmp_path / "out", None, PrepareOptions(workers=0, splits=SplitRequest(by="image")))
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


def test_rejects_files_of_another_kind(published, theirs, tmp_path):
    path = tmp_path / "x.pth"

    def refused(value, says):
        torch.save(value, path)
        with pytest.raises(UserError, match=says):
            eeg_imagenet.open_trials(path)

    first = theirs["dataset"][0]
    refused({"model": {"w": torch.ones(2)}}, "it lacks dataset and labels and images and has model")
    refused({k: v for k, v in theirs.items() if k != "images"}, "it lacks images")
    refused([1, 2], "this is a list, not a file of EEG-ImageNet's trials")
    refused({**theirs, "dataset": [first, {k: v for k, v in first.items() if k != "label"}]}, "trial 1: .* lacks label")
    refused({**theirs, "dataset": [{**first, "eeg": first["eeg"][:3]}, first]}, "trial 1 has 6 channels and trial 0 3")
    refused({**theirs, "dataset": [{**first, "eeg": first["eeg"][0]}]}, r"trial 0 has shape \(\d+,\)")
    refused({**theirs, "dataset": [{**first, "image": 99}]}, "trial 0 has image 99, but there are 30 images")
    refused({**theirs, "dataset": [{**first, "label": (first["label"] + 1) % 3}]}, "but of class")
    refused({**theirs, "images": ["../../etc/passwd"] * 30}, "is not the name of an ImageNet image")
    refused({**theirs, "means": torch.zeros(6)}, "means and stddevs come together")
    refused({**theirs, "means": torch.zeros(6), "stddevs": torch.zeros(6)}, "6 finite numbers above 0")
    with pytest.raises(UserError, match="these are splits and no trials"):
        eeg_imagenet.open_trials(published / "block_splits_by_image_all.pth")
    with pytest.raises(UserError, match="these are trials and no splits"):
        eeg_imagenet.open_splits(published / STD)


# ------------------------------------------------------------------------------------------------------------- records
def test_a_trial_is_resampled_without_its_mean_and_its_end_is_marked(tmp_path):
    """Sines of 10 and 30 Hz at 1000 Hz are the same at 256 Hz; 491 samples are 126 of them, the rest is padding."""
    t = np.arange(700) / 1000
    wave = np.stack([np.sin(2 * np.pi * 10 * t) + 3, np.cos(2 * np.pi * 30 * t) - 5]).astype(np.float32)
    path = small_file(tmp_path / "sines.pth", [wave[:, :n] for n in (520, 500, 491, 520, 520, 520, 700, 449)])
    prepare([path], tmp_path / "out", None, PrepareOptions(workers=0, splits=SplitRequest(by="image")))
    found = {w.stimulus: w for split in ("train", "val", "test") for w in records.read_windows(tmp_path / "out", split)}
    assert sorted(found) == [f"n01/n01_{i}.JPEG" for i in range(6)]  # 700 and 449 samples are left out
    for i, real in ((0, 128), (1, 128), (2, 126)):
        window = found[f"n01/n01_{i}.JPEG"]
        assert window.sfreq == 256
        assert window.valid.sum() == real
        assert not window.signal[:, real:].any()
        at = np.arange(real) / 256
        exact = np.stack([np.sin(2 * np.pi * 10 * at), np.cos(2 * np.pi * 30 * at)])
        inside = slice(16, real - 16)  # its ends were continued by reflection
        gone = (window.signal[:, :real] - exact)[:, inside]
        assert np.ptp(gone, axis=1).max() < 5e-3  # but for a constant
        np.testing.assert_allclose(window.signal[:, :real].mean(axis=1), 0, atol=1e-4)
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert [r["trial"] for r in rejects] == [6, 7]


def test_the_published_reading_is_samples_20_to_460_stretched(published, theirs, tmp_path):
    """torch's own linear interpolation of the same samples to 512, through the pipeline of the parity presets."""
    file = str(published / "block_splits_by_image_single.pth")
    out, _ = made(
        published, tmp_path, settings=TrialSettings("dreamdiffusion"), splits=SplitRequest(file=file, subjects=(4,))
    )
    dataset = records.load_dataset(out)
    assert dataset["settings"]["effective_sfreq"] == 1164.01  # 1000 Hz · 511 / 439
    data = DataConfig(
        path=(str(out),), montage="own", mapping="tile", tile_channels=CHANNELS, samples=512, stretch=True,
        scaling="divide", divide=1.0, clip=0.0,
    )  # fmt: skip
    rows = pipeline.WindowExamples(data, "test", seed=0, training=False).rows(np.arange(2, dtype=np.uint64))
    for k, trial in enumerate(splits_of(out)["test"][:2]):
        eeg = theirs["dataset"][trial]["eeg"][None, :, 20:460]
        wanted = torch.nn.functional.interpolate(eeg, size=512, mode="linear", align_corners=True)[0].numpy()
        np.testing.assert_allclose(rows["signal"][k], wanted, atol=1e-3)  # 16 bits of a range of about 8


def test_reports_and_leaves_out_non_finite_trials(tmp_path):
    eeg = np.random.default_rng(0).normal(size=(9, 2, 500)).astype(np.float32)
    eeg[4, 1, 100] = np.nan
    path = small_file(tmp_path / "nan.pth", list(eeg))
    prepare([path], tmp_path / "out", None, PrepareOptions(workers=0, splits=SplitRequest(by="image")))
    assert records.load_dataset(tmp_path / "out")["totals"]["windows"] == 8
    assert json.loads((tmp_path / "out" / "rejects.jsonl").read_text())["reason"] == "samples are not finite"


def test_metadata_states_the_missing_unit_and_unavailable_controls(published, tmp_path, said):
    out, result = made(published, tmp_path, splits=SplitRequest(by="subject", hold_out=(4,)))
    assert set(records.impossible(out)) == {"block", "pre_stimulus", "time"}
    assert records.impossible(out)["block"].startswith("a block is a class")
    dataset = records.load_dataset(out)
    assert "no physical unit" in dataset["unit"]
    window = records.read_windows(out, "test")[0]
    assert window.subject == person_4(published).subject
    assert window.label in dataset["labels"] == sorted(f"n9{i:07d}" for i in range(CLASSES))
    assert window.flags[0] == records.APART
    assert not np.isfinite(window.xyz).any()
    assert result.splits == dataset["splits"]
    assert records.verify(out) == []
    config = DataConfig(path=(str(out),), montage="own", samples=128, scaling="divide")
    pipeline.open_stream(config, "train", seed=0, training=True)
    assert "divides those numbers, not µV" in said()
    robust = DataConfig(path=(str(out),), montage="own", samples=128)
    rows = next(iter(pipeline.open_stream(robust, "train", seed=0, training=True).batches(start=0, batch_size=8)))
    assert 0.3 < np.median(np.abs(rows["signal"])) < 1.2  # 0.67 of a Gaussian: scaled to one


def test_missing_and_damaged_images_are_named(published, tmp_path, said):
    """The generator damaged one image; another is taken away."""
    images = shutil.copytree(published / "imagenet", tmp_path / "imagenet")
    damaged = f"n9{CLASSES - 1:07d}/n9{CLASSES - 1:07d}_{100 + CLASSES * IMAGES - 1}.JPEG"
    (images / "n90000000/n90000000_100.JPEG").unlink()
    splits = SplitRequest(file=str(published / "block_splits_by_image_all.pth"))
    with pytest.raises(UserError, match=f"n90000000_100.JPEG is missing; {damaged} is damaged; mend them"):
        made(published, tmp_path, splits=splits, stimuli=str(images), strict=True)
    out, result = made(published, tmp_path, splits=splits, stimuli=str(images))
    assert f"{damaged} is damaged; their trials are left out" in said()
    assert result.rejected["an image is missing or damaged"] in (2 * PEOPLE - 1, 2 * PEOPLE, 2 * PEOPLE - 2)
    stimuli = {w.stimulus for split in dataset_splits(out) for w in records.read_windows(out, split)}
    assert len(stimuli) == CLASSES * IMAGES - 2
    with pytest.raises(UserError, match="holds none of the 30 images"):
        prepare(
            [published / STD], tmp_path / "x", None, PrepareOptions(workers=0, splits=splits, stimuli=str(tmp_path))
        )
    with pytest.raises(UserError, match="no such folder"):
        prepare(
            [published / STD],
            tmp_path / "x",
            None,
            PrepareOptions(workers=0, splits=splits, stimuli=str(tmp_path / "nowhere")),
        )


def dataset_splits(out):
    return records.load_dataset(out)["splits"]


def test_the_same_again_is_nothing_and_another_way_is_refused(published, tmp_path):
    splits = SplitRequest(by="subject", hold_out=(4,))
    out, _ = made(published, tmp_path, splits=splits)
    before = {f.name: f.stat().st_mtime_ns for f in out.iterdir()}
    assert made(published, tmp_path, splits=splits)[1].already_prepared
    assert {f.name: f.stat().st_mtime_ns for f in out.iterdir()} == before
    with pytest.raises(
        UserError,
        match=r"prepared with other settings: --hold-out \(test\) 4 \(now 3\), --hold-out \(val\) 1 \(now 4\); pass",
    ):
        made(published, tmp_path, splits=SplitRequest(by="subject", hold_out=(3,)))
    _, result = made(published, tmp_path, splits=SplitRequest(by="subject", hold_out=(3,)), overwrite=True)
    assert result.splitting["test"] == 3


def test_an_interrupted_preparation_of_trials_goes_on_where_it_was(published, tmp_path, monkeypatch):
    """Stopped in the second of three parts: the second run takes the first over and equals an undisturbed one."""
    splits = SplitRequest(by="subject", hold_out=(4,))
    real, calls = parts.write_windows, []

    def counted(part, *args, **kwargs):
        calls.append(part)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(part, *args, **kwargs)

    monkeypatch.setattr(parts, "write_windows", counted)
    with pytest.raises(KeyboardInterrupt):
        made(published, tmp_path, splits=splits)
    out, result = made(published, tmp_path, splits=splits)
    assert result.reused == 1
    assert len(calls) == 2 + 2
    undisturbed, _ = made(published, tmp_path / "undisturbed", splits=splits)
    shards = [{p.name: p.read_bytes() for p in folder.glob("*.array_record-*")} for folder in (out, undisturbed)]
    assert shards[0] == shards[1] != {}
    assert "Split by subject." in (out / "report.html").read_text()


def test_settings_of_recordings_do_not_fit_trials(published, tmp_path):
    with pytest.raises(UserError, match="expected TrialSettings for this input, got WindowSettings"):
        made(published, tmp_path, settings=WindowSettings(), splits=SplitRequest(by="image"))


# ------------------------------------------------------------------------------------------------------------- stage B
def test_stage_b_follows_the_prepared_splits_and_finds_every_image(published, tmp_path):
    out, _ = made(
        published, tmp_path, splits=SplitRequest(by="subject", hold_out=(4,)), stimuli=str(published / "imagenet")
    )
    data = DataConfig(path=(str(out),), montage="own", samples=128)
    target = TargetConfig(folder=str(published / "imagenet"), splits="prepared")
    found = {s: stage_b.trials(data, target, s, seed=0, training=False) for s in stage_b.SPLITS}
    assert {s: len(f) for s, f in found.items()} == dataset_splits(out)
    seen = {s: {f.images[i].name for i in f.image} for s, f in found.items()}
    people = {s: set(f.person) for s, f in found.items()}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not seen[one] & seen[other]
        assert not people[one] & people[other]
    assert people["test"] == {person_4(published).subject}
    for split, own in found.items():
        stimuli = [w.stimulus for w in records.read_windows(out, split)]
        assert [own.images[i].name for i in own.image] == stimuli
        assert list(own.label) == [name.split("/")[0] for name in stimuli]
    assert stage_b.pretrained_on(found["test"], [os.path.abspath(out)]) == 0
    assert stage_b.pretrained_on(found["train"], [os.path.abspath(out)]) == len(found["train"])


def test_a_folder_of_classes_lists_what_was_shown(published):
    root = published / "imagenet"
    every = image_folder.listing(root, captions=False)
    assert len(every) == CLASSES * IMAGES
    assert {entry.label for entry in every} == {f"n9{i:07d}" for i in range(CLASSES)}
    some = {every[3].name, every[-1].name, "n90000000/absent.JPEG"}
    assert image_folder.listing(root, captions=False, among=some) == (every[3], every[-1])
    assert image_folder.listing(root, captions=False, among={"a.JPEG"}) == every  # in which folder is not said
    with pytest.raises(UserError, match="holds no image"):
        image_folder.listing(root)


def test_stage_b_refuses_prepared_splits_that_share_a_image(published, opened, tmp_path):
    n = len(opened)
    parts = {"train": list(range(0, n, 2)), "val": [n - 1 - n % 2], "test": list(range(1, n - 2, 2))}
    parts["val"] = sorted(set(range(n)) - set(parts["train"]) - set(parts["test"]))
    torch.save({"splits": [parts]}, tmp_path / "a.pth")
    out, _ = made(published, tmp_path, splits=SplitRequest(file=str(tmp_path / "a.pth")))
    data = DataConfig(path=(str(out),), montage="own", samples=128)
    target = TargetConfig(folder=str(published / "imagenet"), splits="prepared")
    with pytest.raises(UserError, match=r"images are in two of the prepared splits; leave target\.splits"):
        stage_b.trials(data, target, "train", seed=0, training=True)
    with pytest.raises(ValueError, match="leave people at"):
        TargetConfig(splits="prepared", people="apart")


# ------------------------------------------------------------------------------------------------------------ the verb
def test_the_whole_way_by_command(tmp_path, capsys):
    corpus, out = tmp_path / "corpus", tmp_path / "shards"
    size = ["--subjects", "3", "--classes", "2", "--images-per-class", "6", "--channels", "4"]
    assert main.main(["simulate", "--layout", "eeg-imagenet", "--out", str(corpus), *size]) == 0
    assert "35 trials of 3 people at 12 images (2 classes, a block each" in capsys.readouterr().out
    way = ["--split-by", "subject", "--hold-out", "2", "--stimuli", str(corpus / "imagenet"), "--workers", "0"]
    assert main.main(["prepare", str(corpus / STD), "--out", str(out), *way]) == 0
    told = capsys.readouterr().out
    assert "test of 1 person), split by subject" in told
    assert "no control over block: a block is a class" in told
    assert set(dataset_splits(out)) == {"train", "val", "test"}
    for wrong, says in (
        (["--notch", "50"], "--notch would have no effect with"),
        (["--splits", "1", "0", "0"], "three shares above 0"),
        (["--split-by", "block", "--subject", "1"], "a block is a class"),
        (["--split-by", "image", "--sfreq", "2000"], "at most 1000 Hz"),
    ):
        assert main.main(["prepare", str(corpus / STD), "--out", str(tmp_path / "no"), *wrong]) == 2
        assert says in capsys.readouterr().err
    assert main.main(["prepare", str(corpus), "--out", str(tmp_path / "no"), "--subject", "4"]) == 2
    assert "--subject would do nothing without a file such as eeg_5_95_std.pth" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
