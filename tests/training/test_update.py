"""The usual update: accumulation, averaging, schedule, decay; and what the loop costs a step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax._src.array import ArrayImpl

from dreamjax.training import guard, optimiser, step_metrics
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.task import State
from dreamjax.training.update import gradient_update, suited_microbatches, sum_over_microbatches
from tests.training.test_loop import run
from tests.training.tiny_tasks import FormulaStream, Regression


def batch_of(size, start=0):
    return next(FormulaStream().batches(start=start, batch_size=size))


@pytest.mark.parametrize("pieces", [2, 4, 8, None])  # none: two on CPU
def test_unequal_microbatches_equal_one_batch(pieces):
    """Weights differ by example, so the pieces' weights differ: only sums of sums give the one batch's gradient."""
    batch, one = batch_of(16), Regression()
    state = one.init(jax.random.key(0))
    state = State(**{**vars(state), "step": jnp.int32(3)})  # past the warm-up's zero rate
    whole, m_whole = jax.jit(one.update)(state, batch)
    cut, m_cut = jax.jit(Regression(microbatches=pieces).update)(state, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), whole.params, cut.params)
    for name in ("loss", "mae", "grad_norm"):
        a, b = (float(m[name][0] / m[name][1]) for m in (m_whole, m_cut))
        assert a == pytest.approx(b, rel=1e-6), name
    pieces = pieces or suited_microbatches(16)
    assert pieces > 1
    mean_of_means = np.mean(
        [
            float(total / weight)
            for total, weight, _ in (
                jax.jit(one.loss)(state.params, {}, {k: v[j::pieces] for k, v in batch.items()}) for j in range(pieces)
            )
        ]
    )
    assert abs(mean_of_means - float(m_whole["loss"][0] / m_whole["loss"][1])) > 1e-4  # the mistake it guards against


@pytest.mark.parametrize("pieces", [1, 4])
def test_a_batch_of_weight_zero_has_gradient_zero(pieces):
    """Only the weight decay of AdamW moves the parameters: w ← w - rate · 0.05 · w, biases stay."""
    batch, task = batch_of(16), Regression(microbatches=pieces)
    batch["weight"] = np.zeros_like(batch["weight"])
    state = task.init(jax.random.key(0))
    state = State(**{**vars(state), "step": jnp.int32(3)})  # past the warm-up's zero rate
    after, metrics = jax.jit(task.update)(state, batch)
    assert guard.why_bad(step_metrics.read(metrics)) is None
    assert float(metrics["grad_norm"][0]) == 0
    assert int(after.step) == 4
    before, kernel = (s.params["fc1"]["kernel"] for s in (state, after))
    np.testing.assert_allclose(kernel, before * (1 - float(metrics["learning_rate"][0]) * 0.05), rtol=1e-6)
    np.testing.assert_array_equal(after.params["fc1"]["bias"], state.params["fc1"]["bias"])


def test_rejects_a_batch_that_does_not_divide():
    with pytest.raises(ValueError, match="16 does not divide into 3"):
        sum_over_microbatches(lambda b: b["x"].sum(), batch_of(16), 3)


def test_warm_up_then_half_cosine():
    """The reference at fractional epoch e: 2.5e-4 e/40, then 1.25e-4 (1 + cos(pi (e - 40)/460)); 20 steps an epoch."""
    hyper = optimiser.hyper(OptimConfig(warmup_steps=40 * 20), steps=500 * 20)
    for step in (0, 1, 399, 800, 801, 5000, 9999):
        e = step / 20
        expected = 2.5e-4 * e / 40 if e < 40 else 1.25e-4 * (1 + np.cos(np.pi * (e - 40) / 460))
        assert float(optimiser.learning_rate(jnp.int32(step), hyper)) == pytest.approx(expected, rel=1e-4, abs=1e-10)


def test_adamw_equals_optax_with_clipping_and_decay_on_matrices_only():
    params = {"fc": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}, "cls_token": jnp.ones((1, 1, 4))}
    stacked = {"blocks": {"norm1": {"scale": jnp.ones((5, 4)), "bias": jnp.ones((5, 4))}}}
    assert optimiser.decayed(params) == {"fc": {"kernel": True, "bias": False}, "cls_token": True}
    assert optimiser.decayed(stacked) == {"blocks": {"norm1": {"scale": False, "bias": False}}}
    config = OptimConfig(learning_rate=1e-2, schedule="constant", clip=0.8, weight_decay=0.05)
    ours, hyper = optimiser.build(), optimiser.hyper(config, 10)
    mask = optimiser.decayed(params)
    oracle = optax.chain(optax.clip_by_global_norm(0.8), optax.adamw(1e-2, 0.9, 0.95, weight_decay=0.05, mask=mask))
    a = b = params
    opt_a, opt_b = ours.init(params), oracle.init(params)
    for k in range(5):
        grads = jax.tree.map(lambda x, k=k: x * 0 + (k - 2.0), params)
        up_a, opt_a = ours.update(grads, opt_a, a, hyper=hyper, step=jnp.int32(k))
        up_b, opt_b = oracle.update(grads, opt_b, b)
        a, b = optax.apply_updates(a, up_a), optax.apply_updates(b, up_b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)


def test_the_average_is_the_textbook_recursion():
    """ema_t = d ema_{t-1} + (1 - d) params_t, d = 0.9 from the state's hyper-parameters."""
    task = Regression()
    state, step = task.init(jax.random.key(0)), jax.jit(task.update)
    expected = np.asarray(state.ema["fc1"]["kernel"], np.float64)
    for k in range(5):
        state, _ = step(state, batch_of(16, 16 * k))
        expected = 0.9 * expected + 0.1 * np.asarray(state.params["fc1"]["kernel"], np.float64)
    np.testing.assert_allclose(state.ema["fc1"]["kernel"], expected, rtol=1e-5, atol=1e-6)


def test_hyper_parameters_are_arguments():
    """Another learning rate compiles nothing."""
    calls = []

    def loss(params, frozen, batch):
        calls.append(1)
        return Regression.loss(params, frozen, batch)

    update = jax.jit(gradient_update(loss, optimiser.build(), microbatches=1))
    state = Regression().init(jax.random.key(0))
    for rate in (1e-3, 1e-2):
        hyper = state.hyper | {"learning_rate": jnp.float32(rate)}
        update(State(**{**vars(state), "hyper": hyper}), batch_of(16))
    assert len(calls) == 1


def test_one_compilation_and_one_delayed_read_per_step(tmp_path, monkeypatch):
    """Counted over 10 steps between saves: the step is traced once, and the host reads the device once a step.

    Every way from a jax.Array to the host passes through its `_value` or `__array__`; each is counted with the number
    of steps dispatched by then, which shows that a step's metrics are read after the next step is on its way.
    """
    traces, dispatched, reads, raw = [], [], [], []

    class Counted(Regression):
        def update(self, state, batch):
            traces.append(1)
            return super().update(state, batch)

    original_read, original_push = step_metrics.read, step_metrics.DelayedMetrics.push
    monkeypatch.setattr(step_metrics, "read", lambda m: (reads.append(len(dispatched)), original_read(m))[1])

    def push(self, step, metrics):
        dispatched.append(step)
        original_push(self, step, metrics)

    monkeypatch.setattr(step_metrics.DelayedMetrics, "push", push)
    original_value = ArrayImpl._value.fget
    monkeypatch.setattr(
        ArrayImpl, "_value", property(lambda self: (raw.append(len(dispatched)), original_value(self))[1])
    )
    run(Counted(), tmp_path, steps=10, log_every=5)
    assert len(traces) == 1
    assert reads == [2, 3, 4, 5, 6, 7, 8, 9, 10, 10]  # the step before, and the last one at the end
    task = Regression()
    names = len(jax.eval_shape(task.update, jax.eval_shape(task.init, jax.random.key(0)), batch_of(16))[1])
    during = [when for when in raw if 0 < when < 10]
    assert 0 < len(during) <= 2 * names * 9  # the metrics' sums and weights, and nothing else


@pytest.mark.parametrize(
    ("rows", "data", "fsdp", "pieces"),
    [
        (64, 1, 1, 8),
        (32, 1, 1, 4),
        (64, 2, 1, 4),
        (64, 2, 2, 2),
        (48, 1, 1, 6),
        (8, 1, 1, 1),
        (4, 2, 1, 1),
        (62, 1, 1, 1),
    ],
)
def test_cpu_batches_are_cut_into_pieces_of_eight_rows_a_device(rows, data, fsdp, pieces):
    mesh = jax.sharding.AbstractMesh((data, fsdp, 1), ("data", "fsdp", "tensor"))
    with jax.sharding.use_abstract_mesh(mesh):
        assert suited_microbatches(rows) == pieces


def test_an_accelerator_gets_its_batch_whole(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert suited_microbatches(64) == 1
