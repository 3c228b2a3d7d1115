"""The loss of a variational autoencoder (Kingma & Welling 2014, arXiv 1312.6114; Rombach et al. 2022, appendix G).

With an image x of N numbers, its reconstruction x̂ and the posterior N(m, s²) of its latents,

    loss = (Σ ρ(x̂ - x) + kl_weight · KL) / N,       ρ(d) = |d|  |  d²,
    KL(N(m, s²) ‖ N(0, 1)) = ½ Σ (m² + s² - 1 - log s²).

`kl_weight` 1e-6 is latent diffusion's: latents that are hardly pressed, whose scale is measured afterwards.
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

PEAK = 2.0  # of images in [-1, 1]


@dataclass(frozen=True)
class VariationalConfig:
    """The settings of the loss: the kind of pixel error, and the weight of the KL divergence."""

    kind: Literal["l1", "mse"] = "l1"
    kl_weight: float = 1e-6

    def __post_init__(self) -> None:
        if not 0 <= self.kl_weight < math.inf:
            raise ValueError(f"loss.kl_weight is {self.kl_weight}, but it must be 0 or more")


def gaussian_kl(mean: Float[Array, "B ..."], log_variance: Float[Array, "B ..."]) -> Float[Array, "B"]:
    """Return KL(N(mean, exp(log_variance)) ‖ N(0, 1)) in nats, summed over all but the leading axis."""
    per_latent = jnp.square(mean) + jnp.exp(log_variance) - 1.0 - log_variance
    return 0.5 * per_latent.reshape(len(mean), -1).sum(1)


def psnr(x: Float[Array, "B ..."], reconstruction: Float[Array, "B ..."]) -> Float[Array, "B"]:
    """Return 10 log10(peak² / mean squared error) in dB of images in [-1, 1], which the reconstruction is cut to."""
    error = jnp.square(jnp.clip(reconstruction, -1, 1) - x).reshape(len(x), -1).mean(1)
    return 10 * jnp.log10(PEAK**2 / jnp.maximum(error, 1e-10))


def variational(
    config: VariationalConfig,
    x: Float[Array, "B H W C"],
    reconstruction: Float[Array, "B H W C"],
    mean: Float[Array, "B h w Z"],
    log_variance: Float[Array, "B h w Z"],
    weight: Float[Array, "B"],
) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, tuple[Array, Array]]]:
    """Return `(sum, weight, metrics)` over images: `reconstruction` per pixel and colour, `kl` in nats an image."""
    numbers = x[0].size
    d = reconstruction - x
    error = (jnp.abs(d) if config.kind == "l1" else jnp.square(d)).reshape(len(x), -1).mean(1)
    kl = gaussian_kl(mean, log_variance)
    total, weights = (weight * (error + config.kl_weight * kl / numbers)).sum(), weight.sum()
    return total, weights, {"reconstruction": ((weight * error).sum(), weights), "kl": ((weight * kl).sum(), weights)}
