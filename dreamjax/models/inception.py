"""Inception-v3 (Szegedy et al. 2016, arXiv 1512.00567): torchvision's, and the one by which FID is measured.

The two have the same weights' shapes. `fid`: the graph of 2015-12-05, whose average pools leave out what lies beyond
the image and whose last block takes the maximum instead; its 1,008 classes are Inception Score's.

The parts bear torchvision's names. Shape letters: B batch, H/W pixels, C channels, F features, K classes.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from dreamjax.models.image_classifiers import ConvNorm, Pair, max_pool
from dreamjax.models.layers import Keys, Linear

Size = int | Pair
Shape = tuple[Size, Size]  # kernel, padding
Branches = dict[str, tuple[tuple[int, Shape | None], ...]]  # name → (width in units, shape) of its convolutions

ONE, THREE, FIVE, UNPADDED = (1, 0), (3, 1), (5, 2), (3, 0)
ROW, COLUMN = ((1, 7), (0, 3)), ((7, 1), (3, 0))
SPLIT = None  # two convolutions side by side: "a" along a row, "b" along a column
SHORT = {"a": ((1, 3), (0, 1)), "b": ((3, 1), (1, 0))}


def _conv(dim_in: int, dim_out: int, kernel: Size, stride: int, padding: Size, rngs: Keys) -> ConvNorm:
    return ConvNorm(dim_in, dim_out, kernel, stride=stride, padding=padding, epsilon=1e-3, rngs=rngs)


class InceptionBlock(nnx.Module):
    """Parallel branches of convolutions NAME_1, NAME_2, … (NAME where there is one), concatenated.

    The branch "branch_pool" begins with a pool, of averages or (`maximum`) of maxima. `halves`: half the size, by
    stride 2 in the last convolution of each branch, and by a max pool as a further branch.
    """

    def __init__(
        self,
        dim_in: int,
        unit: int,
        branches: Branches,
        *,
        fid: bool,
        rngs: Keys,
        halves: bool = False,
        maximum: bool = False,
    ):
        self.fid, self.halves, self.maximum = fid, halves, maximum
        self.chains: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = ()
        self.dim_out = dim_in if halves else 0
        for branch, steps in branches.items():
            dim = dim_in
            chain: tuple[tuple[str, ...], ...] = ()
            for k, (width, shape) in enumerate(steps, 1):
                name = branch if len(steps) == 1 else f"{branch}_{k}"
                parts = {name: shape} if shape else {f"{name}{letter}": short for letter, short in SHORT.items()}
                stride = 2 if halves and k == len(steps) else 1
                for part, (kernel, padding) in parts.items():
                    setattr(self, part, _conv(dim, width * unit, kernel, stride, padding, rngs))
                dim, chain = width * unit, (*chain, tuple(parts))
            self.chains += ((branch, chain),)
            self.dim_out += dim * len(chain[-1])

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w O"]:
        outputs = []
        for branch, chain in self.chains:
            y = self.pooled(x) if branch == "branch_pool" else x
            for parts in chain:
                y = jnp.concatenate([getattr(self, part)(y) for part in parts], axis=-1)
            outputs.append(y)
        return jnp.concatenate(outputs + [max_pool(x, 3, 2)] * self.halves, axis=-1)

    def pooled(self, x: Array) -> Array:
        """Return the 3 × 3 average pool, which in FID's graph does not count padding, or (`maximum`) maximum."""
        if self.maximum:
            return max_pool(x, 3, 1, 1)
        return nnx.avg_pool(x, (3, 3), padding=((1, 1), (1, 1)), count_include_pad=not self.fid)


def _a(pool: int) -> Branches:
    double = ((4, ONE), (6, THREE), (6, THREE))
    first = {"branch1x1": ((4, ONE),), "branch5x5": ((3, ONE), (4, FIVE)), "branch3x3dbl": double}
    return {**first, "branch_pool": ((pool, ONE),)}


def _c(inner: int) -> Branches:
    double = ((inner, ONE), (inner, COLUMN), (inner, ROW), (inner, COLUMN), (12, ROW))
    single = ((inner, ONE), (inner, ROW), (12, COLUMN))
    return {"branch1x1": ((12, ONE),), "branch7x7": single, "branch7x7dbl": double, "branch_pool": ((12, ONE),)}


B: Branches = {"branch3x3": ((24, UNPADDED),), "branch3x3dbl": ((4, ONE), (6, THREE), (6, UNPADDED))}
D: Branches = {
    "branch3x3": ((12, ONE), (20, UNPADDED)),
    "branch7x7x3": ((12, ONE), (12, ROW), (12, COLUMN), (12, UNPADDED)),
}
E: Branches = {
    "branch1x1": ((20, ONE),),
    "branch3x3": ((24, ONE), (24, SPLIT)),
    "branch3x3dbl": ((28, ONE), (24, THREE), (24, SPLIT)),
    "branch_pool": ((12, ONE),),
}
BLOCKS = {
    **{"5b": _a(2), "5c": _a(4), "5d": _a(4), "6a": B},
    **{"6b": _c(8), "6c": _c(10), "6d": _c(10), "6e": _c(12), "7a": D, "7b": E, "7c": E},
}
STEM = {  # width in units, kernel, stride, padding
    "Conv2d_1a_3x3": (2, 3, 2, 0),
    "Conv2d_2a_3x3": (2, 3, 1, 0),
    "Conv2d_2b_3x3": (4, 3, 1, 1),
    "Conv2d_3b_1x1": (5, 1, 1, 0),
    "Conv2d_4a_3x3": (12, 3, 1, 0),
}
FEATURES = {"Conv2d_2b_3x3": "64", "Conv2d_4a_3x3": "192", "Mixed_6e": "768", "Mixed_7c": "2048"}


class InceptionV3(nnx.Module):
    """`unit`: 16 as published; all widths are multiples of it. Without the auxiliary classifier of training."""

    def __init__(self, *, rngs: Keys, unit: int = 16, classes: int = 1000, fid: bool = False):
        dim = 3
        for name, (width, kernel, stride, padding) in STEM.items():
            setattr(self, name, _conv(dim, width * unit, kernel, stride, padding, rngs))
            dim = width * unit
        for name, branches in BLOCKS.items():
            kinds = {"halves": branches in (B, D), "maximum": fid and name == "7c"}
            block = InceptionBlock(dim, unit, branches, fid=fid, rngs=rngs, **kinds)
            setattr(self, f"Mixed_{name}", block)
            dim = block.dim_out
        self.fc = Linear(dim, classes, dtype="float32", rngs=rngs)

    def features(self, pixels: Float[Array, "B H W 3"]) -> dict[str, Float[Array, "B F"]]:
        """Return means over positions, named by FID's published widths.

        They follow the first and the second max pool, the last block before the last halving, and the last block
        (torchvision's avgpool).
        """
        x, outputs = pixels, {}
        for name in (*STEM, *(f"Mixed_{name}" for name in BLOCKS)):
            x = getattr(self, name)(x)
            x = max_pool(x, 3, 2) if name in STEM and name in FEATURES else x
            if name in FEATURES:
                outputs[FEATURES[name]] = x.mean((1, 2))
        return outputs

    def logits(self, features: Float[Array, "B F"], bias: bool = True) -> Float[Array, "B K"]:
        """Return the logits of the last features; Inception Score's code leaves out the bias."""
        y = features @ self.fc.kernel[...]
        return y + self.fc.bias[...] if bias else y
