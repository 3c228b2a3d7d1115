"""The system: what its loss weighs, what it may not see, that it learns, and the precision of its reductions."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dreamjax.errors import UserError
from dreamjax.objectives.masking import MaskConfig
from dreamjax.objectives.reconstruction_loss import ReconstructionConfig
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.systems import masked_pretraining as system
from dreamjax.systems.masked_pretraining import MaskedModelConfig, MaskedPretraining, MaskedPretrainingConfig
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.task import replace

B, C, T, N = 8, 5, 64, 16
MODEL = MaskedModelConfig(
    channels=C, dim=16, depth=1, heads=2, mlp_ratio=2.0, decoder_dim=16, decoder_depth=1, decoder_heads=2
)
CONFIG = MaskedPretrainingConfig(data=DataConfig(samples=T), model=MODEL, mask=MaskConfig(ratio=0.5))


@pytest.fixture(autouse=True, scope="module")
def _quick_compiles():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def parameters(config):
    """NumPy's random parameters: compiling JAX's takes longer than the test."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: system.init_params(config, jax.random.key(0)))
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape) * 0.1 + (s.ndim == 1), jnp.float32), shapes)


def make_batch(seed=0, **more):
    rng = np.random.default_rng(seed)
    batch = {
        "signal": rng.normal(size=(B, C, T)).astype(np.float32),
        "valid": np.ones((B, T), np.float32),
        "channel_ok": np.ones((B, C), np.float32),
        "index": np.stack([np.zeros(B), np.arange(B)], axis=1).astype(np.uint32),
        "weight": np.ones(B, np.float32),
    }
    return batch | more


def loss(config, params, batch):
    return jax.jit(lambda p, b: system.masked_loss(config, p, b, 0))(params, batch)


def test_the_loss_weighs_hidden_entries_of_real_windows_only():
    """8 windows, one of them padding of the batch and one half padded: (6 · 8 + 4) hidden patches of 4 · 5 entries."""
    valid = np.ones((B, T), np.float32)
    valid[1, T // 2 :] = 0
    weight = np.ones(B, np.float32)
    weight[7] = 0
    _, total, metrics = loss(CONFIG, parameters(CONFIG), make_batch(valid=valid, weight=weight))
    assert float(total) == (6 * 8 + 4) * 4 * C
    assert float(metrics["loss"][1]) == float(total)


def test_interpolated_channels_and_visible_patches_weigh_as_configured():
    """Two of five channels interpolated at 0.5, visible patches at 0.25: 8 · (8 + 2) · 4 · (3 + 1)."""
    config = dataclasses.replace(CONFIG, loss=ReconstructionConfig(visible_weight=0.25, interpolated_weight=0.5))
    ok = np.ones((B, C), np.float32)
    ok[:, :2] = 0
    assert float(loss(config, parameters(config), make_batch(channel_ok=ok))[1]) == B * (8 + 2) * 4 * (3 + 1)


def test_masked_channels_are_the_target_and_not_the_input():
    config = dataclasses.replace(
        CONFIG, data=dataclasses.replace(CONFIG.data, mask_channels=0.4), mask=MaskConfig(kind="channel")
    )
    mask = np.zeros((B, C), np.float32)
    mask[:, 3:] = 1
    params, batch = parameters(config), make_batch(channel_mask=mask)
    target = batch["signal"] + 1
    _, weight, _ = loss(config, params, batch | {"target": target})
    assert float(weight) == B * T * 2
    other = target.copy()
    other[:, :3] += 5.0  # visible channels of the target weigh nothing, and the input is `signal`
    np.testing.assert_array_equal(*(loss(config, params, batch | {"target": t})[0] for t in (target, other)))


def test_examples_that_hide_time_see_every_channel():
    """In a mixture the pipeline removes channels from all examples; those of kind random read the target instead."""
    config = dataclasses.replace(
        CONFIG,
        data=dataclasses.replace(CONFIG.data, mask_channels=0.4),
        mask=MaskConfig(ratio=0.5, kind=("random", "channel"), kind_weights=(1.0, 1e-9)),
    )
    params, batch = parameters(config), make_batch(channel_mask=np.ones((B, C), np.float32))
    target = batch["signal"] + 1
    found = loss(config, params, batch | {"target": target})
    blank = loss(config, params, batch | {"target": target, "signal": np.zeros_like(target)})
    np.testing.assert_array_equal(found[0], blank[0])
    assert float(found[1]) == B * 8 * 4 * C


@pytest.mark.parametrize("interpolation", ["none", "gaussian"])
def test_reconstruction_never_sees_what_is_hidden(interpolation):
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, interpolation=interpolation))
    params, signal = parameters(config), make_batch()["signal"]
    hidden = np.zeros((B, N), bool)
    hidden[:, 5:9] = True
    run = jax.jit(lambda p, x: MaskedPretraining(config).reconstruct(p, x, hidden))
    changed = np.where(np.repeat(hidden, 4, axis=1)[:, None], 100.0, signal).astype(np.float32)
    first = run(params, signal)
    assert first.shape == (B, C, T)
    np.testing.assert_array_equal(run(params, changed), first)


def test_training_lowers_the_loss_and_evaluation_uses_the_average():
    """A sinusoid per window: half of it shown determines the rest."""
    rng = np.random.default_rng(0)
    phase, rate = rng.uniform(0, 2 * np.pi, (B, C, 1)), rng.uniform(0.1, 0.3, (B, 1, 1))
    batch = make_batch(signal=np.sin(rate * np.arange(T) + phase).astype(np.float32))
    config = dataclasses.replace(CONFIG, optim=OptimConfig(learning_rate=5e-3, schedule="constant", ema_decay=0.5))
    task = MaskedPretraining(config)
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    params = parameters(config)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    state = replace(zeros, params=params, ema=params, hyper=task.hyper())
    step = jax.jit(task.update)
    losses = []
    for _ in range(40):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"][0] / metrics["loss"][1]))
    assert losses[-1] < 0.7 * losses[0]

    class Held:
        def batches(self, *, start, batch_size, process=0, processes=1, workers=0):
            yield {k: np.resize(v, (batch_size, *v.shape[1:])) for k, v in batch.items()}

    worse = replace(state, params=jax.tree.map(jnp.zeros_like, state.params))
    found, same = task.evaluate(state, Held()), task.evaluate(worse, Held())
    assert float(found["loss"][0]) == float(same["loss"][0])
    assert float(task.evaluate(replace(worse, ema={}), Held())["explained"][0]) == 0  # zero explains nothing


def test_bfloat16_training_reduces_every_gradient_in_float32():
    """No all-reduce of the compiled step, on 8 devices, has bfloat16 operands."""
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, dtype="bfloat16"))
    mesh = meshes.make(MeshConfig(data=8), jax.devices()[:8])
    rows, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    gradient = jax.jit(
        jax.grad(lambda p, b: system.masked_loss(config, p, b, 0)[0]), in_shardings=(whole, rows), out_shardings=whole
    )
    params = jax.eval_shape(lambda: system.init_params(config, jax.random.key(0)))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), make_batch())
    text = gradient.lower(params, shapes).compile().as_text()
    reductions = re.findall(r"= (.*?) all-reduce(?:-start)?\(", text)
    assert reductions
    assert not [r for r in reductions if "bf16" in r]


def test_features_are_the_encoders_tokens_without_cls():
    params = parameters(CONFIG)
    signal = make_batch()["signal"]
    valid = np.ones((B, T), np.float32)
    valid[0, T // 2 :] = 0
    run = jax.jit(lambda p, x, v: system.features(CONFIG, p, x, v))
    tokens = run(params, signal, valid)
    assert tokens.shape == (B, N, 16)
    changed = signal.copy()
    changed[0, :, T // 2 :] = 9.0
    np.testing.assert_array_equal(run(params, changed, valid)[0, : N // 2], tokens[0, : N // 2])
    ok = np.repeat(valid[:, None], N, axis=1)[:, 0, ::4] > 0
    np.testing.assert_allclose(system.pooled(tokens, ok)[0], np.mean(tokens[0, : N // 2], axis=0), atol=1e-5)
    np.testing.assert_allclose(system.pooled(tokens, ok)[1], np.mean(tokens[1], axis=0), atol=1e-5)


def test_normalised_targets_have_no_signal_to_reconstruct():
    config = dataclasses.replace(CONFIG, loss=ReconstructionConfig(target="patch_normalised"))
    with pytest.raises(UserError, match=r"loss\.target=raw"):
        MaskedPretraining(config).reconstruct({}, jnp.zeros((1, C, T)), jnp.zeros((1, N), bool))
