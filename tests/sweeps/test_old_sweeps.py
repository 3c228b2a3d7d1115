"""The folder of a sweep that an older version made: its runs are known again, and nothing is trained twice."""

import json
import shutil

import pytest

from dreamjax.sweeps import run_folder
from dreamjax.systems import opening
from tests.compatibility import test_before_rooms
from tests.sweeps.conftest import swept

CONFIG = """
from dreamjax.sweeps import axes, sweep_config
from dreamjax.systems.masked_presets import preset

SIZES = {"dim": 8, "depth": 1, "heads": 2, "decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2, "mlp_ratio": 2.0}


def get_config():
    base = preset("tiny")
    base.data.update({"path": ("shards",), "samples": 128, "sfreq": 64.0})
    base.model.update(SIZES)
    base.optim.update({"learning_rate": 1e-2, "warmup_steps": 1, "ema_decay": 0.9})
    base.train.update({"steps": 200, "batch_size": 8, "eval_every": 0, "tensorboard": False})
    base.train.checkpoint.update({"every": 200, "keep_last": 1})
    return sweep_config.config("before_rooms", base, [axes.values("mask.ratio", 0.25, 0.75)], compare=("examples",))
"""


@pytest.fixture
def old(tmp_path, monkeypatch):
    folder = test_before_rooms.copied(tmp_path)
    monkeypatch.chdir(folder)
    (folder / "today.py").write_text(CONFIG)
    return folder


def test_finished_runs_of_an_old_sweep_are_not_run_again(old, capsys, monkeypatch):
    trained = []
    monkeypatch.setattr(opening, "train", lambda config, folder: trained.append(folder))
    before = sorted(path.name for path in (old / "sweep" / "points").iterdir())
    result = swept(capsys, "--config", "today.py", "--workdir", "sweep")
    assert (result["points"], result["done"], result["done_before"], trained) == (2, 2, 2, [])
    assert sorted(path.name for path in (old / "sweep" / "points").iterdir()) == before
    assert json.loads((old / "sweep" / "planned.json").read_text())["points"] == before


def test_unfinished_run_of_an_old_sweep_is_continued_in_its_folder(old, capsys):
    """Its training is finished, but not scored: it is scored as before."""
    [run] = (old / "sweep" / "points").glob("*0.75*")
    before = json.loads((run / "score.json").read_text())["legs"]
    shutil.rmtree(old / "sweep" / "shared")
    for name in ("score.json", "leg-200.json"):
        (run / name).unlink()
    result = swept(capsys, "--config", "today.py", "--workdir", "sweep")
    assert (result["done"], result["done_before"]) == (2, 1)
    after = json.loads((run / "score.json").read_text())["legs"]
    masks = before["examples"]["reconstruction"]
    for mask, values in masks.items():
        new = after["examples"]["reconstruction"][mask]
        assert new["error"]["model"] == pytest.approx(values["error"]["model"], rel=1e-5)


def test_words_of_old_files_are_read_as_todays(tmp_path):
    path = run_folder.epath.Path(tmp_path / "score.json")
    image = {"unit": "picture", "scores": {"picture 3": 0.5}}
    path.write_text(json.dumps({"legs": {"examples": {"pictures": image}}, "cost": {}}))
    assert run_folder.read_json(path)["legs"]["examples"]["images"] == {"unit": "image", "scores": {"image 3": 0.5}}
    path.write_text(json.dumps({"score": {"rank": "pictures"}, "base": {"train": {"picture_every": 5}}}))
    assert run_folder.read_json(path) == {"score": {"rank": "images"}, "base": {"train": {"image_every": 5}}}
