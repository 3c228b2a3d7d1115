"""From a recording's channels to the channels that a model sees.

`interpolate`: spherical splines (Perrin, Pernier, Bertrand and Echallier, Electroenceph. clin. Neurophysiol. 72, 1989,
184-187, equations 1-4) to a template montage. `tile`: DreamDiffusion's repetition of the montage, for its parity
presets only. `stretch`: its linear interpolation in time.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.polynomial.legendre import legval

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.signals import montage

STIFFNESS, TERMS, SMOOTHING = 4, 50, 1e-5  # m of the paper; terms of its series; diagonal added to G, as in MNE
FEW = 16  # electrodes below which interpolation to a whole-head montage is mostly guessing


def _g(cosine: np.ndarray) -> np.ndarray:
    """Equation 3: g(x) = 1/4π Σ (2n+1) / (n^m (n+1)^m) P_n(x), n = 1 … 50."""
    n = np.arange(1, TERMS + 1, dtype=float)
    return legval(cosine, np.concatenate([[0], (2 * n + 1) / (n * (n + 1)) ** STIFFNESS / (4 * np.pi)]))


def _unit(xyz: np.ndarray) -> np.ndarray:
    return xyz / np.linalg.norm(xyz, axis=1, keepdims=True)


def spline_matrix(
    have: Float[np.ndarray, "n 3"], want: Float[np.ndarray, "m 3"], smoothing: float = SMOOTHING
) -> Float[np.ndarray, "m n"]:
    """Matrix taking potentials at `have` to potentials at `want`: directions from the sphere's centre, any length."""
    have, want = _unit(np.asarray(have, float)), _unit(np.asarray(want, float))
    n = len(have)
    system = np.ones((n + 1, n + 1))
    system[:n, :n] = _g(np.clip(have @ have.T, -1, 1)) + smoothing * np.eye(n)
    system[n, n] = 0
    to = np.concatenate([_g(np.clip(want @ have.T, -1, 1)), np.ones((len(want), 1))], axis=1)
    return np.linalg.solve(system, to.T).T[:, :n]  # the system is symmetric, and regular for any smoothing > 0


def fit_sphere(xyz: Float[np.ndarray, "n 3"]) -> tuple[Float[np.ndarray, "3"], float]:
    """Centre and radius of the least-squares sphere |x|² = 2 x·c + (r² - |c|²)."""
    solution = np.linalg.lstsq(np.column_stack([2 * xyz, np.ones(len(xyz))]), (xyz**2).sum(1), rcond=None)[0]
    return solution[:3], float(np.sqrt(max(solution[3] + solution[:3] @ solution[:3], 0)))


@lru_cache(maxsize=1)
def standard_centre() -> Float[np.ndarray, "3"]:
    """Centre of the sphere through the 64 electrodes of the 10-10 template, metres."""
    return fit_sphere(montage.template("1010-64")[1])[0]


def directions(ch_names: tuple[str, ...], xyz: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Where each electrode lies, seen from the centre of its head; NaN where nothing is known.

    A 10-05 name stands for its standard position, so that equal names are equal places on every head. Other electrodes
    (EGI's E1 …) keep the file's position, seen from a sphere fitted to that cap where it has eight or more.
    """
    found = montage.standard_positions(ch_names) - standard_centre()
    unnamed = ~np.isfinite(found).all(axis=1)
    measured = np.isfinite(xyz).all(axis=1)
    if (unnamed & measured).any():
        centre = standard_centre()
        if measured.sum() >= 8:
            own, radius = fit_sphere(np.asarray(xyz, float)[measured])
            if 0.04 < radius < 0.2:  # m; anything else is a cap too flat to fit
                centre = own
        found[unnamed] = xyz[unnamed] - centre
    return found


@lru_cache(maxsize=512)
def _interpolation(
    ch_names: tuple[str, ...], xyz: bytes, usable: bytes, names: tuple[str, ...], target: bytes
) -> tuple[np.ndarray, np.ndarray]:
    have = directions(ch_names, np.frombuffer(xyz, np.float32).reshape(-1, 3).astype(float))
    ok = np.frombuffer(usable, bool)
    want = np.frombuffer(target, np.float64).reshape(-1, 3)
    matrix = np.zeros((len(names), len(ch_names)), np.float32)
    real = np.zeros(len(names), bool)
    for row, name in enumerate(names):
        if name in ch_names and ok[ch_names.index(name)]:
            matrix[row, ch_names.index(name)] = 1  # exactly the electrode itself
            real[row] = True
    if not real.all():
        located = ok & np.isfinite(have).all(axis=1)
        if not located.any():
            some = ", ".join(ch_names[:6]) + (" …" if len(ch_names) > 6 else "")
            raise UserError(
                f"none of the channels {some} has a known position, so they cannot be mapped to a montage; "
                "set data.montage=own, or give positions when preparing"
            )
        if not np.isfinite(want[~real]).all():
            lost = [n for n, r, w in zip(names, real, want, strict=True) if not r and not np.isfinite(w).all()]
            raise UserError(f"channel {lost[0]} is absent or bad in some windows and its position is unknown")
        matrix[np.ix_(~real, located)] = spline_matrix(have[located], want[~real])
    matrix.setflags(write=False)
    real.setflags(write=False)
    return matrix, real


_warned: set[tuple[str, ...]] = set()


def interpolation_matrix(
    ch_names: tuple[str, ...],
    xyz: Float[np.ndarray, "n 3"],
    usable: Bool[np.ndarray, "n"],
    names: tuple[str, ...],
    target: Float[np.ndarray, "m 3"],
) -> tuple[Float[np.ndarray, "m n"], Bool[np.ndarray, "m"]]:
    """(matrix, real): matrix @ signal has the template's channels; `real` marks those that are electrodes themselves.

    `target` are directions of the template's channels (see `directions`). Channels that are not usable get weight 0.
    Cached by channel set; says once per channel set where fewer than 16 electrodes must stand for the whole head.
    """
    matrix, real = _interpolation(
        tuple(ch_names),
        np.ascontiguousarray(xyz, np.float32).tobytes(),
        np.ascontiguousarray(usable, bool).tobytes(),
        tuple(names),
        np.ascontiguousarray(target, np.float64).tobytes(),
    )
    if len(ch_names) < FEW and not real.all() and tuple(ch_names) not in _warned:
        _warned.add(tuple(ch_names))
        log.warning(
            "%d electrodes (%s …) are interpolated to a montage of %d: below %d most of it is guessed; "
            "channel_ok marks the real ones",
            len(ch_names),
            ", ".join(ch_names[:4]),
            len(names),
            FEW,
        )
    return matrix, real


def tile_rows(channels: int, wanted: int = 128, start: int = 0) -> Int[np.ndarray, "wanted"]:
    """Which channel stands in each row of DreamDiffusion's input.

    Fewer than `wanted`: the whole montage repeated floor(wanted / C) times, then its first wanted mod C channels.
    More: the contiguous block from `start` on.
    """
    if channels > wanted:
        return np.arange(start, start + wanted)
    return np.concatenate([np.tile(np.arange(channels), wanted // channels), np.arange(wanted % channels)])


def stretch(signal: Float[np.ndarray, "... time"], samples: int) -> Float[np.ndarray, "... samples"]:
    """Linear interpolation in time to `samples`, first and last sample kept (DreamDiffusion's loader)."""
    time = signal.shape[-1]
    at = np.linspace(0, time - 1, samples)
    left = np.minimum(at.astype(int), max(time - 2, 0))
    share = (at - left).astype(signal.dtype)
    right = np.minimum(left + 1, time - 1)
    return signal[..., left] * (1 - share) + signal[..., right] * share
