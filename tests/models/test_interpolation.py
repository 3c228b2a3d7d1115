"""Gaussian interpolation against dense linear algebra in float64, and its gradient against finite differences."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dreamjax.models.interpolation import GaussianInterpolation, conditional_mean, toeplitz

B, C, T, S = 2, 3, 64, 24


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    log_power = -np.linspace(0, 6, T + 1) + rng.normal(size=(B, T + 1))
    slots = np.stack([rng.permutation(T)[:S] for _ in range(B)])
    ok = np.arange(S) < np.array([[S], [S - 5]])  # the second window sees five samples fewer
    visible = np.zeros((B, T), bool)
    for b in range(B):
        visible[b, slots[b][ok[b]]] = True
    x = rng.normal(size=(B, C, T))
    return log_power.astype(np.float32), x.astype(np.float32), visible, slots, ok


def covariance(power):
    """The Toeplitz matrix of a spectrum, from the definition: r(τ) = Σ_k w_k cos(2π k τ / 2T) / 2T."""
    full = np.concatenate([power, power[-2:0:-1]]).astype(float)
    k = np.arange(2 * T)
    r = np.array([(full * np.cos(2 * np.pi * k * lag / (2 * T))).sum() / (2 * T) for lag in range(T)])
    return r[np.abs(np.arange(T)[:, None] - np.arange(T))]


def dense(log_power, x, visible, noise):
    out = []
    for b in range(B):
        K, v = covariance(np.exp(log_power[b].astype(float))), visible[b]
        inner = np.linalg.solve(K[np.ix_(v, v)] + noise * np.eye(v.sum()), x[b][:, v].T.astype(float))
        out.append((K[:, v] @ inner).T)
    return np.stack(out)


def test_toeplitz_product_equals_the_dense_one(problem):
    log_power, x, *_ = problem
    for b in range(B):
        expected = x[b] @ covariance(np.exp(log_power[b]))
        np.testing.assert_allclose(toeplitz(jnp.exp(log_power), x)[b], expected, atol=1e-4)


def test_the_conditional_mean_equals_the_dense_one_in_float64(problem):
    log_power, x, visible, slots, ok = problem
    found = jax.jit(conditional_mean)(jnp.exp(log_power), jnp.float32(0.05), x, visible, slots, ok)
    np.testing.assert_allclose(found, dense(log_power, x, visible, 0.05), atol=2e-4)


def test_its_gradient_equals_finite_differences_in_float64(problem):
    log_power, x, visible, slots, ok = problem
    w = np.random.default_rng(1).normal(size=(B, C, T))

    def loss(log_power, noise):
        return (w * conditional_mean(jnp.exp(log_power), noise, x, visible, slots, ok)).sum()

    by_power, by_noise = jax.jit(jax.grad(loss, argnums=(0, 1)))(log_power, jnp.float32(0.05))
    step = 1e-4
    for k in (0, 1, 7, 30, T):
        moved = np.zeros_like(log_power, float)
        moved[:, k] = step
        both = [(w * dense(log_power + s * moved, x, visible, 0.05)).sum((1, 2)) for s in (1, -1)]
        np.testing.assert_allclose(by_power[:, k], (both[0] - both[1]) / (2 * step), rtol=5e-3, atol=2e-3)
    both = [(w * dense(log_power, x, visible, 0.05 + s * step)).sum() for s in (1, -1)]
    np.testing.assert_allclose(by_noise, (both[0] - both[1]) / (2 * step), rtol=5e-3)


def test_hidden_values_and_empty_slots_are_never_read(problem):
    log_power, x, visible, slots, ok = problem
    run = jax.jit(conditional_mean)
    first = run(jnp.exp(log_power), jnp.float32(0.05), x, visible, slots, ok)
    changed = np.where(visible[:, None, :], x, 1e3).astype(np.float32)
    np.testing.assert_array_equal(run(jnp.exp(log_power), jnp.float32(0.05), changed, visible, slots, ok), first)


def test_spectra_have_variance_one_whatever_the_offset():
    layer = GaussianInterpolation(9, 4, 12, 8, dtype=jnp.float32, rngs=nnx.Rngs(params=0))
    power = layer.power(jnp.asarray(np.random.default_rng(0).normal(size=(3, 9)), jnp.float32), T)
    for row in np.asarray(power):
        np.testing.assert_allclose(covariance(row)[0, 0], 1, rtol=1e-5)


def test_no_lapack_kernel_gets_a_batch_on_cpu(problem):
    """Two batched ones at once wait for each other for ever on two cores; the matrix is also factored only once."""
    log_power, x, visible, slots, ok = problem

    def loss(power):
        return (conditional_mean(power, jnp.float32(0.05), x, visible, slots, ok) ** 2).sum()

    text = jax.jit(jax.grad(loss)).lower(jnp.exp(log_power)).compile().as_text()
    calls = re.findall(r"f32\[([0-9,]*)\][^\n]*custom_call_target=\"(lapack_\w+)\"", text)
    assert sum("potrf" in target for _, target in calls) == 1
    assert len(calls) >= 5  # the factor, and two triangular solves in each direction
    assert all(len(shape.split(",")) == 2 for shape, _ in calls), calls
