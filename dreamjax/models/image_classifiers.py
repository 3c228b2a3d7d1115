"""Published classifiers of images as torchvision has them, and LPIPS on one of them, for inference; channels last.

Metrics of images take their features, so the classifying layers are left out. `unit`: all widths are multiples of it
(the default is as published).

Shape letters: B batch, H/W pixels, h/w positions, C channels, O channels out, F features.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from dreamjax.errors import UserError
from dreamjax.models.brain_layers import BatchNorm
from dreamjax.models.layers import Keys, Linear, ModuleList

Pair = tuple[int, int]  # of rows and columns


def layer_index(number: int, count: int, name: str) -> int:
    """Return a layer's number from 0 of one that may count from the end. Raise UserError where there is none such."""
    if not -count <= number < count:
        raise UserError(f"layer {number} does not exist; {name} has 0 to {count - 1}, or {-count} to -1")
    return number % count


def conv(
    dim_in: int,
    dim_out: int,
    kernel: int | Pair,
    *,
    rngs: Keys,
    stride: int = 1,
    padding: int | Pair = 0,
    groups: int = 1,
    bias: bool = True,
) -> nnx.Conv:
    """Return a convolution of so many zeros above and below, left and right."""
    size, sides = ((value, value) if isinstance(value, int) else value for value in (kernel, padding))
    around = tuple((side, side) for side in sides)
    kinds = {"feature_group_count": groups, "use_bias": bias, "rngs": rngs}
    return nnx.Conv(dim_in, dim_out, size, stride, padding=around, **kinds)  # type: ignore[arg-type]


def max_pool(x: Float[Array, "B H W C"], window: int, stride: int, padding: int = 0) -> Float[Array, "B h w C"]:
    """Return the maximum of each window. `padding`: of each side, with what is never the maximum."""
    return nnx.max_pool(x, (window, window), (stride, stride), ((padding, padding),) * 2)


class ConvNorm(nnx.Module):
    """act(norm(x ⋆ W)); without `activation` for what is summed in a residual block. `options`: of `conv`."""

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        kernel: int | Pair,
        *,
        rngs: Keys,
        epsilon: float = 1e-5,
        activation: Callable[[Array], Array] | None = jax.nn.relu,
        stride: int = 1,
        padding: int | Pair = 0,
        groups: int = 1,
    ):
        self.conv = conv(dim_in, dim_out, kernel, rngs=rngs, stride=stride, padding=padding, groups=groups, bias=False)
        self.bn = BatchNorm(dim_out, epsilon)
        self.activation = activation

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w O"]:
        y = self.bn(self.conv(x))
        return y if self.activation is None else self.activation(y)


SMALLEST = 31  # pixels of a side, for which one position is left before the second max pool
WIDTHS = (1, 3, 6, 4, 4)  # of the five convolutions, in units


class AlexNet(nnx.Module):
    """AlexNet of "One weird trick" (Krizhevsky 2014, arXiv 1404.5997). `unit`: 64 as published."""

    def __init__(self, *, rngs: Keys, unit: int = 64):
        w = [unit * n for n in WIDTHS]
        self.convolutions = ModuleList(
            conv(3, w[0], 11, stride=4, padding=2, rngs=rngs),
            conv(w[0], w[1], 5, padding=2, rngs=rngs),
            *(conv(w[i], w[i + 1], 3, padding=1, rngs=rngs) for i in (1, 2, 3)),
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


SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of images in [-1, 1]


class ChannelWeights(nnx.Module):
    """w_l of one layer, [1, 1, C, 1]: a convolution of one position."""

    def __init__(self, dim: int):
        self.kernel = nnx.Param(jnp.full((1, 1, dim, 1), 1 / dim, jnp.float32))


class LPIPS(nnx.Module):
    """LPIPS v0.1 on AlexNet (Zhang et al. 2018, arXiv 1801.03924): the perceptual distance of two images.

    For AlexNet's five rectified convolutions, each position's features of length 1 over channels,

        d(x, y) = Σ_l mean over positions of Σ_c w_lc (x̂_lc - ŷ_lc)²                                   (equation 1)

    with w ≥ 0 fitted to human judgements.
    """

    def __init__(self, *, rngs: Keys, unit: int = 64):
        self.net = AlexNet(rngs=rngs, unit=unit)
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
    return x / (jnp.sqrt(jnp.square(x).sum(-1, keepdims=True)) + 1e-10)


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


class ResNet(nnx.Module):
    """A residual network of bottlenecks (He et al. 2016, arXiv 1512.03385), its stride in the 3 × 3 convolution.

    `depths`: blocks of each stage, (3, 4, 6, 3) in ResNet-50 and (3, 4, 23, 3) in ResNet-101. `unit`: 64 as published.
    SwAV's (Caron et al. 2020, arXiv 2006.09882) is ResNet-50 with other weights.
    """

    def __init__(self, *, rngs: Keys, unit: int = 64, depths: Sequence[int] = DEPTHS):
        self.stem = ConvNorm(3, unit, 7, stride=2, padding=3, rngs=rngs)
        dim, layers = unit, []
        for i, depth in enumerate(depths):
            blocks = []
            for j in range(depth):
                blocks.append(Bottleneck(dim, unit << i, 2 if i and not j else 1, rngs=rngs))
                dim = WIDER * (unit << i)
            layers.append(ModuleList(*blocks))
        self.layers = ModuleList(*layers)

    def layer(self, pixels: Float[Array, "B H W 3"], number: int) -> Float[Array, "B h w C"]:
        """Return the output of the stem (0) or of stage 1 to 4, also counted from the end. Raise UserError."""
        x = max_pool(self.stem(pixels), 3, 2, 1)
        for i in range(layer_index(number, 1 + len(self.layers), "ResNet")):
            x = self.layers[i](x)
        return x

    def features(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B F"]:
        """Return the mean over positions of the last layer, 2,048 as published."""
        return self.layer(pixels, -1).mean((1, 2))


VGG_STAGES = ((1, 2), (2, 2), (4, 4), (8, 4), (8, 4))  # of each stage: width in units, convolutions
VGG_SIDE = 7  # positions of the last pool that the dense layers take: of images of 224 pixels


class VGG19(nnx.Module):
    """VGG-19 (Simonyan & Zisserman 2015, arXiv 1409.1556) with its classifier. `unit`: 64 as published."""

    def __init__(self, *, rngs: Keys, unit: int = 64, classes: int = 1000):
        convolutions, dim = [], 3
        for width, count in VGG_STAGES:
            for _ in range(count):
                convolutions.append(conv(dim, unit * width, 3, padding=1, rngs=rngs))
                dim = unit * width
        self.convolutions = ModuleList(*convolutions)
        widths = (VGG_SIDE**2 * dim, 64 * unit, 64 * unit, classes)
        self.dense = ModuleList(
            *(Linear(widths[i], widths[i + 1], dtype=jnp.float32, rngs=rngs) for i in range(len(widths) - 1))
        )

    def layer(self, pixels: Float[Array, "B H W 3"], number: int) -> Float[Array, "B *positions C"]:
        """Return the output of a layer, 0 to 23 in order, also counted from the end; convolutions are rectified.

        0, 1, 2: the first stage's convolutions and its pool; … 20: the last pool; 21, 22: rectified dense layers; 23:
        the logits. Raise UserError for a layer that does not exist, and for dense ones of images of another size than
        224 × 224.
        """
        wanted = layer_index(number, len(self.convolutions) + len(VGG_STAGES) + len(self.dense), "VGG-19")
        x, done, k = pixels, 0, 0
        for _, count in VGG_STAGES:
            for _ in range(count):
                x, k = jax.nn.relu(self.convolutions[k](x)), k + 1
                if done == wanted:
                    return x
                done += 1
            x = max_pool(x, 2, 2)
            if done == wanted:
                return x
            done += 1
        if x.shape[1:3] != (VGG_SIDE, VGG_SIDE):
            raise UserError(f"the dense layers of VGG-19 take images of 224 x 224 pixels, not of {pixels.shape[1:3]}")
        x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)  # channels first, as its weights are
        for i in range(wanted - done + 1):
            x = self.dense[i](x)
            x = jax.nn.relu(x) if i < len(self.dense) - 1 else x
        return x

    def features(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B K"]:
        """Return the logits."""
        return self.layer(pixels, -1)


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
        self.fc1, self.fc2 = conv(dim, squeezed, 1, rngs=rngs), conv(squeezed, dim, 1, rngs=rngs)

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
        return x + self.block(x) if self.stays else self.block(x)


class EfficientNetB1(nnx.Module):
    """EfficientNet-B1 (Tan & Le 2019, arXiv 1905.11946). `unit`: 8 as published."""

    def __init__(self, *, rngs: Keys, unit: int = 8):
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

    def features(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B F"]:
        """Return the mean over positions of the last convolution, 1,280 as published."""
        return self.layers(pixels).mean((1, 2))
