"""THINGS-EEG2's preprocessed layouts: told apart by content, never unpickled, every repetition a record."""

import json
import mmap
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamjax.cli import main
from dreamjax.errors import UserError
from dreamjax.signals.datasets import records
from dreamjax.signals.preparation.convert_trials import TrialSettings, identity_of
from dreamjax.signals.preparation.prepare import PrepareOptions, prepare
from dreamjax.signals.recordings import montage
from dreamjax.signals.recordings.corpora import things_eeg2, things_images
from dreamjax.signals.recordings.corpora.things_layouts import CAP_ORDER, CHANNELS_17, CHANNELS_63, NOTES
from dreamjax.signals.recordings.identity import SplitRequest, identity
from dreamjax.signals.simulation.things_eeg2_files import (
    ThingsLayout,
    drawn_concepts,
    image_features,
    write_things_eeg2,
)

LAYOUTS = ("original", "nice", "ubp", "neurobridge", "adabrain")
SMALL = {
    "subjects": 2,
    "concepts": 2,
    "images_per_concept": 2,
    "test_concepts": 2,
    "repetitions": 2,
    "test_repetitions": 3,
}
TRAIN, TEST = 2 * 2 * 2 * 2, 2 * 2 * 3


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request, tmp_path_factory):
    """(name of a layout, folder of a data set in it)."""
    out = tmp_path_factory.mktemp("things") / request.param
    write_things_eeg2(out, ThingsLayout(request.param, **SMALL))
    return request.param, out


def nice(tmp_path, **more):
    write_things_eeg2(tmp_path / "set", ThingsLayout("nice", **(SMALL | more)))
    return tmp_path / "set"


def made(root, out, settings=None, **options):
    options = {"stimuli": str(root / "image_set")} | options
    return prepare([root / "eeg"], out, settings, PrepareOptions(workers=0, **options))


@pytest.mark.parametrize("wrong", [{"subjects": 0}, {"images_per_concept": 0}, {"strength": -1}, {"strength": np.nan}])
def test_refuses_sizes_and_strengths_that_give_no_trials(wrong):
    with pytest.raises(UserError, match=f"{next(iter(wrong))} is .*, but must be"):
        ThingsLayout("nice", **(SMALL | wrong))


def published(name, root):
    """(subject, split, image, repetition) → the trial as other software loads it."""
    for number in (1, 2):
        for split, part in (("train", "training"), ("test", "test")):
            folder = root / "eeg" / f"sub-{number:02d}"
            if name == "original":
                content = np.load(folder / f"preprocessed_eeg_{part}.npy", allow_pickle=True).item()
                array = content["preprocessed_eeg_data"]
            elif name == "nice":
                array = np.load(folder / f"preprocessed_eeg_{part}.npy", allow_pickle=True)["preprocessed_eeg_data"]
            elif name == "ubp":
                array = torch.load(folder / f"{split}.pt", weights_only=False)["eeg"]
            elif name == "neurobridge":
                array = np.load(folder / f"{split}.npy")
                array = array.reshape(-1, *array.shape[2:])
            else:
                files = (root / "eeg" / split / folder.name).glob("*.pkl")
                for file in files:
                    _, image, repetition = file.stem.split("_")
                    trial = pickle.loads(file.read_bytes())["X"]
                    yield (number, split, int(image) - 1, int(repetition) - 1), trial
                continue
            for image in range(array.shape[0]):
                for repetition in range(array.shape[1]):
                    yield (number, split, image, repetition), array[image, repetition]


def test_every_repetition_is_a_record_of_its_image(layout, tmp_path):
    name, root = layout
    result = made(root, tmp_path / "out")
    assert result.splits == {"train": TRAIN, "test": TEST}
    dataset = records.load_dataset(tmp_path / "out")
    listed = np.load(root / "image_set" / "image_metadata.npy", allow_pickle=True).item()
    trials = things_eeg2.open_preprocessed(str(root / "eeg"), str(root / "image_set"))
    by_trial = dict(published(name, root))
    count = {}
    for split in ("train", "test"):
        for window in records.read_windows(tmp_path / "out", split):
            trial = next(int(flag[6:]) for flag in window.flags if flag.startswith("trial:"))
            concept, file = window.stimulus.split("/")
            image = listed[f"{split}_img_files"].index(file)
            assert concept == window.label == listed[f"{split}_img_concepts"][image]
            person = int(trials.subject[trial])
            key = (person, split, image)
            count[key] = count.get(key, -1) + 1
            step = np.ptp(by_trial[*key, count[key]].astype(float), axis=1).max() / 65534
            np.testing.assert_allclose(window.signal, by_trial[*key, count[key]], atol=step)
            assert (window.unit, window.modality) == ("SD", "eeg")
    assert sum(count.values()) + len(count) == TRAIN + TEST
    channels = {"original": CHANNELS_17, "adabrain": CAP_ORDER}.get(name, CHANNELS_63)
    assert tuple(dataset["channels"]) == channels
    np.testing.assert_allclose(window.xyz, montage.standard_positions(channels), rtol=1e-6)
    tmin, rate = (-0.2, 100) if name == "original" else (0.0, 250)
    assert (dataset["settings"]["tmin"], dataset["settings"]["sfreq"]) == (tmin, rate)
    assert ("training and test" in dataset["design"]["notes"][0]) == (name == "original")
    assert len(dataset["labels"]) == 4


def test_people_have_the_same_pseudonyms_in_every_layout(layout):
    _, root = layout
    trials = things_eeg2.open_preprocessed(str(root / "eeg"), str(root / "image_set"))
    assert identity_of(trials, "salt", len(trials) - 1).subject == identity("salt", "things-eeg2", "02").subject


def test_people_are_chosen(tmp_path):
    result = made(nice(tmp_path), tmp_path / "out", splits=SplitRequest(subjects=(2,)))
    assert result.people == {"train": 1, "val": 0, "test": 1}
    with pytest.raises(UserError, match="has no such person; it has 1, 2"):
        made(tmp_path / "set", tmp_path / "other", splits=SplitRequest(subjects=(3,)))
    with pytest.raises(UserError, match="keep the splits train and test"):
        made(tmp_path / "set", tmp_path / "other", splits=SplitRequest(by="image"))


def test_the_samples_stay_in_the_files(layout):
    name, root = layout
    trials = things_eeg2.open_preprocessed(str(root / "eeg"), str(root / "image_set"))
    for block in () if name == "adabrain" else trials.blocks:
        base = block.array
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(base.obj if isinstance(base, memoryview) else base, mmap.mmap)


def test_sessions_are_those_that_the_file_states(layout):
    name, root = layout
    trials = things_eeg2.open_preprocessed(str(root / "eeg"), str(root / "image_set"))
    assert {trials.session_name(i) for i in range(len(trials))} == ({"01", "02"} if name == "ubp" else {""})


class Malicious:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("saved", ["pickle", "numpy", "torch"])
def test_hostile_files_are_refused_unexecuted(tmp_path, monkeypatch, saved):
    monkeypatch.chdir(tmp_path)
    root = nice(tmp_path)
    content = {"preprocessed_eeg_data": Malicious(), "eeg": Malicious(), "ch_names": ["O1"], "times": [0.0]}
    path = root / "eeg" / "sub-01" / "preprocessed_eeg_training.npy"
    if saved == "pickle":
        path.write_bytes(pickle.dumps(content))
    elif saved == "numpy":
        with path.open("wb") as stream:
            np.save(stream, content, allow_pickle=True)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=r"not .*numbers"):
        made(root, tmp_path / "out")
    shutil.copy(path, root / "image_set" / "image_metadata.npy")
    (root / "eeg" / "sub-01" / "preprocessed_eeg_training.npy").write_bytes(
        (root / "eeg" / "sub-02" / "preprocessed_eeg_training.npy").read_bytes()
    )
    with pytest.raises(UserError, match="lacks train_img_concepts"):
        made(root, tmp_path / "out")
    assert not (tmp_path / "executed").exists()


def remove(*names):
    return lambda root: [(root / name).unlink() for name in names]


def cut(name):
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:4000])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("eeg/sub-02/preprocessed_eeg_test.npy"), r"sub-02: preprocessed_eeg_test\.npy is missing, the trials"),
        (remove("eeg/sub-02/preprocessed_eeg_training.npy"), r"sub-02: preprocessed_eeg_training\.npy is missing"),
        (remove("image_set/image_metadata.npy"), r"image_metadata\.npy is missing, which names the images"),
        (cut("eeg/sub-01/preprocessed_eeg_test.npy"), r"_test\.npy: the pickle .* the file ends before"),
        (lambda root: (root / "eeg/sub-01/preprocessed_eeg_test.npy").write_text("<html>"), "this is a web page"),
        (lambda root: np.save(root / "eeg/sub-01/preprocessed_eeg_test.npy", np.zeros((2, 3, 63, 250))),
         r"info\.json is missing, which names the channels"),
    ],
)  # fmt: skip
def test_reports_a_partial_download(tmp_path, change, message):
    root = nice(tmp_path)
    change(root)
    with pytest.raises(UserError, match=message):
        made(root, tmp_path / "out")


def test_reports_files_of_two_preprocessings(tmp_path):
    root = nice(tmp_path)
    write_things_eeg2(tmp_path / "other", ThingsLayout("original", **SMALL))
    shutil.copytree(tmp_path / "other" / "eeg" / "sub-02", root / "eeg" / "sub-02", dirs_exist_ok=True)
    with pytest.raises(UserError, match=r"its layout differ from those of .*one preprocessing"):
        made(root, tmp_path / "out")


def test_reports_a_list_of_other_images(tmp_path):
    root = nice(tmp_path)
    write_things_eeg2(tmp_path / "other", ThingsLayout("nice", **(SMALL | {"concepts": 3})))
    with pytest.raises(UserError, match=r"has 4 train images and .* names 6"):
        made(root, tmp_path / "out", stimuli=str(tmp_path / "other" / "image_set"))


def test_leaves_out_trials_of_missing_images(tmp_path):
    root = nice(tmp_path)
    first = next((root / "image_set" / "training_images").rglob("*.jpg"))
    first.unlink()
    result = made(root, tmp_path / "out")
    assert result.rejected == {"an image is missing or damaged": 4}


def test_neurobridge_pickled_alike_and_adabrain_names_are_read(tmp_path):
    write_things_eeg2(tmp_path / "n", ThingsLayout("neurobridge", **SMALL))
    for path in (tmp_path / "n" / "eeg").rglob("*.npy"):
        content = {"data": np.load(path), "ch_names": list(CHANNELS_63), "times": np.arange(-50, 250) / 250}
        path.write_bytes(pickle.dumps(content, protocol=4))
    (tmp_path / "n" / "eeg" / "info.json").unlink()
    images = str(tmp_path / "n" / "image_set")
    assert things_eeg2.open_preprocessed(str(tmp_path / "n" / "eeg"), images).format == "things-eeg2 neurobridge"
    write_things_eeg2(tmp_path / "a", ThingsLayout("adabrain", **SMALL))
    names = [name.upper() for name in CHANNELS_63]
    facts = {"dataset_info": {"ch_names": names, "sampling_rate": 250}}
    (tmp_path / "a" / "eeg" / "train.json").write_text(json.dumps(facts))
    opened = things_eeg2.open_preprocessed(str(tmp_path / "a" / "eeg"), str(tmp_path / "a" / "image_set"))
    assert opened.ch_names == CHANNELS_63
    assert len(opened.notes) == 1


def test_values_in_volts_become_microvolts(tmp_path):
    root = nice(tmp_path)
    for path in (root / "eeg").rglob("*.npy"):
        content = pickle.loads(path.read_bytes())
        content["preprocessed_eeg_data"] *= 1e-5
        path.write_bytes(pickle.dumps(content, protocol=4))
    made(root, tmp_path / "out")
    window = records.read_windows(tmp_path / "out", "test")[0]
    assert window.unit == "µV"
    assert 5 < window.signal.std() < 20
    assert records.load_dataset(tmp_path / "out")["design"]["notes"] == ["not whitened"]


def test_trials_are_resampled_on_request(tmp_path):
    made(nice(tmp_path), tmp_path / "out", TrialSettings(sfreq=125.0))
    assert records.read_windows(tmp_path / "out", "test")[0].signal.shape == (63, 125)


def test_strength_0_carries_nothing_and_features_can_be_given(tmp_path):
    size = {"subjects": 1, "concepts": 8, "images_per_concept": 4, "test_concepts": 2, "repetitions": 4}
    codes = {}
    for strength in (0.0, 2.0):
        layout = ThingsLayout("original", strength=strength, **size)
        write_things_eeg2(tmp_path / str(strength), layout)
        root = tmp_path / str(strength)
        trials = things_eeg2.open_preprocessed(str(root / "eeg"), str(root / "image_set"))
        train = np.flatnonzero(trials.split == "train")
        signals = np.array([trials.signal(i) for i in train]).reshape(32, 4, -1)
        halves = signals[:, :2].mean(1), signals[:, 2:].mean(1)
        halves = [half - half.mean(0) for half in halves]
        codes[strength] = np.corrcoef(halves[0].ravel(), halves[1].ravel())[0, 1]
    assert abs(codes[0.0]) < 0.02
    assert codes[2.0] > 0.3
    features = np.zeros((34, 3))
    write_things_eeg2(tmp_path / "given", ThingsLayout("original", **size), features)
    with pytest.raises(UserError, match="features have shape"):
        write_things_eeg2(tmp_path / "wrong", ThingsLayout("original", **size), features[:3])
    train, test = drawn_concepts(ThingsLayout("original", **size))
    assert np.isfinite(image_features([*train, *test])).all()
    assert not {image.file.split("/")[0] for image in train} & {image.file.split("/")[0] for image in test}
    assert Path(tmp_path / "given" / "image_set" / "test_images" / test[0].file).is_file()


def test_is_simulated_and_prepared_by_command(tmp_path, capsys):
    root = tmp_path / "set"
    size = ["--subjects", "1", "--classes", "2", "--images-per-class", "2"]
    assert main.main(["simulate", "--layout", "things-eeg2-original", "--out", str(root), *size]) == 0
    assert "4 training and 2 test images (17 channels" in capsys.readouterr().out
    assert main.main(["prepare", str(root), "--out", str(tmp_path / "out")]) == 2
    assert f"the trials are in {root / 'eeg'}; give that folder, and --stimuli" in capsys.readouterr().err
    command = ["prepare", str(root / "eeg"), "--stimuli", str(root / "image_set"), "--out", str(tmp_path / "out")]
    assert main.main([*command, "--workers", "0", "--channel-set", "17"]) == 0
    assert records.load_dataset(tmp_path / "out")["settings"]["channel_set"] == "17"
    assert main.main([*command[:-1], str(tmp_path / "other"), "--workers", "0", "--channel-set", "63"]) == 2
    assert "it has no channel Fp1, which --channel-set asks for" in capsys.readouterr().err
    assert main.main([*command[:-1], str(tmp_path / "other"), "--mvnn", "off"]) == 2


def test_alljoined_is_read_by_its_table(tmp_path):
    write_things_eeg2(tmp_path / "set", "alljoined", **SMALL)
    root = tmp_path / "set"
    result = made(root, tmp_path / "out", stimuli=str(root / "images"))
    assert result.splits == {"train": TRAIN, "test": TEST}
    assert records.load_dataset(tmp_path / "out")["design"]["notes"] == [NOTES["alljoined"]]
    content = pickle.loads((root / "eeg/sub-01/preprocessed_eeg_test_flat.npy").read_bytes())
    lines = (root / "eeg/sub-01/experiment_metadata.csv").read_text().splitlines()[1:]
    rows = [line.split(",") for line in lines if line.startswith("stim_test") and line.endswith("False")]
    shown = list(records.read_windows(tmp_path / "out", "test"))[: len(rows)]
    assert shown[0].dataset == "alljoined-1.6m"
    for window, (_, _, image, _), trial in zip(shown, rows, content["preprocessed_eeg_data"], strict=True):
        assert image.endswith(window.stimulus)
        np.testing.assert_allclose(window.signal, trial, atol=np.ptp(trial, axis=1).max() / 65534)
    assert len({window.session for window in shown}) == 4
    (root / "eeg/sub-01/experiment_metadata.csv").write_text("\n".join(["partition,session,image_path", *lines[:3]]))
    with pytest.raises(UserError, match=r"8 trials, but .*experiment_metadata\.csv names 3 of split train"):
        made(root, tmp_path / "other", stimuli=str(root / "images"))
    (root / "eeg/sub-01/experiment_metadata.csv").unlink()
    with pytest.raises(UserError, match="missing, the table of the images that were shown"):
        made(root, tmp_path / "other", stimuli=str(root / "images"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": [0.0] * 250}, "its 250 times are not those of 250 samples"),
        ({"times": [np.inf] * 250}, "its 250 times are not those of 250 samples"),
        ({"times": "never"}, "times: this is not an array of numbers"),
        ({"ch_names": [1] * 63}, "ch_names: this is not a list of names"),
        ({"ch_names": ["O1"]}, "for 1 channels, not"),
        ({"preprocessed_eeg_data": np.zeros((2, 63, 250), bool)}, "an array of bool, not of numbers"),
    ],
)
def test_reports_damaged_dictionaries(tmp_path, change, message):
    root = nice(tmp_path)
    path = root / "eeg" / "sub-01" / "preprocessed_eeg_test.npy"
    path.write_bytes(pickle.dumps(pickle.loads(path.read_bytes()) | change))
    with pytest.raises(UserError, match=message):
        made(root, tmp_path / "out")


@pytest.mark.parametrize("name", ["../x.jpg", "a/../../x.jpg", "..", "c:/x.jpg", ""])
def test_refuses_images_outside_of_their_folder(name):
    with pytest.raises(UserError, match="is not the path of an image"):
        things_images.relative(name, "the list")
