"""CLIP's loss: closed forms, transformers, equal captions, padding."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamjax.objectives.contrastive import ContrastiveConfig, contrastive

ONES = jnp.ones(2)


def value(*given):
    total, weight, _ = contrastive(*given)
    return float(total / weight)


def test_two_images_and_their_texts_have_the_closed_form():
    """Logits [[s, 0], [0, s]]: log(1 + e^-s), both ways. Swapped: s more."""
    u, s = jnp.eye(2), math.log(3.0)
    pair = jnp.array([0, 1])
    np.testing.assert_allclose(value(u, 5 * u, jnp.float32(s), pair, ONES), math.log(1 + math.exp(-3)), rtol=1e-6)
    np.testing.assert_allclose(value(u, u[::-1], jnp.float32(s), pair, ONES), 3 + math.log(1 + math.exp(-3)), rtol=1e-6)


def test_equal_captions_are_not_each_others_negatives():
    """Both texts equal: the target is (1/2, 1/2), whose entropy log 2 is the least that the loss can be."""
    same = jnp.array([4, 4])
    u = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(value(u, u, jnp.float32(2.0), same, ONES), math.log(2), rtol=1e-6)
    apart = jnp.eye(2)  # logits [[s, 0], [0, s]]: log(1 + e^s) - s/2 = log 2 + log cosh(s/2) for e^2
    s = math.exp(2.0)
    np.testing.assert_allclose(
        value(apart, apart, jnp.float32(2.0), same, ONES), math.log(1 + math.exp(s)) - s / 2, rtol=1e-6
    )
    gradient = jax.grad(lambda u: contrastive(u, u, jnp.float32(2.0), same, ONES)[0])(u)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_the_loss_of_different_captions_is_that_of_transformers():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    rng = np.random.default_rng(0)
    u, v = rng.normal(size=(2, 7, 5)).astype(np.float32)
    logits = 10 * (v / np.linalg.norm(v, axis=1, keepdims=True)) @ (u / np.linalg.norm(u, axis=1, keepdims=True)).T
    theirs = transformers.models.clip.modeling_clip.image_text_contrastive_loss(torch.from_numpy(logits))
    ours = value(jnp.asarray(u), jnp.asarray(v), jnp.float32(math.log(10)), jnp.arange(7), jnp.ones(7))
    np.testing.assert_allclose(ours, float(theirs), rtol=1e-5)


def test_padding_is_neither_positive_nor_negative_and_has_no_gradient():
    rng = np.random.default_rng(1)
    u, v = (jnp.asarray(x, jnp.float32) for x in rng.normal(size=(2, 6, 4)))
    group, weight = jnp.array([0, 1, 0, 2, 0, 1]), jnp.array([1.0, 1, 1, 1, 0, 0])
    scale = jnp.float32(1.0)
    np.testing.assert_allclose(
        value(u, v, scale, group, weight), value(u[:4], v[:4], scale, group[:4], jnp.ones(4)), rtol=1e-6
    )
    gradient = jax.grad(lambda u, v: contrastive(u, v, scale, group, weight)[0], (0, 1))(u, v)
    assert all(not np.asarray(g[4:]).any() and np.isfinite(g).all() for g in gradient)


def test_retrieval_counts_any_text_of_the_same_caption_and_reports_chance():
    """Captions a a b c, by hand: images find texts 1, 1, 3, 2, texts find images 1, 4, 3, 1."""
    u = jnp.eye(4)
    v = jnp.array([[1.0, 0.9, 0, 0], [0, 0.1, 0, 0.2], [0, 0, 1, 0.9], [0.1, 0.1, 0.1, 0.0]])
    _, weight, metrics = contrastive(u, v, jnp.float32(0.0), jnp.array([0, 0, 1, 2]), jnp.ones(4))
    assert [float(metrics[name][0]) for name in ("image_to_text", "text_to_image")] == [3, 2]
    assert float(metrics["chance"][0] / weight) == pytest.approx((2 + 2 + 1 + 1) / 16)


def test_the_scale_stops_at_100_and_its_gradient_with_it():
    u = jnp.eye(2)
    at = value(u, u[::-1], jnp.float32(math.log(100)), jnp.arange(2), ONES)
    assert value(u, u[::-1], jnp.float32(9.0), jnp.arange(2), ONES) == pytest.approx(at, rel=1e-5)
    assert float(jax.grad(lambda s: contrastive(u, u[::-1], s, jnp.arange(2), ONES)[0])(jnp.float32(9.0))) == 0


def test_rejects_a_temperature_of_zero():
    with pytest.raises(ValueError, match=r"loss\.temperature is 0"):
        ContrastiveConfig(temperature=0.0)
