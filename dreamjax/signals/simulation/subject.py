"""One simulated subject: head, rhythm and reactions drawn from (seed, subject), then the recording in µV."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from dreamjax.errors import UserError
from dreamjax.signals.simulation import head, sources
from dreamjax.signals.simulation.stimuli import SHAPES, Stimulus, classes_of, feature_table
from dreamjax.typing import JsonDict

MAX_CHANNELS = 128
ALPHA_HZ = (7.5, 13.0)  # the band that every subject's rhythm lies in
BACKGROUND_SOURCES = 80
# positions in head radii, and moments
ALPHA_DIPOLES = (
    np.array([(-0.25, -0.60, 0.15), (0.25, -0.60, 0.15), (0.0, -0.60, 0.30)]),
    np.array([(-0.3, -0.9, 0.3), (0.3, -0.9, 0.3), (0.0, -0.7, 0.7)]),
)
# The eyes lie before the sphere's brain: two dipoles in its foremost part, pointing up and forward, stand for them.
BLINK_DIPOLES = (
    np.array([(-0.30, 0.80, -0.10), (0.30, 0.80, -0.10)]),
    np.array([(-0.2, 0.8, 0.6), (0.2, 0.8, 0.6)]),
)


@dataclass(frozen=True)
class SimulationSettings:
    """A set of subjects who look at images. Every field is a fact about the set and is written into its ground truth.

    Amplitudes are in µV; those of evoked responses scale with `strength`.
    """

    subjects: int = 6
    minutes: float = 3.0  # per subject, rounded to whole seconds (EDF's records)
    channels: int = 32
    classes: int = 4
    strength: float = 1.0  # 0: a null set, in which nothing follows the images
    order: str = "random"  # or "block": each class in one stretch, the design that slow drift confounds
    format: str = "edf"  # or "brainvision"
    seed: int = 0
    sfreq: float = 250.0  # Hz
    images_per_class: int = 12
    image_s: float = 0.5
    gap_s: tuple[float, float] = (0.5, 0.9)  # between an image's end and the next one's onset, uniform
    rest_fraction: float = 0.15  # of the recording, at its beginning, with closed eyes and no images
    background_uv: float = 10.0  # rms of the 1/f background, mean over channels
    exponent: float = 1.5  # power of the background falls as 1/f^exponent
    alpha_hz: float = 10.0  # mean over subjects
    alpha_spread_hz: float = 0.8  # standard deviation over subjects
    alpha_uv: float = 14.0  # rms at the strongest electrode, eyes closed
    alpha_open: float = 0.35  # share of it that stays with open eyes
    blink_uv: float = 120.0  # peak at the strongest electrode
    blinks_per_minute: float = 12.0  # with open eyes
    line_hz: float = 50.0
    line_uv: float = 2.0
    drift_uv: float = 20.0  # rms below 0.3 Hz
    noise_uv: float = 0.6  # rms of each amplifier channel's own white noise
    missing_channels: int = 0  # electrodes, different in every subject, that were not recorded

    def __post_init__(self) -> None:
        checks = (
            (1 <= self.subjects <= 999, "subjects", "1 to 999"),
            (10 <= self.minutes * 60 < math.inf, "minutes", "at least 10 s"),
            (4 <= self.channels <= MAX_CHANNELS, "channels", f"4 to {MAX_CHANNELS}"),
            (1 <= self.classes <= len(SHAPES), "classes", f"1 to {len(SHAPES)}"),
            (0 <= self.strength < math.inf, "strength", "0 or more"),
            (ALPHA_HZ[0] <= self.alpha_hz <= ALPHA_HZ[1], "alpha_hz", f"{ALPHA_HZ[0]:g} to {ALPHA_HZ[1]:g} Hz"),
            (self.order in ("random", "block"), "order", "random or block"),
            (self.format in ("edf", "brainvision"), "format", "edf or brainvision"),
            (64 <= self.sfreq <= 4096, "sfreq", "64 to 4096 Hz"),
            (0 <= self.missing_channels <= self.channels - 4, "missing_channels", "so few that 4 channels are left"),
            (self.images_per_class >= 1, "images_per_class", "1 or more"),
            (self.seed >= 0, "seed", "0 or more"),
            (0 <= self.rest_fraction < 1, "rest_fraction", "0 to below 1"),
        )
        for good, name, wanted in checks:
            if not good:
                raise UserError(f"simulate: {name} is {getattr(self, name)}, but must be {wanted}")


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
    truth: JsonDict  # JSON-able


@dataclass(frozen=True)
class _Person:
    """The person for whom the parts of a recording are simulated."""

    settings: SimulationSettings
    number: int
    samples: int

    def stream(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.settings.seed, 3, self.number, purpose])

    @cached_property
    def cap(self) -> head.Head:
        return head.draw_head(self.stream(2), self.settings.channels, self.settings.missing_channels)

    @property
    def rest_s(self) -> float:
        """Return how long, s, the eyes are closed from the beginning."""
        return self.settings.rest_fraction * (self.samples / self.settings.sfreq)


def _timeline(person: _Person) -> tuple[ImageOnset, ...]:
    """Return when each image appears: as many trials as fit, classes equally often, in the set's order."""
    settings, samples, rng = person.settings, person.samples, person.stream(0)
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
        deck = [rng.permutation(settings.images_per_class) for _ in range(0, len(mine), settings.images_per_class)]
        exemplars[mine] = np.concatenate([*deck, mine[:0]])[: len(mine)]
    chosen = classes * settings.images_per_class + exemplars
    return tuple(ImageOnset(int(s), int(p)) for s, p in zip(onsets, chosen, strict=True))


def _evoked(
    person: _Person, images: tuple[Stimulus, ...], trials: tuple[ImageOnset, ...]
) -> tuple[np.ndarray, JsonDict]:
    """Return the image-locked part in µV, and its truth: patterns in µV per component, gain, latency shift."""
    settings, rng = person.settings, person.stream(1)
    parts = sources.components(classes_of(images), settings.seed)
    positions, moments = np.array([c.position for c in parts]), np.array([c.moment for c in parts])
    scales = head.moment_scales(positions, moments, np.array([c.amplitude_uv for c in parts]))
    moved = positions + rng.normal(0, 0.03, positions.shape)  # sources lie a few millimetres elsewhere
    turned = moments + rng.normal(0, 0.15, moments.shape) * np.linalg.norm(moments, axis=1, keepdims=True)
    gain, shift = float(np.exp(rng.normal(0, 0.15))), float(np.round(rng.normal(0, 0.006), 4))
    patterns = settings.strength * gain * person.cap.topography(moved, turned) * scales

    seconds = np.arange(int(sources.END_S * settings.sfreq)) / settings.sfreq
    courses = sources.time_courses(parts, shift, seconds)
    weights = feature_table(images, [c.feature for c in parts])
    total = np.zeros((len(patterns), person.samples))
    for trial in trials:
        stop = min(trial.sample + len(seconds), person.samples)
        response = (patterns * weights[trial.image]) @ courses
        total[:, trial.sample : stop] += response[:, : stop - trial.sample]
    return total, {"evoked_gain": gain, "latency_shift_s": shift, "patterns_uv": np.round(patterns, 5).tolist()}


def _background(person: _Person) -> np.ndarray:
    settings, rng = person.settings, person.stream(3)
    outward = rng.standard_normal((BACKGROUND_SOURCES, 3))
    outward[:, 2] = np.abs(outward[:, 2]) - 0.3  # little lies below the cap
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    positions = outward * rng.uniform(0.35, 0.8, (BACKGROUND_SOURCES, 1))
    moments = outward + 0.8 * rng.standard_normal(outward.shape)
    courses = sources.background(rng, BACKGROUND_SOURCES, person.samples, settings.sfreq, settings.exponent)
    signal = person.cap.topography(positions, moments) @ courses
    level = settings.background_uv * np.exp(rng.normal(0, 0.15))
    return signal * (level / np.sqrt(np.mean(signal**2)))


def _alpha(person: _Person) -> tuple[np.ndarray, JsonDict]:
    settings, samples, rng = person.settings, person.samples, person.stream(4)
    hz = float(np.clip(np.round(rng.normal(settings.alpha_hz, settings.alpha_spread_hz), 2), *ALPHA_HZ))
    uv = float(settings.alpha_uv * np.exp(rng.normal(0, 0.25)))
    field = person.cap.topography(*ALPHA_DIPOLES)
    courses = sources.rhythm(rng, field.shape[1], samples, settings.sfreq, hz, 0.6)
    field *= uv / np.sqrt((field**2).sum(1)).max()
    closed = sources.gate_until(person.rest_s, samples, settings.sfreq)
    gate = settings.alpha_open + (1 - settings.alpha_open) * closed
    return (field @ courses) * gate, {"alpha_hz": hz, "alpha_uv": uv}


def _blinks(person: _Person) -> tuple[np.ndarray, JsonDict]:
    settings, samples, rng = person.settings, person.samples, person.stream(5)
    onsets = sources.blink_times(rng, person.rest_s + 0.5, samples / settings.sfreq, settings.blinks_per_minute)
    sizes = np.exp(rng.normal(0, 0.2, len(onsets)))
    field = person.cap.topography(*BLINK_DIPOLES).sum(1)
    field *= settings.blink_uv / np.abs(field).max()
    course = sources.blink_course(samples, settings.sfreq, onsets, sizes)
    return field[:, None] * course, {"blink_onsets_s": onsets}


def simulate_subject(
    settings: SimulationSettings,
    subject: int,
    images: tuple[Stimulus, ...],
    trials: tuple[ImageOnset, ...] | None = None,
) -> Simulated:
    """Simulate the recording of subject 0, 1, …; it depends on (settings, subject) only, not on other subjects.

    `trials`: when which image appears, where another design than the settings' is wanted.
    """
    person = _Person(settings, subject, samples=round(round(settings.minutes * 60) * settings.sfreq))
    cap, samples = person.cap, person.samples
    trials = _timeline(person) if trials is None else trials
    signal, evoked_truth = _evoked(person, images, trials)
    signal += _background(person)
    alpha, alpha_truth = _alpha(person)
    signal += alpha
    blinks, blink_truth = _blinks(person)
    signal += blinks

    rng = person.stream(6)
    line = settings.line_uv * np.exp(rng.normal(0, 0.3, (len(signal), 1)))
    signal += line * sources.mains(samples, settings.sfreq, settings.line_hz, rng.uniform(0, 2 * np.pi))
    signal += settings.drift_uv * sources.drift(rng, len(signal), samples, settings.sfreq)
    signal += settings.noise_uv * rng.standard_normal(signal.shape)

    truth = {
        "subject": f"{subject + 1:02d}",
        "ch_names": list(cap.ch_names),
        "electrodes": np.round(cap.electrodes, 5).tolist(),
        "head_radius_m": cap.radius,
        "cap_rotation_deg": list(cap.rotation_deg),
        "eyes_closed_s": [[0.0, person.rest_s]] if person.rest_s else [],
        "trials": [[t.sample, t.image] for t in trials],
        **evoked_truth,
        **alpha_truth,
        **blink_truth,
    }
    return Simulated(signal, cap.ch_names, settings.sfreq, trials, truth)
