"""SoftCLIP, MMD, squared error and cosine: closed forms, torch, padding, and batches that are split over devices."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dreamjax.objectives.contrastive import ContrastiveConfig, contrastive, draw_mixup
from dreamjax.objectives.mmd import SIGMAS, mmd
from dreamjax.objectives.regression_loss import combined, cosine, mse
from dreamjax.objectives.soft_contrastive import soft_contrastive
from dreamjax.parallel import mesh
from dreamjax.parallel.mesh import MeshConfig

RNG = np.random.default_rng(0)
U, V = (jnp.asarray(x, jnp.float32) for x in RNG.normal(size=(2, 8, 5)))
GROUP, WEIGHT = jnp.array([0, 1, 2, 0, 3, 4, 5, 5]), jnp.array([1, 1, 2, 1, 1, 0.5, 0, 0], jnp.float32)


def meta(u, v, weight, group=GROUP):
    one_way = ContrastiveConfig(1.0, direction="brain_to_image", normalise="image", learned=False)
    clip = contrastive(u, v, jnp.float32(one_way.initial), group[: len(u)], weight, config=one_way)
    return combined({"clip": (0.75, clip), "mse": (0.25, mse(u, v, weight))})


def masked(u, v, weight, group=GROUP):
    config, mixup = ContrastiveConfig(equal="masked"), draw_mixup(jax.random.key(1), weight)
    return contrastive(u, v, jnp.float32(1.0), group, weight, config=config, mixup=mixup)


LOSSES = {
    "soft": lambda u, v, weight: soft_contrastive(u, v, 0.1, weight),
    "mmd": mmd,
    "mse": mse,
    "cosine": cosine,
    "meta": meta,
}


def value(objective):
    return float(objective[0] / objective[1])


def test_soft_targets_have_the_closed_form():
    """Images apart, brain signals the same as them: the entropy of (a, b) = softmax(1, 0); swapped, the cross one."""
    eye, ones = jnp.eye(2), jnp.ones(2)
    a = math.e / (1 + math.e)
    entropy = -a * math.log(a) - (1 - a) * math.log(1 - a)
    crossed = -a * math.log(1 - a) - (1 - a) * math.log(a)
    same = soft_contrastive(eye, 3 * eye, 1.0, ones)
    assert value(same) == pytest.approx(entropy, rel=1e-5)
    assert float(same[2]["soft_kl"][0]) == pytest.approx(0, abs=1e-6)
    assert value(soft_contrastive(eye[::-1], eye, 1.0, ones)) == pytest.approx(crossed, rel=1e-5)


def test_soft_targets_equal_those_of_released_code():
    torch = pytest.importorskip("torch")
    u, v = (torch.nn.functional.normalize(torch.from_numpy(np.array(x)), dim=-1) for x in (U, V))
    images, brain = v @ v.T / 0.05, u @ v.T / 0.05
    rows = -(brain.log_softmax(-1) * images.softmax(-1)).sum(-1).mean()
    columns = -(brain.T.log_softmax(-1) * images.softmax(-1)).sum(-1).mean()
    assert value(soft_contrastive(U, V, 0.05, jnp.ones(8))) == pytest.approx(float(rows + columns) / 2, rel=1e-5)


def test_mmd_of_single_points_has_the_closed_form():
    """One point each, at distance 2: k(x, x) = 1, so that MMD² = 2 - 2 mean exp(-4 / 2σ²)."""
    kernel = np.mean([math.exp(-2 / sigma**2) for sigma in SIGMAS])
    assert value(mmd(jnp.array([[0.0, 0.0]]), jnp.array([[0.0, 2.0]]), jnp.ones(1))) == pytest.approx(2 - 2 * kernel)
    assert value(mmd(U, U[::-1], jnp.ones(8))) == pytest.approx(0, abs=1e-6)  # the order does not matter


def test_mmd_equals_the_double_sum_over_pairs():
    torch = pytest.importorskip("torch")
    x, y, p = (torch.from_numpy(np.array(z)).double() for z in (U, V, WEIGHT / WEIGHT.sum()))
    total = 0.0
    for a, b, sign in ((x, x, 1), (y, y, 1), (x, y, -2)):
        squared = torch.cdist(a, b) ** 2
        total += sign * sum(float(p @ torch.exp(-squared / (2 * s * s)) @ p) for s in SIGMAS) / len(SIGMAS)
    assert value(mmd(U, V, WEIGHT)) == pytest.approx(total, rel=1e-5)


def test_squared_error_is_of_vectors_as_they_are_and_cosine_of_their_direction():
    u, v, ones = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([[3.0, 0.0], [2.0, 0.0]]), jnp.ones(2)
    assert value(mse(u, v, ones)) == pytest.approx((4 / 2 + 8 / 2) / 2)
    assert value(cosine(u, v, ones)) == pytest.approx(1 / 2)
    assert value(mse(u, v, jnp.array([3.0, 1.0]))) == pytest.approx((3 * 2 + 4) / 4)


def test_combination_weighs_both_losses_and_reports_each():
    total, weight, metrics = meta(U, V, WEIGHT)
    parts = [float(metrics[name][0] / metrics[name][1]) for name in ("clip", "mse")]
    assert float(total / weight) == pytest.approx(0.75 * parts[0] + 0.25 * parts[1], rel=1e-6)
    assert {"clip", "mse", "chance"} <= set(metrics)


@pytest.mark.parametrize("name", LOSSES)
def test_rows_of_weight_zero_count_nothing_and_have_no_gradient(name):
    loss = LOSSES[name]
    assert value(loss(U, V, WEIGHT)) == pytest.approx(value(loss(U[:6], V[:6], WEIGHT[:6])), rel=1e-5)
    slopes = jax.grad(lambda u, v: loss(u, v, WEIGHT)[0], (0, 1))(U, V)
    assert all(not np.asarray(slope[6:]).any() and np.isfinite(slope).all() for slope in slopes)
    assert all(np.asarray(slope[:6]).any(1).all() for slope in slopes)


@pytest.mark.parametrize("name", LOSSES)
def test_sums_are_float32(name):
    total, weight, metrics = LOSSES[name](U.astype(jnp.bfloat16), V.astype(jnp.bfloat16), WEIGHT)
    assert {x.dtype for x in jax.tree.leaves((total, weight, metrics))} == {jnp.dtype(jnp.float32)}


def test_batch_over_four_devices_has_the_loss_and_gradient_of_one():
    """Negatives come from the whole batch, wherever its examples are; one program for all losses."""
    placed_on = mesh.make(MeshConfig(), jax.devices()[:4])
    split = NamedSharding(placed_on, P(("data", "fsdp")))

    def total(u, v, weight):
        losses = [loss(u, v, weight)[0] for loss in LOSSES.values()]
        return sum(losses) + masked(u, v, weight)[0]

    both = jax.jit(jax.value_and_grad(total, (0, 1)))
    one = both(U, V, WEIGHT)
    several = both(*(jax.device_put(x, split) for x in (U, V, WEIGHT)))
    assert len(several[1][0].sharding.device_set) == 4
    for here, there in zip(jax.tree.leaves(one), jax.tree.leaves(several), strict=True):
        np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-5)
