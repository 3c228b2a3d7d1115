"""Runs that were trained with relative paths, moved with their data, and used from another working folder."""

import json
import shutil
from pathlib import Path

import pytest

import dreamjax
from dreamjax.cli.main import main
from dreamjax.errors import UserError
from dreamjax.runs import location
from dreamjax.systems import opening
from tests.command_line import sentence_of
from tests.compatibility import test_before_rooms as rooms
from tests.sweeps.test_old_sweeps import CONFIG as old_sweep

SHORT = ("--config.train.steps=2", "--config.train.eval_every=0", "--config.train.log_every=1")


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The folder of `rooms`, in which a run of today's version was trained with relative paths."""
    folder = rooms.copied(tmp_path_factory.mktemp("begun"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        rooms.told("train", *rooms.with_config("masked_pretraining"), *SHORT, "--workdir", "runs/today")
        for run in ("dreamdiffusion", "text_to_image"):  # as a run of today's version says where it was
            config = json.loads(Path(run, "config.json").read_text())
            location.keep(config, config, folder / run)
    return folder


@pytest.fixture
def moved(begun, tmp_path, monkeypatch):
    """All of it at another place, and no longer where it was; the working folder is an empty one."""
    shutil.copytree(begun, tmp_path / "moved", copy_function=shutil.copy2)
    away = begun.with_name("away")
    begun.rename(away)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    yield tmp_path / "moved"
    away.rename(begun)


def refused(capsys, *words: str) -> str:
    capsys.readouterr()
    assert main([*words]) == 2
    return sentence_of(capsys.readouterr().err)


def nothing_here() -> bool:
    return not list(Path().iterdir())


@pytest.mark.parametrize("run", ["runs/today", "masked_pretraining"])
def test_evaluate_finds_the_data_beside_the_run(moved, run):
    words = ("--windows", "4", "--out", str(moved / "made"))
    assert rooms.told("evaluate", str(moved / run), *words)["run"] == str(moved / run)
    assert nothing_here()


def test_train_goes_on_by_the_same_command_and_by_new_paths(moved):
    command = rooms.with_config("masked_pretraining")
    longer = ("--config.train.eval_every=0", "--config.train.log_every=1", "--workdir", str(moved / "runs/today"))
    before = json.loads((moved / "runs/today/config.json").read_text())["data"]
    assert rooms.told("train", *command, "--config.train.steps=3", *longer)["resumed_from"] == 2
    given = (*command, f"--config.data.path={moved / 'shards'}")
    assert rooms.told("train", *given, "--config.train.steps=4", *longer)["resumed_from"] == 3
    assert json.loads((moved / "runs/today/config.json").read_text())["data"] == before
    assert nothing_here()


@pytest.mark.parametrize(("run", "to"), [("runs/today", "torch"), ("dreamdiffusion", "diffusers")])
def test_export_finds_the_networks_of_a_run(moved, run, to):
    with rooms.without_torch():
        rooms.told("export", str(moved / run), "--to", to, "--out", str(moved / "made/export"))
    assert nothing_here()


@pytest.mark.long
def test_generate_finds_data_networks_and_banks(moved):
    before = sorted((moved / "banks").iterdir())
    words = ("--trials", "1", "--steps", "1", "--out", str(moved / "made/images"))
    assert rooms.told("generate", "--checkpoint", str(moved / "dreamdiffusion"), *words)["images"] == 1
    assert sorted((moved / "banks").iterdir()) == before  # none was made anew
    words = ("--prompt", "a red circle", "--steps", "1", "--out", str(moved / "made/text"))
    assert rooms.told("generate", "--model", str(moved / "text_to_image"), *words)["images"] == 1
    assert nothing_here()


def test_a_sweep_goes_on_and_is_reported(moved, capsys):
    """Its config names shards from the old folder: they are given again, and finished runs are known by them."""
    path, config = moved / "sweep", moved / "today.py"
    config.write_text(old_sweep)
    words = ("sweep", "--config", str(config), "--workdir", str(path))
    assert "shards: no such dataset folder; say where it is with --config.base.data.path=" in refused(capsys, *words)
    result = rooms.told(*words, f"--config.base.data.path={moved / 'shards'}")
    assert (result["points"], result["done_before"]) == (2, 2)
    assert rooms.told("report", str(path), "--out", str(moved / "made/report"))["legs"]
    assert nothing_here()


@pytest.mark.parametrize(
    ("run", "folder", "key", "words"),
    [
        ("runs/today", "shards", "data.path", ("evaluate", "{run}", "--out", "made")),
        ("dreamdiffusion", "trials", "data.path", ("generate", "--checkpoint", "{run}", "--out", "made")),
        ("dreamdiffusion", "imagenet", "target.folder", ("generate", "--checkpoint", "{run}", "--out", "made")),
        ("dreamdiffusion", "encoder", "encoder.path", ("export", "{run}", "--to", "diffusers", "--out", "made")),
        ("text_to_image", "pipeline", "model.path", ("generate", "--model", "{run}", "--prompt", "a", "--out", "made")),
    ],
)
def test_what_is_missing_is_named_with_its_option_before_anything_is_written(moved, capsys, run, folder, key, words):
    (moved / folder).rename(moved / "new")
    before = sorted(moved.rglob("*"))
    said = refused(capsys, *(word.format(run=moved / run) for word in words))
    assert "no such folder" in said
    assert f"--config.{key}=FOLDER" in said
    assert nothing_here()
    assert sorted(moved.rglob("*")) == before


@pytest.mark.parametrize("content", ["{broken", "[1]", '{"data.path": 3}', '{"data.path": {"shards": "elsewhere"}}'])
def test_reports_damaged_locations(moved, capsys, content):
    path = moved / "runs/today/location.json"
    path.write_text(content)
    message = refused(capsys, "export", str(path.parent), "--to", "torch", "--out", "made")
    assert "location.json" in message
    assert "delete it and give the run's folders with --config.KEY=FOLDER" in message
    assert nothing_here()


def test_reports_new_folders_given_for_what_is_not_a_run(moved, capsys):
    message = refused(capsys, "evaluate", str(moved / "nowhere"), "--config.data.path=shards")
    assert "nowhere" in message


@pytest.mark.long
def test_a_run_keeps_the_places_that_it_is_given(moved, capsys):
    run = str(moved / "runs/today")
    (moved / "shards").rename(moved / "new")
    words = ("evaluate", run, "--windows", "4", "--out", str(moved / "made"))
    rooms.told(*words, f"--config.data.path={moved / 'new'}")
    rooms.told(*words)
    assert opening.config_of(run).data.path == (str(moved / "new"),)
    train = ("train", *rooms.with_config("masked_pretraining"), "--config.train.steps=2", "--workdir", run)
    assert rooms.told(*train, "--config.train.eval_every=0", "--config.train.log_every=1")["step"] == 2
    with pytest.raises(UserError, match="has changed since the run"):
        dreamjax.relocate(run, {"data.path": str(moved / "trials")})
    assert "did you mean data.path?" in refused(capsys, *words, "--config.data.paht=x")
    assert "nowhere: no such folder" in refused(capsys, *words, "--config.data.path=nowhere")
