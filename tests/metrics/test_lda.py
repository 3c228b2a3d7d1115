"""Classifiers of trials: evoked patterns are found, noise stays at chance."""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from dreamjax.metrics import lda
from dreamjax.metrics.classification import balanced_accuracy
from dreamjax.metrics.lda import TrialTimes


def evoked(n, strength, seed, classes=4, channels=6, bins=16):
    """Trials of white noise to which each class adds a pattern of its own."""
    patterns = np.random.default_rng(99).normal(size=(classes, channels, bins))
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=n)
    return rng.normal(size=(n, channels, bins)) + strength * patterns[y], y


def test_means_over_spans_leave_out_padding():
    signal = np.arange(24.0).reshape(1, 2, 12)
    whole = lda.binned(signal, np.ones((1, 12)), 4)
    np.testing.assert_allclose(whole, signal.reshape(1, 2, 4, 3).mean(-1))
    valid = np.ones((1, 12))
    valid[:, 7:] = 0
    padded = lda.binned(signal, valid, 4)
    np.testing.assert_allclose(padded[0, 0], [1, 4, 6, 0])  # of the third span one sample is valid, of the last none
    assert lda.binned(signal, valid, 100).shape == (1, 2, 12)


def test_finds_evoked_classes_and_nothing_in_noise():
    model = lda.tuned(evoked(400, 0.5, 0), evoked(200, 0.5, 1))
    x, y = evoked(400, 0.5, 2)
    assert balanced_accuracy(model(x), y) > 0.9
    nothing = lda.tuned(evoked(400, 0.0, 3), evoked(200, 0.0, 4))
    x, y = evoked(400, 0.0, 5)
    assert abs(balanced_accuracy(nothing(x), y) - 0.25) < 3 * np.sqrt(0.25 * 0.75 / 400)


@pytest.mark.parametrize("classes", [2, 4])
def test_predicts_as_scikit_learn(classes):
    x, y = evoked(200, 0.3, 0, classes)
    flat = x.reshape(len(x), -1)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1, priors=np.full(classes, 1 / classes))
    theirs.fit(flat, y)
    weights, bias, names = lda.fit(flat, y, 0.1)
    new = evoked(300, 0.3, 1, classes)[0].reshape(300, -1)
    np.testing.assert_array_equal(names[(new @ weights + bias).argmax(1)], theirs.predict(new))


def test_balanced_accuracy_is_the_mean_of_recalls():
    assert balanced_accuracy(np.zeros(10, int), np.repeat([0, 1], [9, 1])) == 0.5


# ------------------------------------------------------------------------------------------------------------ time only
def times(order, recordings=2):
    """30 trials of 3 classes in each recording."""
    rng = np.random.default_rng(0)
    each = [np.repeat([0, 1, 2], 10) if order == "block" else rng.permutation(np.repeat([0, 1, 2], 10)) for _ in "ab"]
    names = [name for name in "ab"[:recordings] for _ in range(30)]
    return TrialTimes(names, np.tile(np.arange(30.0), recordings), np.concatenate(each[:recordings]))


def split(times, test):
    def part(rows):
        return TrialTimes([times.recording[i] for i in rows], times.start[rows], times.classes[rows])

    rows = np.arange(len(times.start))
    return part(rows[rows % 3 == 0]), part(rows[rows % 3 == 1]), part(rows[rows % 3 == test])


def test_time_predicts_class_only_in_blocks():
    train, val, test = split(times("block"), 2)
    predicted = lda.tuned_by_time(train, val)(test)
    assert balanced_accuracy(predicted, test.classes) > 0.85
    train, val, test = split(times("random"), 2)
    predicted = lda.tuned_by_time(train, val)(test)
    assert balanced_accuracy(predicted, test.classes) < 0.6


def test_the_nearest_trial_of_the_same_recording_answers():
    train = TrialTimes(["a", "a", "b"], np.array([0.0, 10.0, 4.0]), np.array([0, 1, 2]))
    asked = TrialTimes(["a", "b", "c"], np.array([4.1, 0.0, 9.0]), np.array([0, 0, 0]))
    assert lda.by_time(train, asked, 1).tolist() == [0, 2, 1]  # of c, which training has not: of all
    assert lda.by_time(train, asked, 3).tolist() == [0, 2, 1]  # all votes tie: the nearest


# -------------------------------------------------------------------------------------------------------- pseudo-blocks
def free_windows(drift, seed=0, count=120):
    """Two recordings without an image in them; `drift`: of slow changes of every channel."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2 * count, 5, 8))
    walk = np.cumsum(rng.normal(size=(2, count, 5)), axis=1) / np.sqrt(count)
    x += drift * walk.reshape(2 * count, 5, 1)
    names = ["a"] * count + ["b"] * count
    return x, TrialTimes(names, np.tile(np.arange(float(count)), 2), np.zeros(2 * count, int))


def test_drift_alone_makes_pseudo_blocks_readable():
    steady = lda.pseudo_blocks(*free_windows(0.0), classes=4, seed=0)
    drifting = lda.pseudo_blocks(*free_windows(20.0), classes=4, seed=0)
    assert balanced_accuracy(drifting.predicted, drifting.true) > 0.7
    assert abs(balanced_accuracy(steady.predicted, steady.true) - 0.25) < 3 * np.sqrt(0.25 * 0.75 / len(steady.true))
    assert steady.recordings == 2
    assert len(steady.true) == 80  # a third


def test_recordings_that_are_too_short_have_no_pseudo_blocks():
    x, when = free_windows(1.0, count=20)
    assert lda.pseudo_blocks(x, when, classes=4, seed=0) is None
