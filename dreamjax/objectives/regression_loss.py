"""Regress vectors of images from brain signals: squared error, cosine, and their combination with another loss.

With u_i predicted from brain signal i, v_i of the image that was seen, both of F numbers, and weights w_i,

    mse = Σ w_i |u_i - v_i|² / F / Σ w_i            cosine = Σ w_i (1 - u_i·v_i / |u_i| |v_i|) / Σ w_i

Vectors of `mse` are not normalised. Meta's loss is λ CLIP + (1 - λ) MSE (Benchetrit, Banville & King 2024, arXiv
2310.19812, equation 3), with λ = 1 for retrieval.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from dreamjax.objectives.contrastive import unit

Objective = tuple[Float[Array, ""], Float[Array, ""], dict[str, tuple[Array, Array]]]


def mse(u_BxF: Float[Array, "B *F"], v_BxF: Float[Array, "B *F"], weight_B: Float[Array, "B"]) -> Objective:
    """Return `(sum, weight, metrics)` over examples: the mean squared error per number of the vector."""
    difference = (u_BxF.astype(jnp.float32) - v_BxF.astype(jnp.float32)).reshape(len(u_BxF), -1)
    return _weighted("mse", jnp.square(_of_weight(difference, weight_B)).mean(1), weight_B)


def cosine(u_BxF: Float[Array, "B F"], v_BxF: Float[Array, "B F"], weight_B: Float[Array, "B"]) -> Objective:
    """Return `(sum, weight, metrics)` over examples: 1 less the cosine, from 0 to 2."""
    u, v = (unit(_of_weight(x, weight_B)) for x in (u_BxF, v_BxF))
    return _weighted("cosine_distance", 1 - (u * v).sum(1), weight_B)


def combined(parts: Mapping[str, tuple[Float[Array, ""] | float, Objective]]) -> Objective:
    """Return Σ factor · loss of named parts `{name: (factor, objective)}` over the same examples.

    Metrics: those of the parts, and the loss of each under its name. Meta's loss is
    `combined({"clip": (λ, contrastive(...)), "mse": (1 - λ, mse(...))})`. There is at least one part.
    """
    total, metrics = jnp.float32(0), dict[str, tuple[Array, Array]]()
    for name, (factor, (loss, weight, more)) in parts.items():
        total += factor * loss
        metrics |= more | {name: (loss, weight)}
    return total, weight, metrics


def _of_weight(x: Float[Array, "B F"], weight_B: Float[Array, "B"]) -> Float[Array, "B F"]:
    """Return x with zeros in rows of weight 0: a NaN of padding has no gradient."""
    return jnp.where((weight_B > 0)[:, None], x, 0)


def _weighted(name: str, loss_B: Float[Array, "B"], weight_B: Float[Array, "B"]) -> Objective:
    weight_B = weight_B.astype(jnp.float32)
    total, weights = (weight_B * loss_B).sum(), weight_B.sum()
    return total, weights, {name: (total, weights)}
