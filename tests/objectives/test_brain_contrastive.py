"""The contrastive loss between brain signals and images: the forms that published systems take, and mixtures."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamjax.objectives import contrastive as module
from dreamjax.objectives.contrastive import ContrastiveConfig, Mixup, contrastive, draw_mixup

NAMES = ("brain_to_image", "image_to_brain")
RNG = np.random.default_rng(0)
U, V = (jnp.asarray(x, jnp.float32) for x in RNG.normal(size=(2, 6, 4)))
APART = jnp.arange(6)


def value(u, v, config, s=None, group=APART, weight=None, mixup=None):
    weight = jnp.ones(len(u)) if weight is None else weight
    s = jnp.float32(config.initial if s is None else s)
    total, weights, _ = contrastive(u, v, s, group[: len(u)], weight, NAMES, config, mixup)
    return float(total / weights)


def log_sum(*logits):
    return math.log(sum(map(math.exp, logits)))


def test_brain_to_image_is_the_cross_entropy_over_images_alone():
    """Logits [[2, 0], [1, 0]] of vectors that are not normalised and a scale of 1: only rows count."""
    u, v = jnp.array([[2.0, 0.0], [1.0, 0.0]]), jnp.eye(2)
    one_way = ContrastiveConfig(1.0, direction="brain_to_image", normalise="none", learned=False)
    rows = (log_sum(2, 0) - 2 + log_sum(1, 0) - 0) / 2
    columns = (log_sum(2, 1) - 2 + log_sum(0, 0) - 0) / 2
    assert value(u, v, one_way) == pytest.approx(rows, rel=1e-6)
    both = ContrastiveConfig(1.0, normalise="none", learned=False)
    assert value(u, v, both) == pytest.approx((rows + columns) / 2, rel=1e-6)


@pytest.mark.parametrize("sides", ["both", "image", "brain", "none"])
def test_only_the_named_side_is_normalised(sides):
    """A side that is normalised does not feel its length, and another one does."""
    config = ContrastiveConfig(normalise=sides)
    assert (value(3 * U, V, config) == pytest.approx(value(U, V, config), rel=1e-4)) == (sides in ("both", "brain"))
    assert (value(U, 3 * V, config) == pytest.approx(value(U, V, config), rel=1e-4)) == (sides in ("both", "image"))


@pytest.mark.parametrize(
    ("scale", "factor"), [("exp", 1 / 0.07), ("softplus", math.log1p(1 / 0.07)), ("raw", math.log(1 / 0.07))]
)
def test_scale_at_the_beginning_is_that_of_released_codes(scale, factor):
    """exp: NICE, 14.29; softplus: NeuroBridge and SAMGA, 2.727, so that the temperature is 0.367; raw: ATM."""
    config = ContrastiveConfig(scale=scale)
    assert float(config.factor(jnp.float32(config.initial))) == pytest.approx(factor, rel=1e-6)
    if scale == "softplus":
        assert (round(factor, 4), round(1 / factor, 3)) == (2.7269, 0.367)
    expected = value(U, V, ContrastiveConfig(1.0, normalise="both"), math.log(factor))
    assert value(U, V, config) == pytest.approx(expected, rel=1e-5)


def test_scale_that_is_not_learned_has_no_gradient_and_limit_can_be_taken_away():
    def slope(s, **settings):
        config = ContrastiveConfig(**settings)
        return float(jax.grad(lambda s: contrastive(U, V, s, APART, jnp.ones(6), NAMES, config)[0])(jnp.float32(s)))

    assert slope(1.0) != 0
    assert slope(1.0, learned=False) == 0
    for scale in ("softplus", "raw"):
        assert slope(1.0, scale=scale) != 0
        assert slope(200.0, scale=scale) == 0
    assert slope(5.0, largest=math.inf) != 0
    assert slope(5.0) == 0


def test_equal_images_are_positives_or_masked_or_negatives():
    """Logits of unit vectors, by hand: brain signal 0 saw image 0, which is also example 1's."""
    u, v = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    group = jnp.array([7, 7, 8])  # logits [[1, 1, 0], [0, 0, 1], [-1, -1, 0]] at scale 1
    settings = {"temperature": 1.0, "direction": "brain_to_image"}
    all_three = (log_sum(1, 1, 0), log_sum(0, 0, 1), log_sum(-1, -1, 0))
    positive = all_three[0] - 1 + all_three[1] - 0 + all_three[2] - 0
    masked = log_sum(1, 0) - 1 + log_sum(0, 1) - 0 + all_three[2] - 0
    assert value(u, v, ContrastiveConfig(**settings), group=group) == pytest.approx(positive / 3, rel=1e-5)
    assert value(u, v, ContrastiveConfig(**settings, equal="negative"), group=group) == pytest.approx(positive / 3)
    assert value(u, v, ContrastiveConfig(**settings, equal="masked"), group=group) == pytest.approx(masked / 3)
    apart = jnp.array([[0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])  # where the two images differ, so do the first two
    losses = [value(u, apart, ContrastiveConfig(equal=equal), group=group) for equal in ("positive", "negative")]
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)
    assert losses[1] == pytest.approx(value(u, apart, ContrastiveConfig()), rel=1e-6)


def test_masked_pair_has_no_gradient():
    """Two examples of one image: nothing is left to tell the right image from."""
    config = ContrastiveConfig(equal="masked")
    same = jnp.zeros(2, int)
    slopes = jax.grad(lambda u, v: contrastive(u, v, jnp.float32(1.0), same, jnp.ones(2), NAMES, config)[0], (0, 1))(
        U[:2], V[:2]
    )
    assert not np.any(slopes)


def test_accuracy_counts_any_equal_image_whatever_the_target_is():
    group, ones = jnp.array([0, 0, 1, 2, 3, 4]), jnp.ones(6)
    metrics = [
        contrastive(U, V, jnp.float32(1.0), group, ones, NAMES, ContrastiveConfig(equal=equal))[2]
        for equal in ("positive", "masked", "negative")
    ]
    assert set(metrics[0]) == {*NAMES, "chance"}
    for name in metrics[0]:
        assert len({float(one[name][0]) for one in metrics}) == 1


def test_mixed_brain_signals_share_their_target_with_their_partner():
    """Logits [[1, 0], [0, 1]], example 0 is mixed with 1 at β = 0.25; by hand, both directions."""
    eye, mixup = jnp.eye(2), Mixup(jnp.array([1, 0]), jnp.array([0.25, 1.0]))
    wrong, right = log_sum(1, 0), log_sum(1, 0) - 1
    rows = 0.25 * right + 0.75 * wrong + right
    columns = 0.25 * right + (0.75 * wrong + right)
    loss = value(eye, eye, ContrastiveConfig(1.0), mixup=mixup)
    assert loss == pytest.approx((rows + columns) / 4, rel=1e-6)
    np.testing.assert_allclose(mixup(jnp.array([[4.0, 8.0], [0.0, 0.0]])), [[1, 2], [0, 0]])


def test_mixture_equals_released_bimixco():
    torch = pytest.importorskip("torch")
    order, betas = np.array([2, 0, 1, 4, 5, 3]), np.array([0.3, 1, 0.9, 1, 0.01, 1], np.float32)
    u, v = (torch.nn.functional.normalize(torch.from_numpy(np.array(x)), dim=-1) for x in (U, V))
    logits, target = u @ v.T / 0.2, torch.diag(torch.from_numpy(betas))
    target[torch.arange(6), torch.from_numpy(order)] = 1 - torch.from_numpy(betas)
    rows = -(logits.log_softmax(-1) * target).sum(-1).mean()
    columns = -(logits.T.log_softmax(-1) * target.T).sum(-1).mean()
    loss = value(U, V, ContrastiveConfig(0.2), mixup=Mixup(jnp.asarray(order), jnp.asarray(betas)))
    assert loss == pytest.approx(float(rows + columns) / 2, rel=1e-5)


def test_mixtures_are_drawn_for_half_of_the_examples_and_never_with_padding():
    weight = jnp.ones(4000).at[3000:].set(0)
    mixup = draw_mixup(jax.random.key(0), weight)
    mixed = np.asarray(mixup.beta) < 1
    assert not mixed[3000:].any()
    assert (np.asarray(mixup.partner)[mixed] < 3000).all()
    assert abs(mixed[:3000].mean() - 0.5 * 0.75) < 0.03
    assert abs(np.asarray(mixup.beta)[mixed].var() - 0.25 / 1.3) < 0.01  # of Beta(a, a): 1 / 4 (2a + 1)


@pytest.mark.parametrize("equal", ["positive", "masked", "negative"])
def test_padding_changes_nothing_and_has_no_gradient(equal):
    group, weight = jnp.array([0, 1, 0, 2, 0, 1]), jnp.array([1.0, 2, 1, 1, 0, 0])
    config, mixup = ContrastiveConfig(equal=equal, normalise="image"), draw_mixup(jax.random.key(3), weight)
    whole = value(U, V, config, group=group, weight=weight)
    assert whole == pytest.approx(value(U[:4], V[:4], config, group=group, weight=weight[:4]), rel=1e-6)
    slopes = jax.grad(lambda u, v: contrastive(u, v, jnp.float32(1.0), group, weight, NAMES, config, mixup)[0], (0, 1))(
        U, V
    )
    assert all(not np.asarray(slope[4:]).any() and np.isfinite(slope).all() for slope in slopes)


def test_loss_of_reduced_precision_is_summed_in_float32():
    total, weight, _ = contrastive(
        U.astype(jnp.bfloat16), V.astype(jnp.bfloat16), jnp.float32(1), APART, jnp.ones(6), NAMES
    )
    assert total.dtype == weight.dtype == jnp.float32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"largest": 0.0}, r"loss\.largest is 0\.0, but it must be positive"),
        ({"temperature": 1.0, "scale": "raw"}, r"choose a temperature below 1, or loss\.scale=exp"),
        ({"temperature": 0.0}, r"loss\.temperature is 0"),
    ],
)
def test_refuses_scales_that_are_not_positive(settings, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveConfig(**settings)


def test_limit_of_clip_is_that_of_the_config():
    assert math.log(ContrastiveConfig().largest) == module.LARGEST
