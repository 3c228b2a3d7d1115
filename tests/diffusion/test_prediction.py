"""ε, v and x_0 from one another; targets and weights of training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamjax.diffusion import prediction
from dreamjax.diffusion.schedule import STABLE_DIFFUSION, NoiseSchedule

KINDS = ("epsilon", "v_prediction", "sample")
T = np.array([0, 250, 700, 999])


def schedule(kind, **change):
    return NoiseSchedule(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=kind, **change
    )


@pytest.fixture(scope="module")
def pair():
    x0, noise = jax.random.normal(jax.random.key(0), (2, 4, 3, 5, 2))
    return x0, noise


@pytest.mark.parametrize("kind", KINDS)
def test_image_and_noise_come_back_from_the_target(kind, pair):
    """float32 loses 1 / √ᾱ = 15 of its precision on x_0 at t = 999, and 1 / √(1 - ᾱ) = 34 on ε at t = 0."""
    x0, noise = pair
    of = schedule(kind)
    x_t, output = prediction.add_noise(of, x0, noise, T), prediction.target(of, x0, noise, T)
    alphas = of.alphas_cumprod[T][:, None, None, None]
    levels = np.sqrt(alphas).astype(np.float32), np.sqrt(1 - alphas).astype(np.float32)
    p, q = prediction.image_coefficients(kind, *levels)
    np.testing.assert_allclose(p * x_t + q * output, x0, atol=1e-5)
    p, q = prediction.noise_coefficients(kind, *levels)
    np.testing.assert_allclose(p * x_t + q * output, noise, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_and_velocity_are_those_of_diffusers(kind, pair):
    diffusers, torch = pytest.importorskip("diffusers"), pytest.importorskip("torch")
    x0, noise = (torch.tensor(np.asarray(x)) for x in pair)
    theirs = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    t = torch.tensor(T)
    np.testing.assert_allclose(
        prediction.add_noise(schedule(kind), *pair, T), theirs.add_noise(x0, noise, t), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        prediction.target(schedule("v_prediction"), *pair, T), theirs.get_velocity(x0, noise, t), rtol=1e-4, atol=1e-5
    )


def test_a_scalar_timestep_holds_for_every_image(pair):
    alone = prediction.add_noise(STABLE_DIFFUSION, *pair, jnp.asarray(700))
    np.testing.assert_array_equal(alone, prediction.add_noise(STABLE_DIFFUSION, *pair, np.full(4, 700)))


def test_at_zero_snr_v_is_minus_the_image(pair):
    """a = 0, s = 1."""
    of = schedule("v_prediction", rescale_betas_zero_snr=True)
    np.testing.assert_array_equal(prediction.add_noise(of, *pair, jnp.asarray(999)), pair[1])
    np.testing.assert_array_equal(prediction.target(of, *pair, jnp.asarray(999)), -pair[0])


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weights(gamma):
    """min(SNR, γ) / SNR for ε, / (SNR + 1) for v, and itself for x_0, with SNR = ᾱ / (1 - ᾱ)."""
    alphas = STABLE_DIFFUSION.alphas_cumprod[T]
    snr = alphas / (1 - alphas)
    least = np.minimum(snr, gamma)
    for kind, expected in (("epsilon", least / snr), ("v_prediction", least / (snr + 1)), ("sample", least)):
        np.testing.assert_allclose(prediction.min_snr_weight(schedule(kind), T, gamma), expected, rtol=1e-6)


def test_min_snr_is_finite_where_the_snr_is_0():
    for kind, expected in (("epsilon", 1.0), ("v_prediction", 0.0), ("sample", 0.0)):
        weight = prediction.min_snr_weight(schedule(kind, rescale_betas_zero_snr=True), np.array([999]))
        assert weight == expected


def test_snr_is_that_of_diffusers():
    diffusers, torch = pytest.importorskip("diffusers"), pytest.importorskip("torch")
    from diffusers.training_utils import compute_snr

    theirs = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    np.testing.assert_allclose(STABLE_DIFFUSION.snr[T], compute_snr(theirs, torch.tensor(T)), rtol=1e-4)
