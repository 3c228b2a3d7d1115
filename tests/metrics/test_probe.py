"""The probe: no leak gets past it, null data stay unclaimed, and what it does is done by hand here."""

import numpy as np
import pytest

from dreamjax.errors import UserError
from dreamjax.evaluation import probing
from dreamjax.evaluation.cross_fitting import Fold
from dreamjax.metrics import probe
from dreamjax.metrics.classification import balanced_accuracy
from dreamjax.metrics.leakage import Dataset, People
from dreamjax.metrics.probe import ProbeScore


def features_of(rng: np.random.Generator, subjects: int, windows: int, effect: float, dims: int = 8):
    """Subjects with their own mean and scale; the classes differ by `effect` standard deviations along one axis."""
    who = np.repeat([f"s{i:02d}" for i in range(subjects)], windows)
    y = np.tile(np.arange(windows) % 3 == 0, subjects).astype(int)  # one third of the windows
    x = rng.normal(size=(len(y), dims))
    x[:, 0] += effect * y
    x = x * np.repeat(rng.uniform(0.5, 2, (subjects, 1)), windows, 0) + np.repeat(
        rng.normal(0, 5, (subjects, dims)), windows, 0
    )
    return x, y, who


# ---------------------------------------------------------------------------------------------------------------- folds
def test_folds_hold_every_subject_once_whatever_the_order():
    subjects = [f"s{i}" for i in range(12)]
    folds = probe.split_subjects(subjects, 3)
    assert [len(f) for f in folds] == [4, 4, 4]
    assert sorted(sum(folds, ())) == sorted(subjects)
    assert probe.split_subjects(subjects[::-1], 3) == folds


def test_too_few_subjects_are_refused():
    with pytest.raises(UserError, match="at least 9 subjects"):
        probe.split_subjects([f"s{i}" for i in range(8)], 3)


def test_a_leaky_fold_is_refused():
    with pytest.raises(UserError, match="runs/fold-0 was trained on subject b"):
        probe.verify_fold([People(frozenset("ab"))], Dataset(frozenset("abc")), "bc", "runs/fold-0")


def test_refuses_fold_that_cannot_be_verified():
    with pytest.raises(UserError, match="it is unknown whether"):
        probe.verify_fold(None, Dataset(frozenset("b")), "b", "runs/fold-0")


def hashed(**files: str) -> Dataset:
    """A dataset whose dataset.json has the hashes of each subject's recordings."""
    return Dataset(frozenset(files), {subject: frozenset({file}) for subject, file in files.items()})


def test_known_file_reveals_subject_under_another_salt():
    training = [People(frozenset({"x1", "x2"}), frozenset({"file a", "file b"}))]
    with pytest.raises(UserError, match="was trained on the recording with SHA-256 file b"):
        probe.verify_fold(training, hashed(b="file b", c="file c"), "bc", "run")
    probe.verify_fold(training, hashed(c="file c", d="file d"), "cd", "run")


@pytest.mark.parametrize(
    ("training", "data"),
    [
        (People(frozenset({"x1"}), frozenset({"file a"})), Dataset(frozenset("bc"))),
        (People(frozenset({"x1"})), hashed(b="file b", c="file c")),
    ],
)
def test_another_salt_without_hashes_on_both_sides_is_refused(training, data):
    with pytest.raises(UserError, match="pseudonyms of another salt and file hashes are not known"):
        probe.verify_fold([People(frozenset("cd")), training], data, "b", "run")
    with pytest.raises(UserError, match="pseudonyms of another salt"):
        probe.verifiable([training], data, "b", "run")


def test_subjects_go_to_a_run_that_never_saw_them():
    everybody = frozenset("abcdef")
    training = {"A": [People(everybody - set("abc"))], "B": [People(everybody - set("def"))]}
    assert probe.assign(training, Dataset(everybody), "fedcba") == {"A": ("a", "b", "c"), "B": ("d", "e", "f")}


def test_runs_that_all_saw_a_subject_are_refused():
    training = {"A": [People(frozenset("abcd"))], "B": [People(frozenset("aefg"))]}
    with pytest.raises(UserError, match="trained on subject a"):
        probe.assign(training, Dataset(frozenset("abcdefg")), "abcdefg")


def test_subjects_are_assigned_by_their_files_where_pseudonyms_differ():
    """Both runs know the people by other names; A's files are those of a, b, c, and B's those of d, e, f."""
    data = hashed(**{s: f"file {s}" for s in "abcdef"})
    training = {
        "A": [People(frozenset({"x"}), data.of("abc").files)],
        "B": [People(frozenset({"y"}), data.of("def").files)],
    }
    assert probe.assign(training, data, "abcdef") == {"A": ("d", "e", "f"), "B": ("a", "b", "c")}


# ---------------------------------------------------------------------------------------------------------------- probe
def test_balanced_accuracy_by_hand():
    """3 of 4 and 1 of 2 recognised: (0.75 + 0.5) / 2."""
    truth, guess = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 0])
    assert balanced_accuracy(guess, truth, 2) == pytest.approx(0.625)


def test_a_subject_of_one_class_is_left_out_and_named_never_scored_as_nan():
    x, y, who = features_of(np.random.default_rng(5), 5, 30, 1.0)
    y[who == "s03"] = 1
    y[(who == "s01") & (y == 0)] = -1
    used, lacking = probe.of_both_classes(y, who, "task against rest")
    assert lacking == ("s01", "s03")
    scores = probe.leave_subject_out(x[used], y[used], who[used])
    assert sorted(scores) == ["s00", "s02", "s04"]
    assert np.isfinite(list(scores.values())).all()
    with pytest.raises(ValueError, match="both classes"):
        balanced_accuracy(np.ones(4, int), np.ones(4, int), 2)
    y[who == "s04"] = 0
    with pytest.raises(UserError, match="task against rest: 2 of a fold's 5 subjects have windows of both classes"):
        probe.of_both_classes(y, who, "task against rest")


def test_standardising_within_subjects_leaves_no_subject_mean_and_no_infinity():
    x = np.array([[1.0, 7.0], [3.0, 7.0], [10.0, 0.0], [30.0, 1.0]])
    out = probe.within_subject(x, ["a", "a", "b", "b"])
    np.testing.assert_allclose(out, [[-1, 0], [1, 0], [-1, -1], [1, 1]])


def test_recovers_size_of_known_effect():
    """Two unit-variance classes 2 apart: no linear rule is better than Φ(1) = 0.841 balanced accuracy."""
    x, y, who = features_of(np.random.default_rng(0), 4, 240, 2.0)
    score = np.mean(list(probe.leave_subject_out(x, y, who).values()))
    assert score == pytest.approx(0.841, abs=0.04)


def test_null_data_stay_unclaimed():
    """12 subjects in 3 folds without any effect: the interval holds chance, and the sentence says what it could see."""
    rng = np.random.default_rng(1)
    scores: dict[str, float] = {}
    for fold in range(3):
        x, y, who = features_of(rng, 4, 60, 0.0)
        scores |= {f"{fold}{s}": v for s, v in probe.leave_subject_out(x, y, who).items()}
    found = ProbeScore("null", scores)
    assert found.accuracy().low < 0.5 < found.accuracy().high
    assert probe.claim(found.minus_chance()).startswith("not resolved; this design could detect ≥ 0.0")


def test_the_scored_subjects_labels_are_never_used():
    """With one subject's labels turned over, its own score turns over exactly, if nothing else looked at them."""
    x, y, who = features_of(np.random.default_rng(2), 4, 60, 1.0)
    turned = np.where(who == "s02", 1 - y, y)
    before, after = probe.leave_subject_out(x, y, who), probe.leave_subject_out(x, turned, who)
    assert after["s02"] == pytest.approx(1 - before["s02"])


def test_differences_are_paired():
    """The same offset in every subject is certain, however much subjects differ."""
    each = {f"s{i}": v for i, v in enumerate([0.5, 0.9, 0.6, 0.7, 0.8, 0.55])}
    one, two = ProbeScore("a", {k: v + 0.05 for k, v in each.items()}), ProbeScore("b", each)
    difference = one.minus(two)
    assert difference.estimate == pytest.approx(0.05)
    assert difference.high - difference.low < 1e-9


def test_first_and_last_minute_by_hand():
    """182 s in windows of 2 s: 30 windows in each minute. A recording of 62 s: its halves, without the middle one."""
    labels = probe.drift_labels(np.arange(91) * 2.0, 60.0, 2.0)
    assert ((labels == 0).sum(), (labels == 1).sum()) == (30, 30)
    assert labels[29] == 0
    assert labels[30] == -1
    assert labels[61] == 1
    short = probe.drift_labels(np.arange(31) * 2.0, 60.0, 2.0)
    assert ((short == 0).sum(), (short == 1).sum(), short[15]) == (15, 15, -1)


# ----------------------------------------------------------------------------------------------------------- band power
def test_a_sine_has_half_its_squared_amplitude_in_its_band():
    time = np.arange(512) / 256
    signal = 6 * np.sin(2 * np.pi * 10 * time)[None, None]
    delta, theta, alpha, beta, gamma = np.exp(probe.band_power(signal, 256.0)[0])
    assert alpha == pytest.approx(18, rel=0.01)
    assert max(delta, theta, beta, gamma) < 1e-3


def test_white_noise_has_the_share_of_each_bands_width():
    signal = np.random.default_rng(3).normal(0, 2, size=(4000, 1, 512))
    powers = np.exp(probe.band_power(signal, 256.0)).mean(0)
    widths = np.array([b - a for a, b in probe.BANDS.values()])
    np.testing.assert_allclose(powers, 4 * widths / 128, rtol=0.05)


# --------------------------------------------------------------------------------------------------------------- report
def scores_of(encoder: float, untrained: float, drift: float, spread: float = 0.04) -> dict[str, ProbeScore]:
    rng = np.random.default_rng(4)

    def made(name: str, mean: float) -> ProbeScore:
        values = mean + spread * rng.normal(size=12)
        return ProbeScore(name, {f"s{i:02d}": float(v) for i, v in enumerate(values)})

    means = {"pretrained encoder": encoder, "untrained encoder": untrained, "band power": untrained}
    means |= {f"drift: {name}": drift for name in tuple(means)}
    return {name: made(name, mean) for name, mean in means.items()}


def statements(**means: float) -> str:
    scores = scores_of(**means)
    found = probing.summary(scores, ("rest", "task"))
    return " | ".join(found["statements"])


def test_nothing_is_claimed_where_the_interval_holds_chance():
    told = statements(encoder=0.5, untrained=0.5, drift=0.5)
    assert "not resolved; this design could detect" in told
    assert "pretraining" not in told


def test_pretraining_is_credited_only_above_the_untrained_network():
    assert "pretraining helps" in statements(encoder=0.8, untrained=0.6, drift=0.5)
    assert "that pretraining is the cause is not resolved" in statements(encoder=0.7, untrained=0.7, drift=0.5)


def test_reports_drift_where_it_is_above_chance():
    told = statements(encoder=0.8, untrained=0.6, drift=0.65)
    assert "part of the score may be drift over time" in told
    assert "differ by more than that" in told
    assert "drift over time" not in statements(encoder=0.8, untrained=0.6, drift=0.5)


def test_conditional_mean_of_a_fold_uses_subjects_recorded_alike():
    """All probed subjects where four are left outside the largest fold, else nobody: then everyone outside it."""
    folds = [Fold(None, ("a", "b")), Fold(None, ("c", "d")), Fold(None, ("e", "f"))]
    assert probing.recorded_alike(folds) == ["a", "b", "c", "d", "e", "f"]
    assert probing.recorded_alike(folds[:2]) == []


def test_features_that_are_not_finite_are_refused():
    x, y, who = features_of(np.random.default_rng(0), 3, 6, 1.0)
    x[4, 2] = np.nan
    with pytest.raises(UserError, match="1 of 18 windows have features that are not finite"):
        probe.leave_subject_out(x, y, who)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_constant_features_are_at_chance_and_claim_nothing():
    _, y, who = features_of(np.random.default_rng(0), 4, 9, 1.0)
    score = ProbeScore("constant", probe.leave_subject_out(np.ones((len(y), 2)), y, who))
    assert set(score.by_subject.values()) == {0.5}
    assert probe.claim(score.minus_chance()).startswith("not resolved")
