"""The reconstruction loss of masked-signal modelling (DreamDiffusion section 3.1; MAE, He et al. 2022, equation-free).

With prediction p, target t, and a weight w per sample and channel,

    loss = Σ w ρ(p - t) / Σ w,        ρ(d) = d²  |  |d|  |  d²/2β for |d| < β, |d| - β/2 beyond,

w = 1 where something was hidden, `visible_weight` elsewhere, 0 in padding, and `interpolated_weight` times that in
channels that no electrode measured. Sums are float32; with w in {0, 1} per patch this is the reference's
Σ mask · mean(e) / Σ mask.
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

EPS = 1e-6  # of the variance of a normalised patch, as in MAE


@dataclass(frozen=True)
class ReconstructionConfig:
    """The settings of the loss: the targets, and the weights of errors."""

    target: Literal["raw", "patch_normalised"] = "raw"
    kind: Literal["mse", "l1", "smooth_l1"] = "mse"
    beta: float = 1.0  # where smooth_l1 turns from quadratic to linear, in scaled units
    visible_weight: float = 0.0  # of visible patches; 0: masked only
    interpolated_weight: float = 1.0  # of interpolated channels

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ValueError(f"loss.beta is {self.beta}, but it must be positive")
        for name in ("visible_weight", "interpolated_weight"):
            if not 0 <= (weight := getattr(self, name)) < math.inf:
                raise ValueError(f"loss.{name} is {weight}, but a weight is 0 or more")


def normalise_patches(
    patches_BxNxP: Float[Array, "B N P"],
) -> tuple[Float[Array, "B N P"], Float[Array, "B N 1"], Float[Array, "B N 1"]]:
    """Return `(patches - mean) / sqrt(var + 1e-6)` per patch (unbiased variance), the means and the divisors."""
    mean = patches_BxNxP.mean(-1, keepdims=True)
    divisor = jnp.sqrt(patches_BxNxP.var(-1, keepdims=True, ddof=1) + EPS)
    return (patches_BxNxP - mean) / divisor, mean, divisor


def pointwise(config: ReconstructionConfig, prediction: Float[Array, "..."], target: Float[Array, "..."]) -> Array:
    """Return ρ(p - t), float32."""
    d = prediction.astype(jnp.float32) - target.astype(jnp.float32)
    size = jnp.abs(d)
    if config.kind != "smooth_l1":
        return d * d if config.kind == "mse" else size
    return jnp.where(size < config.beta, 0.5 * d * d / config.beta, size - 0.5 * config.beta)


def reconstruction(
    config: ReconstructionConfig,
    prediction: Float[Array, "B N P"],
    target: Float[Array, "B N P"],
    weight: Float[Array, "B N P"],
    normalised: Bool[Array, ""] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, tuple[Array, Array]]]:
    """Return `(Σ w ρ, Σ w, metrics)`. `explained` is 1 - Σ w (p - t)² / Σ w t² where w > 0: zero for predicting zero.

    `normalised`: whether targets are, in place of `config.target`, for a program that does either.
    """
    target = target.astype(jnp.float32)
    if normalised is not None:
        target = jnp.where(normalised, normalise_patches(target)[0], target)
    elif config.target == "patch_normalised":
        target = normalise_patches(target)[0]
    weight = weight.astype(jnp.float32)
    total, weights = jnp.sum(weight * pointwise(config, prediction, target)), jnp.sum(weight)
    power = jnp.sum(weight * target**2)
    residual = jnp.sum(weight * (prediction.astype(jnp.float32) - target) ** 2)
    return total, weights, {"loss": (total, weights), "explained": (power - residual, power)}
