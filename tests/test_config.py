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


def test_every_snapshot_has_a_config():
    assert {p.name for p in golden.FOLDER.glob("*.txt")} == {golden.snapshot_path(p).name for p in golden.shipped()}


def test_every_config_is_a_recipe():
    """The docstring has the command to run it."""
    for path in golden.shipped():
        first = (golden.REPOSITORY / path).read_text(encoding="utf-8").split('"""')[1]
        assert f"dreamjax {'sweep' if path.parts[1] == 'sweep' else 'train'} --config {path}" in first, path


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
        ("train.steps", "many", "train.steps must be int"),
        ("train.steps", "1.5", "train.steps must be int"),
        ("optim.learning_rate", "fast", "optim.learning_rate must be float"),
        ("mask.kind", "checker", "mask.kind must be one of 'random', 'block', 'channel'"),
        ("model.scan_layers", "maybe", "model.scan_layers must be bool"),
        ("train.steps", "1e999", "train.steps must be int"),
        ("train", "1", "--config.train is a group of keys"),
        ("model.heads", "5", "model.dim is 64, but it must be even and divide by model.heads = 5"),
        ("model.patch", "5", "data.samples is 512, but it must divide by model.patch = 5"),
        ("mask.ratio", "1.5", "mask.ratio is 1.5"),
        ("mask.kind", "channel", "data.mask_channels"),
        ("model.heads", "0", "model.heads is 0, but it must be at least 1"),
        ("model.decoder_heads", "0", "model.decoder_heads is 0"),
        ("model.patch", "0", "model.patch is 0"),
        ("model.dim", "0", "model.dim is 0"),
        ("model.depth", "-1", "model.depth is -1"),
        ("model.decoder_depth", "-1", "model.decoder_depth is -1, but it must be at least 0"),
        ("model.mlp_ratio", "0", "model.mlp_ratio is 0.0, but it must be positive"),
        ("model.mlp_ratio", "nan", "model.mlp_ratio is nan"),
        ("loss.beta", "0", "loss.beta is 0.0, but it must be positive"),
        ("loss.visible_weight", "-1", "loss.visible_weight is -1.0"),
        ("optim.learning_rate", "nan", "optim.learning_rate is nan, but it must be positive"),
        ("optim.warmup_steps", "-1", "optim.warmup_steps is -1, but it must be 0 or more"),
        ("optim.beta2", "1", "optim.beta2 is 1.0"),
        ("optim.clip", "nan", "optim.clip is nan"),
        ("data.clip", "-1", "data.clip is -1.0, but it must be 0 or more"),
        ("data.sfreq", "nan", "data.sfreq is nan, but it must be positive"),
        ("data.workers", "-1", "data.workers is -1"),
        ("data.flip_polarity", "1.5", "data.flip_polarity is 1.5, but it must be a probability from 0 to 1"),
        ("data.drop_channels", "-0.1", "data.drop_channels is -0.1"),
        ("data.reverse_time", "nan", "data.reverse_time is nan"),
        ("seed", "-1", "seed is -1"),
        ("train.eval_every", "-1", "train.eval_every and image_every must be at least 0"),
        ("train.profile_steps", "0", "profile_steps at least 1"),
        ("train.steps", "0", "must be at least 1"),
    ],
)
def test_reports_invalid_settings(key, text, sentence):
    with pytest.raises(UserError) as mistake:
        load((key, text))
    assert sentence in str(mistake.value)
    assert "\n" not in str(mistake.value)
    assert str(mistake.value).startswith(f"--config.{key}")


@pytest.mark.parametrize(
    ("overrides", "place"),
    [
        ([("model.dim", "60"), ("model.heads", "5"), ("seed", "-1")], "--config.seed=-1: seed"),
        ([("seed", "3"), ("model.heads", "5"), ("train.steps", "9")], "--config.model.heads=5: model.dim"),
        ([("optim.clip", "none")], f"{TINY}:steps=0: train.steps"),
        ([("optim.clip", "none"), ("train.steps", "-1"), ("seed", "3")], f"{TINY}:steps=0: train.steps"),
    ],
)
def test_an_error_names_the_override_or_the_file(overrides, place):
    with pytest.raises(UserError) as mistake:
        load(*overrides, spec=place.partition(": ")[0] if place.startswith(TINY) else TINY)
    assert str(mistake.value).startswith(place)


def test_an_override_fixes_an_error_of_the_file():
    assert load(("train.steps", "5"), spec=f"{TINY}:steps=0").train.steps == 5


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("{tiny}:stesp=3", "did you mean steps?"),
        ("{tiny}:steps=few", "steps must be int or None"),
        ("nowhere.py", "no such config file"),
        ("{folder}/syntax.py", "line 1 is not Python"),
        ("{folder}/empty.py", "get_config()"),
        ("{folder}/typo.py", "did you mean"),
        ("{folder}/nested.py", "has no key optim.learning_rat; did you mean optim.learning_rate?"),
        ("{folder}/wrong.py", "optim.learning_rate is 'x', but it must be float"),
        ("{folder}/stranger.py", "unknown system 'masked_pretrainin'; did you mean masked_pretraining?"),
        ("{folder}/name.py", "name.py, line 4: NameError: name 'Configg' is not defined"),
        ("{folder}/imports.py", "imports.py, line 1: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("{folder}/zero.py", "zero.py, line 2: ZeroDivisionError"),
        ("{folder}/annotated.py", "annotated.py"),
        ("{folder}/nothing.py", "get_config() returns a NoneType, but it must return a ConfigDict"),
    ],
)
def test_reports_errors_in_a_config_file(tmp_path, spec, sentence):
    top = "from dreamjax.systems.masked_presets import preset\ndef get_config():\n    c = preset('tiny')\n"
    bodies = {
        "syntax": "def get_config(:\n",
        "empty": "x = 1\n",
        "typo": top + "    c.optim.learning_rat = 1.0\n    return c\n",
        "nested": top + "    with c.unlocked():\n        c.optim.learning_rat = 1.0\n    return c\n",
        "wrong": top + "    c.optim.learning_rate = 'x'\n    return c\n",
        "name": top + "    return Configg(c)\n",
        "imports": "import nowhere_at_all\n",
        "zero": "def get_config():\n    return 1 / 0\n",
        "annotated": "from __future__ import annotations\ndef get_config(steps: Whole = 1):\n    return {}\n",
        "nothing": "def get_config():\n    pass\n",
        "stranger": top + "    c.system = 'masked_pretrainin'\n    return c\n",
    }
    for name, body in bodies.items():
        (tmp_path / f"{name}.py").write_text(body)
    with pytest.raises(UserError) as mistake:
        load(spec=spec.format(tiny=TINY, folder=tmp_path))
    assert sentence in str(mistake.value)
    assert "\n" not in str(mistake.value)


def test_the_command_exits_with_2_and_the_message(capsys):
    assert main(["inspect", "--config", TINY, "--config.mask.raito=0.5"]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err == f"dreamjax: --config.mask.raito=0.5: {TINY} has no key mask.raito; did you mean mask.ratio?\n"
