"""What a model reads is recorded, at least in part, and the share that is interpolated is reported."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dreamjax import api
from dreamjax.cli.main import main
from dreamjax.errors import UserError
from dreamjax.evaluation import window_set
from dreamjax.pods import jobs
from dreamjax.signals.datasets import coverage, pipeline, records
from dreamjax.systems import opening
from dreamjax.systems.masked_presets import preset
from tests import support

MUSE = ("TP9", "AF7", "AF8", "TP10")
TWO = ("Fp1", "AF7", "AF8", "Fp2")  # two of them are channels of the 10-20 montage
ADVICE = "pretrain with --config.data.montage=own --config.model.channels=4"


def dataset(folder, *caps: tuple[str, ...], splits=("train", "val", "test")) -> str:
    """A dataset whose splits have one recording of four windows for each cap."""
    windows = [
        replace(window, ch_names=names, xyz=support.positions(names))
        for subject, names in enumerate(caps)
        for window in support.make_windows(subject, channels=len(names), windows=4)
    ]
    made = {split: records.write_split(folder, "made", split, iter(windows)) for split in splits}
    records.finish(folder, "made", made)
    return str(folder)


@pytest.fixture
def lines(monkeypatch) -> list[str]:
    """The warnings of a process that has not warned yet."""
    logged: list[str] = []
    monkeypatch.setattr(coverage, "_reported", set())
    monkeypatch.setattr(coverage.log, "warning", lambda text, *values: logged.append(text % values))
    return logged


def test_training_without_any_electrode_of_the_montage_is_refused_and_leaves_no_folder(tmp_path):
    config = preset("tiny")
    config.data.path = (dataset(tmp_path / "muse", MUSE),)
    for eval_every in (0, 1):
        config.train.eval_every = eval_every
        with pytest.raises(UserError, match=r"no window has a usable electrode of montage 1020-19") as refused:
            opening.train(api.read_config(config), tmp_path / "run")
        assert ADVICE in str(refused.value)
        assert "(recorded: TP9, AF7, AF8, TP10)" in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_plan_of_training_is_refused_for_the_same_reason(tmp_path, capsys, lines):
    words = ["plan", "--config", "configs/pretrain/tiny.py", "--topology", "h100-8"]
    muse = dataset(tmp_path / "muse", MUSE)
    assert main([*words, f"--config.data.path={muse}"]) == 2
    refusal = capsys.readouterr().err
    assert "no window has a usable electrode of montage 1020-19 (recorded: TP9, AF7, AF8, TP10)" in refusal
    assert ADVICE in refusal
    two = dataset(tmp_path / "two", TWO, splits=("train",))
    jobs.TrainingStep(api.read_config(planned_on(two))).check_data()
    (line,) = lines
    assert "89 % of the channels that the model reads" in line


def test_a_plan_says_nothing_of_data_that_is_not_here(tmp_path, lines):
    (tmp_path / "description").mkdir()
    shutil.copy(Path(dataset(tmp_path / "muse", MUSE), "dataset.json"), tmp_path / "description")
    for path in ("gs://bucket/data", str(tmp_path / "nowhere"), str(tmp_path / "description"), str(tmp_path)):
        jobs.TrainingStep(api.read_config(planned_on(path))).check_data()
    assert not lines


def planned_on(path: str):
    config = preset("tiny")
    config.data.path = (path,)
    return config


def test_scoring_without_any_electrode_of_the_montage_gives_the_same_reason(tmp_path):
    config = pipeline.DataConfig(path=(dataset(tmp_path / "muse", MUSE),))
    with pytest.raises(UserError, match=r"split test of .*: no window has a usable electrode") as refused:
        window_set.load(config, "test")
    assert ADVICE in str(refused.value)


def test_own_montage_of_four_electrodes_is_read_without_a_warning(tmp_path, lines):
    config = pipeline.DataConfig(path=(dataset(tmp_path / "muse", MUSE),), montage="own")
    stream = pipeline.open_stream(config, "train", seed=0, training=True)
    assert stream.rows(np.arange(4, dtype=np.uint64))["channel_ok"].all()
    assert lines == []


def test_reports_the_share_of_interpolated_channels_once(tmp_path, lines):
    path = dataset(tmp_path / "two", TWO)
    for split in ("val", "train", "train"):
        pipeline.open_stream(pipeline.DataConfig(path=(path,)), split, seed=0, training=split == "train")
    (line,) = lines
    assert line.startswith(f"{path}: 89 % of the channels that the model reads (montage 1020-19, 19 channels) are ")
    assert "from fewer than 16 electrodes most of it is guessed" in line  # 17 of 19
    assert ADVICE in line


def test_a_whole_cap_is_read_without_a_warning(tmp_path, lines):
    path = dataset(tmp_path / "cap", tuple(support.TEN_TWENTY.split()))
    pipeline.open_stream(pipeline.DataConfig(path=(path,)), "train", seed=0, training=True)
    assert lines == []


def test_a_mixture_reports_the_dataset_whose_channels_are_all_interpolated(tmp_path, lines):
    cap, muse = dataset(tmp_path / "cap", tuple(support.TEN_TWENTY.split())), dataset(tmp_path / "muse", MUSE)
    pipeline.open_stream(pipeline.DataConfig(path=(cap, muse)), "train", seed=0, training=True)
    (line,) = lines
    assert line.startswith(f"{muse}: 100 % of the channels")


def test_channels_that_training_drops_do_not_count_as_interpolated(tmp_path, lines):
    path = dataset(tmp_path / "cap", tuple(support.TEN_TWENTY.split()))
    pipeline.open_stream(pipeline.DataConfig(path=(path,), drop_channels=1.0), "train", seed=0, training=True)
    assert lines == []


def test_different_caps_are_reported_without_a_number_of_channels(tmp_path):
    path = dataset(tmp_path / "mixed", MUSE, MUSE[:3])
    with pytest.raises(UserError, match=r"2 different sets of channels.*prepare the recordings of one cap at a time"):
        pipeline.open_stream(pipeline.DataConfig(path=(path,)), "train", seed=0, training=True)


def test_an_array_without_any_electrode_of_the_montage_is_refused():
    windows = [
        replace(window, ch_names=MUSE, xyz=support.positions(MUSE))
        for window in support.make_windows(0, channels=4, windows=2)
    ]
    with pytest.raises(UserError, match="the signal: no window has a usable electrode of montage 1020-19"):
        next(pipeline.assembled(pipeline.DataConfig(), windows))
