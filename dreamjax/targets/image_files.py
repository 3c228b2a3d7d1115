"""Images into and out of files of a wanted size, and many of them on one page."""

import io
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8

from dreamjax.errors import UserError, missing_package
from dreamjax.storage import atomic

MOST = 48  # images on a page
COLUMNS = range(8, 3, -1)  # of a page with more than a few images
LABEL = 26  # characters a line


def load_sized(path: epath.PathLike, size: tuple[int, int] | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """An image's file, upright, in RGB, drawn to `size` (height, width) whatever its shape, as diffusers does.

    Raises UserError, by name, where there is none or it is damaged.
    """
    pil, operations = _pillow()
    place = epath.Path(path)
    if not place.is_file():
        raise UserError(f"{path}: no such image")
    try:
        with place.open("rb") as stream, pil.open(stream) as opened:
            found = operations.exif_transpose(opened).convert("RGB")
    except Exception as problem:  # Pillow's decoders raise whatever a damaged file makes them raise
        raise UserError(f"{path}: this is no image, or a damaged one") from problem
    if size is not None and found.size != size[::-1]:
        found = found.resize(size[::-1], pil.Resampling.LANCZOS)
    return np.asarray(found)


def is_whole(path: epath.PathLike) -> bool:
    """Whether an image's file can be read to its end."""
    pil, _ = _pillow()
    try:
        with epath.Path(path).open("rb") as stream, pil.open(stream) as opened:
            opened.verify()
    except Exception:  # Pillow's decoders raise whatever a damaged file makes them raise
        return False
    return True


def write_png(path: epath.PathLike, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Nothing but the pixels; the file is whole or not there."""
    atomic.write_bytes(path, png(image))


def png(image: UInt8[np.ndarray, "H W 3"], most: int | None = None) -> bytes:
    """The file of an image, made smaller where a side has more than `most` pixels."""
    pil, _ = _pillow()
    made = pil.fromarray(image)
    if most is not None and max(made.size) > most:
        made.thumbnail((most, most), pil.Resampling.LANCZOS)
    stream = io.BytesIO()
    made.save(stream, format="PNG")
    return stream.getvalue()


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


def _pillow() -> Any:
    try:
        from PIL import Image, ImageOps
    except ImportError as e:
        raise missing_package("pillow", "data", "reading and writing images") from e
    return Image, ImageOps
