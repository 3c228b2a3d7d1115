"""From a recording's channels to the channels that a model reads.

`interpolate`: spherical splines (Perrin, Pernier, Bertrand and Echallier, Electroenceph. clin. Neurophysiol. 72, 1989,
184-187, equations 1-4) to a template montage. `tile`: DreamDiffusion's repetition of the montage, for its parity
presets only. `stretch`: its linear interpolation in time.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.polynomial.legendre import legval

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.signals.recordings import montage

STIFFNESS, TERMS, SMOOTHING = 4, 50, 1e-5  # m of the paper; terms of its series; diagonal added to G, as in MNE


def _g(cosine: np.ndarray) -> np.ndarray:
    """Return equation 3: g(x) = 1/4π Σ (2n+1) / (n^m (n+1)^m) P_n(x), n = 1 … 50."""
    n = np.arange(1, TERMS + 1, dtype=float)
    return legval(cosine, np.concatenate([[0], (2 * n + 1) / (n * (n + 1)) ** STIFFNESS / (4 * np.pi)]))


def _splines(have: np.ndarray, want: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return g of each pair of electrodes, and of each wanted direction and electrode."""
    have, want = (xyz / np.linalg.norm(xyz, axis=1, keepdims=True) for xyz in (have, want))
    return _g(np.clip(have @ have.T, -1, 1)), _g(np.clip(want @ have.T, -1, 1))


def _weights(
    between: Float[np.ndarray, "n n"], to: Float[np.ndarray, "m n"], use: Bool[np.ndarray, "batch n"]
) -> Float[np.ndarray, "batch m n"]:
    """Solve equations 1 and 2 for each row of `use`, the electrodes that count; the others get weight 0.

    An electrode that does not count becomes the equation 1 · c = 0, so that all rows have one shape.
    """
    batch, n = use.shape
    system = np.zeros((batch, n + 1, n + 1))
    pair = use[:, :, None] & use[:, None, :]
    system[:, :n, :n] = np.where(pair, between, 0)
    system[:, :n, n] = system[:, n, :n] = use
    system[:, n, n] = ~use.any(axis=1)  # without a single electrode: all weights 0
    diagonal = np.arange(n)
    system[:, diagonal, diagonal] = np.where(use, between[diagonal, diagonal] + SMOOTHING, 1)
    right = np.ones((batch, n + 1, len(to)))
    right[:, :n] = np.where(use[:, :, None], to.T, 0)
    return np.linalg.solve(system, right)[:, :n].transpose(0, 2, 1)  # the system is symmetric


def spline_matrix(have: Float[np.ndarray, "n 3"], want: Float[np.ndarray, "m 3"]) -> Float[np.ndarray, "m n"]:
    """Return the matrix from potentials at `have` to those at `want`: directions from the sphere's centre."""
    between, to = _splines(np.asarray(have, float), np.asarray(want, float))
    return _weights(between, to, np.ones((1, len(have)), bool))[0]


def fit_sphere(xyz: Float[np.ndarray, "n 3"]) -> tuple[Float[np.ndarray, "3"], float]:
    """Return centre and radius of the least-squares sphere |x|² = 2 x·c + (r² - |c|²)."""
    solution = np.linalg.lstsq(np.column_stack([2 * xyz, np.ones(len(xyz))]), (xyz**2).sum(1), rcond=None)[0]
    return solution[:3], float(np.sqrt(max(solution[3] + solution[:3] @ solution[:3], 0)))


@lru_cache(maxsize=1)
def standard_centre() -> Float[np.ndarray, "3"]:
    """Return the centre of the sphere through the 64 electrodes of the 10-10 template, metres."""
    return fit_sphere(montage.template("1010-64")[1])[0]


@lru_cache(maxsize=256)
def positions_matter(ch_names: tuple[str, ...]) -> bool:
    """Return whether a cap's measured positions are used: not if all names are 10-05 ones (see `directions`)."""
    return not np.isfinite(montage.standard_positions(ch_names)).all()


def directions(ch_names: tuple[str, ...], xyz: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Return the direction of each electrode from the centre of its head; NaN where it is unknown.

    Electrodes with 10-05 names have standard positions, the same on every head. Others (EGI's E1 …) keep the file's
    position, relative to a sphere fitted to the cap if it has eight or more.
    """
    out = montage.standard_positions(ch_names) - standard_centre()
    unnamed = ~np.isfinite(out).all(axis=1)
    measured = np.isfinite(xyz).all(axis=1)
    if (unnamed & measured).any():
        centre = standard_centre()
        if measured.sum() >= 8:
            fitted, radius = fit_sphere(np.asarray(xyz, float)[measured])
            if 0.04 < radius < 0.2:  # m; anything else is a cap too flat to fit
                centre = fitted
        out[unnamed] = xyz[unnamed] - centre
    return out


@dataclass(frozen=True, eq=False)  # compared by identity: one exists per cap
class ChannelMap:
    """The map from the channels of one cap to those of a template; made once per cap."""

    ch_names: tuple[str, ...]
    names: tuple[str, ...]
    same: Int[np.ndarray, "m"]  # the channel that is the template's channel itself, or -1
    between: Float[np.ndarray, "n n"]  # g of each pair of electrodes
    to: Float[np.ndarray, "m n"]  # g of each template channel and electrode
    located: Bool[np.ndarray, "n"]
    wanted: Bool[np.ndarray, "m"]  # template channels whose direction is known

    def matrices(
        self, usable: Bool[np.ndarray, "batch n"]
    ) -> tuple[Float[np.ndarray, "batch m n"], Bool[np.ndarray, "batch m"]]:
        """Return (matrix, real) for each row of `usable`: matrix @ signal has the template's channels.

        `real` marks template channels that are usable electrodes themselves, whose row is exactly that electrode.
        Where no usable electrode has a position, the other channels are zero, with a warning once per cap.
        Raise UserError where a channel of unknown position must be interpolated.
        """
        real = (self.same >= 0) & usable[:, self.same]
        matrix = np.zeros((len(usable), len(self.names), len(self.ch_names)), np.float32)
        if not real.all():
            if not (usable & self.located).any(axis=1).all():
                _warn_unplaced(self.ch_names)
            if len(lost := np.flatnonzero(~real.all(axis=0) & ~self.wanted)):
                raise UserError(
                    f"channel {self.names[lost[0]]} is absent or bad in some windows and its position is unknown, "
                    "so it cannot be interpolated; leave those windows out, or give positions when preparing"
                )
            # solved for every template channel, also those not needed: the bits of a row may not depend on other rows
            matrix[:] = _weights(self.between, self.to, usable & self.located)
        row, channel = np.nonzero(real)
        matrix[row, channel] = 0
        matrix[row, channel, self.same[channel]] = 1
        return matrix, real


@lru_cache(maxsize=256)
def _warn_unplaced(ch_names: tuple[str, ...]) -> None:
    log.warning(
        "the channels %s have no known position, so their windows are not used; give positions when "
        "preparing, or set data.montage=own for a dataset of one cap",
        ", ".join(ch_names[:6]) + (" …" if len(ch_names) > 6 else ""),
    )


@lru_cache(maxsize=256)
def _channel_map(ch_names: tuple[str, ...], xyz: bytes, names: tuple[str, ...], target: bytes) -> ChannelMap:
    have = directions(ch_names, np.frombuffer(xyz, np.float32).reshape(-1, 3).astype(float))
    want = np.frombuffer(target, np.float64).reshape(-1, 3)
    located: np.ndarray = np.isfinite(have).all(axis=1)  # type: ignore[assignment]
    wanted: np.ndarray = np.isfinite(want).all(axis=1)  # type: ignore[assignment]
    have, want = (np.where(k[:, None], x, [0.0, 0.0, 1.0]) for x, k in ((have, located), (want, wanted)))
    same = np.array([ch_names.index(name) if name in ch_names else -1 for name in names])
    return ChannelMap(ch_names, names, same, *_splines(have, want), located, wanted)


def channel_map(
    ch_names: tuple[str, ...], xyz: Float[np.ndarray, "n 3"], names: tuple[str, ...], target: Float[np.ndarray, "m 3"]
) -> ChannelMap:
    """Return the map from a cap to a template, whose channels are in the directions `target`. Cached by cap."""
    if not positions_matter(tuple(ch_names)):
        xyz = np.full((len(ch_names), 3), np.nan)
    return _channel_map(
        tuple(ch_names),
        np.ascontiguousarray(xyz, np.float32).tobytes(),
        tuple(names),
        np.ascontiguousarray(target, np.float64).tobytes(),
    )


@lru_cache(maxsize=512)
def matrix_of(chart: ChannelMap, usable: bytes) -> tuple[Float[np.ndarray, "m n"], Bool[np.ndarray, "m"]]:
    """Return `ChannelMap.matrices` for one set of usable channels (bool as bytes), cached."""
    matrix, real = chart.matrices(np.frombuffer(usable, bool)[None])
    return matrix[0], real[0]


def tile_rows(channels: int, wanted: int = 128) -> Int[np.ndarray, "wanted"]:
    """Return the channel in each row of DreamDiffusion's input.

    The whole montage repeated floor(wanted / C) times, then its first wanted mod C channels.
    """
    return np.arange(wanted) % channels


def stretch(signal: Float[np.ndarray, "... time"], samples: int) -> Float[np.ndarray, "... samples"]:
    """Interpolate linearly in time to `samples`, first and last sample kept (DreamDiffusion's loader)."""
    time = signal.shape[-1]
    at = np.linspace(0, time - 1, samples)
    left = np.minimum(at.astype(int), max(time - 2, 0))
    share = (at - left).astype(signal.dtype)
    right = np.minimum(left + 1, time - 1)
    return signal[..., left] * (1 - share) + signal[..., right] * share
