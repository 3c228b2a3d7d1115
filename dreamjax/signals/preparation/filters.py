"""Filter and resample recorded samples, in blocks that do not affect the result.

Everything is FIR: a polyphase resampler (anti-alias low-pass at the common rate) followed at the output rate by one
kernel that is the convolution of high-pass, low-pass and notches. An FIR output sample depends on a known span of the
input, so any block can be computed alone and equals the whole-file result to rounding. Zero phase by default; `causal`
uses the minimum-phase kernels of the same magnitude, in which no output sample depends on a later input sample.

Windowed-sinc design with a Hamming window, N = 3.3 fs / Δf (Ifeachor & Jervis, Digital Signal Processing, table 7.3),
transition widths as in MNE-Python: Δ_low = min(max(0.25 f, 2), f), Δ_high = min(max(0.25 f, 2), Nyquist - f).
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Float
from scipy import signal

Taps = Float[np.ndarray, "taps"]
Signal = Float[np.ndarray, "channels time"]
NOTCH_HALF_WIDTH = 1.0  # Hz, the -6 dB points on both sides; ±0.5 Hz is stopped
STOP_DB = 80.0  # of the resampler
REACH, BETA = 32, 8.0  # of the interpolation between samples: on either side; shape of its window
MAX_DENOMINATOR = 1024
RATE_TOLERANCE = 1e-5  # relative; the accuracy of an amplifier's clock


@dataclass(frozen=True, eq=False)
class Chain:
    """Filter from `sfreq_in` to `sfreq_out` = sfreq_in · up / down. `*_delay`: taps before the output instant."""

    sfreq_in: float
    sfreq_out: float
    up: int
    down: int
    resampler: Taps  # at sfreq_in · up; empty when up = down = 1
    resampler_delay: int
    kernel: Taps  # at sfreq_out; empty when nothing is filtered
    kernel_delay: int
    causal: bool

    def length(self, n_in: int) -> int:
        """Return the number of output samples for `n_in` input samples: those before the time of sample `n_in`."""
        return -(-max(n_in, 0) * self.up // self.down)

    def middle(self, start: int, stop: int) -> tuple[int, int]:
        """Return the span at the output rate, before the kernel, that the outputs [start, stop) depend on."""
        if not len(self.kernel):
            return start, stop
        return start - (len(self.kernel) - 1 - self.kernel_delay), stop + self.kernel_delay

    def needs(self, start: int, stop: int) -> tuple[int, int]:
        """Return the span of input samples that the outputs [start, stop) depend on; may reach beyond both ends."""
        start, stop = self.middle(start, stop)
        if not len(self.resampler):
            return start, stop
        last = len(self.resampler) - 1
        first_tap = start * self.down + self.resampler_delay - last
        return first_tap // self.up, ((stop - 1) * self.down + self.resampler_delay) // self.up + 1

    def resample(self, x_CxT: Signal, first: int, start: int, stop: int) -> Signal:
        """Return samples [start, stop) at the output rate, before filtering, of input that starts at sample `first`."""
        if not len(self.resampler):
            return x_CxT[:, start - first : stop - first]
        pad = (first * self.up - self.resampler_delay) % self.down
        taps = np.concatenate([np.zeros(pad), self.resampler]) * self.up
        skip = (start * self.down + self.resampler_delay + pad - first * self.up) // self.down
        return signal.upfirdn(taps, x_CxT, self.up, self.down, axis=-1)[:, skip : skip + stop - start]

    def run(self, x_CxT: Signal, start: int, stop: int) -> Signal:
        """Return the filtered samples [start, stop), given the input span `needs(start, stop)`."""
        low, high = self.middle(start, stop)
        middle = self.resample(x_CxT, self.needs(start, stop)[0], low, high)
        return signal.oaconvolve(middle, self.kernel[None], mode="valid", axes=-1) if len(self.kernel) else middle


def rational(sfreq_in: float, sfreq_out: float) -> tuple[int, int]:
    """Return (up, down) with sfreq_in · up / down = sfreq_out: exact for amplifiers' rates, within 1e-5 for any.

    Raise ValueError if the ratio is not one of whole numbers up to 1024.
    """
    ratio = (
        Fraction(sfreq_out).limit_denominator(10**6) / Fraction(sfreq_in).limit_denominator(10**6)
    ).limit_denominator(MAX_DENOMINATOR)
    if ratio == 0 or abs(float(ratio) * sfreq_in / sfreq_out - 1) > RATE_TOLERANCE:
        raise ValueError(f"a sampling rate of {sfreq_in:g} Hz has no ratio of whole numbers to {sfreq_out:g} Hz")
    return ratio.numerator, ratio.denominator


def _lowpass(cut: float, transition: float, rate: float) -> Taps:
    taps = math.ceil(3.3 * rate / transition) | 1
    return signal.firwin(taps, cut, window="hamming", fs=rate)


def _minus(taps: Taps) -> Taps:
    """Return δ - h: the complement of a linear-phase kernel of odd length."""
    complement = -taps
    complement[len(taps) // 2] += 1.0
    return complement


def high_pass(edge: float, rate: float) -> Taps:
    """Return a filter that passes from `edge` Hz up and is exactly 0 at 0 Hz, whatever the amplifier's offset."""
    transition = min(max(0.25 * edge, 2.0), edge)
    return _minus(_lowpass(edge - transition / 2, transition, rate))


def low_pass(edge: float, rate: float, nyquist: float | None = None) -> Taps:
    """Return a filter that passes up to `edge` Hz. `nyquist`: that of the slower of the two rates."""
    transition = min(max(0.25 * edge, 2.0), (nyquist or rate / 2) - edge)
    return _lowpass(edge + transition / 2, transition, rate)


def notch(frequency: float, rate: float) -> Taps:
    """Return a filter that stops `frequency` ± 0.5 Hz and is exactly 0 at `frequency`."""
    taps = math.ceil(3.3 * rate / NOTCH_HALF_WIDTH) | 1
    band = [frequency - NOTCH_HALF_WIDTH, frequency + NOTCH_HALF_WIDTH]
    return _minus(signal.firwin(taps, band, window="hamming", pass_zero=False, fs=rate))


def minimum_phase(taps: Taps) -> Taps:
    """Return the minimum-phase kernel of the same magnitude (homomorphic method, Oppenheim & Schafer 13.6)."""
    return signal.minimum_phase(taps, method="homomorphic", n_fft=1 << (len(taps) * 64 - 1).bit_length(), half=False)


@functools.lru_cache(maxsize=32)
def design(
    sfreq_in: float,
    sfreq_out: float,
    low: float | None,
    high: float | None,
    notches: tuple[float, ...] = (),
    causal: bool = False,
) -> Chain:
    """Design the filters for one recording. `low`, `high`: pass-band edges in Hz, None for no such filter.

    `high` must stay below both Nyquist rates. Raise ValueError where the rates have no rational ratio.
    """
    up, down = rational(sfreq_in, sfreq_out)
    slower = min(sfreq_in, sfreq_out)
    if high is not None and high >= slower / 2:
        raise ValueError(f"a pass band up to {high:g} Hz needs more than {2 * high:g} samples per second")
    resampler = np.empty(0)
    if up != down:
        edge = high if high is not None else 0.45 * slower
        stop = max(slower - edge - min(max(0.25 * edge, 2.0), slower / 2 - edge), edge + 0.05 * slower)
        rate = sfreq_in * up
        taps, beta = signal.kaiserord(STOP_DB, (stop - edge) / (rate / 2))
        resampler = signal.firwin(taps | 1, (stop + edge) / 2, window=("kaiser", beta), fs=rate)
    parts = [notch(f, sfreq_out) for f in notches]
    if low is not None:
        parts.append(high_pass(low, sfreq_out))
    if high is not None:
        parts.append(low_pass(high, sfreq_out, slower / 2))
    kernel = functools.reduce(signal.fftconvolve, parts) if parts else np.empty(0)
    delays = len(resampler) // 2, len(kernel) // 2
    if causal:
        resampler, kernel = (minimum_phase(h) if len(h) else h for h in (resampler, kernel))
        delays = 0, 0
    return Chain(sfreq_in, sfreq_out, up, down, resampler, delays[0], kernel, delays[1], causal)


def between(y_CxT: Signal, shift: float) -> Signal:
    """Return the signal `shift` samples later, 0 ≤ shift < 1, without the first and last `REACH` input samples.

    A sinc under a Kaiser window: within 80 dB for everything below 0.46 of the rate, and exact where shift is 0.
    """
    if shift == 0:
        return y_CxT[:, REACH:-REACH]
    t = np.arange(-REACH, REACH + 1) - shift
    taps = np.sinc(t) * np.i0(BETA * np.sqrt(1 - np.square(t / (REACH + 1)))) / np.i0(BETA)
    return signal.oaconvolve(y_CxT, (taps[::-1] / taps.sum())[None], mode="valid", axes=-1)


def extended(read: Callable[[int, int], Signal], n: int, start: int, stop: int, causal: bool = False) -> Signal:
    """Return samples [start, stop) of a signal of `n` samples, continued by point reflection at its ends: 2 x₀ - x₋ₖ.

    A causal filter must not see the future, so there the first sample is held instead. Only the samples needed are
    read; a signal shorter than its continuation is reflected again and again.
    """
    before, after = max(0, -start), max(0, stop - n)
    if not (before or after):
        return read(start, stop)
    low = 0 if before else max(0, min(start, n - 1 - after))
    high = n if after else min(n, max(stop, before + 1))
    x_CxT, width = read(low, high), ((0, 0), (before, after))
    if causal or n == 1:
        x_CxT = np.pad(x_CxT, width, mode="edge")
    else:
        x_CxT = np.pad(x_CxT, width, mode="reflect", reflect_type="odd")
    offset = start - (low - before)
    return x_CxT[:, offset : offset + stop - start]
