"""Time courses of sources and electrodes: image-evoked responses; background, alpha, blinks, mains and drift.

A response is a sum of components, each one dipole, one Gaussian in time, one feature of the image:

response(image, t) = strength · Σ_k feature_k(image) · pattern_k ⊗ exp(-(t - latency_k)² / 2 width_k²)   for t ≥ 0

The shape of the visual response is textbook (C1, P1, N1, P3; Luck 2014): places change the sign of C1 and the balance
of the two hemispheres in P1, size changes N1, colour a ventral occipital pair, and every class has its own sources.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.fft import irfft, next_fast_len, rfftfreq

END_S = 0.8  # the responses are cut here, where all are below 1e-3 of their peak
FLAT_BELOW_HZ = 0.5  # the background's spectrum is flat below this; what lies there is the drift's part


# ------------------------------------------------------------------------------------------------------------- evoked
@dataclass(frozen=True)
class Component:
    """One source's part of the response in the average head."""

    name: str
    feature: str
    amplitude_uv: float  # at strength 1, at the electrode where it is largest in the average head, signed
    latency_s: float
    width_s: float
    position: tuple[float, ...]  # head radii; x right, y front, z up
    moment: tuple[float, ...]  # direction


def _pair(name: str, feature: str, uv: tuple[float, float], when: tuple[float, float], where: tuple) -> list[Component]:
    """Return a component and its mirror image. `uv`: left, right; `when`: latency, width; `where`: place, moment."""
    mirrored = (tuple((np.array(vector) * (-1, 1, 1)).tolist()) for vector in where)
    left, right = uv
    return [
        Component(f"{name} left", feature, left, *when, *where),
        Component(f"{name} right", feature, right, *when, *mirrored),
    ]


def components(classes: tuple[str, ...], seed: int) -> tuple[Component, ...]:
    """Return the components of the average subject. Those of a class do not depend on the number of classes."""
    lateral = ((-0.45, -0.58, 0.02), (-0.45, -0.85, 0.10))
    lower = ((-0.55, -0.45, -0.1), (-0.8, -0.6, 0.0))
    ventral = ((-0.35, -0.55, -0.25), (-0.5, -0.7, -0.5))
    parts = [
        Component("C1", "y", -2.5, 0.080, 0.012, (0.0, -0.62, 0.08), (0.0, -0.8, 0.6)),
        *_pair("P1", "onset", (3.0, 3.0), (0.105, 0.016), lateral),
        *_pair("P1 place", "x", (2.5, -2.5), (0.110, 0.016), lateral),  # the other side's hemisphere answers more
        *_pair("N1", "onset", (-4.5, -4.5), (0.170, 0.022), lower),
        *_pair("N1 size", "size", (-2.5, -2.5), (0.180, 0.022), lower),
        *_pair("colour a", "hue_cos", (2.5, 2.0), (0.220, 0.030), ventral),
        *_pair("colour b", "hue_sin", (2.0, -2.5), (0.250, 0.030), ventral),
        Component("P3", "onset", 4.0, 0.360, 0.060, (0.0, -0.30, 0.55), (0.0, -0.4, 0.9)),
    ]
    for label in classes:
        rng = np.random.default_rng([seed, 2, *label.encode()])
        for number in range(2):
            azimuth, height = rng.uniform(-0.8, 0.8), rng.uniform(-0.35, 0.8)  # the back half of the brain
            across = np.sqrt(1 - height**2)
            outward = np.array([across * np.sin(azimuth), -across * np.cos(azimuth), height])
            moment = outward + 0.7 * rng.standard_normal(3)
            latency, width = rng.uniform(0.15, 0.38), rng.uniform(0.025, 0.045)
            uv = 4.0 * float(rng.choice([-1.0, 1.0]))
            where = ((0.65 * outward).tolist(), (moment / np.linalg.norm(moment)).tolist())
            parts.append(Component(f"{label} {number}", f"class:{label}", uv, latency, width, *map(tuple, where)))
    return tuple(parts)


def time_courses(
    parts: tuple[Component, ...], latency_shift: float, seconds: Float[np.ndarray, "time"]
) -> Float[np.ndarray, "components time"]:
    """Return each component's time course, peak 1, at `seconds` after the onset; 0 before it and after END_S."""
    latency = np.array([c.latency_s for c in parts])[:, None] + latency_shift
    width = np.array([c.width_s for c in parts])[:, None]
    courses = np.exp(-0.5 * ((seconds - latency) / width) ** 2)
    return np.where((seconds >= 0) & (seconds < END_S), courses, 0.0)


# --------------------------------------------------------------------------------------------------------- not evoked
def shaped_noise(
    rng: np.random.Generator, rows: int, samples: int, sfreq: float, power: Callable[[np.ndarray], np.ndarray]
) -> Float[np.ndarray, "rows samples"]:
    """Return Gaussian noise of unit variance with a power density proportional to `power` of the frequencies in Hz."""
    length = next_fast_len(samples, real=True)
    amplitude = np.sqrt(power(rfftfreq(length, 1 / sfreq)))
    spectrum = rng.standard_normal((rows, len(amplitude), 2)).view(np.complex128)[..., 0] * amplitude
    spectrum[:, 0] = 0
    total = 2 * np.sum(amplitude[1:] ** 2) * 2  # E|X|² = 2 per bin, two-sided
    return irfft(spectrum, n=length, axis=1)[:, :samples] * (length / np.sqrt(total))


def background(rng: np.random.Generator, rows: int, samples: int, sfreq: float, exponent: float) -> np.ndarray:
    """Return 1/f^exponent noise of unit variance, (rows, samples)."""
    return shaped_noise(rng, rows, samples, sfreq, lambda hz: np.maximum(hz, FLAT_BELOW_HZ) ** -exponent)


def rhythm(rng: np.random.Generator, rows: int, samples: int, sfreq: float, hz: float, width_hz: float) -> np.ndarray:
    """Return noise of unit variance around `hz`, (rows, samples); its amplitude varies over 1 / `width_hz` s."""
    return shaped_noise(rng, rows, samples, sfreq, lambda f: np.exp(-0.5 * ((f - hz) / width_hz) ** 2))


def drift(rng: np.random.Generator, rows: int, samples: int, sfreq: float) -> np.ndarray:
    """Return electrode drift of unit variance, (rows, samples): power as 1/f² between 0.01 and 0.3 Hz, none above."""
    return shaped_noise(rng, rows, samples, sfreq, lambda hz: np.where(hz < 0.3, np.maximum(hz, 0.01) ** -2.0, 0.0))


def gate_until(end_s: float, samples: int, sfreq: float, ramp_s: float = 0.5) -> Float[np.ndarray, "samples"]:
    """Return 1 before `end_s`, 0 after it, with a raised-cosine ramp."""
    fall = np.clip((end_s - np.arange(samples) / sfreq) / ramp_s + 0.5, 0, 1)
    return 0.5 * (1 - np.cos(np.pi * fall))


def blink_times(rng: np.random.Generator, begin: float, end: float, per_minute: float) -> list[float]:
    """Return random onsets in s, at least 0.6 s apart."""
    times: list[float] = []
    now = begin
    while per_minute > 0:
        now += 0.6 + rng.exponential(max(60 / per_minute - 0.6, 0.1))
        if now > end - 0.6:
            break
        times.append(round(now, 4))
    return times


def blink_course(samples: int, sfreq: float, onsets: list[float], sizes: np.ndarray) -> Float[np.ndarray, "samples"]:
    """Return blinks of 0.3 s with a fast closing and a slower opening of the lid, peak = size."""
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
    """Return a mains sine of unit rms with a tenth of third harmonic where the sampling rate allows."""
    seconds = np.arange(samples) / sfreq
    wave = np.sin(2 * np.pi * hz * seconds + phase)
    if 3 * hz < 0.5 * sfreq:
        wave += 0.1 * np.sin(2 * np.pi * 3 * hz * seconds + phase)
    return wave * np.sqrt(2)
