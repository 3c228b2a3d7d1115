"""The contrastive loss of CLIP (Radford et al. 2021, arXiv 2103.00020, figure 3) over the whole global batch.

With unit vectors u_i of images and v_j of texts, and logits l_ij = exp(scale) · u_i·v_j,

    loss = ½ [H(q, softmax_j l_ij) + H(q', softmax_i l_ij)], averaged over i and over j;

H is the cross entropy, and q_ij the target: 1 for the example's own text in CLIP. Texts that are equal are no negatives
of each other: q_ij = 1 / (number of equal texts in the batch) for each of them (as Yang et al. 2022, arXiv 2204.03610,
equations 2 and 3, for equal labels), which is CLIP's where all texts differ. Examples of weight 0 are neither
positives nor negatives.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

LARGEST = math.log(100.0)  # of the scale, as published: it kept training stable
NOTHING = -1e30  # the logit of what does not take part; finite, so that its gradient is 0 and not NaN


@dataclass(frozen=True)
class ContrastiveConfig:
    """The settings of the loss: the scale from similarities to logits."""

    temperature: float = 0.07  # at the beginning; it is learned

    def __post_init__(self) -> None:
        if not 0.01 <= self.temperature < math.inf:
            raise ValueError(f"loss.temperature is {self.temperature}, but it is at least 0.01")


def unit(x: Float[Array | np.ndarray, "B P"]) -> Float[Array, "B P"]:
    """Return rows of length 1, float32."""
    x = jnp.asarray(x, jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


def contrastive(
    images_BxP: Float[Array, "B P"],
    texts_BxP: Float[Array, "B P"],
    scale: Float[Array, ""],
    group_B: Int[Array, "B"],
    weight_B: Float[Array, "B"],
    names: tuple[str, str] = ("image_to_text", "text_to_image"),
) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, tuple[Array, Array]]]:
    """Return `(sum, weight, metrics)` over examples. `scale`: log of the factor of similarities; `group`: equal
    numbers for equal texts.

    Metrics, the share whose best text (and the reverse) belongs to its group: `names`, for other pairs than images
    and texts too, and `chance`, the share that guessing would get.
    """
    u, v = unit(images_BxP), unit(texts_BxP)
    scale = jnp.exp(jnp.minimum(scale.astype(jnp.float32), LARGEST))
    there_B = weight_B > 0
    both = there_B[:, None] & there_B[None]
    logits = jnp.where(both, scale * (u @ v.T), NOTHING)
    equal = (group_B[:, None] == group_B[None]) & both
    target = equal / jnp.maximum(equal.sum(1, keepdims=True), 1)  # symmetric: equality is
    total, metrics, weights = jnp.float32(0), {}, weight_B.sum()
    for axis, name in ((1, names[0]), (0, names[1])):
        entropy = -(target * jax.nn.log_softmax(logits, axis)).sum(axis)
        total += 0.5 * (weight_B * entropy).sum()
        right = jnp.take_along_axis(equal, jnp.expand_dims(jnp.argmax(logits, axis), axis), axis).squeeze(axis)
        metrics[name] = ((weight_B * right).sum(), weights)
    chance = equal.sum(1) / jnp.maximum(there_B.sum(), 1)
    return total, weights, metrics | {"chance": ((weight_B * chance).sum(), weights)}
