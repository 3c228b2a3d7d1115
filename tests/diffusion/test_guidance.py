"""Classifier-free guidance in one batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dreamjax.diffusion import guidance

X = np.random.default_rng(0).normal(size=(8, 4, 4, 3)).astype(np.float32)
WORDS = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)
EMPTY = np.full((1, 3), 0.1, np.float32)


def network(x, t, words):
    return jnp.tanh(x * words[:, None, None, :] + t)


def apart(words):
    return np.asarray(network(X, 0.5, np.broadcast_to(words, WORDS.shape)))


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_it_goes_from_the_unconditional_through_the_conditional(scale):
    """ε(∅) + w (ε(c) - ε(∅)): w = 0 and 1 are the two themselves."""
    found = guidance.guided(network, WORDS, EMPTY, scale)(X, jnp.float32(0.5))
    np.testing.assert_allclose(found, apart(EMPTY) + scale * (apart(WORDS) - apart(EMPTY)), atol=1e-5)


def test_every_image_may_have_its_own_scale():
    scales = np.arange(8, dtype=np.float32)
    together = guidance.guided(network, WORDS, EMPTY, scales)(X, jnp.float32(0.5))
    for i in range(8):
        alone = guidance.guided(network, WORDS[i : i + 1], EMPTY, float(i))(X[i : i + 1], jnp.float32(0.5))
        np.testing.assert_allclose(together[i], alone[0], atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
def test_rescaling_is_that_of_diffusers(share):
    pytest.importorskip("diffusers")
    torch = pytest.importorskip("torch")
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    mixed = apart(EMPTY) + 7.5 * (apart(WORDS) - apart(EMPTY))
    theirs = rescale_noise_cfg(torch.tensor(mixed), torch.tensor(apart(WORDS)), share).numpy()
    found = guidance.guided(network, WORDS, EMPTY, 7.5, share)(X, jnp.float32(0.5))
    np.testing.assert_allclose(found, theirs, rtol=1e-4, atol=1e-5)


def test_the_network_is_called_once_and_another_scale_compiles_nothing():
    calls = []

    def counted(x, t, words):
        calls.append(x.shape)
        return network(x, t, words)

    step = jax.jit(lambda scale, share: guidance.guided(counted, WORDS, EMPTY, scale, share)(X, 0.5))
    for scale in (1.0, 3.0, 7.5):
        step(scale, scale / 10)
    assert calls == [(16, 4, 4, 3)]


def test_a_batch_over_8_devices_stays_where_it_is():
    """No collective in the compiled step."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))

    def step(x, words):
        return guidance.guided(network, words, EMPTY, 7.5)(x, jnp.float32(0.5))

    compiled = (
        jax.jit(step, out_shardings=split).lower(jax.device_put(X, split), jax.device_put(WORDS, split)).compile()
    )
    text = compiled.as_text()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in text
