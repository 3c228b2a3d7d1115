"""Make figures in one style, their PNG files, and grids of images."""

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from dreamjax.reports import palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Image = UInt8[np.ndarray, "H W 3"]

STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": palette.INK,
    "axes.labelcolor": palette.INK,
    "text.color": palette.INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}
GRID_IMAGES, GRID_COLUMNS = 48, range(8, 3, -1)  # of a grid with more than a few images
LABEL_CHARACTERS = 26  # of a line above an image


def grid(width: float, height: float, rows: int, columns: int, **options: Any) -> "tuple[Figure, np.ndarray]":
    """Return a figure of this size in inches and its axes [rows, columns]; `options` are those of `Figure.subplots`."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        return figure, figure.subplots(rows, columns, squeeze=False, **options)


def single(width: float, height: float) -> "tuple[Figure, Axes]":
    """Return a figure of this size in inches and its only axes."""
    figure, axes = grid(width, height, 1, 1)
    return figure, axes[0, 0]


def legend(axis: "Axes", **options: Any) -> None:
    """Add a legend without a frame, if any line has a name."""
    if "handles" in options or axis.get_legend_handles_labels()[0]:
        axis.legend(**{"frameon": False, "fontsize": 8} | options)


def png(figure: "Figure", dpi: int = 160) -> bytes:
    """Return a figure as a PNG file without metadata."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()


def pixels(figure: "Figure", dpi: int) -> Image:
    """Return a figure as an image."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def image_grid(images: Sequence[Image], labels: Sequence[str]) -> bytes:
    """Return a PNG file of the first `GRID_IMAGES` images in rows, each below its label."""
    images, labels = images[:GRID_IMAGES], labels[:GRID_IMAGES]
    columns = columns_of(len(images))
    rows = -(-len(images) // columns)
    figure, axes = grid(1.6 * columns, 1.95 * rows, rows, columns)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, label in zip(axes.flat, images, labels, strict=False):
        axis.imshow(image, interpolation="nearest" if max(image.shape) < 128 else "antialiased")
        lines = textwrap.wrap(label, LABEL_CHARACTERS, max_lines=3, placeholder=" …")
        axis.set_title("\n".join(lines).replace("$", r"\$"), fontsize=6)
    return png(figure, 150)


def columns_of(count: int) -> int:
    """Return the columns of a grid of `count` images: as few empty cells as possible, then as square as possible."""
    if count < min(GRID_COLUMNS):
        return count
    rows = {columns: -(-count // columns) for columns in GRID_COLUMNS if columns <= count}
    return min(rows, key=lambda columns: (rows[columns] * columns - count, abs(rows[columns] - columns)))
