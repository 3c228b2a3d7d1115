"""AlexNet of "One weird trick" (Krizhevsky 2014, arXiv 1404.5997), as torchvision has it.

Shape letters: B batch, H/W pixels, h/w positions, C channels, K classes, F flattened positions and channels.
"""

import itertools

import jax
from flax import nnx
from jaxtyping import Array, Float

from dreamjax.errors import UserError
from dreamjax.models.inference import Conv, max_pool
from dreamjax.models.keys import Keys
from dreamjax.models.layers import Linear, ModuleList

SMALLEST = 31  # pixels of a side, for which one position is left before the second max pool
WIDTHS = (1, 3, 6, 4, 4)  # of the five convolutions, in units


class AlexNet(nnx.Module):
    """`unit`: 64 as published; all widths are multiples of it. `classes` 0: without the classifier."""

    def __init__(self, *, rngs: Keys, unit: int = 64, classes: int = 1000):
        w = [unit * n for n in WIDTHS]
        self.convolutions = ModuleList(
            Conv(3, w[0], 11, stride=4, padding=2, rngs=rngs),
            Conv(w[0], w[1], 5, padding=2, rngs=rngs),
            *(Conv(w[i], w[i + 1], 3, padding=1, rngs=rngs) for i in (1, 2, 3)),
        )
        self.classes = classes
        if classes:
            sizes = (36 * w[4], 64 * unit, 64 * unit, classes)  # of 6 x 6 positions
            self.classifier = ModuleList(
                *(Linear(a, b, dtype="float32", rngs=rngs) for a, b in itertools.pairwise(sizes))
            )

    def layers(self, pixels: Float[Array, "B H W 3"]) -> list[Float[Array, "B h w C"]]:
        """Return the rectified outputs of the five convolutions. Raise UserError for images that are too small."""
        if min(pixels.shape[1:3]) < SMALLEST:
            size = f"{pixels.shape[1]} x {pixels.shape[2]}"
            raise UserError(f"AlexNet takes images of at least {SMALLEST} x {SMALLEST} pixels, not of {size}")
        outputs, x = [], pixels
        for i, convolution in enumerate(self.convolutions):
            x = jax.nn.relu(convolution(max_pool(x, 3, 2) if i in (1, 2) else x))
            outputs.append(x)
        return outputs

    def features(self, pixels: Float[Array, "B H W 3"]) -> dict[str, Float[Array, "B F"]]:
        """Return "2" and "5", the second and the fifth convolution, as metrics of reconstructed images name them."""
        layers = self.layers(pixels)
        return {name: layers[i].reshape(len(pixels), -1) for name, i in (("2", 1), ("5", 4))}

    def logits(self, pixels: Float[Array, "B 224 224 3"]) -> Float[Array, "B K"]:
        """Return the classifier's logits of images that give 6 x 6 positions (no adaptive pooling is needed)."""
        x = max_pool(self.layers(pixels)[-1], 3, 2)
        if x.shape[1:3] != (6, 6):
            raise UserError(f"AlexNet's classifier takes images of 224 x 224 pixels, not {pixels.shape[1:3]}")
        x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)  # channels first, as the weights have it
        for i, linear in enumerate(self.classifier):
            x = linear(x if i == 0 else jax.nn.relu(x))
        return x
