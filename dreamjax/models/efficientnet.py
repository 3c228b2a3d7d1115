"""EfficientNet-B1 (Tan & Le 2019, arXiv 1905.11946), as torchvision has it.

Shape letters: B batch, H/W pixels, C channels, F features, K classes.
"""

import jax
from flax import nnx
from jaxtyping import Array, Float

from dreamjax.models.inference import Conv, ConvNorm
from dreamjax.models.keys import Keys
from dreamjax.models.layers import Linear, ModuleList

# of each stage: expansion, kernel, stride, width in units of 8 channels, blocks (B0's times 1.1, rounded up)
STAGES = (
    (1, 3, 1, 2, 2),
    (6, 3, 2, 3, 3),
    (6, 5, 2, 5, 3),
    (6, 3, 2, 10, 4),
    (6, 5, 1, 14, 4),
    (6, 5, 2, 24, 5),
    (6, 3, 1, 40, 2),
)
STEM, HEAD = 4, 160  # widths in units


class SqueezeExcitation(nnx.Module):
    """x σ(W₂ silu(W₁ mean x)): a factor for each channel (Hu et al. 2018, arXiv 1709.01507)."""

    def __init__(self, dim: int, squeezed: int, *, rngs: Keys):
        self.fc1, self.fc2 = Conv(dim, squeezed, 1, rngs=rngs), Conv(squeezed, dim, 1, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        return x * jax.nn.sigmoid(self.fc2(jax.nn.silu(self.fc1(x.mean((1, 2), keepdims=True)))))


class MBConv(nnx.Module):
    """Expand, convolve each channel alone, weigh the channels, project; added to x where the shape stays."""

    def __init__(self, dim_in: int, dim_out: int, expansion: int, kernel: int, stride: int, *, rngs: Keys):
        wide, silu = expansion * dim_in, jax.nn.silu
        block: list[nnx.Module] = [] if expansion == 1 else [ConvNorm(dim_in, wide, 1, activation=silu, rngs=rngs)]
        around = kernel // 2
        block += [
            ConvNorm(wide, wide, kernel, stride=stride, padding=around, groups=wide, activation=silu, rngs=rngs),
            SqueezeExcitation(wide, max(1, dim_in // 4), rngs=rngs),
            ConvNorm(wide, dim_out, 1, activation=None, rngs=rngs),
        ]
        self.block, self.stays = ModuleList(*block), stride == 1 and dim_in == dim_out

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w O"]:
        y = x
        for part in self.block:
            y = part(y)
        return x + y if self.stays else y


class EfficientNetB1(nnx.Module):
    """`unit`: 8 as published; all widths are multiples of it. `classes` 0: without the classifier."""

    def __init__(self, *, rngs: Keys, unit: int = 8, classes: int = 1000):
        dim = STEM * unit
        layers: list[nnx.Module] = [ConvNorm(3, dim, 3, stride=2, padding=1, activation=jax.nn.silu, rngs=rngs)]
        for expansion, kernel, stride, width, depth in STAGES:
            blocks = []
            for j in range(depth):
                blocks.append(MBConv(dim, width * unit, expansion, kernel, 1 if j else stride, rngs=rngs))
                dim = width * unit
            layers.append(ModuleList(*blocks))
        layers.append(ConvNorm(dim, HEAD * unit, 1, activation=jax.nn.silu, rngs=rngs))
        self.layers = ModuleList(*layers)
        self.classes = classes
        if classes:
            self.fc = Linear(HEAD * unit, classes, dtype="float32", rngs=rngs)

    def features(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B F"]:
        """Return the mean over positions of the last convolution, 1,280 as published."""
        stem, *stages, head = self.layers
        x = stem(pixels)
        for stage in stages:
            for block in stage:
                x = block(x)
        return head(x).mean((1, 2))

    def logits(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B K"]:
        """Return the logits of the classifier."""
        return self.fc(self.features(pixels))
