"""Compare two images pixel by pixel. Images are uint8 or in [0, 1], batches of (H, W, 3).

SSIM (Wang et al. 2004, IEEE TIP 13:600): with local means μ, variances σ² and the covariance σ_xy under a Gaussian
window of σ = 1.5 pixels,

    SSIM = mean of (2 μ_x μ_y + c₁)(2 σ_xy + c₂) / ((μ_x² + μ_y² + c₁)(σ_x² + σ_y² + c₂)),   c₁ = 0.01², c₂ = 0.03²

on grey images of range 1, over the pixels whose window lies within, as the suite of Brain-Diffuser has it.
"""

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from dreamjax.metrics import retrieval

GREY = np.array([0.2125, 0.7154, 0.0721])  # of linear light, Rec. 709, as scikit-image weighs the colours
SIGMA, TRUNCATE = 1.5, 3.5  # an 11 x 11 window
C1, C2 = 0.01**2, 0.03**2

Images = Float[np.ndarray, "n H W 3"]


def in_unit(images: np.ndarray) -> Images:
    """Return images as float64; uint8 ones are scaled to [0, 1]."""
    x = np.asarray(images)
    return x.astype(np.float64) / 255 if x.dtype == np.uint8 else x.astype(np.float64)


def psnr(made: Images, true: Images) -> Float[np.ndarray, "n"]:
    """Return 10 log₁₀ (1 / mean squared difference), dB; infinite for equal images."""
    error = np.square(in_unit(made) - in_unit(true)).mean((1, 2, 3))
    with np.errstate(divide="ignore"):
        return -10 * np.log10(error)


def pixel_correlation(made: Images, true: Images) -> Float[np.ndarray, "n"]:
    """Return Pearson's r over all pixels and colours; 0 for an image of one value."""
    return retrieval.paired(in_unit(made).reshape(len(made), -1), in_unit(true).reshape(len(true), -1))


def ssim(made: Images, true: Images) -> Float[np.ndarray, "n"]:
    """Return the structural similarity of the grey images. Raise ValueError for images of less than 11 pixels."""
    x, y = (in_unit(images) @ GREY for images in (made, true))
    if min(x.shape[1:]) < 11:
        raise ValueError(f"SSIM has a window of 11 x 11 pixels, and the images have {x.shape[1]} x {x.shape[2]}")

    def local(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(values, (0, SIGMA, SIGMA), truncate=TRUNCATE)

    mx, my = local(x), local(y)
    vx, vy, cxy = local(x * x) - mx * mx, local(y * y) - my * my, local(x * y) - mx * my
    value = (2 * mx * my + C1) * (2 * cxy + C2) / ((mx**2 + my**2 + C1) * (vx + vy + C2))
    edge = int(TRUNCATE * SIGMA + 0.5)
    return value[:, edge:-edge, edge:-edge].mean((1, 2))
