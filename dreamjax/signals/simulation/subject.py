"""One simulated subject: head, rhythm and reactions drawn from (seed, subject), then the recording in µV."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from dreamjax.signals.simulation import evoked, head, sources
from dreamjax.signals.simulation.simulation_settings import ALPHA_HZ, SimulationSettings
from dreamjax.signals.simulation.stimuli import Stimulus, feature_table
from dreamjax.typing import JsonDict

BACKGROUND_SOURCES = 80
ALPHA_DIPOLES = (
    ((-0.25, -0.60, 0.15), (-0.3, -0.9, 0.3)),
    ((0.25, -0.60, 0.15), (0.3, -0.9, 0.3)),
    ((0.0, -0.60, 0.30), (0.0, -0.7, 0.7)),
)
# The eyes lie before the sphere's brain: two dipoles in its foremost part, pointing up and forward, stand for them.
BLINK_DIPOLES = (((-0.30, 0.80, -0.10), (-0.2, 0.8, 0.6)), ((0.30, 0.80, -0.10), (0.2, 0.8, 0.6)))


@dataclass(frozen=True)
class ImageOnset:
    """An image's appearance."""

    sample: int
    image: int  # index into the set's images


@dataclass(frozen=True)
class Simulated:
    """A subject's recording and everything that went into it."""

    signal: Float[np.ndarray, "channels time"]  # µV against `head.REFERENCE`
    ch_names: tuple[str, ...]
    sfreq: float
    trials: tuple[ImageOnset, ...]
    truth: dict[str, Any]  # JSON-able


def _stream(settings: SimulationSettings, subject: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([settings.seed, 3, subject, purpose])


def timeline(
    settings: SimulationSettings, subject: int, images: tuple[Stimulus, ...], samples: int
) -> tuple[ImageOnset, ...]:
    """When which image appears: as many trials as fit, classes equally often, in the set's order."""
    rng = _stream(settings, subject, 0)
    longest = settings.image_s + settings.gap_s[1]
    now, onsets = settings.rest_fraction * samples / settings.sfreq + 1.0, []
    while now + longest < samples / settings.sfreq:
        onsets.append(round(now * settings.sfreq))
        now += settings.image_s + rng.uniform(*settings.gap_s)
    classes = np.resize(rng.permutation(settings.classes), len(onsets))
    if settings.order == "random":
        classes = rng.permutation(classes)
    else:
        ranks = np.argsort(rng.permutation(settings.classes))
        classes = classes[np.argsort(ranks[classes], kind="stable")]
    exemplars = np.zeros(len(onsets), int)
    for label in range(settings.classes):  # every image of a class once before any comes again
        mine = np.flatnonzero(classes == label)
        rounds = -(-len(mine) // settings.images_per_class) if len(mine) else 0
        deck = [rng.permutation(settings.images_per_class) for _ in range(rounds)]
        exemplars[mine] = np.concatenate(deck)[: len(mine)] if deck else mine
    chosen = classes * settings.images_per_class + exemplars
    return tuple(ImageOnset(int(s), int(p)) for s, p in zip(onsets, chosen, strict=True))


def _evoked(
    settings: SimulationSettings,
    subject: int,
    cap: head.Head,
    images: tuple[Stimulus, ...],
    trials: tuple[ImageOnset, ...],
    samples: int,
) -> tuple[np.ndarray, JsonDict]:
    """The image-locked part in µV, and its truth: patterns in µV per component, gain, latency shift."""
    rng = _stream(settings, subject, 1)
    classes = tuple(dict.fromkeys(p.shape for p in images))
    parts = evoked.components(classes, settings.seed)
    positions, moments = np.array([c.position for c in parts]), np.array([c.moment for c in parts])
    scales = head.moment_scales(positions, moments, np.array([c.amplitude_uv for c in parts]))
    moved = positions + rng.normal(0, 0.03, positions.shape)  # sources lie a few millimetres elsewhere
    turned = moments + rng.normal(0, 0.15, moments.shape) * np.linalg.norm(moments, axis=1, keepdims=True)
    gain, shift = float(np.exp(rng.normal(0, 0.15))), float(np.round(rng.normal(0, 0.006), 4))
    patterns = settings.strength * gain * cap.topography(moved, turned) * scales

    seconds = np.arange(int(evoked.END_S * settings.sfreq)) / settings.sfreq
    courses = evoked.time_courses(parts, shift, seconds)
    weights = feature_table(images, [c.feature for c in parts])
    total = np.zeros((len(cap.ch_names), samples))
    for trial in trials:
        stop = min(trial.sample + len(seconds), samples)
        response = (patterns * weights[trial.image]) @ courses
        total[:, trial.sample : stop] += response[:, : stop - trial.sample]
    truth = {"evoked_gain": gain, "latency_shift_s": shift, "patterns_uv": np.round(patterns, 5).tolist()}
    return total, truth


def _dipoles(pairs: tuple) -> tuple[np.ndarray, np.ndarray]:
    return np.array([p for p, _ in pairs]), np.array([m for _, m in pairs])


def _background(settings: SimulationSettings, rng: np.random.Generator, cap: head.Head, samples: int) -> np.ndarray:
    outward = rng.standard_normal((BACKGROUND_SOURCES, 3))
    outward[:, 2] = np.abs(outward[:, 2]) - 0.3  # little lies below the cap
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    positions = outward * rng.uniform(0.35, 0.8, (BACKGROUND_SOURCES, 1))
    moments = outward + 0.8 * rng.standard_normal(outward.shape)
    courses = sources.background(rng, BACKGROUND_SOURCES, samples, settings.sfreq, settings.exponent)
    signal = cap.topography(positions, moments) @ courses
    level = settings.background_uv * np.exp(rng.normal(0, 0.15))
    return signal * (level / np.sqrt(np.mean(signal**2)))


def _alpha(
    settings: SimulationSettings,
    rng: np.random.Generator,
    cap: head.Head,
    samples: int,
    closed: list[tuple[float, float]],
) -> tuple[np.ndarray, JsonDict]:
    hz = float(np.clip(np.round(rng.normal(settings.alpha_hz, settings.alpha_spread_hz), 2), *ALPHA_HZ))
    uv = float(settings.alpha_uv * np.exp(rng.normal(0, 0.25)))
    positions, moments = _dipoles(ALPHA_DIPOLES)
    courses = sources.rhythm(rng, len(ALPHA_DIPOLES), samples, settings.sfreq, hz, 0.6)
    field = cap.topography(positions, moments)
    field *= uv / np.sqrt((field**2).sum(1)).max()
    gate = settings.alpha_open + (1 - settings.alpha_open) * sources.smooth_gate(samples, settings.sfreq, closed)
    return (field @ courses) * gate, {"alpha_hz": hz, "alpha_uv": uv}


def _blinks(
    settings: SimulationSettings, rng: np.random.Generator, cap: head.Head, samples: int, opened: tuple[float, float]
) -> tuple[np.ndarray, JsonDict]:
    onsets = sources.blink_times(rng, *opened, settings.blinks_per_minute)
    sizes = np.exp(rng.normal(0, 0.2, len(onsets)))
    positions, moments = _dipoles(BLINK_DIPOLES)
    field = cap.topography(positions, moments).sum(1)
    field *= settings.blink_uv / np.abs(field).max()
    course = sources.blink_course(samples, settings.sfreq, onsets, sizes)
    return field[:, None] * course, {"blink_onsets_s": onsets}


def simulate_subject(
    settings: SimulationSettings,
    subject: int,
    images: tuple[Stimulus, ...],
    trials: tuple[ImageOnset, ...] | None = None,
) -> Simulated:
    """The recording of subject 0, 1, …; the same for the same (settings, subject), whatever other subjects there are.

    `trials`: when which image appears, where another design than `timeline`'s is wanted.
    """
    samples = round(round(settings.minutes * 60) * settings.sfreq)
    seconds = samples / settings.sfreq
    rng = _stream(settings, subject, 2)
    cap = head.draw_head(rng, settings.channels, settings.missing_channels)
    channels = len(cap.ch_names)
    closed_s = settings.rest_fraction * seconds

    trials = timeline(settings, subject, images, samples) if trials is None else trials
    signal, evoked_truth = _evoked(settings, subject, cap, images, trials, samples)
    signal += _background(settings, _stream(settings, subject, 3), cap, samples)
    alpha, alpha_truth = _alpha(settings, _stream(settings, subject, 4), cap, samples, [(-1.0, closed_s)])
    signal += alpha
    blinks, blink_truth = _blinks(settings, _stream(settings, subject, 5), cap, samples, (closed_s + 0.5, seconds))
    signal += blinks

    rng = _stream(settings, subject, 6)
    line = settings.line_uv * np.exp(rng.normal(0, 0.3, (channels, 1)))
    signal += line * sources.mains(samples, settings.sfreq, settings.line_hz, rng.uniform(0, 2 * np.pi))
    signal += settings.drift_uv * sources.drift(rng, channels, samples, settings.sfreq)
    signal += settings.noise_uv * rng.standard_normal(signal.shape)

    truth = {
        "subject": f"{subject + 1:02d}",
        "ch_names": list(cap.ch_names),
        "electrodes": np.round(cap.electrodes, 5).tolist(),
        "head_radius_m": cap.radius,
        "cap_rotation_deg": list(cap.rotation_deg),
        "eyes_closed_s": [[0.0, closed_s]] if closed_s else [],
        "trials": [[t.sample, t.image] for t in trials],
        **evoked_truth,
        **alpha_truth,
        **blink_truth,
    }
    return Simulated(signal, cap.ch_names, settings.sfreq, trials, truth)
