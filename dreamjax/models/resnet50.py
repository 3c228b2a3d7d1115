"""ResNet-50 (He et al. 2016, arXiv 1512.03385) whose stride is in the 3 × 3 convolution, as torchvision has it.

SwAV (Caron et al. 2020, arXiv 2006.09882) trained such a network without labels.
Shape letters: B batch, H/W pixels, C channels, F features, K classes.
"""

import jax
from flax import nnx
from jaxtyping import Array, Float

from dreamjax.models.inference import ConvNorm, max_pool
from dreamjax.models.keys import Keys
from dreamjax.models.layers import Linear, ModuleList

DEPTHS = (3, 4, 6, 3)
WIDER = 4  # a block's output over its inner width


class Bottleneck(nnx.Module):
    """relu(x + unit3(unit2(unit1 x))); a 1 × 1 shortcut where the shape changes."""

    def __init__(self, dim_in: int, width: int, stride: int, *, rngs: Keys):
        dim_out = WIDER * width
        self.unit1 = ConvNorm(dim_in, width, 1, rngs=rngs)
        self.unit2 = ConvNorm(width, width, 3, stride=stride, padding=1, rngs=rngs)
        self.unit3 = ConvNorm(width, dim_out, 1, activation=None, rngs=rngs)
        self.changes = stride > 1 or dim_in != dim_out
        if self.changes:
            self.shortcut = ConvNorm(dim_in, dim_out, 1, stride=stride, activation=None, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w O"]:
        y = self.unit3(self.unit2(self.unit1(x)))
        return jax.nn.relu((self.shortcut(x) if self.changes else x) + y)


class ResNet50(nnx.Module):
    """`unit`: 64 as published; all widths are multiples of it. `classes` 0: without the classifier."""

    def __init__(self, *, rngs: Keys, unit: int = 64, classes: int = 1000):
        self.stem = ConvNorm(3, unit, 7, stride=2, padding=3, rngs=rngs)
        dim, layers = unit, []
        for i, depth in enumerate(DEPTHS):
            width = unit << i
            blocks = []
            for j in range(depth):
                blocks.append(Bottleneck(dim, width, 2 if i and not j else 1, rngs=rngs))
                dim = WIDER * width
            layers.append(ModuleList(*blocks))
        self.layers = ModuleList(*layers)
        self.classes = classes
        if classes:
            self.fc = Linear(dim, classes, dtype="float32", rngs=rngs)

    def features(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B F"]:
        """Return the mean over positions of the last layer, 2,048 as published."""
        x = max_pool(self.stem(pixels), 3, 2, 1)
        for layer in self.layers:
            for block in layer:
                x = block(x)
        return x.mean((1, 2))

    def logits(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B K"]:
        """Return the logits of the classifier."""
        return self.fc(self.features(pixels))
