"""The linear chain: responses from closed forms and from MNE, blocks that leave no trace, causality."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.signal import freqz

from dreamjax.signals.preparation import filters


def run(chain: filters.Chain, x_CxT: np.ndarray, start: int, stop: int) -> np.ndarray:
    low, high = chain.needs(start, stop)
    span = filters.extended(lambda a, b: x_CxT[:, a:b], x_CxT.shape[1], low, high, chain.causal)
    return chain.run(span, start, stop)


def response(chain: filters.Chain, frequencies: np.ndarray) -> np.ndarray:
    """|gain| of resampler and kernel together at frequencies in Hz, below both Nyquist rates."""
    stages = ((chain.resampler, chain.sfreq_in * chain.up), (chain.kernel, chain.sfreq_out))
    return np.prod([np.abs(freqz(taps, worN=frequencies, fs=rate)[1]) for taps, rate in stages if len(taps)], axis=0)


def test_pass_and_stop_bands_are_where_the_settings_say():
    """±1 % up to the pass-band edges, -6 dB at the textbook cut-offs, ≤ -50 dB beyond; 0 at 0 Hz and at the line."""
    chain = filters.design(500.0, 256.0, 0.5, 75.0, (50.0,))
    passed = response(chain, np.array([0.5, 1, 4, 10, 30, 48, 52, 70, 75]))
    assert np.all(np.abs(passed - 1) < 0.01)
    # high-pass: transition 0.5 Hz wide below 0.5 Hz; low-pass: 18.75 Hz wide above 75 Hz
    np.testing.assert_allclose(response(chain, np.array([0.25, 75 + 18.75 / 2])), 0.5, atol=0.01)
    assert np.all(response(chain, np.array([0.0, 49.6, 50.0, 50.4, 95, 110, 127])) < 10 ** (-50 / 20))
    assert response(chain, np.array([0.0, 50.0])).max() < 1e-9


def test_response_agrees_with_mne():
    """The same windowed-sinc conventions as mne.filter.create_filter, whose transitions and lengths we quote."""
    mne = pytest.importorskip("mne")
    reference = mne.filter.create_filter(None, 256.0, 0.5, 75.0, fir_design="firwin", verbose="error")
    f = np.concatenate([np.linspace(0.01, 2, 50), np.linspace(2, 127, 200)])
    theirs = np.abs(freqz(reference, worN=f, fs=256.0)[1])
    ours = response(filters.design(256.0, 256.0, 0.5, 75.0), f)
    np.testing.assert_allclose(ours, theirs, atol=0.015)


@pytest.mark.parametrize("sfreq", [100.0, 125.0, 128.0, 200.0, 250.0, 256.0, 500.0, 512.0, 1000.0, 1450.0, 2048.0])
def test_a_sine_comes_out_as_the_same_sine_at_the_new_rate(sfreq):
    """Amplitude and phase of a 10 Hz sine are those of the closed form at the new instants; a 1 % error at most."""
    chain = filters.design(sfreq, 256.0, 0.5, min(75.0, 0.45 * sfreq), (50.0,) if sfreq > 104 else ())
    x = np.sin(2 * np.pi * 10 * np.arange(round(20 * sfreq)) / sfreq + 0.3)[None]
    y = run(chain, x, 0, chain.length(x.shape[1]))[0]
    assert abs(len(y) - 20 * 256) <= 256 / sfreq + 1
    t = np.arange(len(y)) / 256
    inside = (t > 6) & (t < 14)
    np.testing.assert_allclose(y[inside], np.sin(2 * np.pi * 10 * t + 0.3)[inside], atol=0.01)


def test_what_would_alias_is_gone():
    """At 500 Hz a 200 Hz sine would fold to 56 Hz at 256 Hz: 80 dB of stop band leave at most 1e-4 of it."""
    chain = filters.design(500.0, 256.0, 0.5, 75.0)
    x = np.sin(2 * np.pi * 200 * np.arange(10_000) / 500)[None]
    assert np.abs(run(chain, x, 2000, 3000)).max() < 1.5e-4


def test_rates_are_exact_ratios():
    assert filters.rational(500.0, 256.0) == (64, 125)
    assert filters.rational(128.0, 256.0) == (2, 1)
    assert filters.rational(2048.0, 256.0) == (1, 8)
    assert filters.rational(1450.0, 256.0) == (128, 725)
    up, down = filters.rational(256.0 * np.pi, 256.0)  # a clock of its own: closer than a crystal keeps time
    assert abs(np.pi * up / down - 1) < 1e-5
    with pytest.raises(ValueError, match="no ratio"):
        filters.rational(1e9, 256.0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sfreq", [500.0, 128.0, 250.0])
def test_blocks_leave_no_trace(sfreq, causal):
    """Any cutting into blocks equals the whole-file result within 1e-6 of the signal's scale (here: within 1e-9)."""
    rng = np.random.default_rng(1)
    chain = filters.design(sfreq, 256.0, 0.5, min(75.0, 0.45 * sfreq), (50.0,), causal)
    x = rng.normal(size=(3, round(60 * sfreq))) * 20 + np.array([[0.0], [1e4], [-300.0]])
    n = chain.length(x.shape[1])
    whole = run(chain, x, 0, n)
    cuts = np.unique(np.concatenate([[0, n], rng.integers(1, n, 9)]))
    blocks = np.concatenate([run(chain, x, a, b) for a, b in pairwise(cuts)], axis=1)
    assert whole.shape == blocks.shape
    assert np.abs(whole - blocks).max() < 1e-6 * whole[0].std()


def test_needs_is_exactly_what_an_output_depends_on():
    """Changing any sample outside `needs` changes nothing; the outermost ones inside do matter."""
    chain = filters.design(500.0, 256.0, None, 75.0)
    x = np.random.default_rng(2).normal(size=(1, 4000))
    low, high = chain.needs(900, 910)
    before = run(chain, x, 900, 910)
    outside = x.copy()
    outside[:, :low] += 1e3
    outside[:, high:] -= 1e3
    np.testing.assert_array_equal(run(chain, outside, 900, 910), before)


def test_causal_filters_do_not_see_the_future():
    """Every sample from instant t on replaced: outputs before t stay the same to rounding; zero phase fails this."""
    x = np.random.default_rng(3).normal(size=(2, 15_000))
    changed = x.copy()
    changed[:, 10_000:] = 50.0  # from 20 s on
    for causal in (True, False):
        chain = filters.design(500.0, 256.0, 0.5, 75.0, (50.0,), causal)
        n = chain.length(x.shape[1])
        moved = np.abs(run(chain, x, 0, n) - run(chain, changed, 0, n)).max(axis=0)
        if causal:
            assert moved[: 20 * 256].max() < 1e-9
        else:
            assert moved[20 * 256 - 20 : 20 * 256].max() > 1
        assert moved[21 * 256 :].max() > 1


def test_minimum_phase_keeps_the_magnitude():
    f = np.array([0.3, 0.5, 1, 10, 40, 50, 52, 75, 90])
    zero, minimum = (response(filters.design(500.0, 256.0, 0.5, 75.0, (50.0,), c), f) for c in (False, True))
    np.testing.assert_allclose(minimum, zero, atol=2e-3)


def test_a_constant_stays_gone_however_large_the_offset():
    """A BioSemi amplifier's offset of 20 mV: the high-pass is exactly 0 at 0 Hz, reflection keeps the edges quiet."""
    chain = filters.design(512.0, 256.0, 0.5, 75.0)
    y = run(chain, np.full((1, 20_000), 2e4), 0, 10_000)
    assert np.abs(y).max() < 1e-6


@pytest.mark.parametrize("n", [1, 2, 7, 300])
def test_a_signal_shorter_than_the_filter_is_continued(n):
    """Point reflection of a straight line is the straight line, however often it is repeated."""
    x = np.linspace(1, 2, n)[None] if n > 1 else np.ones((1, 1))
    span = filters.extended(lambda a, b: x[:, a:b], n, -50, n + 50)
    slope = (x[0, 1] - x[0, 0]) if n > 1 else 0.0
    np.testing.assert_allclose(span[0], x[0, 0] + slope * np.arange(-50, n + 50), atol=1e-9)


def test_continuation_reads_only_what_it_needs():
    """In the middle of a day-long recording nothing but the span itself is read."""
    asked = []

    def read(a: int, b: int) -> np.ndarray:
        asked.append((a, b))
        return np.zeros((1, b - a))

    filters.extended(read, 10**9, 5000, 6000)
    filters.extended(read, 10**9, -100, 900)
    filters.extended(read, 10**9, 10**9 - 50, 10**9 + 25)
    assert asked == [(5000, 6000), (0, 900), (10**9 - 50, 10**9)]


def test_impossible_bands_are_refused():
    with pytest.raises(ValueError, match="samples per second"):
        filters.design(128.0, 256.0, 0.5, 75.0)
