"""A step that goes wrong is left out, taken back, or ends the run; the rest is as if it had not been there."""

import json
import logging
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamjax.errors import UserError
from dreamjax.parallel.tree_paths import named_leaves
from dreamjax.training import checkpoints, guard
from dreamjax.training.checkpoints import CheckpointConfig
from dreamjax.training.guard import GuardConfig
from tests.training.test_loop import records, run, saved_arrays
from tests.training.tiny_tasks import FormulaStream, Regression, StreamingRidge

POISONED = Regression(stream=FormulaStream(poison=100))  # example 100 is in step 7's batch of 16
SETTINGS = {"log_every": 1, "checkpoint": CheckpointConfig(every=4, keep_last=9)}


def trained_on(batches, task=POISONED):
    """Parameters after these batches one after the other, by the update alone."""
    state, step = run_init(task), jax.jit(task.update)
    for k in batches:
        state, _ = step(state, next(task.stream.batches(start=16 * k, batch_size=16)))
    return {f"params/{name}": np.asarray(x) for name, x in named_leaves(state.params).items()}


def run_init(task):
    """The state that a run of seed 0 begins with."""
    return jax.jit(task.init)(jax.random.fold_in(jax.random.key(0), zlib.crc32(b"init")))


def assert_trained_on(folder, batches, step):
    arrays, wanted = saved_arrays(folder, POISONED, step), trained_on(batches)
    for name, value in wanted.items():
        np.testing.assert_allclose(arrays[name], value, rtol=2e-6, atol=1e-7, err_msg=name)


def test_skips_a_bad_step(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="dreamjax"):
        result = run(POISONED, tmp_path, steps=20, guard=GuardConfig("skip"), **SETTINGS)
    assert "step 7: " in caplog.text
    assert "not finite; it is skipped (1 so far)" in caplog.text
    assert (result["step"], result["examples"], result["guard"]["skipped"]) == (20, 320, 1)
    assert [r["step"] for r in records(tmp_path) if "loss" in r] == [n for n in range(1, 21) if n != 7]
    assert_trained_on(tmp_path, [k for k in range(20) if k != 6], 20)


def test_rolls_back_from_a_bad_step_to_the_last_saved_one(tmp_path, caplog):
    """Step 4 was saved; what follows it are the batches after the bad one. A second command goes on in the same way."""
    settings = SETTINGS | {"guard": GuardConfig("rollback")}
    with caplog.at_level(logging.WARNING, logger="dreamjax"):
        result = run(POISONED, tmp_path / "a", steps=12, **settings)
    assert "not finite; back to the last saved step (1 so far)" in caplog.text
    assert (result["step"], result["examples"], result["guard"]["rollbacks"]) == (12, 16 * (7 + 8), 1)
    assert_trained_on(tmp_path / "a", [*range(4), *range(7, 15)], 12)
    assert [r["step"] for r in records(tmp_path / "a")] == list(range(1, 13))

    run(POISONED, tmp_path / "b", steps=8, **settings)
    resumed = run(POISONED, tmp_path / "b", steps=12, **settings)
    assert (resumed["resumed_from"], resumed["guard"]["rollbacks"]) == (8, 1)
    assert (tmp_path / "a/metrics.jsonl").read_bytes() == (tmp_path / "b/metrics.jsonl").read_bytes()
    a, b = (saved_arrays(tmp_path / name, POISONED, 12) for name in "ab")
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_a_stopped_run_continues_with_another_policy(tmp_path):
    with pytest.raises(UserError, match=r"step 7: .* set train.guard.policy to skip or rollback"):
        run(POISONED, tmp_path, steps=12, **SETTINGS)
    result = run(POISONED, tmp_path, steps=12, guard=GuardConfig("skip", spike=30.0), **SETTINGS)
    assert (result["resumed_from"], result["step"], result["guard"]["skipped"]) == (4, 12, 1)


def test_rejects_rollback_before_the_first_save(tmp_path):
    with pytest.raises(UserError, match="step 7 went wrong before a step was saved"):
        run(POISONED, tmp_path, steps=12, guard=GuardConfig("rollback"), checkpoint=CheckpointConfig(every=50))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (GuardConfig("skip", most=3), "as in 3 steps in a row"),
        (GuardConfig("rollback", most=2), "rolled back 2 times already"),
    ],
)
def test_stops_after_too_many_bad_steps(tmp_path, config, said):
    """Every batch from step 7 on is bad."""
    task = Regression(stream=AllBad())
    with pytest.raises(UserError, match=said):
        run(task, tmp_path, steps=30, guard=config, **SETTINGS)
    assert checkpoints.newest_intact(tmp_path / "checkpoints") in (4, 8)


class AllBad(FormulaStream):
    def example(self, index):
        found = super().example(index)
        return found if index < 96 else found | {"x": np.full_like(found["x"], np.inf)}


# -------------------------------------------------------------------------------------------------------------- spikes
LOUD = FormulaStream(loud=tuple(range(16 * 70, 16 * 71)))  # the batch of step 71


def test_skips_a_jump_of_the_loss(tmp_path, caplog):
    task = Regression(stream=LOUD)
    with caplog.at_level(logging.WARNING, logger="dreamjax"):
        result = run(task, tmp_path, steps=80, guard=GuardConfig("skip", spike=8.0), **SETTINGS)
    assert result["guard"]["skipped"] == 1
    assert "step 71: the loss (" in caplog.text
    assert "jumped; it is skipped" in caplog.text
    losses = {r["step"]: r["loss"] for r in records(tmp_path) if "loss" in r}
    assert 71 not in losses
    assert losses[72] < 2 * losses[70]


def test_the_statistics_are_the_weighted_moments():
    """Against the definition: weights (1 - K) K^age, which add up to 1 - K^n; a bad step does not enter them."""
    values = np.random.default_rng(0).lognormal(size=60).astype(np.float32)
    state = guard.statistics(GuardConfig(spike=3.0))
    for value in values:
        state = guard.updated(state, {"loss": value, "grad_norm": 2 * value}, jnp.asarray(True))
    kept = guard.updated(state, {"loss": jnp.float32(1e9), "grad_norm": jnp.float32(1e9)}, jnp.asarray(False))
    jax.tree.map(np.testing.assert_array_equal, kept, state)
    weights = guard.KEEP ** np.arange(59, -1, -1.0)
    mean = np.average(values, weights=weights)
    deviation = np.sqrt(np.average((values - mean) ** 2, weights=weights))
    for times, spike in ((2.95, False), (3.05, True)):
        at = np.float32(mean + times * deviation)
        assert bool(guard.is_spike(state, {"loss": at, "grad_norm": jnp.float32(0)})) is spike
        assert bool(guard.is_spike(state, {"loss": jnp.float32(0), "grad_norm": 2 * at})) is spike


def test_no_jump_is_reported_before_the_statistics_settle():
    state = guard.statistics(GuardConfig(spike=1.0))
    for step in range(guard.SETTLED + 1):
        jump = guard.is_spike(state, {"loss": jnp.float32(1e6), "grad_norm": jnp.float32(1)})
        assert bool(jump) == (step >= guard.SETTLED)
        state = guard.updated(state, {"loss": jnp.float32(step % 2), "grad_norm": jnp.float32(1)}, jnp.asarray(True))


def test_statistics_are_saved_and_may_be_switched_on_and_off(tmp_path):
    task = Regression(stream=LOUD)
    on = {"guard": GuardConfig("skip", spike=8.0), **SETTINGS}
    run(task, tmp_path / "whole", steps=80, **on)
    for steps in (60, 80):
        run(task, tmp_path / "two", steps=steps, **on)
    assert (tmp_path / "whole/metrics.jsonl").read_bytes() == (tmp_path / "two/metrics.jsonl").read_bytes()
    run(task, tmp_path / "two", steps=84, **SETTINGS)  # off
    stored = json.loads((tmp_path / "two/checkpoints/00000084/arrays.json").read_text())
    assert not any(name.startswith("guard/") for name in stored)
    assert run(task, tmp_path / "two", steps=88, **on)["resumed_from"] == 84  # on again, counted from zero


def test_rejects_spike_detection_for_a_system_without_it(tmp_path):
    with pytest.raises(UserError, match=r"train.guard.spike is set, but this system's update does not detect spikes"):
        run(StreamingRidge(), tmp_path, guard=GuardConfig(spike=6.0))


@pytest.mark.parametrize(("wrong", "said"), [({"spike": 0.0}, "must be positive"), ({"most": 0}, "at least 1")])
def test_rejects_invalid_settings(wrong, said):
    with pytest.raises(ValueError, match=said):
        GuardConfig(**wrong)
