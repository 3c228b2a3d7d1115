"""EEGNet, ShallowFBCSPNet and Deep4Net: counts by hand, parity with PyTorch twins in braindecode's names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamjax.errors import UserError
from dreamjax.models import conv_baselines
from dreamjax.systems.pytorch import conv_baselines as twins
from dreamjax.weights import brain_encoders
from tests.models import brain_twins

SIZES = {"channels": 63, "samples": 250, "features": 512}
NETWORKS = {
    "ShallowFBCSPNet": (brain_encoders.SHALLOW, {"samples": 60, "dim": 4, "taps": 5, "pool": 15, "stride": 6}),
    "Deep4Net": (brain_encoders.DEEP4, {"samples": 90, "dim": 3, "taps": 4, "pool": 2}),
    "EEGNet": (brain_encoders.EEGNET, {"samples": 70, "filters": 3, "taps": 8}),
}


def test_shallow_has_the_expected_number_of_parameters():
    """40 filters of 25, 40 × 40 × 63 without biases, BN, 11 positions × 40 → 512."""
    conv, norm, readout = (25 * 40 + 40) + 63 * 40 * 40, 80, 11 * 40 * 512 + 512
    assert (250 - 24 - 75) // 15 + 1 == 11
    assert brain_twins.count(brain_encoders.SHALLOW, SIZES)["total"] == conv + norm + readout


@pytest.mark.parametrize(("pool", "samples", "positions"), [(2, 250, 7), (3, 500, 1)])
def test_deep4_has_the_expected_number_of_parameters(pool, samples, positions):
    """25 filters of 10 over 63 sensors, then 50, 100 and 200 of 10 without biases, each with BN."""
    first = (10 * 25 + 25) + 63 * 25 * 25
    later = 10 * (25 * 50 + 50 * 100 + 100 * 200)
    readout = positions * 200 * 512 + 512
    total = first + later + 2 * (25 + 50 + 100 + 200) + readout
    assert brain_twins.count(brain_encoders.DEEP4, SIZES | {"pool": pool, "samples": samples})["total"] == total


def test_eegnet_has_the_expected_number_of_parameters():
    """8 filters of 64, 16 mixtures of 63, 16 filters of 16, 16 × 16, three BN, 7 positions × 16 → 512."""
    total = 8 * 64 + 16 * 63 + 16 * 16 + 16 * 16 + 2 * (8 + 16 + 16) + 7 * 16 * 512 + 512
    assert brain_twins.count(brain_encoders.EEGNET, SIZES)["total"] == total


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_its_twin(name):
    network, sizes = NETWORKS[name]
    arguments = {"channels": 5, "features": 6, "rate": 0.0} | sizes
    brain_twins.agree(network, arguments, getattr(twins, name)(**arguments), brain_twins.trials(5, sizes["samples"]))


@pytest.mark.parametrize("name", NETWORKS)
def test_reads_names_of_newer_braindecode(name):
    network, sizes = NETWORKS[name]
    arguments = {"channels": 5, "features": 6} | sizes
    tensors = {n: x.numpy() for n, x in getattr(twins, name)(**arguments).state_dict().items()}
    newer = {}
    for old, x in tensors.items():
        first = old.startswith(("conv_time", "conv_spat.")) and name != "EEGNet"
        newer[f"conv_time_spat.{old}" if first else old.replace("conv_cl", "final_layer.conv_cl")] = x
    ours, theirs = (network.table.to_dreamjax(x, network.shapes(arguments)) for x in (newer, tensors))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("taps", [4, 5])
def test_a_banded_matrix_convolves(taps):
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal(12), rng.standard_normal((taps, 1))
    expected = np.correlate(np.pad(x, taps // 2), kernel[:, 0], "valid")
    matrix = np.asarray(conv_baselines.banded(jnp.asarray(kernel), 12))[:, :, 0]
    np.testing.assert_allclose(x @ matrix, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "samples", "least"), [("Deep4Net", 250, 441), ("ShallowFBCSPNet", 98, 99), ("EEGNet", 26, 27)]
)
def test_refuses_trials_that_are_too_short(name, samples, least):
    network = NETWORKS[name][0]
    with pytest.raises(UserError, match=f"{name} needs at least {least} samples a trial, but these have {samples}"):
        network.shapes(SIZES | {"samples": samples})
    network.shapes(SIZES | {"samples": least})
