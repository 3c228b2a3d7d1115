"""Low-level features of images, in NumPy: the simplest targets that brain responses are compared by.

Those of Benchetrit et al. 2024 (arXiv 2310.19812, appendix on image features), of an image of 224 × 224 pixels, to
which it is resized first. Local binary patterns and oriented gradients are those of scikit-image.

Shape letters: H/W rows and columns, h/w cells, O orientations.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8

VERSION = 1  # of what is computed: part of a bank's key
BINS = 8  # of each colour
POINTS, RADIUS = 8, 1  # of a local binary pattern
ORIENTATIONS, CELL, BLOCK = 8, 8, 2  # of oriented gradients: bins of 180°, pixels of a cell, cells of a block
CLIP, TINY = 0.2, 1e-5  # of L2-Hys: largest share of a block's length, and what is added to it

Feature = Callable[[UInt8[np.ndarray, "H W 3"]], Float[np.ndarray, "D"]]


def colour_histogram(image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "24"]:
    """Return the share of pixels in each of 8 equal bins of red, then of green, then of blue."""
    counts = [np.bincount(image[:, :, colour].ravel() // (256 // BINS), minlength=BINS) for colour in range(3)]
    return np.concatenate(counts) / image[:, :, 0].size


def lbp(image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "10"]:
    """Return the histogram of uniform local binary patterns (Ojala et al. 2002) of 8 points at radius 1, in shares.

    A pixel's pattern says which points around it are at least as bright. With at most two changes from point to point
    it is the number of such points, else it is 9.
    """
    grey = _grey(image)
    angle = 2 * np.pi * np.arange(POINTS) / POINTS
    offsets = np.round(np.stack([-RADIUS * np.sin(angle), RADIUS * np.cos(angle)], axis=1), 5)
    bright = np.stack([_shifted(grey, *offset) >= grey for offset in offsets])
    changes = (bright[1:] != bright[:-1]).sum(0)
    pattern = np.where(changes <= 2, bright.sum(0), POINTS + 1)
    return np.bincount(pattern.ravel(), minlength=POINTS + 2) / pattern.size


def _shifted(x: Float[np.ndarray, "H W"], rows: float, columns: float) -> Float[np.ndarray, "H W"]:
    """Return x at positions that far away, bilinear, rounded so that a constant stays one; 0 beyond the border."""
    padded = np.pad(x, 2)
    (top, down), (left, right) = ((int(np.floor(d)), d - np.floor(d)) for d in (rows, columns))

    def at(i: int, j: int) -> np.ndarray:
        return padded[2 + i : 2 + i + x.shape[0], 2 + j : 2 + j + x.shape[1]]

    above = (1 - right) * at(top, left) + right * at(top, left + 1)
    below = (1 - right) * at(top + 1, left) + right * at(top + 1, left + 1)
    return np.round((1 - down) * above + down * below, 9)


def hog(image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "D"]:
    """Return histograms of oriented gradients (Dalal & Triggs 2005): 8 orientations, cells of 8 pixels, blocks of 2.

    Gradients are central differences of the colour where they are largest, and each block is normalised (L2-Hys).
    """
    x = image.astype(np.float64)
    rows, columns = np.zeros_like(x), np.zeros_like(x)
    rows[1:-1], columns[:, 1:-1] = x[2:] - x[:-2], x[:, 2:] - x[:, :-2]
    strongest = np.hypot(rows, columns).argmax(-1)[:, :, None]
    row, column = (np.take_along_axis(g, strongest, -1)[:, :, 0] for g in (rows, columns))
    magnitude, angle = np.hypot(row, column), np.rad2deg(np.arctan2(row, column)) % 180
    h, w = image.shape[0] // CELL, image.shape[1] // CELL
    bins = np.minimum(angle // (180 / ORIENTATIONS), ORIENTATIONS - 1)
    each = np.where(bins[:, :, None] == np.arange(ORIENTATIONS), magnitude[:, :, None], 0)[: h * CELL, : w * CELL]
    cells_hxwxO = each.reshape(h, CELL, w, CELL, ORIENTATIONS).mean((1, 3))
    blocks = np.lib.stride_tricks.sliding_window_view(cells_hxwxO, (BLOCK, BLOCK), (0, 1)).transpose(0, 1, 3, 4, 2)
    blocks = np.minimum(_normalised(blocks), CLIP)
    return _normalised(blocks).ravel()


def _normalised(blocks: Float[np.ndarray, "h w 2 2 O"]) -> Float[np.ndarray, "h w 2 2 O"]:
    return blocks / np.sqrt(np.square(blocks).sum((2, 3, 4), keepdims=True) + TINY**2)


def fft(image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "D"]:
    """Return the real part of the Fourier transform of the grey image, divided by its side.

    Of the half that determines the other one.
    """
    return _spectrum(image).real.ravel()


def fft_log_psd(image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "D"]:
    """Return log(1 + |F|²) of the same transform F, then its angle in radians."""
    spectrum = _spectrum(image)
    return np.concatenate([np.log1p(np.abs(spectrum) ** 2).ravel(), np.angle(spectrum).ravel()])


def _spectrum(image: UInt8[np.ndarray, "H W 3"]) -> np.ndarray:
    return np.fft.rfft2(_grey(image), norm="ortho")


def _grey(image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W"]:
    """Return whole grey values, 0 to 255 (ITU-R 601)."""
    return np.rint(image @ np.array([0.299, 0.587, 0.114]))


FEATURES: dict[str, Feature] = {
    "colour_histogram": colour_histogram,
    "lbp": lbp,
    "hog": hog,
    "fft": fft,
    "fft_log_psd": fft_log_psd,
}
