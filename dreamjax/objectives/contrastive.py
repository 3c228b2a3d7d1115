"""The contrastive loss of CLIP (Radford et al. 2021, arXiv 2103.00020, figure 3) over the whole global batch.

With unit vectors u_i of images and v_j of texts, and logits l_ij = exp(scale) · u_i·v_j,

    loss = ½ [H(q, softmax_j l_ij) + H(q', softmax_i l_ij)], averaged over i and over j;

H is the cross entropy, and q_ij the target: 1 for the example's own text in CLIP. Texts that are equal are no negatives
of each other: q_ij = 1 / (number of equal texts in the batch) for each of them (as Yang et al. 2022, arXiv 2204.03610,
equations 2 and 3, for equal labels), which is CLIP's where all texts differ. Examples of weight 0 are neither
positives nor negatives.

Brain signals take the place of CLIP's images, and images that of its texts. `ContrastiveConfig` has what the published
systems change (d'Ascoli et al. 2024 "brain_to_image" and "image"; NeuroBridge, UBP and SAMGA "image" and "softplus";
NICE, scale not learned; ATM, scale "raw"). With `Mixup` the loss is BiMixCo (Scotti et al. 2023, arXiv 2305.18274,
section 3.1; MixCo: Kim et al. 2020, arXiv 2010.06300): example i is β_i x_i + (1 - β_i) x_p(i), and its target is
β_i q_i + (1 - β_i) q_p(i), in both directions. (Released code writes 1 - β_i where an example is its own partner; here
the target of such an example stays q_i.)
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

LARGEST = math.log(100.0)  # of the scale, as published: it kept training stable
NOTHING = -1e30  # the logit of what does not take part; finite, so that its gradient is 0 and not NaN
Direction = Literal["symmetric", "brain_to_image"]


@dataclass(frozen=True)
class TemperatureConfig:
    """The settings of CLIP's loss: the scale from similarities to logits."""

    temperature: float = 0.07  # at the beginning; it is learned

    def __post_init__(self) -> None:
        if not 0.01 <= self.temperature < math.inf:
            raise ValueError(f"loss.temperature is {self.temperature}, but it is at least 0.01")


@dataclass(frozen=True)
class ContrastiveConfig(TemperatureConfig):
    """The settings of the loss between brain signals and images; by default CLIP's."""

    direction: Direction = "symmetric"  # brain_to_image: each brain signal chooses an image, and not the reverse
    normalise: Literal["both", "image", "brain", "none"] = "both"  # the vectors that are divided by their length
    scale: Literal["exp", "softplus", "raw"] = "exp"  # of s = log(1 / temperature), the number that is learned
    learned: bool = True  # whether the scale is; False: it stays as at the beginning
    largest: float = 100.0  # of the scale; inf: without a limit
    equal: Literal["positive", "masked", "negative"] = "positive"  # other examples of the batch with the same image

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.largest > 0:
            raise ValueError(f"loss.largest is {self.largest}, but it must be positive (inf: without a limit)")
        if self.scale == "raw" and not self.temperature < 1:
            raise ValueError(
                f"loss.temperature is {self.temperature}, but with loss.scale=raw the scale is log(1 / temperature), "
                "which must be positive; choose a temperature below 1, or loss.scale=exp"
            )

    @property
    def initial(self) -> float:
        """Return s at the beginning: log(1 / temperature), as in all released codes, whatever `scale` makes of it."""
        return math.log(1 / self.temperature)

    def factor(self, s: Float[Array, ""]) -> Float[Array, ""]:
        """Return the factor from similarities to logits: exp(s), log(1 + exp(s)) or s, at most `largest`.

        The gradient is 0 where the scale is not learned, and beyond `largest`.
        """
        s = s.astype(jnp.float32)
        s = s if self.learned else jax.lax.stop_gradient(s)
        if self.scale == "exp":
            return jnp.exp(jnp.minimum(s, math.log(self.largest)))
        return jnp.minimum(jax.nn.softplus(s) if self.scale == "softplus" else s, self.largest)


CLIP = ContrastiveConfig()


class Mixup(NamedTuple):
    """Which example each one is mixed with, and its share of the mixture: 1 where it is not mixed."""

    partner: Int[Array, "B"]
    beta: Float[Array, "B"]

    def __call__(self, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        """Return β_i x_i + (1 - β_i) x_p(i)."""
        beta = self.beta.reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype)
        return beta * x + (1 - beta) * x[self.partner]


def draw_mixup(key: PRNGKeyArray, weight_B: Float[Array, "B"], alpha: float = 0.15, share: float = 0.5) -> Mixup:
    """Return a permutation as partners, and β ~ Beta(alpha, alpha) for this share of the examples (MindEye's values).

    Neither examples of weight 0 nor those whose partner has weight 0 are mixed.
    """
    order, chosen, betas = jax.random.split(key, 3)
    B = len(weight_B)
    partner, there = jax.random.permutation(order, B), weight_B > 0
    mixed = (jax.random.uniform(chosen, (B,)) < share) & there & there[partner] & (partner != jnp.arange(B))
    return Mixup(partner, jnp.where(mixed, jax.random.beta(betas, alpha, alpha, (B,)), 1.0))


def unit(x: Float[Array | np.ndarray, "B P"]) -> Float[Array, "B P"]:
    """Return rows of length 1, float32."""
    x = jnp.asarray(x, jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


def cross_entropy(
    logits_BxB: Float[Array, "B B"],
    target_BxB: Float[Array, "B B"],
    weight_B: Float[Array, "B"],
    direction: Direction = "symmetric",
) -> Float[Array, ""]:
    """Return Σ w_i H(target_i·, softmax_j l_ij); half of it, and half of the same over columns, if symmetric."""
    axes = (1, 0) if direction == "symmetric" else (1,)
    total = jnp.float32(0)
    for axis in axes:
        entropy = -(target_BxB * jax.nn.log_softmax(logits_BxB, axis)).sum(axis)
        total += (weight_B * entropy).sum() / len(axes)
    return total


def contrastive(
    u_BxP: Float[Array, "B P"],
    v_BxP: Float[Array, "B P"],
    scale: Float[Array, ""],
    group_B: Int[Array, "B"],
    weight_B: Float[Array, "B"],
    names: tuple[str, str] = ("image_to_text", "text_to_image"),
    config: ContrastiveConfig = CLIP,
    mixup: Mixup | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, tuple[Array, Array]]]:
    """Return `(sum, weight, metrics)` over examples.

    Args:
        u_BxP: vectors of brain signals (CLIP: of images).
        v_BxP: vectors of the images that were seen (CLIP: of texts).
        scale: s, the number that `config.factor` makes the factor of similarities; by default its log.
        group_B: equal numbers for equal images (CLIP: texts).
        names: of the metrics of both directions.
        mixup: how the brain signals of `u` were mixed (BiMixCo).

    Metrics, the share whose best text (and the reverse) belongs to its group: `names`, for other pairs than images
    and texts too, and `chance`, the share that guessing would get.
    """
    u = unit(u_BxP) if config.normalise in ("both", "brain") else u_BxP.astype(jnp.float32)
    v = unit(v_BxP) if config.normalise in ("both", "image") else v_BxP.astype(jnp.float32)
    there_B = weight_B > 0
    both = there_B[:, None] & there_B[None]
    logits = jnp.where(both, config.factor(scale) * (u @ v.T), NOTHING)
    equal = (group_B[:, None] == group_B[None]) & both
    target, masked = _targets(config, equal, there_B, mixup)
    compared = logits if masked is None else jnp.where(masked, NOTHING, logits)
    total, metrics, weights = cross_entropy(compared, target, weight_B, config.direction), {}, weight_B.sum()
    for axis, name in ((1, names[0]), (0, names[1])):
        right = jnp.take_along_axis(equal, jnp.expand_dims(jnp.argmax(logits, axis), axis), axis).squeeze(axis)
        metrics[name] = ((weight_B * right).sum(), weights)
    chance = equal.sum(1) / jnp.maximum(there_B.sum(), 1)
    return total, weights, metrics | {"chance": ((weight_B * chance).sum(), weights)}


def _targets(
    config: ContrastiveConfig, equal: Bool[Array, "B B"], there_B: Bool[Array, "B"], mixup: Mixup | None
) -> tuple[Float[Array, "B B"], Bool[Array, "B B"] | None]:
    """Return the targets, and which pairs are neither positive nor negative."""
    if config.equal == "positive":
        target = equal / jnp.maximum(equal.sum(1, keepdims=True), 1)  # symmetric: equality is
    else:
        target = jnp.diag(there_B.astype(jnp.float32))
    if mixup is not None:
        target = mixup(target)
        equal = equal | ((mixup.beta < 1)[:, None] & equal[mixup.partner])
    return target, equal & (target == 0) if config.equal == "masked" else None
