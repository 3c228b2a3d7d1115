"""Classification in left-out groups: against scikit-learn, closed forms, and data with nothing in them."""

import numpy as np
import pytest
from sklearn import metrics
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from dreamjax.errors import UserError
from dreamjax.metrics import classification, cross_validation
from dreamjax.metrics.cross_validation import Design, shrunk_lda


def trials(strength, seed=0, n=120, recordings=4, classes=2):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    recording = np.arange(n) * recordings // n
    x = rng.normal(size=(n, 6)) + strength * np.random.default_rng(9).normal(size=(classes, 6))[y]
    return x + 3 * rng.normal(size=(recordings, 1))[recording], y, recording


def of_recordings(y, recording, subject=None, what="recording"):
    """The design that leaves out recordings (of one person), or subjects."""
    subject = np.zeros_like(y) if subject is None else subject
    return Design.of(y, recording, subject, recording if what == "recording" else subject, what)


@pytest.mark.parametrize("classes", [2, 3])
def test_equals_scikit_learn_on_the_other_recordings(classes):
    x, y, recording = trials(0.5, classes=classes)
    scores = cross_validation.out_of_group(x, y, of_recordings(y, recording), shrunk_lda)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=np.full(classes, 1 / classes))
    for held in range(4):
        rows = recording == held
        predicted = theirs.fit(x[~rows], y[~rows]).predict(x[rows])
        np.testing.assert_array_equal(scores[rows].argmax(1), predicted)


def test_scores_equal_scikit_learn():
    rng = np.random.default_rng(0)
    scores, y = np.round(rng.normal(size=(60, 2)), 1), rng.integers(2, size=60)
    assert cross_validation.METRICS["balanced accuracy"](scores, y) == pytest.approx(
        metrics.balanced_accuracy_score(y, scores.argmax(1))
    )
    assert classification.auroc(scores, y) == pytest.approx(metrics.roc_auc_score(y, scores[:, 1] - scores[:, 0]))
    assert classification.auroc(np.zeros((4, 2)), np.array([0, 1, 0, 1])) == 0.5  # ties count half


def test_finds_planted_classes_and_nothing_in_noise():
    def scored(strength, seed=0):
        x, y, recording = trials(strength, seed)
        return cross_validation.scored(x, y, of_recordings(y, recording), shrunk_lda, permutations=40)

    result = scored(1.0)
    assert result.score["balanced accuracy"].low > 0.6
    assert result.p == {"balanced accuracy": 1 / 41, "AUROC": 1 / 41}  # the smallest that 40 permutations can give
    nothing = [scored(0.0, seed).p["AUROC"] for seed in range(6)]
    assert min(nothing) > 0.02
    assert np.mean(nothing) > 0.2


def test_offsets_of_recordings_do_not_help():
    """Each recording has one class more often, and an offset of its own that gives it away: not to the others."""
    rng = np.random.default_rng(0)
    recording = np.repeat(np.arange(6), 40)
    y = (rng.random(240) < np.tile([0.2, 0.8], 3)[recording]).astype(int)
    x = np.eye(6)[recording] * 10 + rng.normal(size=(240, 6))
    design = of_recordings(y, recording)
    scores = cross_validation.out_of_group(x, y, design, shrunk_lda)
    each = cross_validation.by_group(scores, y, design)["balanced accuracy"]
    assert abs(each.mean() - 0.5) < 0.1


def test_refuses_one_group_missing_class_and_features_that_are_not_finite():
    x, y, recording = trials(1.0)
    with pytest.raises(UserError, match="there is only one recording"):
        of_recordings(y, np.zeros_like(recording))
    design = of_recordings(recording // 2, recording // 2)
    with pytest.raises(UserError, match="a class has at most one trial"):
        cross_validation.out_of_group(x, recording // 2, design, shrunk_lda)
    x[[3, 7], 1] = np.nan, np.inf
    with pytest.raises(UserError, match="2 of 120 trials have features that are not finite"):
        cross_validation.out_of_group(x, y, of_recordings(y, recording), shrunk_lda)


# ---------------------------------------------------------------------------------------------- recordings of one class
def resting_and_working(effect=0.0, people=4, seed=0, n=10):
    """Two recordings of each person, one class each; people and recordings have offsets of their own."""
    rng = np.random.default_rng(seed)
    recording = np.repeat(np.arange(2 * people), n)
    subject, y = recording // 2, recording % 2
    x = rng.normal(size=(len(y), 4)) + 3 * rng.normal(size=(people, 4))[subject] + effect * y[:, None]
    return x + rng.normal(size=(2 * people, 4))[recording], y, recording, subject


@pytest.mark.filterwarnings("error")
def test_labels_of_whole_recordings_are_permuted_within_their_subject():
    x, y, recording, subject = resting_and_working(people=8)
    design = of_recordings(y, recording, subject, "subject")
    assert (design.permuted, design.arrangements(y)) == ("recordings within subjects", 2**8)
    permuted = design.permute(y, np.random.default_rng(1))
    assert (permuted != y).any()
    for rows in (recording == one for one in range(16)):
        assert len(np.unique(permuted[rows])) == 1
    for rows in (subject == one for one in range(8)):
        np.testing.assert_array_equal(np.bincount(permuted[rows]), [10, 10])
    result = cross_validation.scored(x, y, design, shrunk_lda, permutations=20)
    assert all(np.isfinite([score.low, score.high]).all() for score in result.score.values())


def test_offsets_of_recordings_are_not_mistaken_for_classes():
    """Ten trials of a recording share an offset and nothing else: they are not ten pieces of evidence."""
    ps = []
    for seed in range(4):
        x, y, recording, subject = resting_and_working(people=5, seed=seed)
        design = of_recordings(y, recording, subject, "subject")
        ps.append(cross_validation.scored(x, y, design, shrunk_lda, permutations=20).p["AUROC"])
    assert min(ps) > 0.05
    assert np.mean(ps) > 0.2


def test_p_is_never_below_one_over_the_arrangements_of_labels():
    x, y, recording, subject = resting_and_working(effect=9.0, people=3)
    design = of_recordings(y, recording, subject, "subject")
    result = cross_validation.scored(x, y, design, shrunk_lda, permutations=20)
    assert 0.7 < result.score["balanced accuracy"].estimate <= result.score["balanced accuracy"].high <= 1
    assert min(result.p.values()) >= 1 / 8
    assert design.notes(y, 20) == ["the labels can be arranged in only 8 ways, so p cannot be below 0.125"]


def test_refuses_recordings_of_one_class_whose_person_is_known_from_training():
    _, y, recording, subject = resting_and_working()
    for labels in (y, subject % 2):
        with pytest.raises(UserError, match="recognise the person instead of the class; use --leave-out subject"):
            of_recordings(labels, recording, subject)


@pytest.mark.filterwarnings("error")
def test_classes_of_people_are_tested_by_permuting_people():
    """Patients and controls: a left-out person holds one class, so all trials are scored together."""
    x, _, recording, subject = resting_and_working(people=10)
    y = subject % 2
    design = of_recordings(y, recording, subject, "subject")
    assert (design.permuted, design.arrangements(y)) == ("subjects", 252)  # 10 choose 5
    result = cross_validation.scored(x + 9 * y[:, None], y, design, shrunk_lda, permutations=20)
    assert result.score["AUROC"].estimate > 0.9
    assert not result.score["AUROC"].known
    assert result.p["AUROC"] == pytest.approx(1 / 21)
    assert "holds one class, so all trials are scored together" in design.notes(y, 20)[0]


def test_groups_of_one_class_are_trained_on_and_not_scored():
    x, y, recording = trials(1.0)
    y[recording == 0] = 0
    design = of_recordings(y, recording)
    assert len(design.scored(y)) == 3
    assert design.notes(y, 20) == ["1 of 4 recordings hold one class and are not scored, only trained on"]
    scores = cross_validation.out_of_group(x, y, design, shrunk_lda)
    assert np.isfinite(cross_validation.by_group(scores, y, design)["AUROC"]).all()


@pytest.mark.filterwarnings("error")
def test_constant_features_are_at_chance():
    _, y, recording = trials(1.0)
    result = cross_validation.scored(np.zeros((len(y), 3)), y, of_recordings(y, recording), shrunk_lda, permutations=20)
    assert {score.estimate for score in result.score.values()} == {0.5}
    assert set(result.p.values()) == {1.0}
