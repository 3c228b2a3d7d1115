"""Changed views of images, by which published systems train on less than the sharp image: the same for every run.

Sizes are in pixels of an image of 224 × 224, to which it is resized first; noise is keyed by the image's name.
"""

import zlib
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from dreamjax.storage.image_files import pillow

View = Literal["none", "blur", "fovea", "noise", "low_resolution", "mosaic"]
SIDE = 224
NOISE_SD, BLOCK, SMALLER = 10.0, 16, 2  # of 255; pixels; factor


def changed(image: UInt8[np.ndarray, "H W 3"], view: View, size: int, name: str) -> UInt8[np.ndarray, "224 224 3"]:
    """Return a view of an image.

    blur: a Gaussian of `size` taps. fovea: blurred towards the edge, x α + blurred (1 - α), α = exp(-3 d / L) with the
    distance d from the middle and L half the diagonal, and 1 / 2 in the middle (Wu et al., CVPR 2025, equation 8).
    noise: normal, SD 10 of 255. low_resolution: half of it, and back. mosaic: means of 16 × 16 pixels.
    """
    x = _resized(image, SIDE)
    if view == "none":
        return x
    if view == "low_resolution":
        return _resized(_resized(x, SIDE // SMALLER), SIDE)
    values = x.astype(np.float64)
    if view == "mosaic":
        blocks = values.reshape(SIDE // BLOCK, BLOCK, SIDE // BLOCK, BLOCK, 3).mean((1, 3))
        values = blocks.repeat(BLOCK, 0).repeat(BLOCK, 1)
    elif view == "noise":
        values += NOISE_SD * np.random.default_rng(zlib.crc32(name.encode())).standard_normal(values.shape)
    else:
        soft = blurred(values, size)
        values = soft if view == "blur" else _fovea() * values + (1 - _fovea()) * soft
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def blurred(x: Float[np.ndarray, "H W 3"], size: int) -> Float[np.ndarray, "H W 3"]:
    """Return the convolution with a Gaussian of `size` taps, SD as OpenCV derives it; the border is reflected."""
    sd = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
    taps = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / sd) ** 2)
    taps /= taps.sum()
    for axis in (0, 1):
        padded = np.pad(x, [(size // 2, size // 2) if a == axis else (0, 0) for a in range(3)], mode="reflect")
        x = sum(tap * np.take(padded, range(i, i + x.shape[axis]), axis) for i, tap in enumerate(taps))
    return x


def _fovea() -> Float[np.ndarray, "H W 1"]:
    offset = np.arange(SIDE) - (SIDE - 1) / 2
    distance = np.hypot(offset[:, None], offset[None])
    return (0.5 * np.exp(-3 * distance / distance.max()))[:, :, None]


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    from PIL import Image

    pillow()
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))
