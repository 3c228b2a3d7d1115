"""Classifier-free guidance: extrapolate from the unconditional prediction to the conditional one.

    ε̂ = ε(∅) + w (ε(c) - ε(∅))                                  (Ho & Salimans, arXiv 2207.12598, with w = 1 + theirs)

Rescaled, against overexposure at large w, over all but the image's axis (Lin et al., arXiv 2305.08891, section 3.4):

    ε̂ ← φ · ε̂ · std(ε(c)) / std(ε̂) + (1 - φ) · ε̂
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dreamjax.diffusion.sampling import ConditionalPredict, Predict
from dreamjax.parallel.tree_paths import PyTree

PerImage = float | Float[Array, ""] | Float[Array, "B"]


def guided(
    predict: ConditionalPredict,
    conditional: PyTree,
    unconditional: PyTree,
    scale: PerImage,
    rescale: PerImage | None = None,
) -> Predict:
    """Return `predict` with guidance w = `scale`, both halves in one batch of 2 B.

    Leaves of `unconditional` are broadcast over the images. `scale` and `rescale` (φ; None: none) may be traced, and
    may differ from image to image. The two halves of an image lie side by side, so that a batch that is split over
    devices stays where it is.
    """

    def both(x: Float[Array, "B ..."], t: Float[Array, ""]) -> Float[Array, "B ..."]:
        condition = jax.tree.map(_side_by_side, unconditional, conditional)
        output = predict(_side_by_side(x, x), t, condition).astype(jnp.float32)
        without, within = output[0::2], output[1::2]
        mixed = without + _per_image(scale, x) * (within - without)
        return mixed if rescale is None else rescaled(mixed, within, rescale)

    return both


def rescaled(
    mixed: Float[Array, "B ..."], conditional: Float[Array, "B ..."], rescale: PerImage
) -> Float[Array, "B ..."]:
    """Return the guided prediction with, to the share φ = `rescale`, the conditional's standard deviation per image."""
    axes = tuple(range(1, mixed.ndim))
    ratio = conditional.std(axes, ddof=1, keepdims=True) / mixed.std(axes, ddof=1, keepdims=True)
    share = _per_image(rescale, mixed)
    return share * (mixed * ratio) + (1.0 - share) * mixed


def _side_by_side(first: Array, second: Array) -> Array:
    """Return (2 B, ...): first 0, second 0, first 1, second 1, …"""
    pair = jnp.stack([jnp.broadcast_to(first, second.shape), second], axis=1)
    return pair.reshape(-1, *second.shape[1:])


def _per_image(value: PerImage, x: Array) -> Array:
    value = jnp.asarray(value, jnp.float32)
    return value.reshape(value.shape + (1,) * (x.ndim - value.ndim))
