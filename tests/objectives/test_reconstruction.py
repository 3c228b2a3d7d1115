"""Losses against numbers computed by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from dreamjax.objectives.reconstruction_loss import ReconstructionConfig, normalise_patches, pointwise, reconstruction

PREDICTION = jnp.asarray([[[1.0, 2.0], [0.0, 0.0]]])
TARGET = jnp.asarray([[[0.0, 4.0], [3.0, 1.0]]])  # differences 1, -2, -3, -1


@pytest.mark.parametrize(
    ("kind", "total"),
    [("mse", 1 + 4), ("l1", 1 + 2), ("smooth_l1", 0.5 + 1.5)],  # first patch only
)
def test_masked_only_by_hand(kind, total):
    weight = jnp.asarray([[[1.0, 1.0], [0.0, 0.0]]])
    found, norm, metrics = reconstruction(ReconstructionConfig(kind=kind), PREDICTION, TARGET, weight)
    assert float(found) == total
    assert float(norm) == 2
    assert float(metrics["explained"][0]) == 16 - 5  # Σ t² - Σ (p - t)²
    assert float(metrics["explained"][1]) == 16


def test_weighted_visible_patches_by_hand():
    weight = jnp.asarray([[[1.0, 1.0], [0.25, 0.25]]])
    found, norm, _ = reconstruction(ReconstructionConfig(), PREDICTION, TARGET, weight)
    assert float(found) == 5 + 0.25 * 10
    assert float(norm) == 2.5


def test_smooth_l1_joins_its_pieces():
    """At |d| = β both pieces are β / 2, with slope 1."""
    config = ReconstructionConfig(kind="smooth_l1", beta=0.5)
    d = jnp.asarray([0.25, 0.5, 0.75])
    np.testing.assert_allclose(pointwise(config, d, jnp.zeros(3)), [0.0625, 0.25, 0.5], rtol=1e-6)


def test_patch_normalised_targets_by_hand():
    """[0, 4]: mean 2, unbiased variance 8; [3, 1]: mean 2, variance 2."""
    normalised, mean, divisor = normalise_patches(TARGET)
    np.testing.assert_allclose(mean[0, :, 0], [2, 2])
    np.testing.assert_allclose(divisor[0, :, 0], np.sqrt([8, 2]), rtol=1e-5)
    np.testing.assert_allclose(normalised[0, 0], [-2 / np.sqrt(8), 2 / np.sqrt(8)], rtol=1e-5)
    config = ReconstructionConfig(target="patch_normalised")
    weight = jnp.asarray([[[0.0, 0.0], [1.0, 1.0]]])
    found, _, _ = reconstruction(config, jnp.zeros((1, 2, 2)), TARGET, weight)
    np.testing.assert_allclose(found, 1.0, rtol=1e-5)  # 2 · (1 / √2)²


def test_sums_are_float32_and_of_all_examples():
    """Mean of micro-batches by weight equals the whole: sums add."""
    rng = np.random.default_rng(0)
    p, t = rng.normal(size=(2, 6, 4, 3))
    w = (rng.random((6, 4, 3)) < 0.5).astype(np.float32)
    whole = reconstruction(ReconstructionConfig(), jnp.asarray(p, jnp.bfloat16), t, w)
    parts = [
        reconstruction(ReconstructionConfig(), jnp.asarray(p[s], jnp.bfloat16), t[s], w[s])
        for s in (slice(0, 1), slice(1, 6))
    ]
    assert whole[0].dtype == jnp.float32
    np.testing.assert_allclose(sum(part[0] for part in parts), whole[0], rtol=1e-6)
    assert float(sum(part[1] for part in parts)) == float(whole[1]) == w.sum()
