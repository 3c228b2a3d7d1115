"""Maximum mean discrepancy between the vectors of brain signals and of images (Gretton et al., JMLR 2012, equation 5).

With weights p_i = w_i / Σ w and the mean of Gaussian kernels k(x, y) = mean_σ exp(-|x - y|² / 2σ²),

    MMD² = Σ_ij p_i p_j [k(u_i, u_j) + k(v_i, v_j) - 2 k(u_i, v_j)]                    (biased: never negative)

SAMGA (arXiv 2604.17782) lists the σ of `SIGMAS` and weighs m MMD + (1 - m) contrast, m falling linearly from 0.9 to
0.5 (`dreamjax.objectives.regression_loss.combined`). Whether its kernels are summed or averaged, and whether its
estimate is the biased one, is not in its paper's notes: here they are averaged, so that MMD² is at most 2.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

SIGMAS = (0.1, 0.2, 0.5, 1.0, 2.0)


def mmd(
    u_BxP: Float[Array, "B P"],
    v_BxP: Float[Array, "B P"],
    weight_B: Float[Array, "B"],
    sigmas: Sequence[float] = SIGMAS,
) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, tuple[Array, Array]]]:
    """Return `(MMD² · Σ w, Σ w, metrics)`, so that sum / weight is MMD². Vectors are compared as they are."""
    weight_B = weight_B.astype(jnp.float32)
    weights = weight_B.sum()
    p = weight_B / jnp.maximum(weights, 1e-12)
    there = (weight_B > 0)[:, None]
    u, v = (jnp.where(there, x.astype(jnp.float32), 0) for x in (u_BxP, v_BxP))  # NaN in padding counts nothing
    value = p @ (_kernel(u, u, sigmas) + _kernel(v, v, sigmas) - 2 * _kernel(u, v, sigmas)) @ p
    total = value * weights
    return total, weights, {"mmd": (total, weights)}


def _kernel(x: Float[Array, "B P"], y: Float[Array, "B P"], sigmas: Sequence[float]) -> Float[Array, "B B"]:
    """Return k of every pair; |x|² + |y|² - 2 x·y, so that no array of B × B × P numbers is held."""
    squared = jnp.square(x).sum(1)[:, None] + jnp.square(y).sum(1)[None] - 2 * x @ y.T
    squared = jnp.maximum(squared, 0)
    return sum((jnp.exp(-squared / (2 * sigma**2)) for sigma in sigmas), jnp.float32(0)) / len(sigmas)
