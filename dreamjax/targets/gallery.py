"""Pictures into and out of files of a wanted size, and many of them on one page."""

import io
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8

from dreamjax.errors import UserError, missing_package
from dreamjax.storage import atomic

MOST = 48  # pictures on a page
COLUMNS = range(8, 3, -1)  # of a page with more than a few pictures
LABEL = 26  # characters a line


def load_sized(path: epath.PathLike, size: tuple[int, int] | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """A picture's file, upright, in RGB, drawn to `size` (height, width) whatever its shape, as diffusers does.

    Raises UserError, by name, where there is none or it is damaged.
    """
    image, operations = _pillow()
    place = epath.Path(path)
    if not place.is_file():
        raise UserError(f"{path}: no such picture")
    try:
        with place.open("rb") as stream, image.open(stream) as opened:
            found = operations.exif_transpose(opened).convert("RGB")
    except Exception as problem:  # Pillow's decoders raise whatever a damaged file makes them raise
        raise UserError(f"{path}: this is no picture, or a damaged one") from problem
    if size is not None and found.size != size[::-1]:
        found = found.resize(size[::-1], image.Resampling.LANCZOS)
    return np.asarray(found)


def is_whole(path: epath.PathLike) -> bool:
    """Whether a picture's file can be read to its end."""
    image, _ = _pillow()
    try:
        with epath.Path(path).open("rb") as stream, image.open(stream) as opened:
            opened.verify()
    except Exception:  # Pillow's decoders raise whatever a damaged file makes them raise
        return False
    return True


def write_png(path: epath.PathLike, picture: UInt8[np.ndarray, "H W 3"]) -> None:
    """Nothing but the pixels; the file is whole or not there."""
    atomic.write_bytes(path, png(picture))


def png(picture: UInt8[np.ndarray, "H W 3"], most: int | None = None) -> bytes:
    """The file of a picture, made smaller where a side has more than `most` pixels."""
    image, _ = _pillow()
    made = image.fromarray(picture)
    if most is not None and max(made.size) > most:
        made.thumbnail((most, most), image.Resampling.LANCZOS)
    stream = io.BytesIO()
    made.save(stream, format="PNG")
    return stream.getvalue()


def page(path: epath.PathLike, pictures: Sequence[UInt8[np.ndarray, "H W 3"]], labels: Sequence[str]) -> None:
    """The first `MOST` pictures in rows, what each was made from above it, as a PNG."""
    from matplotlib.figure import Figure

    pictures, labels = pictures[:MOST], labels[:MOST]
    columns = columns_of(len(pictures))
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(1.6 * columns, 1.95 * rows), dpi=150, layout="constrained")
    axes = np.asarray(figure.subplots(rows, columns, squeeze=False)).reshape(-1)
    for axis in axes:
        axis.axis("off")
    for axis, picture, label in zip(axes, pictures, labels, strict=False):
        axis.imshow(picture, interpolation="nearest" if max(picture.shape) < 128 else "antialiased")
        lines = textwrap.wrap(label, LABEL, max_lines=3, placeholder=" …")
        axis.set_title("\n".join(lines).replace("$", r"\$"), fontsize=6)
    with epath.Path(path).open("wb") as stream:
        figure.savefig(stream, format="png", metadata={"Software": None})


def columns_of(count: int) -> int:
    """Of a page of so many pictures: as few empty places as can be, then as square as can be."""
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
        raise missing_package("pillow", "data", "reading and writing pictures") from e
    return Image, ImageOps
