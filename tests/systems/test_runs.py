"""A run directory from outside: opened whole, refused with a sentence, and trained by the real command."""

import json
import random
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.systems import runs
from dreamjax.systems.masked_pretraining import MaskedPretraining, MaskedPretrainingConfig, ModelConfig
from dreamjax.training import checkpoints
from tests.support import make_shards

SIZES = {"dim": 16, "depth": 1, "heads": 2, "decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2}


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A run that holds parameters only, as an importer makes it, and those parameters."""
    folder = tmp_path_factory.mktemp("imported")
    config = MaskedPretrainingConfig(model=ModelConfig(**SIZES))
    params = jax.jit(lambda key: MaskedPretraining(config).init(key).params)(jax.random.key(3))
    checkpoints.save_params_as_run(folder, configs.to_json(config), params)
    return folder, config, params


def test_an_imported_run_opens_with_its_config_and_its_very_parameters(imported):
    folder, config, params = imported
    run = runs.open_run(folder)
    assert (run.config, run.step, run.averaged) == (config, 0, False)
    assert jax.tree.structure(run.params) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, run.params, params)


def test_what_cannot_be_opened_is_one_sentence(imported, tmp_path):
    folder, config, params = imported
    with pytest.raises(UserError, match="holds no run"):
        runs.open_run(tmp_path)
    with pytest.raises(UserError, match="step 7 is not there; it has 0"):
        runs.open_run(folder, step=7)
    with pytest.raises(UserError, match="no saved step has a held-out score"):
        runs.open_run(folder, best=True)
    fewer = {name: part for name, part in params.items() if name not in ("decoder_pred", "cls_token")}
    checkpoints.save_params_as_run(tmp_path, configs.to_json(config), fewer)
    with pytest.raises(UserError, match=r"missing: .*params/cls_token, .*params/decoder_pred/kernel"):
        runs.open_run(tmp_path)


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
    a, b = runs.open_run(calm), runs.open_run(killed)
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
