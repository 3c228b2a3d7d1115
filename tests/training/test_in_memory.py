"""Training in the device's memory: runs trained as one program are what each of them is alone."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamjax.systems import registry
from dreamjax.systems.nice import NiceConfig
from dreamjax.systems.retrieval_base import gathered
from dreamjax.targets.responses import ResponseConfig
from dreamjax.training import in_memory, program
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.train_config import TrainConfig
from tests import trial_shards

EPOCHS, BATCH = 3, 16


def config_of(path: str, bank: object, seed: int = 0) -> NiceConfig:
    return NiceConfig(
        seed=seed,
        data=ResponseConfig(path=(path,), people=("person0",)),
        target=bank,  # type: ignore[arg-type]
        # a large ε: the biases before a batch normalisation have no gradient, and Adam would follow its rounding errors
        optim=OptimConfig(learning_rate=1e-2, schedule="constant", epsilon=0.1, weight_decay=0.0, clip=None),
        train=TrainConfig(batch_size=BATCH),
        epochs=EPOCHS,
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> trial_shards.TrialShards:
    return trial_shards.write(tmp_path_factory.mktemp("trials") / "data", people=1, samples=100, tmin=0.0)


@pytest.fixture(scope="module")
def both(shards: trial_shards.TrialShards) -> in_memory.TrainedRuns:
    return trained(shards, [3, 5])


def trained(shards: trial_shards.TrialShards, seeds: list[int]) -> in_memory.TrainedRuns:
    tasks = [registry.build(config_of(shards.path, trial_shards.bank_config(shards), seed)) for seed in seeds]
    train, val = tasks[0].examples("train"), tasks[0].examples("val")  # type: ignore[attr-defined]

    def score(params: dict, held_out: dict) -> jax.Array:
        return -jnp.abs(tasks[0].query(params, held_out)).mean()  # type: ignore[attr-defined]

    return in_memory.train(
        tasks,
        {name: x[None] for name, x in train.rows.items()},
        shared=train.vectors,
        sets=[0] * len(seeds),
        epochs=EPOCHS,
        batch_size=BATCH,
        gather=gathered,
        score=score,
        judges={"held_out": {name: x[None] for name, x in val.rows.items()}},
    )


def test_runs_of_one_program_equal_runs_alone(shards: trial_shards.TrialShards, both: in_memory.TrainedRuns) -> None:
    alone = trained(shards, [5])
    for one, other in zip(jax.tree.leaves(both.params(1, None)), jax.tree.leaves(alone.params(0, None)), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    np.testing.assert_allclose(both.losses[:, 1], alone.losses[:, 0], rtol=1e-4)
    assert np.abs(both.losses[:, 0] - both.losses[:, 1]).max() > 1e-3  # seeds differ


def test_an_epoch_takes_the_steps_of_the_system(shards: trial_shards.TrialShards, both: in_memory.TrainedRuns) -> None:
    task = registry.build(config_of(shards.path, trial_shards.bank_config(shards), 5))
    examples = task.examples("train")  # type: ignore[attr-defined]
    state, n = task.init(program.run_key(5, b"init")), len(examples.trials)
    update = jax.jit(task.update)
    for epoch in range(EPOCHS):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(program.run_key(5, b"order"), epoch), n))
        for first in range(0, n, BATCH):
            rows = np.resize(order[first : first + BATCH], BATCH)
            batch = {name: jnp.asarray(x[rows]) for name, x in examples.rows.items()}
            position = first + np.arange(BATCH)
            batch |= {
                "vector": jnp.asarray(examples.vectors["vector"][examples.rows["image"][rows]]),
                "weight": jnp.asarray(position < n, jnp.float32),
                "index": jnp.asarray(np.stack([0 * position, epoch * n + position], axis=1), jnp.uint32),
            }
            state, _ = update(state, batch)
    for one, other in zip(jax.tree.leaves(both.params(1, None)), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_the_best_epoch_is_the_one_with_the_highest_score(both: in_memory.TrainedRuns) -> None:
    assert (both.best_epoch["held_out"] == both.scores["held_out"].argmax(0) + 1).all()
    assert both.scores["held_out"].shape == (EPOCHS, 2)
    assert (both.refused == 0).all()


def test_running_statistics_are_not_those_of_the_optimiser(shards: trial_shards.TrialShards) -> None:
    config = config_of(shards.path, trial_shards.bank_config(shards))
    decayed = replace(config, optim=replace(config.optim, weight_decay=0.5))
    task = registry.build(decayed)
    examples = task.examples("train")  # type: ignore[attr-defined]
    state = task.init(program.run_key(0, b"init"))
    rows = np.arange(BATCH)
    batch = {name: jnp.asarray(x[rows]) for name, x in examples.rows.items()}
    batch |= {
        "vector": jnp.asarray(examples.vectors["vector"][examples.rows["image"][rows]]),
        "weight": jnp.ones(BATCH),
    }
    batch |= {"index": jnp.zeros((BATCH, 2), jnp.uint32)}
    new = jax.jit(task.update)(state, batch)[0].params["encoder"]["tsconv"]["temporal_norm"]
    assert np.abs(np.asarray(new["mean"])).max() > 0  # moved towards the batch's
    assert (np.asarray(new["var"]) < 1).all()  # 0.9 + 0.1 of a small variance
