"""Configs: golden snapshots, typed overrides and arguments, and the sentence for every mistake."""

import pytest

from dreamjax import config
from dreamjax.cli.main import main
from dreamjax.errors import UserError
from dreamjax.systems import registry
from tests import golden

TINY = str(golden.REPOSITORY / "configs/pretrain/tiny.py")


def load(*overrides, spec=TINY):
    return config.load(spec, list(overrides), registry.schema_of)


# ----------------------------------------------------------------------------------------------------------- snapshots
@pytest.mark.parametrize("path", golden.shipped(), ids=str)
def test_a_shipped_config_means_what_its_snapshot_says(path):
    """A change of a default anywhere shows here; `make golden` accepts it."""
    assert golden.render(path) == golden.snapshot_path(path).read_text(encoding="utf-8"), "make golden rewrites it"


def test_no_snapshot_without_its_config():
    assert {p.name for p in golden.FOLDER.glob("*.txt")} == {golden.snapshot_path(p).name for p in golden.shipped()}


def test_every_config_is_a_recipe():
    """The docstring has the command to run it."""
    for path in golden.shipped():
        first = (golden.REPOSITORY / path).read_text(encoding="utf-8").split('"""')[1]
        assert f"dreamjax train --config {path}" in first, path


# ----------------------------------------------------------------------------------------------------------- overrides
def test_overrides_are_typed_by_their_field():
    found = load(
        ("optim.learning_rate", "1e-4"),
        ("train.steps", "2e3"),
        ("mask.ratio", "0.1, 0.75"),
        ("optim.clip", "none"),
        ("model.scan_layers", "true"),
        ("data.path", "a,b"),
    )
    assert found.optim.learning_rate == 1e-4
    assert found.train.steps == 2000
    assert found.mask.ratio == (0.1, 0.75)
    assert found.optim.clip is None
    assert found.model.scan_layers is True
    assert found.data.path == ("a", "b")


def test_a_file_takes_typed_arguments():
    found = load(spec=f"{TINY}:steps=7,path=shards")
    assert found.train.steps == 7
    assert found.data.path == ("shards",)


def test_a_config_survives_json():
    found = load(("mask.kind", "random,block"), ("mask.ratio", "0.5"))
    assert config.from_json(type(found), config.to_json(found)) == found


# ------------------------------------------------------------------------------------------------------------ mistakes
@pytest.mark.parametrize(
    ("key", "text", "sentence"),
    [
        ("mask.raito", "0.5", "has no key mask.raito; did you mean mask.ratio?"),
        ("optm.learning_rate", "1", "did you mean optim.learning_rate?"),
        ("sede", "1", "did you mean seed?"),
        ("ratio", "1", "did you mean mask.ratio?"),
        ("train.steps", "many", "train.steps takes int"),
        ("train.steps", "1.5", "train.steps takes int"),
        ("optim.learning_rate", "fast", "optim.learning_rate takes float"),
        ("mask.kind", "checker", "mask.kind takes one of 'random', 'block', 'channel'"),
        ("model.scan_layers", "maybe", "model.scan_layers takes bool"),
        ("train.steps", "1e999", "train.steps takes int"),
        ("train", "1", "--config.train is a group of keys"),
        ("model.heads", "5", "model.dim is 64, but it must be even and divide by model.heads = 5"),
        ("model.patch", "5", "data.samples is 512, but it must divide by model.patch = 5"),
        ("mask.ratio", "1.5", "mask.ratio is 1.5"),
        ("mask.kind", "channel", "data.mask_channels"),
    ],
)
def test_a_mistake_is_one_sentence(key, text, sentence):
    with pytest.raises(UserError) as mistake:
        load((key, text))
    assert sentence in str(mistake.value)
    assert "\n" not in str(mistake.value)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("{tiny}:stesp=3", "did you mean steps?"),
        ("{tiny}:steps=few", "steps takes int or None"),
        ("nowhere.py", "no such config file"),
        ("{folder}/syntax.py", "line 1 is not Python"),
        ("{folder}/empty.py", "get_config()"),
        ("{folder}/typo.py", "did you mean"),
        ("{folder}/nested.py", "has no key optim.learning_rat; did you mean optim.learning_rate?"),
        ("{folder}/wrong.py", "optim.learning_rate is 'x', but it takes float"),
        ("{folder}/stranger.py", "system is 'masked_pretrainin'"),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence(tmp_path, spec, sentence):
    top = "from dreamjax.systems.masked_pretraining import preset\ndef get_config():\n    c = preset('tiny')\n"
    bodies = {
        "syntax": "def get_config(:\n",
        "empty": "x = 1\n",
        "typo": top + "    c.optim.learning_rat = 1.0\n    return c\n",
        "nested": top + "    with c.unlocked():\n        c.optim.learning_rat = 1.0\n    return c\n",
        "wrong": top + "    c.optim.learning_rate = 'x'\n    return c\n",
        "stranger": top + "    c.system = 'masked_pretrainin'\n    return c\n",
    }
    for name, body in bodies.items():
        (tmp_path / f"{name}.py").write_text(body)
    with pytest.raises(UserError) as mistake:
        load(spec=spec.format(tiny=TINY, folder=tmp_path))
    assert sentence in str(mistake.value)
    assert "\n" not in str(mistake.value)


def test_the_command_exits_with_2_and_the_sentence(capsys):
    assert main(["inspect", "--config", TINY, "--config.mask.raito=0.5"]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err == f"dreamjax: {TINY} has no key mask.raito; did you mean mask.ratio?\n"
