"""SoftCLIP: contrastive loss whose targets are similarities of images (Scotti et al. 2023, arXiv 2305.18274).

With unit vectors u_i of brain signals and v_j of images, temperature τ (section 3.1 and released code),

    q_ij = softmax_j(v_i·v_j / τ)
    loss = ½ mean_i H(q_i, softmax_j(u_i·v_j / τ)) + ½ mean_j H(q_j, softmax_i(u_i·v_j / τ))

The second term's target for image j is q_j·, over brain signals i. An image that is seen twice shares its target among
both, so equal images need no other treatment. Examples of weight 0 are neither positives nor negatives. MindEye 2
raises τ from 0.004 to 0.0075 along a cosine while it trains.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dreamjax.objectives.contrastive import NOTHING, cross_entropy, unit


def soft_contrastive(
    u_BxP: Float[Array, "B P"],
    v_BxP: Float[Array, "B P"],
    temperature: Float[Array, ""] | float,
    weight_B: Float[Array, "B"],
) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, tuple[Array, Array]]]:
    """Return `(sum, weight, metrics)` over examples. The targets q depend on the images, and pass gradients to them.

    Metric `soft_kl`: the loss less its least value, the entropy of the targets.
    """
    u, v = unit(u_BxP), unit(v_BxP)
    there_B = weight_B > 0
    both = there_B[:, None] & there_B[None]

    def logits(x: Float[Array, "B P"]) -> Float[Array, "B B"]:
        return jnp.where(both, x @ v.T / temperature, NOTHING)

    log_target = jax.nn.log_softmax(logits(v), 1)
    target = jnp.where(both, jnp.exp(log_target), 0)
    brain = logits(u)
    rows = cross_entropy(brain, target, weight_B, "brain_to_image")
    columns = cross_entropy(brain.T, target, weight_B, "brain_to_image")
    total, weights = (rows + columns) / 2, weight_B.sum()
    least = -(weight_B * (target * log_target).sum(1)).sum()
    return total, weights, {"soft_kl": (total - least, weights)}
