"""Operations of the brain encoders: NICE's and the brain module's by hand, all against what JAX counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamjax.models import brain_flops
from dreamjax.models.brain_layers import Trials
from dreamjax.weights import brain_encoders as encoders

NICE = {"channels": 63, "samples": 250, "features": 768}
SMALL = {"channels": 31, "samples": 200, "features": 96}
PEOPLE = SMALL | {"people": 3}


def test_nice_by_hand():
    """36 positions: 63 × 25 × 40, 63 × 40 × 40, 40 × 40; 1440 × 768 and 768 × 768."""
    products = 36 * (63_000 + 100_800 + 1_600) + 1440 * 768 + 768 * 768
    assert brain_flops.nice(NICE) == 2 * products == 15_300_288


def test_brain_module_by_hand():
    """T = 181, 272 sensors; the projection to 2048 once and not at every sample.

    Convolutions of 3 taps take 2 products a position instead of 3; with dilations 1, 2, 4, 8 they compute 182, 184, 184
    and 192 positions.
    """
    linear = 181 * 270 * (272 + 270 + 270) + 4 * 270 * 270
    blocks = 2 * 320 * (182 * 270 + 184 * 320 + 182 * 640 + 184 * 320 + 192 * 320 + 182 * 640)
    rest = 181 * 320 * 640 + 181 * 640 + 640 * 2048 + 2048 * 768
    arguments = {"samples": 181, "features": 768, "people": 4}
    assert brain_flops.brain_module(arguments, 272) == 2 * (linear + blocks + rest)


@pytest.mark.parametrize(
    ("network", "count", "arguments"),
    [
        (encoders.NICE, brain_flops.nice, SMALL),
        (encoders.NICE, brain_flops.nice, SMALL | {"attention": "self"}),
        (encoders.NICE, brain_flops.nice, SMALL | {"attention": "graph"}),
        (encoders.NICE, brain_flops.nice, SMALL | {"attention": "graph", "released": True}),
        (encoders.ATM_S, brain_flops.atm, SMALL),
        (encoders.EEG_PROJECT, brain_flops.eeg_project, SMALL),
        (encoders.ENIGMA_CNN, brain_flops.enigma, PEOPLE),
        # and once for a batch, the two kernels and the first one's biases multiplied
        (encoders.SHALLOW, lambda a: brain_flops.shallow(a) + 2 * 31 * 40 * 40 * 26, SMALL),
        (encoders.DEEP4, lambda a: brain_flops.deep4(a) + 2 * 31 * 25 * 25 * 11, SMALL | {"pool": 2}),
        (encoders.EEGNET, brain_flops.eegnet, SMALL),
    ],
)
def test_jax_counts_as_many_products(network, count, arguments):
    assert products(network, arguments, arguments["channels"]) == pytest.approx(count(arguments), rel=0.01)


@pytest.mark.parametrize("options", [{}, {"aggregation": "mean", "people": 0}, {"aggregation": "attention", "dims": 3}])
def test_jax_counts_as_many_products_in_the_brain_module(options):
    arguments = {"samples": 60, "features": 96, "people": 3, "outputs": 32, "dim": 40} | options
    expected = brain_flops.brain_module(arguments, 31) + brain_flops.attention_over_sensors(arguments, 31)
    assert products(encoders.BRAIN_MODULE, arguments, 31) == pytest.approx(expected, rel=0.01)


def products(network, arguments, channels) -> float:
    """Operations of the dots in the traced forward pass of one trial."""
    trials = Trials(
        jnp.zeros((1, channels, arguments["samples"])), jnp.zeros(1, jnp.int32), jnp.ones((channels, 3)) * 0.1
    )
    traced = jax.make_jaxpr(lambda params: network.bind(arguments, params)(trials))(network.shapes(arguments))
    return sum(2.0 * np.prod(e.outvars[0].aval.shape) * contracted(e) for e in equations(traced.jaxpr))


def equations(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from equations(inner)


def contracted(equation) -> float:
    (axes, _), _ = equation.params["dimension_numbers"]
    return float(np.prod([equation.invars[0].aval.shape[axis] for axis in axes]))
