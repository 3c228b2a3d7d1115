"""ViT (Dosovitskiy et al. 2021, arXiv 2010.11929) as a classifier of images, or as an encoder with BERT's pooler.

Shape letters: B batch, H/W pixels, N patches, D width, K classes.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from dreamjax.models.encoder import Encoded
from dreamjax.models.keys import Keys
from dreamjax.models.layers import Linear
from dreamjax.models.vision_transformer import VisionTransformer


class ViT(VisionTransformer):
    """`classes`: of the classifier, or 0; `pooler`: width of tanh(W cls + b), or 0. `options`: as the bases'."""

    def __init__(
        self, *, dim: int, rngs: Keys, classes: int = 0, pooler: int = 0, epsilon: float = 1e-12, **options: Any
    ):
        super().__init__(dim=dim, rngs=rngs, epsilon=epsilon, **options)
        self.has_classifier, self.has_pooler = bool(classes), bool(pooler)
        if classes:
            self.classifier = Linear(dim, classes, dtype=self.dtype, rngs=rngs)
        if pooler:
            self.pooler = Linear(dim, pooler, dtype=self.dtype, rngs=rngs)

    def __call__(self, pixels: Float[Array, "B H W 3"]) -> Encoded:
        """Return `last_hidden_state` [B, 1+N, D] after the final norm; `pooled`, where there is a pooler."""
        x_BxTxD = self.norm(self.run(self.blocks, self.embed(pixels), None))
        return Encoded(x_BxTxD, jnp.tanh(self.pooler(x_BxTxD[:, 0])) if self.has_pooler else None)

    def logits(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B K"]:
        """Return the classifier's logits, from the cls token after the final norm."""
        return self.classifier(self(pixels).last_hidden_state[:, 0])
