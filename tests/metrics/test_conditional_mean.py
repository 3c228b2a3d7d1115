"""The conditional mean: brute force, AR(1) in closed form, and what is chosen on validation data."""

import numpy as np
import pytest
from scipy import stats
from scipy.linalg import toeplitz
from scipy.signal import lfilter

from dreamjax.metrics import conditional_mean
from dreamjax.metrics.conditional_mean import Candidates, Gaussian, Masked

PHI = 0.8


def spectrum(*covariances: np.ndarray) -> conditional_mean.Spectrum:
    return np.linalg.eigh(np.stack(covariances))


def ar1(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Stationary AR(1) of variance 1 and coefficient PHI along the last axis."""
    drive = rng.normal(size=(*shape[:-1], shape[-1] + 100)) * np.sqrt(1 - PHI**2)
    return lfilter([1.0], [1.0, -PHI], drive, axis=-1)[..., 100:]


def random_covariance(rng: np.random.Generator, n: int) -> np.ndarray:
    half = rng.normal(size=(n, n))
    return half @ half.T + 0.1 * np.eye(n)


@pytest.mark.parametrize("hidden", [[3, 4, 5], [0, 1, 2, 3, 4, 5, 6, 9]], ids=["few hidden", "many hidden"])
@pytest.mark.parametrize("unknown", [[], [11]], ids=["whole", "padded"])
def test_equals_the_conditional_of_the_full_multivariate_normal(hidden, unknown):
    """Against Σ_hv Σ_vv⁻¹ x_v with the (channels · time)² covariance written out."""
    rng = np.random.default_rng(0)
    C, T = 3, 12
    U = np.linalg.qr(rng.normal(size=(C, C)))[0]
    each = [random_covariance(rng, T) for _ in range(C)]
    full = sum(np.kron(np.outer(U[:, k], U[:, k]), each[k]) for k in range(C))
    dark = np.isin(np.arange(T), hidden)
    seen = ~dark & ~np.isin(np.arange(T), unknown)
    signal = rng.normal(size=(2, C, T))
    v, h = np.tile(seen, C), np.tile(dark, C)
    expected = full[np.ix_(h, v)] @ np.linalg.solve(full[np.ix_(v, v)], signal.reshape(2, -1)[:, v].T)
    found = Gaussian(U, spectrum(*each), 0.0).conditional_mean(signal, seen, dark)
    np.testing.assert_allclose(found, expected.T.reshape(2, C, -1), rtol=1e-8, atol=1e-9)


def test_a_gap_in_an_ar1_process_is_bridged_as_the_closed_form_says():
    """E[x_i | x_0, x_n] = (φ^i (1 - φ^2(n-i)) x_0 + φ^(n-i) (1 - φ^2i) x_n) / (1 - φ^2n); the rest is irrelevant."""
    T, first, n = 40, 10, 12
    x = ar1(np.random.default_rng(1), 1, 1, T)
    hidden = np.zeros(T, bool)
    hidden[first + 1 : first + n] = True
    exact = Gaussian(np.eye(1), spectrum(toeplitz(PHI ** np.arange(T))), 0.0)
    i = np.arange(1, n)
    left, right = x[0, 0, first], x[0, 0, first + n]
    expected = PHI**i * (1 - PHI ** (2 * (n - i))) * left + PHI ** (n - i) * (1 - PHI ** (2 * i)) * right
    np.testing.assert_allclose(
        exact.conditional_mean(x, ~hidden, hidden)[0, 0], expected / (1 - PHI ** (2 * n)), rtol=1e-9
    )


def test_fitting_recovers_the_autocovariance():
    """Lag k of unit-variance AR(1) is φ^k; the standard error at these sizes is below 0.01."""
    signal = ar1(np.random.default_rng(2), 400, 2, 64)
    moments = conditional_mean.SecondMoments.gather(signal, np.ones((400, 64), bool), np.eye(2)).pooled()
    row = conditional_mean.toeplitz_row(moments.products[0], moments.counts)
    np.testing.assert_allclose(row[:20], PHI ** np.arange(20), atol=0.03)


def test_padding_counts_for_nothing():
    signal = ar1(np.random.default_rng(3), 300, 1, 32)
    valid = np.ones((300, 32), bool)
    valid[:150, 20:] = False
    padded = signal * valid[:, None, :]
    moments = conditional_mean.SecondMoments.gather(padded, valid, np.eye(1))
    assert moments.products[0, 25, 25] / moments.counts[25, 25] == pytest.approx(np.mean(signal[150:, 0, 25] ** 2))
    values, vectors = moments.spectra("stationary")
    np.testing.assert_allclose(np.diag((vectors[0] * values[0]) @ vectors[0].T), 1.0, atol=0.1)


def test_covariances_are_positive_definite_whatever_the_data():
    signal = np.random.default_rng(4).normal(size=(3, 2, 48))  # fewer windows than samples
    moments = conditional_mean.SecondMoments.gather(signal, np.ones((3, 48), bool), np.eye(2))
    for kind in ("sample", "stationary"):
        assert (moments.spectra(kind)[0] > 0).all()


def masked(signal: np.ndarray) -> Masked:
    hidden = np.zeros(signal.shape[2], bool)
    hidden[20:28] = True
    return Masked(signal, ~hidden, hidden, np.ones(signal.shape[:2], bool))


def test_few_stationary_windows_choose_the_stationary_covariance():
    rng = np.random.default_rng(5)
    train, validation = ar1(rng, 12, 2, 64), ar1(rng, 40, 2, 64)
    choice = Candidates(train, np.ones((12, 64), bool)).choose([masked(validation)])
    assert choice.covariance == "stationary"


def test_many_windows_of_changing_variance_choose_the_sample_covariance():
    rng = np.random.default_rng(6)
    shape = np.where(np.arange(64) < 24, 0.1, 3.0)  # a trial whose second part is louder
    train, validation = ar1(rng, 3000, 1, 64) * shape, ar1(rng, 200, 1, 64) * shape
    choice = Candidates(train, np.ones((3000, 64), bool)).choose([masked(validation)])
    assert choice.covariance == "sample"


def test_sources_of_different_rhythm_choose_components():
    """Two sources, slow and fast, mixed into two channels: only a basis that separates them can use each rhythm."""
    rng = np.random.default_rng(7)

    def recorded(n: int) -> np.ndarray:
        slow = lfilter([1.0], [1.0, -1.9, 0.95], rng.normal(size=(n, 1, 200)))[..., 136:]
        fast = 2 * lfilter([1.0], [1.0, 1.6, 0.95], rng.normal(size=(n, 1, 200)))[..., 136:]
        return np.concatenate([slow + fast, slow - fast], axis=1)

    choice = Candidates(recorded(400), np.ones((400, 64), bool)).choose([masked(recorded(100))])
    assert choice.basis == "components"


# ------------------------------------------------------------------------------------------ windows unlike all training
def band_limited(rng: np.random.Generator, n: int, T: int = 128) -> np.ndarray:
    """Noise without the upper half of its band, as after a low-pass filter; edges as within a longer recording."""
    spectrum = np.fft.rfft(rng.normal(size=(n, 1, 8 * T)))
    spectrum[..., spectrum.shape[-1] // 2 :] = 0
    return np.fft.irfft(spectrum)[..., :T]


def shares_explained(guess, signal: np.ndarray, truth: np.ndarray) -> np.ndarray:
    hidden = np.arange(signal.shape[2]) % 16 < 6
    error = truth[:, :, hidden] - guess(signal, ~hidden, hidden)
    return 1 - (error**2).sum((1, 2)) / (truth[:, :, hidden] ** 2).sum((1, 2))


def test_a_clipped_window_does_not_break_the_guess_and_others_keep_theirs():
    """Clipping puts variance where filters left training windows none; a linear filter amplifies it without bound."""
    rng = np.random.default_rng(8)
    train, recorded = band_limited(rng, 400), band_limited(rng, 40)
    gaussian = Candidates(train, np.ones((400, 128), bool)).make("channels", "sample", 1e-9)
    seen = recorded.copy()
    seen[:3] = np.clip(seen[:3], -0.6, 0.6)
    plain, adapted = (
        shares_explained(guess, seen, recorded) for guess in (gaussian.conditional_mean, gaussian.adapted_mean)
    )
    assert plain[:3].max() < -10
    assert adapted[:3].min() > 0
    assert np.median(plain[3:]) > 0.9
    np.testing.assert_allclose(adapted[3:], plain[3:], atol=0.02)


def test_shrinkage_does_not_depend_on_scale_and_leaves_an_exact_covariance_alone():
    rng = np.random.default_rng(9)
    signal = band_limited(rng, 6)
    signal[0] = np.sign(signal[0])
    hidden = np.arange(128) % 16 == 3
    gaussian = Candidates(band_limited(rng, 300), np.ones((300, 128), bool)).make("channels", "stationary", 1e-8)
    one = gaussian.adapted_mean(signal, ~hidden, hidden)
    np.testing.assert_allclose(gaussian.adapted_mean(1e3 * signal, ~hidden, hidden), 1e3 * one, rtol=1e-6, atol=1e-9)
    exact = Gaussian(gaussian.basis, gaussian.spectrum, 0.0)
    mean, adapted = (guess(signal, ~hidden, hidden) for guess in (exact.conditional_mean, exact.adapted_mean))
    np.testing.assert_array_equal(adapted, mean)


def test_both_ways_to_solve_give_the_same_likelihood():
    """By the precision where few samples are hidden, else by Σ_vv; the density is SciPy's, with the best scale."""
    rng = np.random.default_rng(10)
    covariance, x = random_covariance(rng, 12), rng.normal(size=(1, 3, 12))
    for count in (2, 9):
        hidden = np.arange(12) < count
        v = np.flatnonzero(~hidden)
        _, found = Gaussian(np.eye(1), spectrum(covariance), 0.0)._posterior(x[:, :, v], ~hidden, hidden)
        of_v = covariance[np.ix_(v, v)]
        for row, likelihood in zip(x[0][:, v], found[0], strict=True):
            scale = row @ np.linalg.solve(of_v, row) / len(v)
            best = stats.multivariate_normal.logpdf(row, cov=scale * of_v)
            constant = len(v) / 2 * (np.log(len(v) / (2 * np.pi)) - 1)
            assert likelihood + constant == pytest.approx(best)
