"""CLIP's residual networks (Radford et al. 2021, arXiv 2103.00020, section 2.4), their image half; channels last.

They differ from `image_classifiers.ResNet` by a stem of three convolutions, means in place of strides, and a pool by
attention.

Shape letters: B batch, H/W pixels, h/w positions, N = h · w, C/O channels in and out, P width of the common space.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from dreamjax.errors import UserError
from dreamjax.models.image_classifiers import DEPTHS, WIDER, ConvNorm, layer_index
from dreamjax.models.layers import Keys, Linear, ModuleList, small_normal

HEAD = 64  # width of a head of attention
STRIDE = 32  # pixels of a side for each position of the last stage


def mean_pool(x: Float[Array, "B H W C"], stride: int) -> Float[Array, "B h w C"]:
    """Return the mean of each square of `stride` positions."""
    return x if stride == 1 else nnx.avg_pool(x, (stride, stride), (stride, stride))


class MeanBottleneck(nnx.Module):
    """relu(shortcut x + unit3(mean(unit2(unit1 x)))): every stride is a mean, also before the shortcut."""

    def __init__(self, dim_in: int, width: int, stride: int, *, rngs: Keys):
        dim_out = WIDER * width
        self.unit1 = ConvNorm(dim_in, width, 1, rngs=rngs)
        self.unit2 = ConvNorm(width, width, 3, padding=1, rngs=rngs)
        self.unit3 = ConvNorm(width, dim_out, 1, activation=None, rngs=rngs)
        self.stride, self.changes = stride, stride > 1 or dim_in != dim_out
        if self.changes:
            self.shortcut = ConvNorm(dim_in, dim_out, 1, activation=None, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w O"]:
        y = self.unit3(mean_pool(self.unit2(self.unit1(x)), self.stride))
        return jax.nn.relu((self.shortcut(mean_pool(x, self.stride)) if self.changes else x) + y)


class AttentionPool(nnx.Module):
    """Attention of the mean position to all positions and itself, with learned positions."""

    def __init__(self, positions: int, dim: int, projection: int, *, rngs: Keys):
        self.pos_embed = small_normal(rngs, positions, dim)
        self.q, self.k, self.v = (Linear(dim, dim, dtype=jnp.float32, rngs=rngs) for _ in range(3))
        self.proj = Linear(dim, projection, dtype=jnp.float32, rngs=rngs)
        self.heads = max(1, dim // HEAD)

    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B P"]:
        B, C = len(x), x.shape[-1]
        x_BxNxC = x.reshape(B, -1, C)
        x_BxNxC = jnp.concatenate([x_BxNxC.mean(1, keepdims=True), x_BxNxC], axis=1) + self.pos_embed[...]
        query, key, value = (
            y.reshape(B, -1, self.heads, C // self.heads)
            for y in (self.q(x_BxNxC[:, :1]), self.k(x_BxNxC), self.v(x_BxNxC))
        )
        return self.proj(jax.nn.dot_product_attention(query, key, value).reshape(B, C))


class CLIPResNet(nnx.Module):
    """The image half of CLIP's RN50, RN101, RN50x4, …, which differ by `depths`, `unit` and the side of an `image`."""

    def __init__(
        self,
        *,
        rngs: Keys,
        unit: int = 64,
        depths: Sequence[int] = DEPTHS,
        image: int = 224,
        projection: int = 1024,
    ):
        self.stem = ModuleList(
            ConvNorm(3, unit // 2, 3, stride=2, padding=1, rngs=rngs),
            ConvNorm(unit // 2, unit // 2, 3, padding=1, rngs=rngs),
            ConvNorm(unit // 2, unit, 3, padding=1, rngs=rngs),
        )
        dim, layers = unit, []
        for i, depth in enumerate(depths):
            blocks = []
            for j in range(depth):
                blocks.append(MeanBottleneck(dim, unit << i, 2 if i and not j else 1, rngs=rngs))
                dim = WIDER * (unit << i)
            layers.append(ModuleList(*blocks))
        self.layers = ModuleList(*layers)
        self.pool = AttentionPool(1 + (image // STRIDE) ** 2, dim, projection, rngs=rngs)
        self.image = image

    def layer(self, pixels: Float[Array, "B H W 3"], number: int) -> Float[Array, "B h w C"]:
        """Return the output of the stem (0) or of stage 1 to 4, also counted from the end. Raise UserError."""
        x = mean_pool(self.stem(pixels), 2)
        for i in range(layer_index(number, 1 + len(self.layers), "CLIP's ResNet")):
            x = self.layers[i](x)
        return x

    def features(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B P"]:
        """Return the projected embedding. Raise UserError for images of another size than `image`."""
        if pixels.shape[1:3] != (self.image, self.image):
            raise UserError(f"this network takes images of {self.image} pixels a side, not of {pixels.shape[1:3]}")
        return self.pool(self.layer(pixels, -1))
