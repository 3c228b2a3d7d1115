"""A subject's head and cap: the true positions of the electrodes, and the potential of each source there in µV.

The head is made of concentric spheres (brain, fluid, skull, scalp). Inside shell j the n-th term of the potential is
A_j r^n + B_j r^-(n+1). The dipole fixes B of the brain; potential and normal current are continuous over each border,
and no current leaves the scalp. Going inwards from the scalp therefore gives the gain of every term (de Munck & Peters
1993; Zhang 1995, eq. 2-6), and the series is summed until it converges.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from dreamjax.errors import require
from dreamjax.signals.datasets import mapping
from dreamjax.signals.recordings import montage

# The first N of these are the cap of N channels: 19 are the 10-20 system, 32 and 64 the usual larger caps.
_NAMES = (
    "O1 O2 P3 P4 C3 C4 F3 F4 Fp1 Fp2 T7 T8 P7 P8 F7 F8 Fz Cz Pz Oz POz FC1 FC2 CP1 CP2 FC5 FC6 CP5 CP6 AFz PO7 PO8 "
    "AF3 AF4 AF7 AF8 F1 F2 F5 F6 FT7 FT8 FC3 FC4 C1 C2 C5 C6 TP7 TP8 CP3 CP4 CPz P1 P2 P5 P6 PO3 PO4 Fpz Iz FCz TP9 "
    "F9"
)
# … and these follow in a cap of up to 128
_MORE = (
    "AF9 AF10 F10 FT9 FT10 P9 P10 PO9 PO10 I1 I2 AF1 AF2 PO5 PO6 PO1 PO2 AFp3h AFp4h AFF5h AFF1h AFF2h AFF6h FFT7h "
    "FFC5h FFC3h FFC1h FFC2h FFC4h FFC6h FFT8h FTT7h FCC5h FCC3h FCC1h FCC2h FCC4h FCC6h FTT8h TTP7h CCP5h CCP3h "
    "CCP1h CCP2h CCP4h CCP6h TTP8h TPP7h CPP5h CPP3h CPP1h CPP2h CPP4h CPP6h TPP8h PPO5h PPO1h PPO2h PPO6h POO3h "
    "POO4h OI1h OI2h AFFz"
)
NAMES, MORE = tuple(_NAMES.split()), tuple(_MORE.split())
REFERENCE = "TP10"  # the right mastoid: recorded against it, and itself not recorded
AVERAGE_RADIUS = 0.09  # m
RADII = (0.90, 0.92, 0.97, 1.0)  # of the outer border of each shell, in head radii; MNE's defaults
CONDUCTIVITIES = (0.33, 1.0, 0.004, 0.33)  # S/m
TERMS = 120


@lru_cache(maxsize=1)
def _cap() -> dict[str, np.ndarray]:
    require("mne", "the electrode positions of `dreamjax simulate`")
    import mne

    places = mne.channels.make_standard_montage("easycap-M1").get_positions()["ch_pos"]
    places = {name: places[name] / np.linalg.norm(places[name]) for name in (*NAMES, REFERENCE)}
    seen = montage.standard_positions((*NAMES, *MORE)) - mapping.standard_centre()
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    left, _, right = np.linalg.svd(seen[: len(NAMES)].T @ np.stack([places[name] for name in NAMES]))
    turned = seen[len(NAMES) :] @ (left @ right)  # the two montages' heads look up and down by a few degrees
    return places | dict(zip(MORE, turned, strict=True))


def nominal_positions(names: tuple[str, ...]) -> Float[np.ndarray, "channels 3"]:
    """Return unit-sphere positions of electrodes on a perfectly placed cap; x right, y front, z up."""
    return np.stack([_cap()[name] for name in names])


@dataclass(frozen=True)
class Head:
    """One subject's head; `electrodes` and `reference` are unit vectors."""

    ch_names: tuple[str, ...]
    electrodes: Float[np.ndarray, "channels 3"]
    reference: Float[np.ndarray, "3"]
    radius: float  # m
    rotation_deg: tuple[float, ...]  # how the cap is turned about x, y, z

    def topography(
        self, positions: Float[np.ndarray, "dipoles 3"], moments: Float[np.ndarray, "dipoles 3"]
    ) -> Float[np.ndarray, "channels dipoles"]:
        """Return the potential against the reference electrode per A·m."""
        places = np.concatenate([self.electrodes, self.reference[None]])
        field = leadfield(places, positions, moments, self.radius)
        return field[:-1] - field[-1:]


def average_head(ch_names: tuple[str, ...]) -> Head:
    """Return the head for which amplitudes are stated."""
    reference = nominal_positions((REFERENCE,))[0]
    return Head(ch_names, nominal_positions(ch_names), reference, AVERAGE_RADIUS, (0.0, 0.0, 0.0))


def draw_head(rng: np.random.Generator, channels: int, missing: int) -> Head:
    """Draw a head of another size under a slightly rotated cap, with electrodes a few millimetres off."""
    lost = set(rng.choice(channels, missing, replace=False).tolist())
    names = tuple(name for i, name in enumerate((*NAMES, *MORE)[:channels]) if i not in lost)
    angles = np.clip(rng.normal(0, 3, 3), -8, 8)
    places = nominal_positions((*names, REFERENCE)) @ _rotation(np.deg2rad(angles)).T
    places = places + rng.normal(0, 0.02, places.shape)  # 2 % of the radius: about 2 mm
    places /= np.linalg.norm(places, axis=1, keepdims=True)
    radius = float(np.clip(rng.normal(AVERAGE_RADIUS, 0.004), 0.078, 0.102))
    return Head(names, places[:-1], places[-1], radius, tuple(np.round(angles, 3).tolist()))


def _rotation(angles: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def moment_scales(
    positions: np.ndarray, moments: np.ndarray, amplitudes_uv: np.ndarray
) -> Float[np.ndarray, "dipoles"]:
    """Return A·m·(µV/V) for which each dipole reaches its stated µV at its strongest electrode of the whole cap."""
    field = average_head(NAMES).topography(positions, moments)
    return amplitudes_uv / np.abs(field).max(axis=0)


# -------------------------------------------------------------------------------------------------- concentric spheres
def term_gains(
    terms: int, radii: tuple[float, ...] = RADII, conductivities: tuple[float, ...] = CONDUCTIVITIES
) -> Float[np.ndarray, "terms"]:
    """Return f_n, n = 1 … terms: scalp potential of term n over the dipole's B_n; (2n+1)/n for a homogeneous head."""
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
    """Return the potential in V at unit-sphere `electrodes` of dipoles at `positions` (head radii), `moments` in A·m.

    The reference is the mean over the whole surface of the sphere, which is zero. `head_radius` is in metres.
    Raise ValueError for a dipole outside the brain.
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
