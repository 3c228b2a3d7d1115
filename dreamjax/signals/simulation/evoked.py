"""Image-evoked responses: a sum of components, each one dipole, one Gaussian in time, one feature of the image.

response(image, t) = strength · Σ_k feature_k(image) · pattern_k ⊗ exp(-(t - latency_k)² / 2 width_k²)   for t ≥ 0

The shape of the visual response is textbook (C1, P1, N1, P3; Luck 2014): places change the sign of C1 and the balance
of the two hemispheres in P1, size changes N1, colour a ventral occipital pair, and every class has sources of its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

END_S = 0.8  # the responses are cut here, where all are below 1e-3 of their peak


@dataclass(frozen=True)
class Component:
    """One source's part in the response, as it is in the average head."""

    name: str
    feature: str
    amplitude_uv: float  # at strength 1, at the electrode where it is largest in the average head, signed
    latency_s: float
    width_s: float
    position: tuple[float, float, float]  # head radii; x right, y front, z up
    moment: tuple[float, float, float]  # direction


def _three(vector: Iterable[float]) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in vector)
    return x, y, z


def _pair(name: str, feature: str, uv: tuple[float, float], when: tuple[float, float], where: tuple) -> list[Component]:
    """A component and its mirror image; `uv` is (left, right), `when` (latency, width), `where` (position, moment)."""
    position, moment = where
    mirrored = tuple(tuple(np.array(v) * (-1, 1, 1)) for v in (position, moment))
    sides = ((position, moment, "left"), (mirrored[0], mirrored[1], "right"))
    return [
        Component(f"{name} {side}", feature, amplitude, *when, _three(p), _three(m))
        for (p, m, side), amplitude in zip(sides, uv, strict=True)
    ]


def components(classes: tuple[str, ...], seed: int) -> tuple[Component, ...]:
    """The components of the average subject. Those of a class do not depend on how many classes there are."""
    lateral = ((-0.45, -0.58, 0.02), (-0.45, -0.85, 0.10))
    ventral = ((-0.35, -0.55, -0.25), (-0.5, -0.7, -0.5))
    parts = [
        Component("C1", "y", -2.5, 0.080, 0.012, (0.0, -0.62, 0.08), (0.0, -0.8, 0.6)),
        *_pair("P1", "onset", (3.0, 3.0), (0.105, 0.016), lateral),
        *_pair("P1 place", "x", (2.5, -2.5), (0.110, 0.016), lateral),  # the other side's hemisphere answers more
        *_pair("N1", "onset", (-4.5, -4.5), (0.170, 0.022), ((-0.55, -0.45, -0.1), (-0.8, -0.6, 0.0))),
        *_pair("N1 size", "size", (-2.5, -2.5), (0.180, 0.022), ((-0.55, -0.45, -0.1), (-0.8, -0.6, 0.0))),
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
            uv = 4.0 * rng.choice([-1.0, 1.0])
            position, direction = _three(0.65 * outward), _three(moment / np.linalg.norm(moment))
            name = f"{label} {number}"
            parts.append(
                Component(name, f"class:{label}", float(uv), float(latency), float(width), position, direction)
            )
    return tuple(parts)


def time_courses(
    parts: tuple[Component, ...], latency_shift: float, seconds: Float[np.ndarray, "time"]
) -> Float[np.ndarray, "components time"]:
    """Each component's time course, peak 1, at `seconds` after the onset; nothing before it or after END_S."""
    latency = np.array([c.latency_s for c in parts])[:, None] + latency_shift
    width = np.array([c.width_s for c in parts])[:, None]
    courses = np.exp(-0.5 * ((seconds - latency) / width) ** 2)
    return np.where((seconds >= 0) & (seconds < END_S), courses, 0.0)
