"""Meta's brain module: its table of parameters, parity with its PyTorch twin, and attention over sensors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from mne import transforms

from dreamjax.errors import UserError
from dreamjax.models import brain_module
from dreamjax.models.brain_layers import Trials
from dreamjax.models.brain_module import SpatialAttention
from dreamjax.models.layers import Keys
from dreamjax.systems.pytorch import brain_module as twins
from dreamjax.weights import brain_encoders
from tests import parity
from tests.models import brain_twins

NETWORK = brain_encoders.BRAIN_MODULE
TINY = {"samples": 20, "features": 6, "people": 3, "outputs": 5, "dim": 8, "projected": 12, "radius": 0.0}
SUBJECT = np.array([0, 2, -1, 1, 0], np.int32)


def sphere(count: int, seed: int = 0) -> np.ndarray:
    """Positions on the upper half of a sphere of 10 cm."""
    xyz = np.random.default_rng(seed).standard_normal((count, 3))
    xyz[:, 2] = np.abs(xyz[:, 2])
    return (0.1 * xyz / np.linalg.norm(xyz, axis=1, keepdims=True)).astype(np.float32)


def test_every_row_of_table_s1():
    counts = brain_twins.count(NETWORK, {"samples": 181, "features": 768, "people": 4})
    assert counts == {
        "attention": 270 * 2048,
        "initial": 73_170,
        "subject_layer": 291_600,
        "blocks/0": 1_183_360,
        "blocks/1": 1_231_360,
        "projection": 1_518_208 + 182,
        "clip_head": 1_573_632,
        "total": 6_424_472,
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dims": 3, "aggregation": "mean", "people": 0},
        {"aggregation": "attention", "depth": 3},
    ],
)
def test_equals_its_twin(options):
    arguments = TINY | options
    xyz = sphere(7)
    xyz[2] = np.nan
    ok = np.random.default_rng(0).random((5, 7)) < 0.8
    trials = brain_twins.trials(7, 20, subject=SUBJECT, xyz=xyz, channel_ok=ok)
    positions = np.asarray(brain_module.unit_positions(xyz, arguments.get("dims", 2)))
    twin = twins.BrainModule(**arguments)
    brain_twins.agree(NETWORK, arguments, twin, trials, SUBJECT, positions[None], ok)


def test_both_heads_equal_the_twin_s():
    arguments = TINY | {"mse_features": 4}
    twin, xyz = parity.randomise(twins.BrainModule(**arguments)), sphere(7)
    params = NETWORK.table.to_dreamjax({n: x.numpy() for n, x in twin.state_dict().items()}, NETWORK.shapes(arguments))
    trials = brain_twins.trials(7, 20, subject=SUBJECT, xyz=xyz)
    clip, mse = jax.jit(lambda params: NETWORK.bind(arguments, params).both(trials))(params)
    positions = torch.tensor(np.asarray(brain_module.unit_positions(xyz, 2)))[None]
    with torch.no_grad():
        theirs = twin.both(torch.tensor(trials.signal), torch.tensor(SUBJECT), positions)
    assert parity.difference(clip, theirs["clip"]) < 1e-5
    assert parity.difference(mse, theirs["mse"]) < 1e-5


def test_reads_the_names_of_the_older_code():
    tensors = {n: x.numpy() for n, x in twins.BrainModule(**TINY).state_dict().items()}
    older = {
        n.replace("encoder.", "encoders.meg.", 1) if n.startswith("encoder.") else n: x for n, x in tensors.items()
    }
    ours, theirs = (NETWORK.table.to_dreamjax(x, NETWORK.shapes(TINY)) for x in (older, tensors))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_flattens_positions_as_mne_does():
    xyz = sphere(30)
    flat = transforms._pol_to_cart(transforms._cart_to_sph(xyz)[:, 1:][:, ::-1])
    expected = (flat - flat.min(0)) / (flat.max(0) - flat.min(0))
    np.testing.assert_allclose(brain_module.unit_positions(xyz, 2), expected, atol=1e-5)


def test_positions_in_a_cube_do_not_depend_on_the_layout():
    xyz = np.array([[0.15, -0.15, 0], [0.3, 0.03, -0.06], [np.nan, 0, 0], [0, 0, 0]], np.float32)
    expected = [[1, 0, 0.5], [1, 0.6, 0.3], [np.nan] * 3, [np.nan] * 3]
    np.testing.assert_allclose(brain_module.unit_positions(xyz, 3), expected, atol=1e-6)


def test_fourier_features_of_the_centre_and_of_a_frequency():
    features = np.asarray(brain_module.fourier_features(np.array([[0.1, 0.3]], np.float32), 32))[0]
    assert features.shape == (2048,)
    k, m = 3, 7
    angle = 2 * np.pi * (k * 0.3 + m * 0.5) / 1.4
    np.testing.assert_allclose(features[[32 * k + m, 1024 + 32 * k + m]], [np.cos(angle), np.sin(angle)], atol=1e-4)
    assert brain_module.fourier_features(np.zeros((1, 3), np.float32), 10).shape == (1, 2000)


def attention(radius: float) -> SpatialAttention:
    return SpatialAttention(4, 2, rngs=Keys(jax.random.key(0)), radius=radius)


def test_spatial_dropout_leaves_out_sensors_around_one_centre():
    xyz = sphere(40)
    positions = np.asarray(brain_module.unit_positions(xyz, 2))
    weights = np.asarray(attention(0.3).weights(xyz, None, jax.random.key(1)))
    centre = np.asarray(jax.random.uniform(jax.random.key(1), (2,)))
    np.testing.assert_array_equal((weights == 0).all(0), np.linalg.norm(positions - centre, axis=1) <= 0.3)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    assert (np.asarray(attention(0.3).weights(xyz, None, None)) > 0).all()


def test_without_any_sensor_the_output_and_its_gradient_are_zero():
    trials = brain_twins.trials(6, 9, xyz=sphere(6))
    layer = attention(2.0)  # bans all of [0, 1]²

    def total(layer):
        return jnp.abs(layer(trials, jax.random.key(0))).sum()

    value, gradient = nnx.jit(nnx.value_and_grad(total))(layer)
    assert value == 0
    np.testing.assert_array_equal(gradient["heads"][...], 0)


def test_sensors_that_are_not_ok_may_hold_anything():
    trials, ok = brain_twins.trials(6, 9, xyz=sphere(6)), np.ones((5, 6), bool)
    ok[:, 3] = False
    broken = np.where(ok[:, :, None], trials.signal, np.nan)
    layer = attention(0.0)
    expected = layer(trials._replace(channel_ok=ok))
    np.testing.assert_array_equal(layer(Trials(broken, xyz=trials.xyz, channel_ok=ok)), expected)
    assert np.isfinite(expected).all()


def test_reports_missing_positions():
    with pytest.raises(UserError, match="needs the positions of the sensors"):
        attention(0.0)(brain_twins.trials(6, 9))
