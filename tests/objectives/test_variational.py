"""The autoencoder's loss: divergences against closed forms and diffusers, PSNR by hand, what weighs what."""

import jax.numpy as jnp
import numpy as np
import pytest

from dreamjax.objectives.variational import VariationalConfig, gaussian_kl, psnr, variational


def test_the_divergence_of_gaussians_is_the_closed_form():
    """N(0, 1): 0. N(m, 1): m²/2. N(0, s²): (s² - 1 - 2 log s)/2. Per latent, and added up."""
    mean, log_variance = (
        jnp.array([[0.0, 0.0], [3.0, 0.0], [0.0, 0.0]]),
        jnp.array([[0.0, 0.0], [0.0, 0.0], [2.0, 0.0]]),
    )
    np.testing.assert_allclose(gaussian_kl(mean, log_variance), [0, 4.5, (np.e**2 - 1 - 2) / 2], rtol=1e-6)


def test_the_divergence_is_diffusers():
    torch = pytest.importorskip("torch")
    vae = pytest.importorskip("diffusers.models.autoencoders.vae")
    rng = np.random.default_rng(0)
    mean, log_variance = rng.normal(size=(2, 3, 4, 5, 6)).astype(np.float32)
    theirs = vae.DiagonalGaussianDistribution(torch.from_numpy(np.concatenate([mean, log_variance], 1))).kl()
    np.testing.assert_allclose(gaussian_kl(jnp.asarray(mean), jnp.asarray(log_variance)), theirs, rtol=1e-5)


def test_psnr_of_a_constant_error():
    """An error of 0.2 on a range of 2: 20 log10(2 / 0.2) = 20 dB. Beyond white is white."""
    x = jnp.full((1, 4, 4, 3), 0.5)
    np.testing.assert_allclose(psnr(x, x + 0.2), [20.0], rtol=1e-5)
    np.testing.assert_allclose(psnr(jnp.ones((1, 2, 2, 3)), jnp.full((1, 2, 2, 3), 7.0)), [106.0206], rtol=1e-4)


@pytest.mark.parametrize(("kind", "error"), [("l1", 0.5), ("mse", 0.25)])
def test_padding_weighs_nothing_and_the_divergence_counts_per_pixel(kind, error):
    """Two images of 2 x 2 x 3 that are 0.5 off, latents N(2, 1): 0.5 · 4 nats each, on 12 numbers."""
    x = jnp.zeros((3, 2, 2, 3))
    mean, log_variance = jnp.full((3, 1, 1, 1), 2.0), jnp.zeros((3, 1, 1, 1))
    config, weight = VariationalConfig(kind, kl_weight=0.6), jnp.array([1.0, 1.0, 0.0])
    total, weights, metrics = variational(config, x, x + 0.5, mean, log_variance, weight)
    np.testing.assert_allclose(total, 2 * (error + 0.6 * 2 / 12), rtol=1e-6)
    assert float(weights) == 2
    assert [float(metrics[name][0]) for name in ("reconstruction", "kl")] == [2 * error, 4.0]
