"""Resampling of a grid as `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)` does it.

Cubic convolution (Keys 1981), one matrix per axis. Without antialiasing torch takes a = -0.75 and repeats the border;
with it a = -0.5, a kernel as wide as the reduction, and weights that sum to one inside the grid.

Shape letters: h/w rows and columns, y/x the resampled ones, D width.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Filter = Literal["bicubic", "bicubic_antialias"]


def resample(grid: Float[Array, "h w D"], size: tuple[int, int], filter: Filter) -> Float[Array, "y x D"]:
    """Return `grid` at another size, float32."""
    rows, columns = (matrix(n, m, filter) for n, m in zip(grid.shape[:2], size, strict=True))
    exact = jax.lax.Precision.HIGHEST  # accelerators would round float32 products to bfloat16
    return jnp.einsum("yh,xw,hwd->yxd", rows, columns, grid, precision=exact)


def matrix(n: int, m: int, filter: Filter) -> Float[np.ndarray, "m n"]:
    """Return the weights of n old points for each of m new ones."""
    scale = n / m
    antialias = filter == "bicubic_antialias"
    width = max(scale, 1.0) if antialias else 1.0
    a = -0.5 if antialias else -0.75
    centres = (np.arange(m) + 0.5) * scale - 0.5  # of the new points, in units of the old ones
    reach = int(np.ceil(2 * width)) + 1
    points = np.floor(centres).astype(int)[:, None] + np.arange(-reach, reach + 1)
    weights = _cubic((points - centres[:, None]) / width, a)
    if antialias:
        weights = np.where((points >= 0) & (points < n), weights, 0.0)
        weights /= weights.sum(1, keepdims=True)
    matrix = np.zeros((m, n))
    np.add.at(matrix, (np.arange(m)[:, None], points.clip(0, n - 1)), weights)
    return matrix.astype(np.float32)


def _cubic(t: np.ndarray, a: float) -> np.ndarray:
    """Return Keys' cubic convolution kernel, zero beyond ±2."""
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = a * (((t - 5) * t + 8) * t - 4)
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))
