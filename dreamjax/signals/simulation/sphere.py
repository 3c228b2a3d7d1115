"""Scalp potential of a current dipole in a head of concentric spheres (brain, fluid, skull, scalp).

Inside shell j the n-th term of the potential is A_j r^n + B_j r^-(n+1). The dipole fixes B of the brain; potential and
normal current are continuous over each border, and no current leaves the scalp. Going inwards from the scalp therefore
gives the gain of every term (de Munck & Peters 1993; Zhang 1995, eq. 2-6), and the series is summed until it converges.
"""

import numpy as np
from jaxtyping import Float

RADII = (0.90, 0.92, 0.97, 1.0)  # of the outer border of each shell, in head radii; MNE's defaults
CONDUCTIVITIES = (0.33, 1.0, 0.004, 0.33)  # S/m
TERMS = 120


def term_gains(
    terms: int, radii: tuple[float, ...] = RADII, conductivities: tuple[float, ...] = CONDUCTIVITIES
) -> Float[np.ndarray, "terms"]:
    """f_n for n = 1 … terms: scalp potential of term n over the dipole's own B_n. A homogeneous head has (2n+1)/n."""
    n = np.arange(1, terms + 1, dtype=np.float64)
    a, b = np.ones_like(n), n / (n + 1)  # at the scalp: A = 1, and B so that the radial current is 0
    for shell in range(len(radii) - 2, -1, -1):
        r, ratio = radii[shell], conductivities[shell + 1] / conductivities[shell]
        inner, outer = a * r**n, b * r ** -(n + 1)
        potential, current = inner + outer, ratio * (n * inner - (n + 1) * outer)
        a = (current + (n + 1) * potential) / ((2 * n + 1) * r**n)
        b = (n * potential - current) / ((2 * n + 1) * r ** -(n + 1))
    return ((2 * n + 1) / (n + 1)) / b


def leadfield(
    electrodes: Float[np.ndarray, "channels 3"],
    positions: Float[np.ndarray, "dipoles 3"],
    moments: Float[np.ndarray, "dipoles 3"],
    head_radius: float = 0.09,
    radii: tuple[float, ...] = RADII,
    conductivities: tuple[float, ...] = CONDUCTIVITIES,
) -> Float[np.ndarray, "channels dipoles"]:
    """Potential in V at unit-sphere `electrodes` of dipoles at `positions` (in head radii) with `moments` in A·m.

    The reference is the sphere's own: the mean over the whole surface is zero. `head_radius` is in metres.
    Raises ValueError for a dipole outside the brain.
    """
    depth = np.linalg.norm(positions, axis=1)
    if depth.max(initial=0) >= radii[0]:
        raise ValueError(f"a dipole at {depth.max():.3f} head radii lies outside the brain ({radii[0]})")
    outward = np.divide(
        positions, depth[:, None], out=np.tile([0.0, 0.0, 1.0], (len(depth), 1)), where=depth[:, None] > 0
    )
    electrodes = electrodes / np.linalg.norm(electrodes, axis=1, keepdims=True)
    cosine = electrodes @ outward.T
    radial = np.einsum("ds,ds->d", moments, outward)
    tangential = electrodes @ moments.T - cosine * radial  # moment along the electrode's direction, radial part removed

    gains = term_gains(TERMS, radii, conductivities)
    total = np.zeros_like(cosine)
    p_before, p = np.ones_like(cosine), cosine.copy()  # Legendre P_0, P_1
    slope_before, slope = np.zeros_like(cosine), np.ones_like(cosine)  # their derivatives
    for n in range(1, TERMS + 1):
        total += gains[n - 1] * depth ** (n - 1) * (n * p * radial + slope * tangential)
        p_before, p = p, ((2 * n + 1) * cosine * p - n * p_before) / (n + 1)
        slope_before, slope = slope, slope_before + (2 * n + 1) * p_before
    return total / (4 * np.pi * conductivities[0] * head_radius**2)
