"""The table of made images: what is right scores as right, what is dealt out wrongly scores as chance."""

import warnings

import numpy as np
import pytest

from dreamjax.errors import UserError
from dreamjax.evaluation import image_scores, score_table
from dreamjax.evaluation.image_scores import Judge, ScoredTrials
from dreamjax.evaluation.score_table import Column
from dreamjax.reports.image_report import MODEL


@pytest.fixture(scope="module")
def trials():
    """40 images of 4 classes, each seen by 3 people."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, 256, (40, 16, 16, 3), np.uint8)
    return ScoredTrials(true, np.arange(40) % 4, np.tile(np.arange(40), 3), np.repeat(np.arange(3), 40))


def noisy(images, amount, seed=0):
    rng = np.random.default_rng(seed)
    return np.clip(images + amount * rng.normal(size=images.shape), 0, 255).astype(np.uint8)


def knows(shown):
    """A classifier that sees the class in the first pixel."""
    return np.eye(4)[shown[:, 0, 0, 0] % 4] * 0.9 + 0.025


def test_right_images_win_and_others_are_at_chance(trials):
    right = noisy(trials.true[trials.image], 40)[:, None]
    wrong = np.concatenate([right[7:], right[:7]])
    found = {c.name: c for c in image_scores.columns(trials, {"right": right, "wrong": wrong}, [])}
    assert set(found) == {
        *("pixel correlation", "PSNR, dB", "SSIM"),
        *("two-way, pixels", "two-way within class, pixels"),
    }
    assert found["two-way, pixels"].values["right"].min() == 1
    for name in ("two-way, pixels", "two-way within class, pixels"):
        shifted = score_table.interval(found[name].values["wrong"], trials.clusters)
        assert shifted.low < found[name].chance == 0.5 < shifted.high
    assert found["PSNR, dB"].values["right"].mean() > found["PSNR, dB"].values["wrong"].mean() + 5


def test_a_judge_names_its_column_and_classes_are_counted(trials):
    made = trials.true[trials.image][:, None]
    judges = [Judge("a net", features=lambda x: x[:, :4, :4].reshape(len(x), -1)), Judge("a ViT", probabilities=knows)]
    found = {c.name: c for c in image_scores.columns(trials, {"model": made}, judges, ways=3)}
    assert found["two-way, a net"].values["model"].mean() == 1
    assert found["3-way top-1, a ViT"].values["model"].tolist() == [1.0] * 120
    assert found["3-way top-1, a ViT"].chance == pytest.approx(1 / 3)


def test_refuses_classifier_with_too_few_classes_before_generation(trials):
    judge = Judge("a ViT", probabilities=knows)
    image_scores.check_ways(judge, trials, None)
    image_scores.check_ways(judge, trials, 4)
    with pytest.raises(UserError, match="5-way top-1 needs 1 ≤ K < N ≤ classes, and the classifier has 4"):
        image_scores.check_ways(judge, trials, 5)


def test_what_no_trial_has_a_value_of_has_no_interval(trials):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score_table.interval(np.full(len(trials.image), np.nan), trials.clusters)
    assert not found.known
    assert found.as_json() == {"estimate": None, "low": None, "high": None, "subjects": 0}


def test_samples_of_a_trial_are_averaged(trials):
    right = noisy(trials.true[trials.image], 20)
    both = np.stack([right, np.zeros_like(right)], axis=1)
    columns = {c.name: c for c in image_scores.columns(trials, {"both": both, "right": right[:, None]}, [])}
    one = columns["pixel correlation"]
    np.testing.assert_allclose(one.values["both"], one.values["right"] / 2)


def test_intervals_count_people_and_images_not_trials(trials):
    """What differs from person to person alone has three independent values, not 120; likewise for images."""
    by_person, by_image = np.array([0.2, 0.5, 0.8])[trials.person], (trials.image % 2).astype(float)
    person, image = score_table.interval(by_person, trials.clusters), score_table.interval(by_image, trials.clusters)
    assert (person.n, image.n) == (3, 40)
    assert person.high - person.low > 1.0  # Student's t with two degrees of freedom: 0.5 ± 4.3 · 0.3 / √3
    assert 0.2 < image.high - image.low < 0.5
    assert person.estimate == pytest.approx(0.5)


def test_the_interval_of_a_share_stays_within_0_and_1(trials):
    right = np.ones(120)
    right[:2] = 0
    shares, others = (Column("score", {"model": right}, chance) for chance in (0.1, None))
    share, other = (column.as_json(trials.clusters) for column in (shares, others))
    assert share["scores"]["model"]["high"] == 1 < other["scores"]["model"]["high"]
    assert share["scores"]["model"]["low"] == other["scores"]["model"]["low"]


def test_differences_are_paired(trials):
    """A constant gain on trials that vary wildly is resolved."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=120)
    column = Column("score", {"model": base + 0.1 + 0.01 * rng.normal(size=120), "other": base})
    entry = column.as_json(trials.clusters, "model")
    assert entry["model_minus"]["other"]["says"] == "model is better than other"
    assert entry["model_minus"]["other"]["estimate"] == pytest.approx(0.1, abs=0.01)
    assert entry["scores"]["other"]["low"] < 0 < entry["scores"]["other"]["high"]


def test_a_lower_distance_is_a_better_one(trials):
    """The difference keeps its sign; what it says turns with the metric."""
    values = np.random.default_rng(0).normal(size=120)
    column = Column("LPIPS", {"model": values - 0.1, "other": values}, better="lower")
    entry = column.as_json(trials.clusters, "model")
    assert entry["model_minus"]["other"]["says"] == "model is better than other"
    assert entry["model_minus"]["other"]["estimate"] == pytest.approx(-0.1)
    entry = column.as_json(trials.clusters, "other")
    assert entry["model_minus"]["model"]["says"] == "other is worse than model"


def test_each_judge_makes_its_comparisons(trials):
    """Distances and cosines from their definitions; several views have a column each."""
    made = noisy(trials.true[trials.image], 60)[:, None]
    first = lambda x: x[:, :4, :4].reshape(len(x), -1).astype(float)  # noqa: E731
    judges = [
        Judge("net", features=first, compares=("distance", "cosine")),
        Judge("two", features=lambda x: {"one": first(x), "other": first(255 - x)}),
        Judge("LPIPS", pair=lambda a, b: np.abs(a.astype(float) - b).mean((1, 2, 3))),
    ]
    found = {c.name: c for c in image_scores.columns(trials, {"model": made}, judges)}
    u, v = first(made[:, 0]), first(trials.true[trials.image])
    r = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(u, v, strict=True)])
    np.testing.assert_allclose(found["distance, net"].values["model"], 1 - r, atol=1e-12)
    cosines = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
    np.testing.assert_allclose(found["cosine, net"].values["model"], cosines)
    assert "two-way, net" not in found
    assert {"two-way, one", "two-way, other", "two-way within class, one"} <= set(found)
    expected = np.abs(made[:, 0].astype(float) - trials.true[trials.image]).mean((1, 2, 3))
    np.testing.assert_allclose(found["LPIPS"].values["model"], expected)
    assert {c.name: c.better for c in found.values()}["distance, net"] == "lower" == found["LPIPS"].better


def test_trials_are_judged_a_block_at_a_time(trials, monkeypatch):
    made = noisy(trials.true[trials.image], 90)[:, None]
    judge = Judge(
        "net", features=lambda x: x[:, :4, :4].reshape(len(x), -1).astype(float), compares=("two-way", "distance")
    )
    whole = image_scores.columns(trials, {"model": made}, [judge])
    monkeypatch.setattr(image_scores, "BLOCK", 7)
    monkeypatch.setattr(image_scores, "PIXELS", 5 * 16 * 16 * 3)
    for a, b in zip(whole, image_scores.columns(trials, {"model": made}, [judge]), strict=True):
        np.testing.assert_allclose(a.values["model"], b.values["model"], atol=1e-9, err_msg=a.name)


def test_generator_that_ignores_the_trial_equals_its_control():
    """Whatever it paints: its accuracy on its own trial is on average that on the others' images; one who knows is
    told apart. A trial is held against every trial of another image."""
    rng, n, m, classes = np.random.default_rng(0), 400, 8, 4
    true = np.arange(m, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 1, 3), np.uint8)
    own = rng.integers(0, m, n)
    trials = ScoredTrials(true, np.arange(m) % classes, own, np.zeros(n, int))

    def probabilities(shown):
        return np.eye(classes)[shown[:, 0, 0, 0].astype(int) % classes] * 0.9 + 0.025

    judge = Judge("judge", probabilities=probabilities)
    blind = true[rng.choice([0, 1, 1, 1], n)][:, None]
    knows = true[own][:, None]
    for made, gain in ((blind, 0.0), (knows, 1.0)):
        column = image_scores.accuracy(judge, trials, {MODEL: made}, classes, control="others")
        model, others = column.values[MODEL], column.values["others"]
        i = 7
        apart = np.flatnonzero(own != own[i])
        same = probabilities(made[:1, 0] * 0 + made[i, 0])[0].argmax() == probabilities(true[own[apart]]).argmax(1)
        assert others[i] == pytest.approx(same.mean())
        if gain:
            assert model.mean() == 1
            assert (model - others).mean() > 0.8
        else:
            assert abs((model - others).mean()) < 0.2 * model.std()
