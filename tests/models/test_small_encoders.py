"""ATM-S, EEGProject, ENIGMA and SAMGA's router: counts by hand, and parity with their PyTorch twins."""

import jax
import numpy as np
import pytest
from flax import nnx

from dreamjax.models.brain_layers import Statistic
from dreamjax.models.projections import LayerRouter
from dreamjax.systems.pytorch import brain_encoders as twins
from dreamjax.systems.pytorch import channel_tokens
from dreamjax.weights import brain_encoders
from tests.models import brain_twins

TINY = {"channels": 5, "samples": 84, "features": 7}
SUBJECT = np.array([0, 2, -1, 1, 0], np.int32)
ATM = TINY | {"people": 3, "hidden": 9, "rate": 0.0, "dim": 4, "embedding": 3, "conv_rate": 0.0}


def linear(a: int, b: int) -> int:
    return a * b + b


def test_atm_has_the_expected_number_of_parameters():
    """63 sensors × 250 samples; 4 heads of 62; 1440 → 1024."""
    counts = brain_twins.count(brain_encoders.ATM_S, {"channels": 63, "samples": 250, "features": 1024})
    attention = 3 * linear(250, 248) + linear(248, 250)
    assert counts == {
        "embed": linear(250, 250),
        "people": 10 * 250,
        "shared": 250,
        "blocks/0": attention + linear(250, 256) + linear(256, 250) + 4 * 250,
        "norm": 500,
        "tsconv": 103_680,
        "projector": linear(1440, 1024) + linear(1024, 1024) + 2 * 1024,
        "total": 3_075_412,
    }


@pytest.mark.parametrize("options", [{}, {"released": True}, {"people": 0, "depth": 2}])
def test_atm_equals_its_twin(options):
    arguments = ATM | options
    trials = brain_twins.trials(5, 84, subject=SUBJECT)
    brain_twins.agree(brain_encoders.ATM_S, arguments, channel_tokens.ATM(**arguments), trials, SUBJECT)


def test_atm_reads_released_names():
    tensors = {n: x.numpy() for n, x in channel_tokens.ATM(**ATM).state_dict().items()}
    released = {n.replace(".conv1.", ".linear1.").replace(".conv2.", ".linear2."): x for n, x in tensors.items()}
    for name in ("logit_scale", "subject_wise_linear.0.weight", "encoder.enc_embedding.position_embedding.pe"):
        released[name] = np.zeros(3, np.float32)
    shapes = brain_encoders.ATM_S.shapes(ATM)
    ours, theirs = (brain_encoders.ATM_S.table.to_dreamjax(x, shapes) for x in (released, tensors))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_eeg_project_has_the_expected_number_of_parameters():
    """17 × 250 = 4250 → 1024 for UBP; 2.44 M with 512 features for NeuroBridge."""
    for features, expected in ((1024, linear(4250, 1024) + linear(1024, 1024) + 2048), (512, 2_440_192)):
        sizes = {"channels": 17, "samples": 250, "features": features}
        assert brain_twins.count(brain_encoders.EEG_PROJECT, sizes)["total"] == expected


def test_eeg_project_equals_its_twin():
    arguments = TINY | {"rate": 0.0}
    brain_twins.agree(brain_encoders.EEG_PROJECT, arguments, twins.EEGProject(**arguments), brain_twins.trials(5, 84))


def test_enigma_has_the_expected_number_of_parameters():
    """A map of 250 samples for each of 30 people; 46 · 4 = 184 → 1024; about 2.4 M without the maps of 29 people."""
    counts = brain_twins.count(
        brain_encoders.ENIGMA_CNN, {"channels": 63, "samples": 250, "features": 1024, "people": 30}
    )
    tsconv = linear(5, 40) + 80 + linear(63 * 40, 40) + 80 + linear(40, 4)
    projector = linear(184, 1024) + linear(1024, 1024) + 2048
    maps = {"kernel": 30 * 250 * 250, "bias": 30 * 250}
    total = sum(maps.values()) + tsconv + projector
    assert counts == {**maps, "tsconv": tsconv, "projector": projector, "total": total}


def test_enigma_equals_its_twin():
    arguments = TINY | {"people": 3, "dim": 4, "rate": 0.0}
    trials = brain_twins.trials(5, 84, subject=SUBJECT)
    brain_twins.agree(brain_encoders.ENIGMA_CNN, arguments, twins.ENIGMA(**arguments), trials, SUBJECT)


def test_router_starts_at_the_centre_and_ignores_people_at_evaluation():
    router = LayerRouter(layers=(20, 24, 28, 32, 36), people=3, centre=28)
    expected = np.exp([-2.0, -1, 0, -1, -2]) / np.exp([-2.0, -1, 0, -1, -2]).sum()
    subject = np.array([0, 1, -1])
    np.testing.assert_allclose(router(subject), np.tile(expected, (3, 1)), rtol=1e-6)
    router.bias[...] = router.bias[...].at[1, 4].set(9.0)
    np.testing.assert_allclose(router(subject), np.tile(expected, (3, 1)), rtol=1e-6)
    people = np.repeat([1, -1, 0], 2000)
    weights = np.asarray(router(people, jax.random.key(0)))
    biased = weights[:, 4] > 0.5
    assert abs(biased[:2000].mean() - 0.7) < 0.04
    assert not biased[2000:].any()


@pytest.mark.parametrize("name", ["NICE", "EEGNET", "DEEP4"])
def test_several_models_at_once_equal_each_alone(name):
    network = getattr(brain_encoders, name)
    arguments = TINY | {"pool": 2, "taps": 4, "dim": 3} if name == "DEEP4" else TINY
    trials, key = brain_twins.trials(5, 84, subject=SUBJECT), jax.random.key(0)
    alone = [network.init(arguments, jax.random.key(seed)) for seed in (1, 2)]

    def encode(params, key):
        model = network.bind(arguments, params)
        return model(trials, key), nnx.to_pure_dict(nnx.state(model, Statistic))

    together = jax.jit(jax.vmap(encode, (0, None)))(jax.tree.map(lambda *x: np.stack(x), *alone), key)
    one_by_one = jax.tree.map(lambda *x: np.stack(x), *(jax.jit(encode)(params, key) for params in alone))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), together, one_by_one)
