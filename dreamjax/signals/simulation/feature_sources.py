"""Sources that code features of images: one dipole for each feature, and what electrodes or MEG sensors see of it.

People differ: the dipoles of a person lie some millimetres from those of the average brain, and point elsewhere. The
potential is that of concentric spheres (`head`). The magnetic field is that of a dipole in a conducting sphere, which
does not depend on the radii of its shells (Sarvas 1987, eq. 25; radial dipoles have none).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dreamjax.signals.simulation import head

DEPTHS = (0.6, 0.85)  # head radii, from the middle
APART, TURNED = 0.06, 0.5  # SD of a person's dipole from the average one: head radii, and share of its length
MU_0 = 4e-7 * np.pi  # V·s / (A·m)


@dataclass(frozen=True)
class Dipoles:
    """Places in head radii (x right, y front, z up) and unit moments."""

    position: Float[np.ndarray, "dipoles 3"]
    moment: Float[np.ndarray, "dipoles 3"]


def average_dipoles(rng: np.random.Generator, count: int) -> Dipoles:
    """Draw dipoles in the back half of the brain, along its surface."""
    outward = _unit(rng.normal(size=(count, 3)))
    outward[:, 1] = -np.abs(outward[:, 1])
    return _along_surface(outward * rng.uniform(*DEPTHS, (count, 1)), rng.normal(size=(count, 3)))


def of_person(rng: np.random.Generator, average: Dipoles) -> Dipoles:
    """Draw the dipoles of one person."""
    shape = average.position.shape
    place = average.position + APART * rng.normal(size=shape)
    depth = np.linalg.norm(place, axis=1, keepdims=True)
    place *= np.clip(depth, *DEPTHS) / depth
    return _along_surface(place, average.moment + TURNED * rng.normal(size=shape))


def of_electrodes(names: tuple[str, ...], dipoles: Dipoles) -> Float[np.ndarray, "channels dipoles"]:
    """Return the potential at the electrodes of the average head, scaled to a mean square of 1."""
    field = head.leadfield(head.nominal_positions(names), dipoles.position, dipoles.moment)
    return field / np.sqrt(np.mean(field**2))


def of_gradiometers(
    coils: Float[np.ndarray, "channels 3"], baseline: float, dipoles: Dipoles
) -> Float[np.ndarray, "channels dipoles"]:
    """Return what radial gradiometers measure, scaled to a mean square of 1.

    Args:
        coils: places of the inner coils, in m from the middle of the head.
        baseline: distance to the outer coils, m.
        dipoles: in the average head.
    """
    outward = _unit(coils)
    at = dipoles.position * head.AVERAGE_RADIUS
    inner, outer = (magnetic_field(coils + far * outward, at, dipoles.moment) for far in (0.0, baseline))
    field = np.einsum("cdx,cx->cd", inner - outer, outward)
    return field / np.sqrt(np.mean(field**2))


def magnetic_field(
    places: Float[np.ndarray, "channels 3"],
    positions: Float[np.ndarray, "dipoles 3"],
    moments: Float[np.ndarray, "dipoles 3"],
) -> Float[np.ndarray, "channels dipoles 3"]:
    """Return the magnetic field in T outside a conducting sphere around the origin; in m and A·m (Sarvas 1987)."""
    r, r_0 = places[:, None], positions[None]
    away = r - r_0
    a = np.linalg.norm(away, axis=-1, keepdims=True)
    radius = np.linalg.norm(r, axis=-1, keepdims=True)
    along = (away * r).sum(-1, keepdims=True)
    f = a * (radius * a + radius**2 - (r_0 * r).sum(-1, keepdims=True))
    gradient = (a**2 / radius + along / a + 2 * a + 2 * radius) * r - (a + 2 * radius + along / a) * r_0
    turned = np.cross(moments, positions)[None]
    return MU_0 / (4 * np.pi * f**2) * (f * turned - (turned * r).sum(-1, keepdims=True) * gradient)


def _along_surface(position: Float[np.ndarray, "dipoles 3"], moment: Float[np.ndarray, "dipoles 3"]) -> Dipoles:
    outward = _unit(position)
    return Dipoles(position, _unit(moment - (moment * outward).sum(1, keepdims=True) * outward))


def _unit(x: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    return x / np.linalg.norm(x, axis=1, keepdims=True)
