"""Time courses of what is not evoked: 1/f background, alpha that waxes and wanes, blinks, mains, drift."""

import numpy as np
from jaxtyping import Float
from scipy.fft import irfft, next_fast_len, rfftfreq

FLAT_BELOW_HZ = 0.5  # the background's spectrum is flat below this; what lies there is the drift's part


def shaped_noise(
    rng: np.random.Generator, rows: int, samples: int, sfreq: float, power: np.ndarray
) -> Float[np.ndarray, "rows samples"]:
    """Gaussian noise of unit variance whose power density is proportional to `power` at `rfftfreq` (`grid`)."""
    length = grid_length(samples)
    amplitude = np.sqrt(power)
    spectrum = rng.standard_normal((rows, len(power), 2)).view(np.complex128)[..., 0] * amplitude
    spectrum[:, 0] = 0
    total = 2 * np.sum(amplitude[1:] ** 2) * 2  # E|X|² = 2 per bin, two-sided
    return irfft(spectrum, n=length, axis=1)[:, :samples] * (length / np.sqrt(total))


def grid_length(samples: int) -> int:
    return next_fast_len(samples, real=True)


def grid(samples: int, sfreq: float) -> Float[np.ndarray, "frequencies"]:
    """The frequencies in Hz at which `shaped_noise` takes its power density."""
    return rfftfreq(grid_length(samples), 1 / sfreq)


def background(rng: np.random.Generator, rows: int, samples: int, sfreq: float, exponent: float) -> np.ndarray:
    """1/f^exponent noise of unit variance, (rows, samples)."""
    return shaped_noise(rng, rows, samples, sfreq, np.maximum(grid(samples, sfreq), FLAT_BELOW_HZ) ** -exponent)


def rhythm(rng: np.random.Generator, rows: int, samples: int, sfreq: float, hz: float, width_hz: float) -> np.ndarray:
    """Noise of unit variance around `hz`, (rows, samples); its amplitude waxes and wanes over 1 / `width_hz` s."""
    return shaped_noise(rng, rows, samples, sfreq, np.exp(-0.5 * ((grid(samples, sfreq) - hz) / width_hz) ** 2))


def drift(rng: np.random.Generator, rows: int, samples: int, sfreq: float) -> np.ndarray:
    """Electrode drift of unit variance, (rows, samples): power as 1/f² between 0.01 and 0.3 Hz, none above."""
    hz = grid(samples, sfreq)
    return shaped_noise(rng, rows, samples, sfreq, np.where(hz < 0.3, np.maximum(hz, 0.01) ** -2.0, 0.0))


def smooth_gate(
    samples: int, sfreq: float, spans: list[tuple[float, float]], ramp_s: float = 0.5
) -> Float[np.ndarray, "samples"]:
    """1 inside the spans (s), 0 outside, with raised-cosine ramps."""
    seconds = np.arange(samples) / sfreq
    gate = np.zeros(samples)
    for begin, end in spans:
        rise = np.clip((seconds - begin) / ramp_s + 0.5, 0, 1)
        fall = np.clip((end - seconds) / ramp_s + 0.5, 0, 1)
        gate = np.maximum(gate, 0.25 * (1 - np.cos(np.pi * rise)) * (1 - np.cos(np.pi * fall)))
    return gate


def blink_times(rng: np.random.Generator, begin: float, end: float, per_minute: float) -> list[float]:
    """Onsets in s: at least 0.6 s apart, otherwise at random."""
    times: list[float] = []
    now = begin
    if per_minute <= 0:
        return times
    while True:
        now += 0.6 + rng.exponential(max(60 / per_minute - 0.6, 0.1))
        if now > end - 0.6:
            return times
        times.append(round(now, 4))


def blink_course(samples: int, sfreq: float, onsets: list[float], sizes: np.ndarray) -> Float[np.ndarray, "samples"]:
    """Blinks of 0.3 s with a fast closing and a slower opening of the lid, peak = size."""
    course = np.zeros(samples)
    shape_s = np.arange(int(0.35 * sfreq)) / sfreq
    shape = np.where(
        shape_s < 0.1,
        0.5 * (1 - np.cos(np.pi * shape_s / 0.1)),
        np.where(shape_s < 0.3, 0.5 * (1 + np.cos(np.pi * (shape_s - 0.1) / 0.2)), 0.0),
    )
    for onset, size in zip(onsets, sizes, strict=True):
        first = round(onset * sfreq)
        part = course[first : first + len(shape)]
        part += size * shape[: len(part)]
    return course


def mains(samples: int, sfreq: float, hz: float, phase: float) -> Float[np.ndarray, "samples"]:
    """A mains sine of unit rms with a tenth of third harmonic where the sampling rate carries it."""
    seconds = np.arange(samples) / sfreq
    wave = np.sin(2 * np.pi * hz * seconds + phase)
    if 3 * hz < 0.5 * sfreq:
        wave += 0.1 * np.sin(2 * np.pi * 3 * hz * seconds + phase)
    return wave * np.sqrt(2)
