"""Masks, baselines, R² and correlation: by hand, in closed form, and for what must not matter."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from scipy.linalg import toeplitz

from dreamjax.evaluation import reconstruction, reconstruction_report, reconstruction_scores
from dreamjax.evaluation.reconstruction_scores import MASKS, Baseline, MaskTask, Sums
from dreamjax.evaluation.window_set import WindowSet, window_id
from dreamjax.metrics import conditional_mean
from tests.metrics.test_conditional_mean import PHI, ar1

BY_NAME = {task.name: task for task in MASKS}


def window_set(signal: np.ndarray, subjects: int = 4, sfreq: float = 256.0) -> WindowSet:
    """Windows of `subjects` in turn, gain 2 µV: the scaled signal is half of `signal`."""
    B, C, T = signal.shape
    return WindowSet(
        signal=(signal / 2).astype(np.float32),
        gain=np.full((B, C), 2, np.float32),
        offset=np.zeros((B, C), np.float32),
        valid=np.ones((B, T), bool),
        real=np.ones((B, C), bool),
        subjects=tuple(f"s{i % subjects}" for i in range(B)),
        recordings=tuple(f"r{i % subjects}" for i in range(B)),
        starts=tuple(float(i) for i in range(B)),
        labels=("",) * B,
        ch_names=tuple(f"c{i}" for i in range(C)),
        sfreq=sfreq,
        available=B,
    )


# ---------------------------------------------------------------------------------------------------------------- masks
@pytest.mark.parametrize(
    ("name", "patches"),
    [("random 0.1", 13), ("random 0.5", 64), ("random 0.75", 96), ("gap 250 ms", 16), ("gap 1 s", 64)],
)
def test_masks_hide_their_amount(name, patches):
    """Of 128 patches of 4 samples at 256 Hz: 0.1 → 12.8, 250 ms = 64 samples, 1 s = 256 samples."""
    hidden = BY_NAME[name].hidden("a/b/0.000", np.ones(128, bool), 4, 256.0)
    assert hidden.sum() == patches
    if name.startswith("gap"):
        where = np.flatnonzero(hidden)
        assert (np.diff(where) == 1).all()


def test_a_mask_belongs_to_the_window_and_the_seed():
    task, valid = BY_NAME["random 0.5"], np.ones(128, bool)
    name = window_id("subject", "recording", 12.0)
    again = task.hidden(window_id("subject", "recording", 12.0), valid, 4, 256.0)
    np.testing.assert_array_equal(task.hidden(name, valid, 4, 256.0), again)
    assert (task.hidden(window_id("subject", "recording", 14.0), valid, 4, 256.0) != again).any()
    assert (task.hidden(name, valid, 4, 256.0, seed=1) != again).any()


def test_gaps_are_anywhere_with_equal_chance():
    """113 places for 16 of 128 patches: χ² of 3000 windows over 8 ranges of places."""
    starts = [np.argmax(BY_NAME["gap 250 ms"].hidden(f"w{i}", np.ones(128, bool), 4, 256.0)) for i in range(3000)]
    counts = np.histogram(starts, np.linspace(0, 113, 9))[0]
    widths = np.diff(np.ceil(np.linspace(0, 113, 9)))
    assert stats.chisquare(counts, 3000 * widths / 113).pvalue > 0.001


def test_padding_is_neither_hidden_nor_visible():
    valid = np.arange(128) < 80
    hidden = BY_NAME["random 0.75"].hidden("w", valid, 4, 256.0)
    assert hidden.sum() == 60
    assert not hidden[80:].any()
    visible, dark = reconstruction_scores.samples_of(hidden, np.repeat(valid, 4), 4)
    assert visible.sum() == 80
    assert not (visible | dark)[320:].any()


def test_a_window_shorter_than_the_gap_is_left_out():
    assert BY_NAME["gap 1 s"].hidden("w", np.arange(128) < 64, 4, 256.0) is None


# ------------------------------------------------------------------------------------------------------------ baselines
def test_linear_interpolation_by_hand():
    signal = np.array([[[9.0, 2.0, 0.0, 0.0, 8.0, 5.0, 0.0]]])
    visible = np.array([False, True, False, False, True, True, False])
    np.testing.assert_allclose(
        reconstruction_scores.linear_interpolation(signal, visible, ~visible)[0, 0], [2.0, 4.0, 6.0, 5.0]
    )


def test_linear_interpolation_is_numpys():
    rng = np.random.default_rng(0)
    signal, visible = rng.normal(size=(2, 3, 64)), rng.random(64) < 0.4
    expected = [[np.interp(np.flatnonzero(~visible), np.flatnonzero(visible), c[visible]) for c in w] for w in signal]
    np.testing.assert_allclose(reconstruction_scores.linear_interpolation(signal, visible, ~visible), expected)


def test_channel_mean_by_hand():
    signal = np.array([[[1.0, 3.0, 100.0], [5.0, 7.0, 100.0]]])
    visible = np.array([True, True, False])
    np.testing.assert_allclose(reconstruction_scores.channel_mean(signal, visible, ~visible), [[[2.0], [6.0]]])


# --------------------------------------------------------------------------------------------------------------- scores
def test_r2_and_correlation_are_the_textbooks():
    rng = np.random.default_rng(1)
    truth, guess = rng.normal(3, 1, size=(1, 500)), rng.normal(size=(1, 500))
    guess += truth
    sums = Sums(np.zeros((1, 1, 7)))
    sums.add(0, truth[:, :200], guess[:, :200], np.ones(1, bool))
    sums.add(0, truth[:, 200:], guess[:, 200:], np.ones(1, bool))
    assert sums.r2()[0] == pytest.approx(1 - np.sum((truth - guess) ** 2) / np.sum((truth - truth.mean()) ** 2))
    assert sums.correlation()[0] == pytest.approx(stats.pearsonr(truth[0], guess[0]).statistic)


def test_pooled_r2_weighs_subjects_by_their_variance():
    """Errors 1 and 9 of variances 10 and 10: 1 - 10/20. A mean of 0.9 and 0.1 weighed otherwise would differ."""
    assert reconstruction_scores.share_explained(np.array([[1.0, 10.0], [27.0, 30.0]])) == pytest.approx(1 - 28 / 40)
    assert reconstruction_scores.gained(np.array([[1.0, 5.0, 10.0], [27.0, 30.0, 30.0]])) == pytest.approx(7 / 40)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_subject_whose_hidden_samples_do_not_vary_has_no_share():
    sums = Sums(np.zeros((2, 1, 7)))
    sums.add(0, np.full((1, 9), 4.0), np.zeros((1, 9)), np.ones(1, bool))
    sums.add(1, np.arange(9.0)[None], np.arange(9.0)[None], np.ones(1, bool))
    np.testing.assert_array_equal(sums.r2(), [np.nan, 1.0])
    assert np.isnan(reconstruction_scores.share_explained(np.array([[3.0, 0.0]])))


@pytest.fixture(scope="module")
def process():
    """An AR(1) process and the oracle that knows it."""
    rng = np.random.default_rng(2)
    held_out = window_set(10 * ar1(rng, 200, 2, 64), sfreq=64.0)
    exact = conditional_mean.Gaussian(np.eye(2), np.linalg.eigh(toeplitz(PHI ** np.arange(64))[None]), 0.0)

    def oracle(signal, hidden, valid):
        out = np.zeros_like(signal)
        for i in range(len(signal)):
            if hidden[i].any():
                out[i][:, hidden[i]] = exact.conditional_mean(signal[i : i + 1].astype(float), ~hidden[i], hidden[i])[0]
        return out

    return held_out, oracle


def test_the_posterior_mean_scores_what_theory_says(process):
    """One hidden sample between two neighbours: var(x | both) = (1 - φ²) / (1 + φ²), so R² = 2φ² / (1 + φ²)."""
    held_out, oracle = process
    task = MaskTask("one", "random", 1 / 64)
    [found] = reconstruction_scores.score(held_out, 1, predict=oracle, tasks=[task])
    inner = 62 / 64 * 2 * PHI**2 / (1 + PHI**2) + 2 / 64 * PHI**2  # at the edges there is one neighbour
    assert found.hidden_share == pytest.approx(1 / 64)
    assert found.r2("model").estimate == pytest.approx(inner, abs=0.06)  # 400 values
    assert found.r2("model").low < inner < found.r2("model").high


def test_a_fitted_gaussian_comes_close_to_the_oracle(process):
    held_out, oracle = process
    rng = np.random.default_rng(3)
    train, validation = 10 * ar1(rng, 300, 2, 64), window_set(10 * ar1(rng, 60, 2, 64), sfreq=64.0)
    candidates = conditional_mean.Candidates(train, np.ones((300, 64), bool))
    tasks = [BY_NAME["random 0.5"], BY_NAME["gap 250 ms"]]
    for found in reconstruction_scores.score(
        held_out, 4, predict=_by_patch(oracle, 4), baseline=Baseline(candidates, validation), tasks=tasks
    ):
        gap = found.difference("model", "conditional mean")
        assert abs(gap.estimate) < 0.02
        assert found.r2("conditional mean").estimate > found.r2("linear interpolation").estimate
        assert found.r2("zero").estimate == pytest.approx(0, abs=0.02)


def _by_patch(oracle, patch):
    return lambda signal, hidden, valid: oracle(signal, np.repeat(hidden, patch, axis=1), valid)


def test_interpolated_channels_do_not_count(process):
    held_out, _ = process
    real = held_out.real.copy()
    real[:, 1] = False
    spoilt = held_out.signal.copy()
    spoilt[:, 1] = 1e4
    alone = dataclasses.replace(
        held_out, **{n: getattr(held_out, n)[:, :1] for n in ("signal", "gain", "offset", "real")}, ch_names=("c0",)
    )
    task = [BY_NAME["random 0.5"]]
    [with_it] = reconstruction_scores.score(dataclasses.replace(held_out, signal=spoilt, real=real), 4, tasks=task)
    [without] = reconstruction_scores.score(alone, 4, tasks=task)
    for method in ("zero", "channel mean", "linear interpolation"):
        assert with_it.r2(method).estimate == pytest.approx(without.r2(method).estimate, rel=1e-9)


def test_the_truth_is_not_clipped_and_what_all_methods_see_is(process):
    """A guess of the clipped value at a sample that was recorded ten times as large is wrong, whoever makes it."""
    held_out, _ = process
    task = MaskTask("one", "random", 1 / 64)
    at = int(np.argmax(task.hidden(held_out.ids[0], np.ones(64, bool), 1, 64.0)))
    spiked = held_out.signal.copy()
    spiked[:, :, at] = 400.0
    windows = dataclasses.replace(held_out, signal=spiked, clip=40.0)
    assert windows.clipped_share == pytest.approx(1 / 64)
    seen = []

    def predict(signal, hidden, valid):
        seen.append(np.abs(signal).max())
        return signal

    [found] = reconstruction_scores.score(windows, 1, predict=predict, tasks=[task])
    assert max(seen) == 40
    hit = [name for name in windows.ids if task.hidden(name, np.ones(64, bool), 1, 64.0)[at]]
    error = found.sums["model"].rows()[:, 0].sum()  # 2 channels, gain 2 µV
    assert error == pytest.approx(len(hit) * 2 * (2 * (400 - 40)) ** 2)
    everywhere = dataclasses.replace(windows, signal=np.full_like(spiked, 400.0))
    [found] = reconstruction_scores.score(everywhere, 1, tasks=[task])
    for method in ("linear interpolation", "channel mean"):
        assert found.sums[method].rows()[:, 0].sum() == pytest.approx(200 * 2 * (2 * (400 - 40)) ** 2)


def test_a_score_does_not_depend_on_the_order_of_windows(process):
    held_out, _ = process
    shuffled = held_out.take(np.random.default_rng(4).permutation(len(held_out)))
    task = [BY_NAME["gap 250 ms"]]
    [one], [other] = (reconstruction_scores.score(w, 4, tasks=task) for w in (held_out, shuffled))
    assert one.r2("linear interpolation").estimate == pytest.approx(other.r2("linear interpolation").estimate)


def test_folds_merge_into_what_scoring_them_together_gives(process):
    held_out, _ = process
    task = [BY_NAME["random 0.5"], BY_NAME["gap 250 ms"]]
    halves = [
        reconstruction_scores.score(held_out.take(np.flatnonzero(np.isin(held_out.subjects, who))), 4, tasks=task)
        for who in (("s0", "s2"), ("s1", "s3"))
    ]
    together = reconstruction_scores.score(held_out, 4, tasks=task)
    for merged, whole in zip(reconstruction_scores.merge(halves), together, strict=True):
        assert merged.windows == whole.windows == 200
        assert sorted(merged.subjects) == list(whole.subjects)
        for method in ("zero", "channel mean", "linear interpolation"):
            assert merged.r2(method).estimate == pytest.approx(whole.r2(method).estimate, rel=1e-12)
            assert merged.r2(method).error == pytest.approx(whole.r2(method).error, rel=1e-9)


def test_the_last_batch_is_filled_up_and_counted_once(process):
    held_out, _ = process
    part = held_out.take(np.arange(reconstruction_scores.BATCH + 3))
    shapes = []

    def echo(signal, hidden, valid):
        shapes.append(signal.shape)
        return signal

    out = reconstruction_scores.predict_all(echo, part, np.zeros((len(part), 16), bool))
    assert len(set(shapes)) == 1
    np.testing.assert_allclose(out, part.microvolts(), rtol=1e-5)


# --------------------------------------------------------------------------------------------------------------- claims
def scored(process, predict, step):
    held_out, _ = process
    scores = reconstruction_scores.score(held_out, 4, predict=predict, tasks=[BY_NAME["random 0.5"]])
    return reconstruction_report.why_unscored(scores, step), reconstruction_report.reconstruction_json(
        scores, not reconstruction_report.why_unscored(scores, step)
    )


def test_a_model_that_does_not_beat_zero_gets_no_score(process):
    standing, entries = scored(process, lambda signal, hidden, valid: -signal, 100)
    assert "does not beat the zero predictor" in standing
    assert "model" not in entries[0]["r2"]
    assert "model_minus" not in entries[0]


def test_an_untrained_model_gets_no_score(process):
    standing, entries = scored(process, lambda signal, hidden, valid: signal, 0)
    assert "untrained" in standing
    assert "model" not in entries[0]["r2"]


def test_a_model_that_beats_zero_gets_one_with_its_interval(process):
    _, oracle = process
    standing, entries = scored(process, _by_patch(oracle, 4), 100)
    assert standing == ""
    told = entries[0]["r2"]["model"]
    assert told["low"] < told["estimate"] < told["high"]
    assert told["subjects"] == 4
    assert entries[0]["model_minus"]["zero"]["says"] == "the model is better than zero"


# ----------------------------------------------------------------------------------------- baselines worse than a mean
def entry(**shares):
    """The scores of one mask: shares explained by method, one subject each."""
    by_method = {name.replace("_", " "): share for name, share in shares.items()}
    r2 = {name: {"estimate": share, "low": None, "high": None, "subjects": 1} for name, share in by_method.items()}
    model = by_method["model"]
    minus = {
        name: {"estimate": model - share, "low": None, "high": None, "says": "not resolved"}
        for name, share in by_method.items()
        if name != "model"
    }
    each = {name: {"someone": share} for name, share in by_method.items()}
    return {"mask": "random 0.1", "r2": r2, "r2_by_subject": each, "model_minus": minus}


BROKEN = entry(model=0.9, conditional_mean=-1.116, linear_interpolation=0.7, channel_mean=0.01, zero=0.0)


def test_a_difference_is_from_the_strongest_baseline_and_baselines_worse_than_a_mean_are_named():
    first, second = reconstruction.findings([BROKEN])
    assert first.startswith("random 0.1: model minus linear interpolation +0.200")
    assert first.endswith("(here the strongest baseline)")
    assert second.startswith("worse than predicting the mean: conditional mean under random 0.1 (-1.116); the reason: ")
    usual = entry(model=0.9, conditional_mean=0.8, linear_interpolation=0.7, channel_mean=0.01, zero=0.0)
    [only] = reconstruction.findings([usual])
    assert only.startswith("random 0.1: model minus conditional mean +0.100")


@pytest.mark.parametrize("lowest", [0.2, -0.9, -1.116, -76.3])
def test_every_subject_is_in_view_of_the_figure(lowest):
    scores = entry(model=0.9, conditional_mean=0.1, channel_mean=0.0, zero=0.0)
    scores["r2_by_subject"]["conditional mean"]["another"] = lowest
    [axis] = reconstruction_report.reconstruction_figure([scores]).axes
    low, high = axis.get_ylim()
    assert low < lowest < 0.9 < high
