"""A run directory from outside: opened whole, refused with a sentence, and trained by the real command."""

import dataclasses
import json
import random
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.evaluation import reconstruction
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.runs import provenance
from dreamjax.signals.datasets import records
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.storage import manifest, sniffing
from dreamjax.systems import masked_pretraining, opening
from dreamjax.systems.masked_pretraining import MaskedModelConfig, MaskedPretraining, MaskedPretrainingConfig
from dreamjax.training import checkpoints
from dreamjax.training.train_config import TrainConfig
from tests.support import make_shards, make_windows

SIZES = {"dim": 16, "depth": 1, "heads": 2, "decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2}


@pytest.fixture(autouse=True, scope="module")
def _quick_compiles():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A run that holds parameters only, as an importer makes it, and those parameters."""
    folder = tmp_path_factory.mktemp("imported")
    config = MaskedPretrainingConfig(model=MaskedModelConfig(**SIZES))
    params = jax.jit(lambda key: MaskedPretraining(config).init(key).params)(jax.random.key(3))
    checkpoints.save_params_as_run(folder, configs.to_json(config), params)
    return folder, config, params


def test_an_imported_run_opens_with_its_config_and_its_very_parameters(imported):
    folder, config, params = imported
    run = opening.open_run(folder)
    assert (run.config, run.step, run.averaged) == (config, 0, False)
    assert jax.tree.structure(run.params) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, run.params, params)


def test_reports_what_cannot_be_opened(imported, tmp_path):
    folder, config, params = imported
    with pytest.raises(UserError, match="holds no run"):
        opening.open_run(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(UserError, match=r"holds no run, but another config\.json"):
        opening.open_run(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="step 7 is not there; it has 0"):
        opening.open_run(folder, step=7)
    with pytest.raises(UserError, match="no saved step has a held-out score"):
        opening.open_run(folder, best=True)
    fewer = {name: part for name, part in params.items() if name not in ("decoder_pred", "cls_token")}
    checkpoints.save_params_as_run(tmp_path, configs.to_json(config), fewer)
    with pytest.raises(UserError, match=r"missing: .*params/cls_token, .*params/decoder_pred/kernel"):
        opening.open_run(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(work directory, shards, config) of a run of two steps, its one layer unrolled, as that compiles sooner."""
    folder = tmp_path_factory.mktemp("trained")
    shards = make_shards(folder / "shards", subjects=4, windows=4)
    config = MaskedPretrainingConfig(
        data=DataConfig(path=(shards,), samples=128),
        model=MaskedModelConfig(**SIZES, patch=16, scan_layers=False),
        train=TrainConfig(steps=2, batch_size=8, tensorboard=False),
    )
    opening.train(config, folder / "run")
    return folder / "run", folder / "shards", config


def prepared_again(trained, tmp_path):
    """A copy of the run, and its shards written anew at the same path with the people of training as split test."""
    folder, shards, _ = trained
    shutil.copytree(folder, tmp_path / "run")
    shutil.move(shards, tmp_path / "before")
    test = [window for subject in (0, 1) for window in make_windows(subject, windows=4)]
    splits = {"train": make_windows(8, windows=4), "test": test}
    records.finish(shards, "again", {name: records.write_split(shards, "again", name, w) for name, w in splits.items()})
    return tmp_path / "run"


@pytest.fixture
def again(trained, tmp_path):
    yield prepared_again(trained, tmp_path)
    shutil.rmtree(trained[1])
    shutil.move(tmp_path / "before", trained[1])


def test_a_run_keeps_what_it_was_trained_on(trained):
    folder, shards, _ = trained
    [kept] = json.loads((folder / "data.json").read_text())["datasets"]
    dataset = records.load_dataset(shards)
    assert kept["train"]["subjects"] == ["subject00", "subject01"]
    assert kept["shards"] == {name: shard["sha256"] for name, shard in dataset["shards"].items()}
    assert kept["corpora"] == {"synthetic": {"licences": ["CC0-1.0"], "subjects": 4}}


def test_shards_with_other_people_at_the_same_path_do_not_hide_who_was_trained_on(trained, again):
    with pytest.raises(UserError, match="was trained on subject subject00 and 1 more"):
        reconstruction.evaluate(str(again), reconstruction.ReconstructionSettings())


def test_a_run_does_not_go_on_with_other_data(trained, again):
    config = dataclasses.replace(trained[2], train=dataclasses.replace(trained[2].train, steps=4))
    with pytest.raises(UserError, match=f"the data at {trained[1]} has changed since .* start another work directory"):
        opening.train(config, again)
    assert json.loads((again / "config.json").read_text())["train"]["steps"] == 2


def test_data_that_cannot_be_used_leave_no_work_directory(trained, tmp_path):
    config = dataclasses.replace(trained[2], model=MaskedModelConfig(**SIZES, patch=16, channels=18))
    with pytest.raises(UserError, match=r"has 19 channels, but model.channels is 18"):
        opening.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"mesh": MeshConfig(fsdp=3)}, "fsdp=3, tensor=1 takes a multiple of 3 devices"),
        ({"mesh": MeshConfig(data=0)}, "sizes are positive"),
        (
            {"eval_every": 1},
            r"no split val: it has train; prepare recordings of more people, .*--splits TRAIN VAL TEST.; "
            r"or train without a held-out score: --config\.train\.eval_every=0 --config\.train\.image_every=0$",
        ),
        ({"image_every": 1}, "no split val: it has train"),
        ({"wandb": "project"}, "train.wandb needs the package wandb"),
    ],
)
def test_what_cannot_be_trained_here_leaves_no_work_directory(trained, tmp_path, monkeypatch, changes, told):
    monkeypatch.setitem(sys.modules, "wandb", None)
    splits = {"train": records.write_split(tmp_path / "shards", "one", "train", make_windows(0, windows=8))}
    records.finish(tmp_path / "shards", "one", splits)
    config = dataclasses.replace(
        trained[2],
        data=dataclasses.replace(trained[2].data, path=(str(tmp_path / "shards"),)),
        train=dataclasses.replace(trained[2].train, **changes),
    )
    with pytest.raises(UserError, match=told):
        opening.train(config, tmp_path / "run")
    assert [entry.name for entry in tmp_path.iterdir()] == ["shards"]


def test_attention_of_another_machine_is_refused_for_training_and_opens_for_evaluation(trained, tmp_path):
    """cuDNN's kernel, asked for on a CPU. A run that was trained with it gives the same features here."""
    folder, _, config = trained
    halved = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="bfloat16"))
    fused = dataclasses.replace(halved, model=dataclasses.replace(halved.model, attention="cudnn"))
    with pytest.raises(UserError, match=r"needs an NVIDIA GPU, but JAX computes on cpu here; set --config\.model\.att"):
        opening.train(fused, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run = opening.open_run(folder)
    signal = np.random.default_rng(0).normal(size=(2, 19, 128)).astype(np.float32)
    expected, found = (masked_pretraining.features(c, run.params, signal) for c in (halved, fused))
    np.testing.assert_array_equal(found, expected)


def test_a_run_goes_on_with_the_same_data(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    before = (tmp_path / "run" / "data.json").read_bytes()
    config = dataclasses.replace(trained[2], train=dataclasses.replace(trained[2].train, steps=3))
    assert opening.train(config, tmp_path / "run")["resumed_from"] == 2
    assert (tmp_path / "run" / "data.json").read_bytes() == before


def test_a_run_past_the_steps_that_are_asked_for_says_so_and_stays_as_it_was(trained, tmp_path):
    """Equal steps are no mistake: to repeat a finished command is usual."""
    shutil.copytree(trained[0], tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_bytes()
    fewer = dataclasses.replace(trained[2], train=dataclasses.replace(trained[2].train, steps=1))
    with pytest.raises(UserError, match=r"run is at step 2, past train\.steps = 1; set train.steps to 2 or"):
        opening.train(fewer, tmp_path / "run")
    assert (tmp_path / "run" / "config.json").read_bytes() == before
    again = opening.train(trained[2], tmp_path / "run")
    assert (again["exit_code"], again["step"], again["resumed_from"]) == (0, 2, 2)


def test_a_run_from_before_a_key_was_added_goes_on(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    old = json.loads(path.read_text())
    del old["model"]["spectrum_points"], old["train"]["wandb"]
    manifest.write_json(path, old | {"retired": 3})
    config = dataclasses.replace(trained[2], train=dataclasses.replace(trained[2].train, steps=3))
    assert opening.train(config, tmp_path / "run")["resumed_from"] == 2
    assert sniffing.read_json(path) == json.loads(configs.to_json(config))


def test_what_was_trained_on_is_known_when_the_shards_are_gone(trained):
    folder = trained[0]
    corpora, steps = provenance.training_of(["/gone"], folder)
    assert corpora == {"synthetic": {"licences": ["CC0-1.0"], "subjects": 4}}
    assert [entry["dataset"] for entry in steps] == ["synthetic"]


@pytest.mark.parametrize("name", ["config.json", "data.json"])
@pytest.mark.parametrize("text", ["", '{"datasets": [{"pa', "[1]", "3"])
def test_reports_damaged_file_of_a_run(trained, tmp_path, name, text):
    shutil.copytree(trained[0], tmp_path / "run")
    (tmp_path / "run" / name).write_text(text)
    with pytest.raises(UserError, match=f"{name} is damaged") as found:
        reconstruction.evaluate(str(tmp_path / "run"), reconstruction.ReconstructionSettings())
    with pytest.raises(UserError, match=f"{name} is damaged") as resumed:
        opening.train(trained[2], tmp_path / "run")
    assert "\n" not in str(found.value) + str(resumed.value)


def dreamjax_train(workdir, shards, *more):
    options = {
        "steps": 40,
        "batch_size": 8,
        "log_every": 1,
        "eval_every": 10,
        "checkpoint.every": 6,
        "tensorboard": False,
    }
    overrides = [f"--config.train.{key}={value}" for key, value in options.items()]
    command = [sys.executable, "-m", "dreamjax", "train", "--config", "configs/pretrain/tiny.py", "--json"]
    return [*command, "--workdir", str(workdir), f"--config.data.path={shards}", *overrides, *more]


@pytest.mark.long
def test_the_real_command_killed_at_random_steps_logs_the_same_losses(tmp_path):
    """SIGKILL ten times in one run of `dreamjax train`, then compare every byte of metrics.jsonl and every array."""
    shards = make_shards(tmp_path / "shards", subjects=9, windows=8)
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    done = subprocess.run(dreamjax_train(calm, shards), check=True, capture_output=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1])["step"] == 40
    for step in sorted(random.Random(time.time_ns()).sample(range(1, 38), 10)):
        child = subprocess.Popen(dreamjax_train(killed, shards), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        log = killed / "metrics.jsonl"
        while child.poll() is None and not (log.exists() and f'{{"step": {step},' in log.read_text()):
            time.sleep(0.005)
        child.kill()
        child.wait()
    last = subprocess.run(dreamjax_train(killed, shards), capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert (killed / "metrics.jsonl").read_bytes() == (calm / "metrics.jsonl").read_bytes()
    a, b = opening.open_run(calm), opening.open_run(killed)
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
