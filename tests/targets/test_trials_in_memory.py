"""Trials in memory: who and what is held out, how signals are scaled, averaged and cut."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dreamjax.errors import UserError
from dreamjax.signals.datasets import records
from dreamjax.targets import responses
from dreamjax.targets.responses import ResponseConfig
from tests import trial_shards

RAW = {"scaling": "none", "clip": 0.0}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return trial_shards.write(tmp_path_factory.mktemp("trials") / "data").path


def concepts(trials: responses.Responses) -> set[str]:
    return {trials.concept[i] for i in trials.image}


def test_validation_concepts_are_neither_trained_on_nor_tested(shards: str) -> None:
    config = ResponseConfig(path=(shards,), val_share=0.25)
    train, val, test = (responses.load(config, split) for split in ("train", "val", "test"))
    assert len(concepts(val)) == 3
    assert len(concepts(train)) == 9
    assert not concepts(train) & concepts(val)
    assert not (concepts(train) | concepts(val)) & concepts(test)


def test_validation_does_not_depend_on_who_is_trained_on(shards: str) -> None:
    config = ResponseConfig(path=(shards,), val_share=0.25)
    alone = replace(config, people=("person1",))
    assert concepts(responses.load(config, "val")) == concepts(responses.load(alone, "val"))
    assert set(responses.load(alone, "train").subject) == {1}


def test_other_images_of_tested_concepts_are_not_trained_on(tmp_path: Path) -> None:
    folder = trial_shards.write(tmp_path / "data", people=1).path
    moved = {"00000_concept/image_0.jpg", "00003_concept/image_1.jpg"}
    windows = [
        replace(w, label="00012_concept") if w.stimulus in moved else w for w in records.read_windows(folder, "train")
    ]
    again = tmp_path / "again"
    again.mkdir()
    shards = {"train": records.write_split(again, "x", "train", windows)}
    shards["test"] = records.write_split(again, "x", "test", records.read_windows(folder, "test"))
    records.finish(again, "x", shards)
    config = ResponseConfig(path=(str(again),), validation="none", repeats="single")
    left = len(windows) - len(responses.load(config, "train"))
    assert left == sum(w.label == "00012_concept" for w in windows)
    assert len(responses.load(replace(config, concepts_apart=False), "train")) == len(windows)


def test_repetitions_are_averaged_within_a_person(shards: str) -> None:
    config = ResponseConfig(path=(shards,), **RAW)
    averaged = responses.load(config, "test")
    single = responses.load(replace(config, test_repeats="single"), "test")
    assert len(averaged) == 2 * 8
    assert len(single) == 2 * 8 * 4
    assert (averaged.repeats == 4).all()
    of = (single.subject == averaged.subject[3]) & (single.image == averaged.image[3])
    np.testing.assert_allclose(averaged.signal[3], single.signal[of].mean(0), atol=1e-5)


def test_the_end_of_each_session_is_held_out_by_timeline(shards: str) -> None:
    config = ResponseConfig(path=(shards,), validation="timeline", val_share=0.2, repeats="single", **RAW)
    train, val = responses.load(config, "train"), responses.load(config, "val")
    assert len(val) == 4 * 7  # of 36 trials in each of two sessions of two people
    for session in np.unique(train.session):
        assert train.start[train.session == session].max() < val.start[val.session == session].min()


def test_times_are_cut_and_the_baseline_is_subtracted(shards: str) -> None:
    config = ResponseConfig(path=(shards,), tmin=0.0, tmax=0.2, **RAW)
    cut = responses.load(config, "test")
    whole = responses.load(ResponseConfig(path=(shards,), **RAW), "test")
    assert cut.signal.shape[2] == 20
    assert cut.tmin == pytest.approx(0.0)
    np.testing.assert_array_equal(cut.signal, whole.signal[:, :, 10:30])
    based = responses.load(ResponseConfig(path=(shards,), baseline=(-0.1, 0.0), **RAW), "test")
    np.testing.assert_allclose(based.signal[:, :, :10].mean(2), 0, atol=1e-5)


def test_scaling_depends_on_training_trials_alone(tmp_path: Path) -> None:
    path = trial_shards.write(tmp_path / "data", people=1, strength=0).path
    config = ResponseConfig(path=(path,), repeats="single", validation="none", clip=0.0)
    train, test = responses.load(config, "train"), responses.load(config, "test")
    spread = np.subtract(*np.percentile(train.signal.swapaxes(0, 1).reshape(6, -1), (75, 25), axis=1))
    np.testing.assert_allclose(spread, responses.IQR, rtol=1e-5)
    assert abs(test.signal.std() - 0.5) < 0.02  # the mean of four repetitions


def test_channels_are_taken_by_name(shards: str) -> None:
    some = responses.load(ResponseConfig(path=(shards,), channels=("E3", "E1"), **RAW), "test")
    every = responses.load(ResponseConfig(path=(shards,), **RAW), "test")
    assert some.ch_names == ("E3", "E1")
    np.testing.assert_array_equal(some.signal, every.signal[:, [2, 0]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": ("E33",)}, "did you mean E3"),
        ({"people": ("person9",)}, "no person 'person9'"),
        ({"tmax": 9.0}, "records last from -0.1 to 0.3 s"),
        ({"test_split": "removed"}, "the dataset has test, train"),
    ],
)
def test_refuses_what_the_data_do_not_have(shards: str, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        responses.load(replace(ResponseConfig(path=(shards,)), **changes), "test")


def test_refuses_data_without_images(tmp_path: Path) -> None:
    path = trial_shards.write(tmp_path / "data", people=1).path
    again = tmp_path / "again"
    again.mkdir()
    windows = [replace(w, stimulus="") for w in records.read_windows(path, "train")]
    records.finish(again, "x", {"train": records.write_split(again, "x", "train", windows)})
    with pytest.raises(UserError, match="no record names the image"):
        responses.load(ResponseConfig(path=(str(again),)), "train")
