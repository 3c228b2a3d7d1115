"""Inception-v3 (Szegedy et al. 2016, arXiv 1512.00567): torchvision's, and the one by which FID is measured.

The two have the same weights' shapes. `fid`: the graph of 2015-12-05, whose average pools leave out what lies beyond
the image and whose last block takes the maximum instead; its 1,008 classes are Inception Score's.

The parts bear torchvision's names. Shape letters: B batch, H/W pixels, C channels, F features, K classes.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from dreamjax.models.inference import ConvNorm, average_pool, max_pool
from dreamjax.models.keys import Keys
from dreamjax.models.layers import Linear

EPSILON = 1e-3
ROW, COLUMN = ((1, 7), (0, 3)), ((7, 1), (3, 0))  # kernel, padding of a convolution along a row, a column
SHORT_ROW, SHORT_COLUMN = ((1, 3), (0, 1)), ((3, 1), (1, 0))
ONE, THREE, FIVE = (1, 0), (3, 1), (5, 2)

Size = int | tuple[int, int]
Spec = tuple[int, tuple[Size, Size]]  # width in units, (kernel, padding)


class InceptionBlock(nnx.Module):
    """Parallel branches, concatenated; its convolutions are attributes named as in torchvision."""

    def __init__(self, dim_in: int, unit: int, fid: bool = False):
        self.dim_in, self.unit, self.fid = dim_in, unit, fid

    def chain(self, name: str, *specs: Spec, rngs: Keys, last_stride: int = 1) -> None:
        """Add a sequence of convolutions NAME_1, NAME_2, …; only NAME where there is one."""
        dim = self.dim_in
        for k, (width, (kernel, padding)) in enumerate(specs, 1):
            stride = last_stride if k == len(specs) else 1
            module = ConvNorm(
                dim, width * self.unit, kernel, stride=stride, padding=padding, epsilon=EPSILON, rngs=rngs
            )
            setattr(self, name if len(specs) == 1 else f"{name}_{k}", module)
            dim = width * self.unit

    def follow(self, name: str, x: Array, *suffixes: str) -> Array:
        """Apply a sequence of convolutions."""
        for suffix in suffixes or ("",):
            x = getattr(self, f"{name}{suffix}")(x)
        return x

    def pooled(self, x: Array) -> Array:
        """Return the 3 × 3 average pool, which in FID's graph does not count padding."""
        return average_pool(x, 3, 1, 1, count_padding=not self.fid)


class InceptionBlockA(InceptionBlock):
    def __init__(self, dim_in: int, unit: int, fid: bool, pool: int, *, rngs: Keys):
        super().__init__(dim_in, unit, fid)
        self.chain("branch1x1", (4, ONE), rngs=rngs)
        self.chain("branch5x5", (3, ONE), (4, FIVE), rngs=rngs)
        self.chain("branch3x3dbl", (4, ONE), (6, THREE), (6, THREE), rngs=rngs)
        self.chain("branch_pool", (pool, ONE), rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W O"]:
        return _concatenate(
            self.follow("branch1x1", x),
            self.follow("branch5x5", x, "_1", "_2"),
            self.follow("branch3x3dbl", x, "_1", "_2", "_3"),
            self.follow("branch_pool", self.pooled(x)),
        )


class InceptionBlockB(InceptionBlock):
    """Half the size."""

    def __init__(self, dim_in: int, unit: int, *, rngs: Keys):
        super().__init__(dim_in, unit)
        self.chain("branch3x3", (24, (3, 0)), last_stride=2, rngs=rngs)
        self.chain("branch3x3dbl", (4, ONE), (6, THREE), (6, (3, 0)), last_stride=2, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w O"]:
        double = self.follow("branch3x3dbl", x, "_1", "_2", "_3")
        return _concatenate(self.follow("branch3x3", x), double, max_pool(x, 3, 2))


class InceptionBlockC(InceptionBlock):
    def __init__(self, dim_in: int, unit: int, fid: bool, inner: int, *, rngs: Keys):
        super().__init__(dim_in, unit, fid)
        self.chain("branch1x1", (12, ONE), rngs=rngs)
        self.chain("branch7x7", (inner, ONE), (inner, ROW), (12, COLUMN), rngs=rngs)
        twice = (inner, COLUMN), (inner, ROW), (inner, COLUMN), (12, ROW)
        self.chain("branch7x7dbl", (inner, ONE), *twice, rngs=rngs)
        self.chain("branch_pool", (12, ONE), rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W O"]:
        return _concatenate(
            self.follow("branch1x1", x),
            self.follow("branch7x7", x, "_1", "_2", "_3"),
            self.follow("branch7x7dbl", x, "_1", "_2", "_3", "_4", "_5"),
            self.follow("branch_pool", self.pooled(x)),
        )


class InceptionBlockD(InceptionBlock):
    """Half the size."""

    def __init__(self, dim_in: int, unit: int, *, rngs: Keys):
        super().__init__(dim_in, unit)
        self.chain("branch3x3", (12, ONE), (20, (3, 0)), last_stride=2, rngs=rngs)
        self.chain("branch7x7x3", (12, ONE), (12, ROW), (12, COLUMN), (12, (3, 0)), last_stride=2, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w O"]:
        large = self.follow("branch7x7x3", x, "_1", "_2", "_3", "_4")
        return _concatenate(self.follow("branch3x3", x, "_1", "_2"), large, max_pool(x, 3, 2))


class InceptionBlockE(InceptionBlock):
    """`maximum`: pools by it, as the last block of FID's graph."""

    def __init__(self, dim_in: int, unit: int, fid: bool, maximum: bool = False, *, rngs: Keys):
        super().__init__(dim_in, unit, fid)
        self.maximum = maximum
        self.chain("branch1x1", (20, ONE), rngs=rngs)
        self.chain("branch_pool", (12, ONE), rngs=rngs)
        for name, stem in (("branch3x3", ((24, ONE),)), ("branch3x3dbl", ((28, ONE), (24, THREE)))):
            self.chain(f"{name}_1" if len(stem) == 1 else name, *stem, rngs=rngs)
            for letter, (kernel, padding) in (("a", SHORT_ROW), ("b", SHORT_COLUMN)):
                module = ConvNorm(24 * unit, 24 * unit, kernel, padding=padding, epsilon=EPSILON, rngs=rngs)
                setattr(self, f"{name}_{len(stem) + 1}{letter}", module)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W O"]:
        single = self.follow("branch3x3", x, "_1")
        double = self.follow("branch3x3dbl", x, "_1", "_2")
        return _concatenate(
            self.follow("branch1x1", x),
            *(self.follow("branch3x3", single, "_2a"), self.follow("branch3x3", single, "_2b")),
            *(self.follow("branch3x3dbl", double, "_3a"), self.follow("branch3x3dbl", double, "_3b")),
            self.follow("branch_pool", max_pool(x, 3, 1, 1) if self.maximum else self.pooled(x)),
        )


class InceptionV3(nnx.Module):
    """`unit`: 16 as published; all widths are multiples of it. Without the auxiliary classifier of training."""

    def __init__(self, *, rngs: Keys, unit: int = 16, classes: int = 1000, fid: bool = False):
        def conv(dim_in: int, width: int, kernel: int, stride: int = 1, padding: int = 0) -> ConvNorm:
            return ConvNorm(dim_in, width * unit, kernel, stride=stride, padding=padding, epsilon=EPSILON, rngs=rngs)

        self.Conv2d_1a_3x3 = conv(3, 2, 3, stride=2)
        self.Conv2d_2a_3x3 = conv(2 * unit, 2, 3)
        self.Conv2d_2b_3x3 = conv(2 * unit, 4, 3, padding=1)
        self.Conv2d_3b_1x1 = conv(4 * unit, 5, 1)
        self.Conv2d_4a_3x3 = conv(5 * unit, 12, 3)
        dim = 12 * unit
        for letter, pool in (("b", 2), ("c", 4), ("d", 4)):
            setattr(self, f"Mixed_5{letter}", InceptionBlockA(dim, unit, fid, pool, rngs=rngs))
            dim = (14 + pool) * unit
        self.Mixed_6a = InceptionBlockB(dim, unit, rngs=rngs)
        dim = 48 * unit
        for letter, inner in (("b", 8), ("c", 10), ("d", 10), ("e", 12)):
            setattr(self, f"Mixed_6{letter}", InceptionBlockC(dim, unit, fid, inner, rngs=rngs))
        self.Mixed_7a = InceptionBlockD(dim, unit, rngs=rngs)
        self.Mixed_7b = InceptionBlockE(80 * unit, unit, fid, rngs=rngs)
        self.Mixed_7c = InceptionBlockE(128 * unit, unit, fid, maximum=fid, rngs=rngs)
        self.fc = Linear(128 * unit, classes, dtype="float32", rngs=rngs)

    def features(self, pixels: Float[Array, "B H W 3"]) -> dict[str, Float[Array, "B F"]]:
        """Return means over positions, named by FID's published widths.

        They follow the first and the second max pool, the last block before the last halving, and the last block
        (torchvision's avgpool).
        """
        x = max_pool(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(pixels))), 3, 2)
        outputs = {"64": x}
        x = outputs["192"] = max_pool(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e"):
            x = getattr(self, f"Mixed_{name}")(x)
        outputs["768"] = x
        for name in ("7a", "7b", "7c"):
            x = getattr(self, f"Mixed_{name}")(x)
        outputs["2048"] = x
        return {name: value.mean((1, 2)) for name, value in outputs.items()}

    def logits(self, features: Float[Array, "B F"], bias: bool = True) -> Float[Array, "B K"]:
        """Return the logits of the last features; Inception Score's code leaves out the bias."""
        y = features @ self.fc.kernel[...]
        return y + self.fc.bias[...] if bias else y


def _concatenate(*branches: Array) -> Array:
    return jnp.concatenate(branches, axis=-1)
