"""NICE's encoder: counts, parity with its PyTorch twin, and the layers under it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dreamjax.errors import UserError
from dreamjax.models import brain_layers
from dreamjax.models.brain_layers import BatchNorm, Trials
from dreamjax.models.layers import Keys
from dreamjax.models.temporal_spatial import ChannelGraphAttention
from dreamjax.systems.pytorch import brain_encoders as twins
from dreamjax.weights import brain_encoders
from tests.models import brain_twins

TINY = {"channels": 5, "samples": 100, "features": 7, "dim": 4, "embedding": 3, "rate": 0.0}


def test_nice_has_the_published_number_of_parameters():
    """40 kernels of 25; 40 × 40 × 63; 40 × 40; each with biases; two normalisations; 1440 → 768 → 768; LayerNorm."""
    tsconv = (25 * 40 + 40) + 80 + (63 * 40 * 40 + 40) + 80 + (40 * 40 + 40)
    projector = (1440 * 768 + 768) + (768 * 768 + 768) + 2 * 768
    counts = brain_twins.count(brain_encoders.NICE, {"channels": 63, "samples": 250, "features": 768})
    assert counts == {"tsconv": tsconv, "projector": projector, "total": 1_802_496}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attention": "self"},
        {"attention": "self", "released": True},
        {"attention": "graph"},
        {"attention": "graph", "released": True},
    ],
)
def test_nice_equals_its_twin(options):
    arguments = TINY | options | ({"attention_rate": 0.0} if options else {})
    brain_twins.agree(brain_encoders.NICE, arguments, twins.NICE(**arguments), brain_twins.trials(5, 100))


def test_attention_has_the_expected_number_of_parameters():
    """Of 63 sensors: 3 × (63² + 63 + a LayerNorm) and a LayerNorm of 250; of graphs 250² + 2 × 250 + 250."""
    sizes = {"channels": 63, "samples": 250, "features": 768}
    for kind, expected in (("self", 3 * (63 * 63 + 63 + 2 * 63) + 2 * 250), ("graph", 250 * 250 + 3 * 250)):
        assert brain_twins.count(brain_encoders.NICE, sizes | {"attention": kind})["attention"] == expected


def test_sensors_mix_as_written_and_not_as_released():
    """As released, a change of one sensor leaves the others' outputs as they were."""
    x = brain_twins.trials(4, 60, count=2).signal
    changed = x + np.eye(4, dtype=np.float32)[3][None, :, None]
    for released in (False, True):
        layer = ChannelGraphAttention(60, rngs=Keys(jax.random.key(0)), rate=0.0, released=released, normal=False)
        same = np.array_equal(layer(x)[:, :3], layer(changed)[:, :3])
        assert same == released


def test_reads_the_released_names_of_nice_with_attention():
    arguments = TINY | {"attention": "graph", "attention_rate": 0.0}
    tensors = {n: x.numpy() for n, x in twins.NICE(**arguments).state_dict().items()}
    released = {
        n.replace("Enc_eeg.0.", "Enc_eeg.1.").replace("attention.fn.", "Enc_eeg.0.fn."): x for n, x in tensors.items()
    }
    shapes = brain_encoders.NICE.shapes(arguments)
    ours, theirs = (brain_encoders.NICE.table.to_dreamjax(x, shapes) for x in (released, tensors))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("window", [1, 2, 17, 51])
def test_moving_average_equals_a_pool_of_stride_1(window):
    x = np.random.default_rng(0).standard_normal((3, 60)).astype(np.float32)
    expected = np.lib.stride_tricks.sliding_window_view(x, window, -1).mean(-1)
    ours, pull = jax.vjp(lambda x: brain_layers.moving_average(x, window), jnp.asarray(x))
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    dy = np.random.default_rng(1).standard_normal(expected.shape).astype(np.float32)
    gradient = [np.convolve(row, np.full(window, 1 / window)) for row in dy]
    np.testing.assert_allclose(pull(jnp.asarray(dy))[0], gradient, atol=1e-6)


@pytest.mark.parametrize(("length", "dilation"), [(1, 1), (7, 1), (9, 2), (13, 4), (5, 8)])
def test_winograd_s_convolution_and_its_gradients_equal_pytorch_s(length, dilation):
    rng = np.random.default_rng(0)
    x, kernel, dy = (rng.standard_normal(s).astype(np.float32) for s in ((2, length, 3), (3, 3, 4), (2, length, 4)))
    ours, pull = jax.vjp(lambda x, k: brain_layers.convolution3(x, k, dilation), jnp.asarray(x), jnp.asarray(kernel))
    inputs, weights = (torch.tensor(each, requires_grad=True) for each in (x, kernel))
    theirs = torch.nn.functional.conv1d(inputs.mT, weights.permute(2, 1, 0), padding=dilation, dilation=dilation).mT
    theirs.backward(torch.tensor(dy))
    for a, b in zip((ours, *pull(jnp.asarray(dy))), (theirs.detach(), inputs.grad, weights.grad), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_batch_norm_leaves_out_rows_without_weight():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 3, 4)).astype(np.float32)
    twin = torch.nn.BatchNorm1d(4)
    expected = twin(torch.tensor(x[:4].swapaxes(1, 2))).detach().numpy().swapaxes(1, 2)
    norm = BatchNorm(4)
    weight = np.array([1, 1, 1, 1, 0, 0], np.float32)
    ours = norm(x, jax.random.key(0), weight)
    np.testing.assert_allclose(ours[:4], expected, atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], twin.running_mean, atol=1e-6)
    np.testing.assert_allclose(norm.var[...], twin.running_var, atol=1e-6)


def test_batch_norm_keeps_its_statistics_without_rows():
    norm = BatchNorm(2)
    norm(np.ones((3, 2), np.float32), jax.random.key(0), np.zeros(3, np.float32))
    np.testing.assert_array_equal(norm.mean[...], [0, 0])
    np.testing.assert_array_equal(norm.var[...], [1, 1])


def test_dropout_keeps_the_mean():
    x = np.ones((100, 100), np.float32)
    dropped = brain_layers.dropout(x, 0.25, jax.random.key(0))
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs(dropped.mean() - 1) < 0.02
    assert brain_layers.dropout(x, 0.25, None) is x


def test_channels_that_are_not_ok_count_as_zero():
    network = brain_encoders.NICE
    params = network.init(TINY, jax.random.key(0))
    trials, ok = brain_twins.trials(5, 100), np.array([[True] * 4 + [False]] * 5)
    model = jax.jit(lambda trials: network.bind(TINY, params)(trials))
    zeroed = np.where(ok[:, :, None], trials.signal, 0)
    broken = np.where(ok[:, :, None], trials.signal, np.nan)
    np.testing.assert_array_equal(model(Trials(broken, channel_ok=ok)), model(Trials(zeroed)))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"channels": 5, "samples": 9}, "features missing"),
        (TINY | {"dim": "4"}, "dim is '4'"),
        (TINY | {"rate": 1}, "rate is 1, but"),
    ],
)
def test_reports_sizes_that_do_not_fit(config, words):
    with pytest.raises(UserError, match=words):
        brain_encoders.NICE.arguments(config, "config.json")


@pytest.mark.parametrize(
    ("network", "least", "more"), [("NICE", 75, {}), ("ATM_S", 75, {"people": 2}), ("ENIGMA_CNN", 21, {"people": 2})]
)
def test_refuses_trials_that_are_too_short(network, least, more):
    sizes = {"channels": 5, "samples": least, "features": 7} | more
    getattr(brain_encoders, network).shapes(sizes)
    with pytest.raises(UserError, match=f"at least {least} samples a trial, but these have {least - 1}; take more"):
        getattr(brain_encoders, network).shapes(sizes | {"samples": least - 1})
