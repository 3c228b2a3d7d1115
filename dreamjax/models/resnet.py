"""Residual blocks over images, for the U-Net and the autoencoder of latent diffusion, channels last.

Rombach et al. 2022, arXiv 2112.10752; the layout of diffusers' ResnetBlock2D, Downsample2D and Upsample2D.
Shape letters: B batch, H height, W width, C channels, E width of the time embedding.
"""

from collections.abc import Callable

from flax import nnx
from jaxtyping import Array, Float

from dreamjax.models.convolution import Conv2d, GroupNorm, Padding, upsample
from dreamjax.models.keys import Keys
from dreamjax.models.layers import ACTIVATIONS, Dtype, Linear
from dreamjax.parallel import environment

MakeResBlock = Callable[[int, int], "ResBlock"]  # (channels in, channels out) → block


class ResBlock(nnx.Module):
    """x + conv2(act(norm2(conv1(act(norm1 x)) + time))); a 1 × 1 shortcut where the number of channels changes."""

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        groups: int,
        epsilon: float,
        time_dim: int | None = None,
        activation: str = "silu",
        dtype: Dtype,
        rngs: Keys,
    ):
        self.norm1 = GroupNorm(dim_in, groups, dtype=dtype, epsilon=epsilon)
        self.conv1 = Conv2d(dim_in, dim_out, dtype=dtype, rngs=rngs)
        if time_dim is not None:
            self.time_emb_proj = Linear(time_dim, dim_out, dtype=dtype, rngs=rngs)
        self.norm2 = GroupNorm(dim_out, groups, dtype=dtype, epsilon=epsilon)
        self.conv2 = Conv2d(dim_out, dim_out, dtype=dtype, rngs=rngs)
        if dim_in != dim_out:
            self.conv_shortcut = Conv2d(dim_in, dim_out, 1, dtype=dtype, rngs=rngs)
        self.changes, self.timed, self.activation = dim_in != dim_out, time_dim is not None, activation

    def __call__(
        self, x_BxHxWxC: Float[Array, "B H W C"], time_BxE: Float[Array, "B E"] | None = None
    ) -> Float[Array, "B H W O"]:
        act = ACTIVATIONS[self.activation]
        y = self.conv1(act(self.norm1(x_BxHxWxC)))
        if self.timed:
            assert time_BxE is not None
            y = y + self.time_emb_proj(act(time_BxE))[:, None, None, :]
        y = self.conv2(act(self.norm2(y)))
        return (self.conv_shortcut(x_BxHxWxC) if self.changes else x_BxHxWxC) + y


class Downsample(nnx.Module):
    """Half the size by a 3 × 3 convolution of stride 2; padding 0: one zero row below, one column right."""

    def __init__(self, dim: int, *, padding: int = 1, dtype: Dtype, rngs: Keys):
        sides: int | Padding = padding if padding else ((0, 1), (0, 1))
        self.conv = Conv2d(dim, dim, stride=2, padding=sides, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        return self.conv(x)


class Upsample(nnx.Module):
    """Twice the size (or `size`) by nearest neighbours, then a 3 × 3 convolution."""

    def __init__(self, dim: int, *, dtype: Dtype, rngs: Keys):
        self.conv = Conv2d(dim, dim, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"], size: tuple[int, int] | None = None) -> Float[Array, "B h w C"]:
        B, H, W, _ = x.shape
        doubled = size is None or size == (2 * H, 2 * W)
        # for fewer pixels, putting the kernels together costs more than it saves
        if environment.target_platform() == "cpu" and doubled and B * H * W >= 256:
            return self.conv.of_upsampled(x)
        return self.conv(upsample(x, size))
