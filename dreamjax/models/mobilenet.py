"""MobileNet v1 (Howard et al. 2017, arXiv 1704.04861) for inference, every layer of it; channels last.

Batch normalisation is folded into the kernels, as in released inference files; padding is TensorFlow's SAME, and the
activation ReLU6.

Shape letters: B batch, H/W pixels, h/w positions, C channels.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from dreamjax.errors import UserError
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
        if not -LAYERS <= number < LAYERS:
            raise UserError(f"layer {number} does not exist; MobileNet has 0 to {LAYERS - 1}, or {-LAYERS} to -1")
        x = pixels
        for i in range(number % LAYERS + 1):
            x = self.layers[i](x)
        return x


def from_arrays(arrays: dict[str, jax.Array], source: str) -> tuple[MobileNet, dict]:
    """Return (module, parameters) of arrays NN_pw_w (out, h, w, in), NN_dw_w (1, h, w, channels) and NN_b.

    Raise UserError naming what is missing or has another shape.
    """
    first = arrays.get("00_pw_w")
    unit = 32 if first is None else first.shape[0]
    module = nnx.eval_shape(lambda: MobileNet(rngs=Keys(jax.random.key(0)), unit=unit))
    params: dict[str, dict] = {}
    problems = []
    for i in range(LAYERS):
        kind, shape = ("dw", (1, 2, 0, 3)) if i % 2 else ("pw", (1, 2, 3, 0))
        expected = module.layers[i].conv
        kernel, bias = arrays.get(f"{i:02d}_{kind}_w"), arrays.get(f"{i:02d}_b")
        if kernel is None or bias is None:
            problems.append(f"{i:02d}_{kind}_w" if kernel is None else f"{i:02d}_b")
            continue
        kernel = kernel.astype(jnp.float32).transpose(shape)
        if kernel.shape != expected.kernel.shape or bias.shape != expected.bias.shape:
            problems.append(f"{i:02d}_{kind}_w has shape {kernel.shape} instead of {expected.kernel.shape}")
        params[str(i)] = {"conv": {"kernel": kernel, "bias": bias.astype(jnp.float32)}}
    if problems:
        raise UserError(f"{source}: not the arrays of a MobileNet v1: {'; '.join(problems[:4])}")
    return module, {"layers": params}
