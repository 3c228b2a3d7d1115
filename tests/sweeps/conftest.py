"""A small sweep on synthetic shards, and training and scoring that take no time."""

import json

import pytest

from dreamjax.cli.main import main
from dreamjax.sweeps import scoring
from dreamjax.sweeps.scoring import RunScore
from dreamjax.systems import opening
from tests.support import make_shards

CONFIG = """
from dreamjax.sweeps import axes, sweep_config
from dreamjax.systems.masked_presets import preset


def get_config():
    base = preset("tiny")
    base.data.path, base.data.samples = ({shards!r},), 256
    base.model.update({{"dim": 16, "depth": 1, "heads": 2, "decoder_dim": 16, "decoder_heads": 2, "patch": 16}})
    base.train.update({{"steps": {steps}, "batch_size": 8, "eval_every": 0, "log_every": 1, "tensorboard": False}})
    base.optim.schedule = "constant"
    varied = [{axes}]
    score = {{"windows": 12, "baselines": False}}
    return sweep_config.config("tiny", base, varied, seeds={seeds}, retries=1, score=score)
"""
RATIOS = 'axes.values("mask.ratio", 0.25, 0.75)'


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("shards"), subjects=6, windows=6, samples=256)


@pytest.fixture
def config(shards, tmp_path):
    def write(axes=RATIOS, seeds=(0,), steps=6):
        path = tmp_path / "sweep.py"
        path.write_text(CONFIG.format(shards=shards, axes=axes, seeds=seeds, steps=steps))
        return str(path)

    return write


def swept(capsys, *words, code=0):
    assert main(["sweep", *words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def refused(capsys, *words):
    assert main(["sweep", *words]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dreamjax: ")]
    return line


def scores(workdir):
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(workdir.glob("points/*/score.json"))}


@pytest.fixture
def instant(monkeypatch):
    """Replace training and scoring; the value lists the trainings: (ratio, steps)."""
    asked, at = [], {}

    def train(config, folder):
        asked.append((config.mask.ratio, config.train.steps))
        assert at.get(folder, 0) <= config.train.steps, "a run does not go back"
        at[folder] = config.train.steps
        return {"preempted": False, "time": {"seconds": {"step": 2.0, "restart": 9.0}}}

    monkeypatch.setattr(opening, "train", train)
    monkeypatch.setattr(scoring, "measure", lambda folder, score, shared: RunScore(at[folder], at[folder] * 8, "val"))
    return asked
