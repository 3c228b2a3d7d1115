"""Classification in left-out recordings: against scikit-learn, closed forms, and data with nothing in them."""

import numpy as np
import pytest
from sklearn import metrics
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from dreamjax.errors import UserError
from dreamjax.metrics import classification, cross_validation


def trials(strength, seed=0, n=120, recordings=4, classes=2):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    recording = np.arange(n) * recordings // n
    x = rng.normal(size=(n, 6)) + strength * np.random.default_rng(9).normal(size=(classes, 6))[y]
    return x + 3 * rng.normal(size=(recordings, 1))[recording], y, recording


@pytest.mark.parametrize("classes", [2, 3])
def test_equals_scikit_learn_on_the_other_recordings(classes):
    x, y, recording = trials(0.5, classes=classes)
    scores = cross_validation.out_of_recording(x, y, recording, cross_validation.shrunk_lda)
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
    result = cross_validation.scored(*trials(1.0), cross_validation.shrunk_lda, permutations=40)
    assert result.score["balanced accuracy"].low > 0.6
    assert result.p == {"balanced accuracy": 1 / 41, "AUROC": 1 / 41}  # the smallest that 40 permutations can give
    nothing = [
        cross_validation.scored(*trials(0.0, seed), cross_validation.shrunk_lda, permutations=40).p["AUROC"]
        for seed in range(6)
    ]
    assert min(nothing) > 0.02
    assert np.mean(nothing) > 0.2


def test_offsets_of_recordings_do_not_help():
    """Each recording has one class more often, and an offset of its own that gives it away: not to the others."""
    rng = np.random.default_rng(0)
    recording = np.repeat(np.arange(6), 40)
    y = (rng.random(240) < np.tile([0.2, 0.8], 3)[recording]).astype(int)
    x = np.eye(6)[recording] * 10 + rng.normal(size=(240, 6))
    scores = cross_validation.out_of_recording(x, y, recording, cross_validation.shrunk_lda)
    each = cross_validation.by_recording(scores, y, recording)["balanced accuracy"]
    assert abs(each.mean() - 0.5) < 0.1


def test_refuses_one_recording_and_missing_class():
    x, y, recording = trials(1.0)
    with pytest.raises(UserError, match="there is one recording"):
        cross_validation.out_of_recording(x, y, np.zeros_like(recording), cross_validation.shrunk_lda)
    with pytest.raises(UserError, match="a class has no trial"):
        cross_validation.out_of_recording(x, recording // 2, recording // 2, cross_validation.shrunk_lda)
