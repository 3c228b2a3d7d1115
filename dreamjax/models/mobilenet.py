"""MobileNet v1 (Howard et al. 2017, arXiv 1704.04861) for inference, every layer of it; channels last.

Batch normalisation is folded into the kernels, as in released inference files; padding is TensorFlow's SAME, and the
activation ReLU6.

Shape letters: B batch, H/W pixels, h/w positions, C channels.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from dreamjax.models.image_classifiers import layer_index
from dreamjax.models.layers import Keys, ModuleList

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)  # of the depthwise convolutions
WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)  # of the pointwise ones
LAYERS = 1 + 2 * len(STRIDES)


class Layer(nnx.Module):
    """min(max(x ⋆ W + b, 0), 6)."""

    def __init__(self, dim_in: int, dim_out: int, kernel: int, stride: int, groups: int, *, rngs: Keys):
        options = {"feature_group_count": groups, "padding": "SAME", "rngs": rngs}
        self.conv = nnx.Conv(dim_in, dim_out, (kernel, kernel), stride, **options)  # type: ignore[arg-type]

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        return jnp.clip(self.conv(x), 0, 6)


class MobileNet(nnx.Module):
    """MobileNet v1 without its classifier. `unit`: the width of the first layer, 32 as published."""

    def __init__(self, *, rngs: Keys, unit: int = 32):
        layers, dim = [Layer(3, unit, 3, 2, 1, rngs=rngs)], unit
        for stride, width in zip(STRIDES, WIDTHS, strict=True):
            wider = width * unit // 32
            layers += [Layer(dim, dim, 3, stride, dim, rngs=rngs), Layer(dim, wider, 1, 1, 1, rngs=rngs)]
            dim = wider
        self.layers = ModuleList(*layers)

    def layer(self, pixels: Float[Array, "B H W 3"], number: int) -> Float[Array, "B h w C"]:
        """Return the output of convolution 0 to 26, also counted from the end. `pixels`: in [-1, 1].

        Raise UserError for a layer that it does not have; those above it are not computed.
        """
        x = pixels
        for i in range(layer_index(number, LAYERS, "MobileNet") + 1):
            x = self.layers[i](x)
        return x

    def features(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B C"]:
        """Return the mean over positions of the last layer, 1,024 as published."""
        return self.layer(pixels, -1).mean((1, 2))
