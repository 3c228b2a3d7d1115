"""Classes told in recordings that were left out: against scikit-learn, closed forms, and data with nothing in them."""

import numpy as np
import pytest
from sklearn import metrics
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from dreamjax.errors import UserError
from dreamjax.metrics import cross_validation


def trials(strength, seed=0, n=120, recordings=4, classes=2):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    recording = np.arange(n) * recordings // n
    x = rng.normal(size=(n, 6)) + strength * np.random.default_rng(9).normal(size=(classes, 6))[y]
    return x + 3 * rng.normal(size=(recordings, 1))[recording], y, recording


@pytest.mark.parametrize("classes", [2, 3])
def test_it_is_scikit_learns_classifier_on_what_was_not_left_out(classes):
    x, y, recording = trials(0.5, classes=classes)
    scores = cross_validation.out_of_recording(x, y, recording, cross_validation.shrunk_lda)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=np.full(classes, 1 / classes))
    for held in range(4):
        rows = recording == held
        said = theirs.fit(x[~rows], y[~rows]).predict(x[rows])
        np.testing.assert_array_equal(scores[rows].argmax(1), said)


def test_scores_are_scikit_learns():
    rng = np.random.default_rng(0)
    scores, y = np.round(rng.normal(size=(60, 2)), 1), rng.integers(2, size=60)
    assert cross_validation.balanced_accuracy(scores, y) == pytest.approx(
        metrics.balanced_accuracy_score(y, scores.argmax(1))
    )
    assert cross_validation.auroc(scores, y) == pytest.approx(metrics.roc_auc_score(y, scores[:, 1] - scores[:, 0]))
    assert cross_validation.auroc(np.zeros((4, 2)), np.array([0, 1, 0, 1])) == 0.5  # ties count half


def test_what_is_there_is_found_and_what_is_not_is_not():
    found = cross_validation.scored(*trials(1.0), cross_validation.shrunk_lda, permutations=40)
    assert found.score["balanced accuracy"].low > 0.6
    assert found.p == {"balanced accuracy": 1 / 41, "AUROC": 1 / 41}  # the smallest that 40 permutations can give
    assert (found.trials, found.recordings) == (120, 4)
    nothing = [
        cross_validation.scored(*trials(0.0, seed), cross_validation.shrunk_lda, permutations=40).p["AUROC"]
        for seed in range(6)
    ]
    assert min(nothing) > 0.02
    assert np.mean(nothing) > 0.2


def test_what_differs_between_recordings_is_no_help():
    """Each recording has one class more often, and an offset of its own that gives it away: not to the others."""
    rng = np.random.default_rng(0)
    recording = np.repeat(np.arange(6), 40)
    y = (rng.random(240) < np.tile([0.2, 0.8], 3)[recording]).astype(int)
    x = np.eye(6)[recording] * 10 + rng.normal(size=(240, 6))
    scores = cross_validation.out_of_recording(x, y, recording, cross_validation.shrunk_lda)
    each = cross_validation.by_recording(scores, y, recording)["balanced accuracy"]
    assert abs(each.mean() - 0.5) < 0.1


def test_what_cannot_be_left_out_is_one_sentence():
    x, y, recording = trials(1.0)
    with pytest.raises(UserError, match="there is one recording"):
        cross_validation.out_of_recording(x, y, np.zeros_like(recording), cross_validation.shrunk_lda)
    with pytest.raises(UserError, match="a class has no trial"):
        cross_validation.out_of_recording(x, recording // 2, recording // 2, cross_validation.shrunk_lda)
