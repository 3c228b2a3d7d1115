"""Many images on one page."""

import textwrap
from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import UInt8

MOST = 48  # images on a page
COLUMNS = range(8, 3, -1)  # of a page with more than a few images
LABEL = 26  # characters a line


def page(path: epath.PathLike, images: Sequence[UInt8[np.ndarray, "H W 3"]], labels: Sequence[str]) -> None:
    """The first `MOST` images in rows, what each was made from above it, as a PNG."""
    from matplotlib.figure import Figure

    images, labels = images[:MOST], labels[:MOST]
    columns = columns_of(len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.6 * columns, 1.95 * rows), dpi=150, layout="constrained")
    axes = np.asarray(figure.subplots(rows, columns, squeeze=False)).reshape(-1)
    for axis in axes:
        axis.axis("off")
    for axis, image, label in zip(axes, images, labels, strict=False):
        axis.imshow(image, interpolation="nearest" if max(image.shape) < 128 else "antialiased")
        lines = textwrap.wrap(label, LABEL, max_lines=3, placeholder=" …")
        axis.set_title("\n".join(lines).replace("$", r"\$"), fontsize=6)
    with epath.Path(path).open("wb") as stream:
        figure.savefig(stream, format="png", metadata={"Software": None})


def columns_of(count: int) -> int:
    """Of a page of so many images: as few empty places as can be, then as square as can be."""
    if count < min(COLUMNS):
        return count

    def cost(columns: int) -> tuple[int, int]:
        rows = -(-count // columns)
        return rows * columns - count, abs(rows - columns)

    return min((n for n in COLUMNS if n <= count), key=cost)
