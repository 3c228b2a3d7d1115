"""LPIPS v0.1 on AlexNet (Zhang et al. 2018, arXiv 1801.03924): the perceptual distance of two images.

For AlexNet's five rectified convolutions, each position's features of length 1 over channels,

    d(x, y) = Σ_l mean over positions of Σ_c w_lc (x̂_lc - ŷ_lc)²                                          (equation 1)

with w ≥ 0 fitted to human judgements. Shape letters: B batch, H/W pixels, C channels.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from dreamjax.models.alexnet import WIDTHS, AlexNet
from dreamjax.models.keys import Keys
from dreamjax.models.layers import ModuleList

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of images in [-1, 1]
EPSILON = 1e-10


class ChannelWeights(nnx.Module):
    """w_l of one layer, [1, 1, C, 1]: a convolution of one position."""

    def __init__(self, dim: int):
        self.kernel = nnx.Param(jnp.full((1, 1, dim, 1), 1 / dim, jnp.float32))


class LPIPS(nnx.Module):
    """`unit`: as of `AlexNet`."""

    def __init__(self, *, rngs: Keys, unit: int = 64):
        self.net = AlexNet(rngs=rngs, unit=unit, classes=0)
        self.lin = ModuleList(*(ChannelWeights(unit * n) for n in WIDTHS))

    def __call__(self, a: Float[Array, "B H W 3"], b: Float[Array, "B H W 3"]) -> Float[Array, "B"]:
        """Return the distance of images in [-1, 1], 0 for equal ones. Raises UserError as `AlexNet.layers`."""
        shift, scale = np.array(SHIFT, np.float32), np.array(SCALE, np.float32)
        both = [self.net.layers((x - shift) / scale) for x in (a, b)]
        return sum(
            jnp.square(_unit(x) - _unit(y)).mean((1, 2)) @ weight.kernel[0, 0, :, 0]
            for x, y, weight in zip(*both, self.lin, strict=True)
        )


def _unit(x: Array) -> Array:
    return x / (jnp.sqrt(jnp.square(x).sum(-1, keepdims=True)) + EPSILON)
