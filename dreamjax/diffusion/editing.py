"""Starts from noise, from an image (img2img), or from an image with a mask (inpainting).

img2img (SDEdit: Meng et al., arXiv 2108.01073): the image with the noise of a later timestep, from which the last
⌊n · strength⌋ steps are taken: `sampling.plan(..., strength=...)` and `starts_from`.

Inpainting is done in one of two ways, by what the network was trained on:

    9 channels   mask and the masked image are further channels of the input: `nine_channels`
    4 channels   after every step, what the mask keeps is replaced by the image at that noise level: `keeps`
                 (RePaint without resampling: Lugmayr et al., arXiv 2201.09865, equation 8)

A mask is 1 where the image is to be generated. "Image" means the network's input, here the latents.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from dreamjax.diffusion.guidance import ConditionalPredict
from dreamjax.diffusion.samplers.table import SamplingPlan
from dreamjax.diffusion.sampling import Project


def starts(plan: SamplingPlan, noise: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """Return x of a plan that starts from noise."""
    return plan.start_sigma * noise


def starts_from(
    plan: SamplingPlan, image: Float[Array, "B ..."], noise: Float[Array, "B ..."]
) -> Float[Array, "B ..."]:
    """Return x of a plan that starts from images: the images with the noise of its first call, also at strength 1."""
    return plan.signal[0] * image + plan.sigma[0] * noise


def starts_around(
    plan: SamplingPlan, image: Float[Array, "B ..."], noise: Float[Array, "B ..."]
) -> Float[Array, "B ..."]:
    """Return x of a plan that inpaints: noise only at strength 1, as in diffusers' inpainting."""
    return starts(plan, noise) if plan.whole else starts_from(plan, image, noise)


def nine_channels(predict: ConditionalPredict, axis: int = -1) -> ConditionalPredict:
    """Return `predict` of an inpainting network, whose input is (x, mask, masked image) along the channel axis.

    The condition becomes (the network's own condition, mask_BxHxWx1, masked_BxHxWx4), so that guidance doubles all
    three alike: guided(nine_channels(predict), (text, mask, masked), (empty, mask, masked), scale).
    """

    def with_mask(
        x: Float[Array, "B ..."], t: Float[Array, ""], condition: tuple[object, Array, Array]
    ) -> Float[Array, "B ..."]:
        inner, mask, masked = condition
        return predict(jnp.concatenate([x, mask.astype(x.dtype), masked.astype(x.dtype)], axis=axis), t, inner)

    return with_mask


def keeps(mask: Float[Array, "B ..."], image: Float[Array, "B ..."], noise: Float[Array, "B ..."]) -> Project:
    """Return the projection after a step to the noise level (signal, sigma).

    x ← mask · x + (1 - mask) · (signal · image + sigma · noise).

    At the end that is the image itself. `noise` is the noise that sampling started from.
    """

    def project(x: Array, signal: Array, sigma: Array) -> Array:
        return (1.0 - mask) * (signal * image + sigma * noise) + mask * x

    return project


def mask_of_latents(mask: Float[Array, "B H W"], factor: int = 8) -> Float[Array, "B H/f W/f 1"]:
    """Return a mask over pixels as a mask over latents: every `factor`-th pixel, as diffusers (nearest neighbour)."""
    return mask[:, ::factor, ::factor, None]
