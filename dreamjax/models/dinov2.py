"""DINOv2 (Oquab et al. 2023, arXiv 2304.07193), S to g, also with registers (Darcet et al. 2023, arXiv 2309.16588).

Shape letters: B batch, H/W pixels, N patches, R registers, D width.
"""

from typing import Any

from jaxtyping import Array, Bool, Float

from dreamjax.models.encoder import Encoded
from dreamjax.models.keys import Keys
from dreamjax.models.vision_transformer import VisionTransformer


def mlp_width(dim: int, ratio: float, swiglu: bool) -> int:
    """Return the hidden width of a block; with SwiGLU, which has three matrices, two thirds, rounded up to 8."""
    hidden = int(dim * ratio)
    return (int(hidden * 2 / 3) + 7) // 8 * 8 if swiglu else hidden


class DINOv2(VisionTransformer):
    """Blocks with layer scale; images of any size, to which the positions are resampled.

    `swiglu`: the feed-forward part of the g model. `options`: as the bases'; `resize` is "bicubic" for the models
    without registers and "bicubic_antialias" for those with them.
    """

    def __init__(
        self,
        *,
        dim: int,
        rngs: Keys,
        mlp_ratio: float = 4.0,
        swiglu: bool = False,
        layer_scale: float = 1.0,
        activation: str = "gelu",
        **options: Any,
    ):
        super().__init__(
            dim=dim,
            rngs=rngs,
            hidden=mlp_width(dim, mlp_ratio, swiglu),
            gate="first" if swiglu else "none",
            activation="silu" if swiglu else activation,
            layer_scale=layer_scale,
            **options,
        )

    def __call__(self, pixels: Float[Array, "B H W 3"], masked_BxN: Bool[Array, "B N"] | None = None) -> Encoded:
        """Return `last_hidden_state` [B, 1+R+N, D] after the final norm, and its cls token [B, D].

        `masked`: patches whose embedding is the mask token instead.
        """
        x = self.norm(self.run(self.blocks, self.embed(pixels, masked_BxN), None))
        return Encoded(x, x[:, 0])

    def patches(self, tokens: Float[Array, "B 1+R+N D"]) -> Float[Array, "B N D"]:
        """Return the tokens of the patches, row by row."""
        return tokens[:, 1 + self.registers :]
