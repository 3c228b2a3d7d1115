"""Attention with a hand-written backward pass is the library's, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from dreamjax.models.attention import attend
from dreamjax.models.layers import gelu


@pytest.mark.parametrize("masked", [False, True])
def test_saved_attention_is_the_library_s_forward_and_backward(masked):
    qkv = jax.random.normal(jax.random.key(0), (3, 17, 3, 4, 8))
    ok = jax.random.bernoulli(jax.random.key(1), 0.6, (3, 17)).at[:, 0].set(True) if masked else None
    weight = jax.random.normal(jax.random.key(2), (3, 17, 4, 8))

    def scalar(implementation):
        return jax.value_and_grad(lambda x: (attend(x, ok, implementation) * weight).sum())(qkv)

    (ours, gradient), (theirs, expected) = scalar("saved"), scalar("xla")
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, atol=2e-6)


def test_gelu_s_gradient_is_that_of_x_times_the_normal_distribution():
    x, h = np.linspace(-6, 6, 241), 1e-4
    slope = ((x + h) * norm.cdf(x + h) - (x - h) * norm.cdf(x - h)) / (2 * h)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(jnp.asarray(x, jnp.float32)), slope, atol=1e-6)
