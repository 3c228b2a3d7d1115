"""Operations of a traced program, by hand: small functions, the encoders of NICE and of the brain module."""

import jax
import jax.numpy as jnp
import pytest

from dreamjax.models import flops
from dreamjax.models.brain_layers import Trials
from dreamjax.weights import brain_encoders as encoders
from dreamjax.weights.networks import Network


def zeros(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def encoded(network: Network, channels: int, arguments: dict[str, int]) -> float:
    trials = Trials(zeros(1, channels, arguments["samples"]), jax.ShapeDtypeStruct((1,), jnp.int32), zeros(channels, 3))
    return flops.products(lambda p, x: network.bind(arguments, p)(x), network.shapes(arguments), trials)


def test_counts_a_product_in_every_trip_of_a_scan_and_in_the_costliest_branch() -> None:
    def function(x, w):
        x = jax.lax.scan(lambda x, _: (x @ w, None), x, length=5)[0]
        return jax.lax.cond(x.sum() > 0, lambda x: x @ w @ w, lambda x: x @ w, x)

    assert flops.products(jax.jit(function), zeros(3, 4), zeros(4, 4)) == (5 + 2) * 2 * 3 * 4 * 4


def test_leaves_out_what_no_result_depends_on() -> None:
    """The gradient of a linear map's kernel takes its forward pass and one product more, not that of its input."""
    loss = jax.grad(lambda w, x: jnp.square(x @ w).sum())
    assert flops.products(loss, zeros(4, 5), zeros(3, 4)) == 2 * (2 * 3 * 4 * 5)
    assert flops.products(lambda x, w: (x @ w, x)[1], zeros(3, 4), zeros(4, 5)) == 0


def test_counts_a_convolution_and_its_gradients_alike() -> None:
    """8 × 8 positions of 3 × 3 taps, 4 → 6 channels in 2 groups."""

    def convolved(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", feature_group_count=2, dimension_numbers=layout)

    shapes = zeros(1, 8, 8, 4), zeros(3, 3, 2, 6)
    forward = 2 * 64 * 9 * 2 * 6
    assert flops.products(convolved, *shapes) == forward
    gradients = jax.grad(lambda x, kernel: jnp.square(convolved(x, kernel)).sum(), argnums=(0, 1))
    assert flops.products(gradients, *shapes) == 3 * forward


def test_nice_by_hand() -> None:
    """36 positions: 63 × 25 × 40, 63 × 40 × 40, 40 × 40; 1440 × 768 and 768 × 768."""
    products = 36 * (63_000 + 100_800 + 1_600) + 1440 * 768 + 768 * 768
    counted = encoded(encoders.NICE, 63, {"channels": 63, "samples": 250, "features": 768})
    assert counted == pytest.approx(2 * products, rel=1e-3)


def test_brain_module_by_hand() -> None:
    """T = 181, 272 sensors; the projection to 2048 once and not at every sample; weights over sensors at 32² waves.

    Convolutions of 3 taps take 2 products a position instead of 3; with dilations 1, 2, 4, 8 they compute 182, 184, 184
    and 192 positions.
    """
    linear = 181 * 270 * (272 + 270 + 270) + 4 * 270 * 270
    blocks = 2 * 320 * (182 * 270 + 184 * 320 + 182 * 640 + 184 * 320 + 192 * 320 + 182 * 640)
    rest = 181 * 320 * 640 + 181 * 640 + 640 * 2048 + 2048 * 768
    sensors = 270 * 2 * 32**2 * 272
    counted = encoded(encoders.BRAIN_MODULE, 272, {"samples": 181, "features": 768, "people": 4})
    assert counted == pytest.approx(2 * (linear + blocks + rest + sensors), rel=1e-3)
