"""Every retrieval system trains, and compares brain and image in one space; published variants are what they claim."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dreamjax
from dreamjax import config as configs
from dreamjax.comparison import jobs, protocols
from dreamjax.comparison.jobs import Request
from dreamjax.errors import UserError
from dreamjax.export import driver
from dreamjax.objectives.contrastive import ContrastiveConfig
from dreamjax.systems import opening, registry
from dreamjax.systems.base import Retrieves, Vectorises, capabilities
from dreamjax.systems.neurobridge import Neurobridge, NeurobridgeConfig, NeurobridgeModelConfig
from dreamjax.systems.nice import Nice, NiceConfig, NiceModelConfig
from dreamjax.systems.ubp import SHARPER, SOFTER, USUAL, Ubp, UbpConfig, UbpModelConfig
from dreamjax.targets.responses import ResponseConfig
from dreamjax.training import checkpoints, program
from tests import trial_shards
from tests.trial_shards import TrialShards

RETRIEVING = [name for name in registry.names() if Retrieves in capabilities(registry.find(name))]
TRAINED = [name for name in RETRIEVING if Vectorises in capabilities(registry.find(name)) and name != "deep4"]
EXPORTED = ("nice", "samga", "brain_module")  # in the default suite: each kind of image side and of inputs
SAMPLED = ["ridge"] + [name if name in EXPORTED else pytest.param(name, marks=pytest.mark.long) for name in TRAINED]
SMALL = {
    "shallow": [("shallow.model.width", "8")],
    "neurobridge": [("neurobridge.model.width", "8")],
    "samga": [("samga.model.width", "8"), ("samga.model.hidden", "8")],
    "brain_module": [("brain_module.model.dim", "8"), ("brain_module.model.outputs", "6")],
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> TrialShards:
    folder = tmp_path_factory.mktemp("trials") / "data"
    return trial_shards.write(folder, people=2, samples=100, tmin=0.0, strength=2.0)


def task_of(name: str, shards: TrialShards) -> Any:
    protocol = protocols.find("honest")
    data = ResponseConfig(path=(shards.path,))
    settings = (("train.batch_size", "16"), *SMALL.get(name, ()))
    request = Request((name,), data, trial_shards.bank_config(shards), protocol, "joint", 1, 2, settings)
    return registry.build(jobs.jobs(request)[0].configs[0])


def batch_of(task: Any, rows: int = 16) -> dict[str, jax.Array]:
    examples = task.examples("train")
    batch = {name: jnp.asarray(x[:rows]) for name, x in examples.rows.items()}
    batch |= {name: jnp.asarray(x[examples.rows["image"][:rows]]) for name, x in examples.vectors.items()}
    index = np.stack([np.zeros(rows), np.arange(rows)], axis=1).astype(np.uint32)
    return batch | {"weight": jnp.ones(rows), "index": jnp.asarray(index)}


@pytest.mark.parametrize("name", TRAINED)
def test_training_lowers_the_loss_and_both_sides_have_one_width(name: str, shards: TrialShards) -> None:
    task = task_of(name, shards)
    state, batch = task.init(program.run_key(0, b"init")), batch_of(task)
    update, losses = jax.jit(task.update), []
    for _ in range(12):
        state, metrics = update(state, batch)
        losses.append(float(metrics["loss"][0]) / 16)
    assert np.isfinite(losses).all()
    assert min(losses[-3:]) < losses[0]
    query = task.query(state.params, batch)
    bank = task.bank(state.params, "test")
    assert query.shape == (16, bank.vectors.shape[1])
    assert len(bank.names) == 8


@pytest.mark.parametrize("name", ["nice", "ubp", pytest.param("brain_module", marks=pytest.mark.long)])
def test_rows_of_weight_zero_do_not_change_a_step(name: str, shards: TrialShards) -> None:
    task = task_of(name, shards)
    config = replace(task.config, optim=replace(task.config.optim, epsilon=0.1))
    model = {field: 0.0 for field in ("dropout", "radius") if hasattr(config.model, field)}
    task = registry.build(replace(config, model=replace(config.model, **model)))
    state, batch = task.init(program.run_key(0, b"init")), batch_of(task)
    padded = {key: jnp.concatenate([x, x[:4]]) for key, x in batch.items()}
    padded["weight"] = padded["weight"].at[16:].set(0)
    padded["signal"] = padded["signal"].at[16:].set(7.0)
    one, other = (jax.jit(task.update)(state, each)[0].params["encoder"] for each in (batch, padded))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_nice_as_released_does_not_train_its_scale(shards: TrialShards) -> None:
    task = task_of("nice", shards)
    batch, moved = batch_of(task), {}
    for variant in ("as_written", "as_released"):
        model = NiceModelConfig(variant=variant)  # type: ignore[arg-type]
        nice = registry.build(replace(task.config, model=model))
        state = nice.init(program.run_key(0, b"init"))
        moved[variant] = float(
            jax.jit(nice.update)(state, batch)[0].params["logit_scale"] - state.params["logit_scale"]
        )
    assert moved["as_written"] != 0
    assert moved["as_released"] == 0
    assert np.exp(float(state.params["logit_scale"])) == pytest.approx(14.29, abs=0.01)
    assert isinstance(task, Nice)
    assert isinstance(task.config, NiceConfig)


def test_neurobridge_as_released_has_a_temperature_of_0_367() -> None:
    factors = {}
    for variant in ("as_written", "as_released"):
        config = NeurobridgeConfig(model=NeurobridgeModelConfig(variant=variant))  # type: ignore[arg-type]
        loss: ContrastiveConfig = Neurobridge(config).contrast
        factors[variant] = float(loss.factor(jnp.float32(config.loss.initial)))
    assert 1 / factors["as_written"] == pytest.approx(0.07, abs=1e-4)
    assert factors["as_released"] == pytest.approx(2.7269, abs=1e-3)
    assert 1 / factors["as_released"] == pytest.approx(0.367, abs=1e-3)


def test_ubp_blurs_uncertain_trials_as_written_and_as_released() -> None:
    logits = jnp.asarray([0.0] * 30 + [9.0, -9.0])
    before, there = jnp.zeros(32), jnp.ones(32, bool)
    for variant, low, high in (("as_written", SHARPER, SOFTER), ("as_released", SOFTER, SHARPER)):
        ubp = Ubp(UbpConfig(model=UbpModelConfig(variant=variant)))  # type: ignore[arg-type]
        mean, level = ubp.blurred(logits, before, there)
        np.testing.assert_allclose(mean, 0.3 * logits, atol=1e-6)
        assert level.tolist() == [USUAL] * 30 + [high, low]
    assert UbpModelConfig(variant="as_written").kernels == (45, 51, 57)
    assert UbpModelConfig(variant="as_released").kernels == (45, 45, 51)


def test_false_negatives_are_masked_on_request(shards: TrialShards) -> None:
    task = task_of("shallow", shards)
    state, batch = task.init(program.run_key(0, b"init")), batch_of(task)
    twice = {key: jnp.concatenate([x[:8], x[:8]]) for key, x in batch.items()}  # the same images, as of other people
    totals = {}
    for equal in ("positive", "masked", "negative"):
        config = replace(task.config, loss=replace(task.config.loss, equal=equal))
        other = registry.build(replace(config, model=replace(config.model, dropout=0.0)))
        totals[equal] = float(other.loss(state.params, {}, twice, 0, False)[0])
    assert totals["masked"] < totals["positive"]
    assert totals["negative"] == pytest.approx(totals["positive"], rel=1e-3)  # log 2 more for each in both


def test_spatial_attention_without_positions_is_refused(tmp_path: Path) -> None:
    shards = trial_shards.write(tmp_path / "data", people=1, samples=40, placed=False)
    with pytest.raises(UserError, match="positions of the sensors"):
        task_of("brain_module", shards).init(program.run_key(0, b"init"))


@pytest.mark.parametrize("name", SAMPLED)
def test_pytorch_gives_the_same_vectors_and_the_folder_comes_back(
    name: str, shards: TrialShards, tmp_path: Path
) -> None:
    task = task_of(name, shards)
    solved = name == "ridge"  # before the solution everything is 0
    state = task.solve(task.statistics(batch_of(task))) if solved else task.init(program.run_key(0, b"init")).params
    params = jax.tree.map(np.asarray, state)
    config = replace(task.config, sizes=task.sizes)
    checkpoints.save_params_as_run(tmp_path / "run", configs.to_json(config), params, step=1)
    result = driver.export(tmp_path / "run", tmp_path / "torch")
    assert result.differences is not None
    assert max(result.differences.values()) < 1e-5
    dreamjax.import_checkpoint(tmp_path / "torch", tmp_path / "back")
    back = opening.open_run(tmp_path / "back").params
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if "logit_scale" not in jax.tree_util.keystr(path):
            np.testing.assert_array_equal(_at(back, path), leaf)


def _at(tree: Any, path: Any) -> np.ndarray:
    for key in path:
        tree = tree[key.key]
    return np.asarray(tree)
