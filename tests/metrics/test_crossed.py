"""Intervals over people and images, permuted images, split-half reliability: closed forms, enumeration, coverage."""

import itertools

import numpy as np
import pytest
from scipy import stats

from dreamjax.errors import UserError
from dreamjax.metrics import bootstrap, crossed, permutation, reliability, retrieval


def simulated(rng, people=6, images=30, person=1.0, image=1.0, noise=1.0):
    return (
        person * rng.normal(size=(people, 1))
        + image * rng.normal(size=images)
        + noise * rng.normal(size=(people, images))
    )


def test_table_has_the_mean_of_trials_and_seeds_and_nan_without_any():
    scores = crossed.table(np.array([1.0, 0, 1]), np.array(["b", "b", "a"]), np.array([5, 5, 2]))
    np.testing.assert_array_equal(scores, [[1, np.nan], [np.nan, 0.5]])


def test_standard_error_of_one_factor_is_that_of_its_mean():
    x = np.random.default_rng(0).normal(size=12)
    for scores in (x[:, None], x[None]):
        error, df = crossed.standard_error(scores)
        assert (error, df) == (pytest.approx(stats.sem(x)), 11)
    repeated = np.tile(x[:, None], (1, 4))  # images that do not matter add nothing
    assert crossed.standard_error(repeated)[0] == pytest.approx(stats.sem(x))


def test_standard_error_with_missing_scores_is_near_that_of_all():
    rng = np.random.default_rng(1)
    scores = simulated(rng, 10, 40)
    whole = crossed.standard_error(scores)[0]
    scores[rng.random(scores.shape) < 0.1] = np.nan
    assert crossed.standard_error(scores)[0] == pytest.approx(whole, rel=0.15)


@pytest.mark.parametrize("design", [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_interval_covers_the_truth_whichever_factor_varies(design):
    """95 % of 150 simulations; an interval over either factor alone would miss the truth more often."""
    rng = np.random.default_rng(2)
    covered = sum(not crossed.interval(simulated(rng, 6, 12, *design), draws=200).excludes(0) for _ in range(150))
    assert covered >= 0.9 * 150


def test_interval_is_unknown_for_one_score_and_for_few_people_who_all_score_the_same():
    assert not crossed.interval(np.ones((1, 1))).known
    assert not crossed.interval(np.ones((3, 200))).known
    same = crossed.interval(np.ones((bootstrap.ALIKE, 200)))
    assert (same.low, same.high, same.n) == (1, 1, bootstrap.ALIKE)


def test_interval_does_not_depend_on_the_order_of_people_and_images():
    scores = simulated(np.random.default_rng(3))
    there, back = crossed.interval(scores), crossed.interval(scores[::-1, ::-1])
    assert (there.low, there.high) == pytest.approx((back.low, back.high), abs=0.05)
    assert there.error == pytest.approx(back.error)


def test_systems_are_compared_on_the_same_people_and_images_with_holms_correction():
    rng = np.random.default_rng(4)
    base = simulated(rng)
    others = {
        "base": base,
        "far": base + 1 + 0.1 * rng.normal(size=base.shape),
        "near": base + rng.normal(size=base.shape),
    }
    far, near = crossed.against("base", others)
    assert far.resolved
    assert far.corrected == pytest.approx(2 * far.p)
    assert far.says() == "better than base"
    assert not near.resolved
    assert "could detect" in near.says()
    with pytest.raises(ValueError, match="same people and images"):
        crossed.against("base", {"base": base, "short": base[:, 1:]})


def test_permutation_of_few_images_is_that_of_all_orders():
    rng = np.random.default_rng(0)
    image, similarity = np.array([0, 1, 2, 3, 4, 2, 0]), rng.normal(size=(7, 5))
    similarity[np.arange(7), image] += 0.5
    for better, score in (
        ("higher", retrieval.ranks_of_all(similarity).top(2)),
        ("lower", retrieval.ranks_of_all(similarity).rank()),
    ):
        test = permutation.permutation_test(score, image, better=better)
        means = np.array([score[np.arange(7), np.array(p)[image]].mean() for p in itertools.permutations(range(5))])
        worse = means < test.observed - 1e-9 if better == "higher" else means > test.observed + 1e-9
        assert test.exact
        assert test.permutations == 120
        assert test.p == pytest.approx(1 - worse.mean())
        assert test.expected == pytest.approx(means.mean())


def test_drawn_permutations_agree_with_all_of_them():
    rng = np.random.default_rng(1)
    image, score = np.repeat(np.arange(6), 2), rng.random((12, 6))
    exact = permutation.permutation_test(score, image)
    drawn = permutation.permutation_test(score, image, draws=700)  # fewer than 6!
    assert (exact.exact, drawn.exact, drawn.permutations) == (True, False, 700)
    assert drawn.p == pytest.approx(exact.p, abs=0.05)


def test_permuting_whole_images_keeps_dependent_trials_together():
    """20 people respond alike to each image, by chance: independent trials would make small p values of this."""
    rng, image, ps = np.random.default_rng(2), np.tile(np.arange(8), 20), []
    for seed in range(100):
        alike = rng.normal(size=(8, 8))[image] + 0.01 * rng.normal(size=(160, 8))
        ps.append(
            permutation.permutation_test(
                retrieval.ranks_of_all(alike).rank(), image, better="lower", draws=199, seed=seed
            ).p
        )
    assert stats.kstest(ps, "uniform").pvalue > 0.01


def test_images_that_were_not_seen_are_not_exchanged():
    rng = np.random.default_rng(3)
    score = rng.random((6, 50))
    image = np.array([4, 9, 20, 4, 9, 20])
    some = permutation.permutation_test(score, image)
    assert some == permutation.permutation_test(score[:, [4, 9, 20]], np.tile(np.arange(3), 2))
    assert some.permutations == 6


def test_reliability_is_the_share_of_variance_that_repeats():
    """Signal of variance 1, noise of variance 4, 8 repetitions: 1 / (1 + 4 / 8) by design."""
    rng = np.random.default_rng(0)
    responses = rng.normal(size=(4000, 2)) * np.array([1.0, 0.0]) + 2 * rng.normal(size=(8, 4000, 2))
    result = reliability.split_half(responses)
    assert result.reliability == pytest.approx([1 / 1.5, 0], abs=0.05)
    assert (result.splits, result.exact) == (35, True)
    assert result.ceiling[0] == pytest.approx(np.sqrt(1 / 1.5), abs=0.04)
    assert reliability.spearman_brown(np.array([0.5])) == pytest.approx(2 / 3)


def test_two_repetitions_have_one_split_and_odd_ones_leave_one_out():
    rng = np.random.default_rng(1)
    responses = rng.normal(size=(30, 1)) + rng.normal(size=(3, 30, 1))
    two = reliability.split_half(responses[:2])
    r = np.corrcoef(responses[0, :, 0], responses[1, :, 0])[0, 1]
    assert (two.splits, two.half[0]) == (1, pytest.approx(r))
    assert two.reliability[0] == pytest.approx(2 * r / (1 + r))
    three = reliability.split_half(responses)
    pairs = [np.corrcoef(responses[a, :, 0], responses[b, :, 0])[0, 1] for a, b in ((0, 1), (0, 2), (1, 2))]
    assert three.splits == 3
    assert three.reliability[0] == pytest.approx(np.mean([3 * r / (1 + 2 * r) for r in pairs]))


def test_reliability_leaves_out_missing_repetitions_and_refuses_a_single_one():
    rng = np.random.default_rng(2)
    responses = rng.normal(size=(20, 2)) + rng.normal(size=(2, 20, 2))
    short = reliability.split_half(responses[:, :15]).half
    responses[1, 15:] = np.nan
    responses[:, :, 1] = 0
    result = reliability.split_half(responses).half
    assert result[0] == pytest.approx(short[0])
    assert np.isnan(result[1])
    with pytest.raises(
        UserError, match="there is 1 repetition of each image, but split-half reliability needs at least 2"
    ):
        reliability.split_half(responses[:1])


def test_reliability_of_recorded_units(real_data):
    """50 units of macaque V4, 640 images, up to 10 repetitions: halves correlate by 0.6, as the data's notes state."""
    responses = np.load(real_data / "responses" / "macaque_v4" / "responses_raw_210325.npy").transpose(2, 1, 0)
    result = reliability.split_half(responses, splits=20)
    assert result.half.mean() == pytest.approx(0.6, abs=0.02)
    assert result.reliability.mean() == pytest.approx(0.74, abs=0.02)


def test_equal_answers_do_not_differ() -> None:
    scores = np.random.default_rng(0).random((1, 12))
    (test,) = crossed.against("one", {"one": scores, "other": scores.copy()})
    assert test.p == 1
    assert not test.resolved
