"""Draw the image that a run logs while it trains: rows of images, or signals with their reconstruction.

Every process of a run computes the content, as the parameters are spread over all of them; only the first one draws.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Bool, Float, UInt8

from dreamjax.parallel import processes
from dreamjax.reports import figures, palette
from dreamjax.training.task import PyTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOWS, CHANNELS = 2, 3  # of a figure of signals


def computed(function: Callable[..., jax.Array], params: PyTree, *arrays: np.ndarray) -> np.ndarray:
    """Return `function(params, *arrays)` as NumPy arrays in every process."""
    sharding = jax.tree.leaves(params)[0].sharding
    whole = NamedSharding(sharding.mesh, P()) if isinstance(sharding, NamedSharding) else sharding
    return np.asarray(jax.jit(function, out_shardings=whole)(params, *arrays))


def image_rows(rows: Mapping[str, UInt8[np.ndarray, "n H W 3"]]) -> "Figure | None":
    """Draw rows of images, one below the other, with their titles; None for all processes but the first."""
    if not processes.is_first():
        return None
    columns = min(len(images) for images in rows.values())
    figure, axes = figures.grid(1.6 * columns, 1.6 * len(rows), len(rows), columns)
    for line, (title, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(title)
        for axis, image in zip(line, images, strict=False):
            axis.imshow(image, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
    return figure


def masked_windows(
    signal: Float[np.ndarray, "windows channels T"],
    prediction: Float[np.ndarray, "windows channels T"],
    hidden: Bool[np.ndarray, "windows T"],
    sfreq: float,
) -> "Figure | None":
    """Draw signal, masked signal and prediction (µV) of a few windows and channels; None as in `image_rows`."""
    if not processes.is_first():
        return None
    windows = min(WINDOWS, len(signal))
    channels = np.linspace(0, signal.shape[1] - 1, min(CHANNELS, signal.shape[1])).astype(int)
    seconds = np.arange(signal.shape[2]) / sfreq
    rows = windows * len(channels)
    figure, axes = figures.grid(12, 1.6 * rows, rows, 1, sharex=True)
    for row, axis in enumerate(axes[:, 0]):
        window, channel = divmod(row, len(channels))
        truth, masked = signal[window, channels[channel]], hidden[window]
        predicted = prediction[window, channels[channel]]
        known = masked.sum() > 1 and predicted[masked].std() > 0
        r = np.corrcoef(truth[masked], predicted[masked])[0, 1] if known else np.nan
        shade = {"where": masked, "transform": axis.get_xaxis_transform(), "color": palette.SHADE}
        axis.fill_between(seconds, 0, 1, lw=0, **shade)
        axis.plot(seconds, truth, color=palette.GRID, lw=0.8, label="signal")
        axis.plot(seconds, np.where(masked, np.nan, truth), color=palette.SIGNAL, lw=1.2, label="seen by the model")
        axis.plot(seconds, np.where(masked, predicted, np.nan), color=palette.MODEL, lw=1.2, label="reconstruction")
        axis.set_ylabel("µV")
        title = f"window {window}, channel {channels[channel]}: r = {r:.2f} where hidden"
        axis.set_title(title, fontsize=8, loc="left")
    axes[-1, 0].set_xlabel("s")
    figures.legend(axes[0, 0], loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
    return figure
