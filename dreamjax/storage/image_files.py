"""Image files, by Pillow: reading, checking, and PNG writing. The one place that imports Pillow."""

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath
from jaxtyping import UInt8

from dreamjax.errors import UserError, missing_package
from dreamjax.storage import atomic, paths, presence

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "BMP",
    "GIF",
    "TIFF",
)  # by content; Pillow opens others with programs such as Ghostscript


def pillow() -> Any:
    """Return the module PIL.Image. Raises UserError where Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError as e:
        raise missing_package("pillow", "data", "reading and writing images") from e
    return Image


def open_image(path: epath.PathLike) -> "PillowImage":
    """Return an image's file as Pillow's image, read whole and upright (EXIF).

    Raises UserError, with the path, for a missing, damaged or other file.
    """
    pil = pillow()
    paths.refuse_special(path)
    from PIL import ImageOps

    try:
        with epath.Path(path).open("rb") as stream, pil.open(stream, formats=FORMATS) as opened:
            upright = ImageOps.exif_transpose(opened)
            upright.load()
    except FileNotFoundError as problem:
        raise UserError(f"{path}: no such image") from problem
    except Exception as problem:  # Pillow's decoders raise whatever a damaged file makes them raise
        if isinstance(problem, OSError) and problem.errno:  # an error of the file system, not of the decoder
            raise presence.CannotRead.of(path, problem) from problem
        raise UserError(
            f"{path}: not an image, or a damaged one; replace it with one of {', '.join(FORMATS)}, or remove it"
        ) from problem
    return upright


def load_sized(path: epath.PathLike, size: tuple[int, int] | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """Return an image's file, upright, in RGB, resized to `size` (height, width) whatever its shape, as diffusers does.

    Raises UserError as `open_image`.
    """
    image = open_image(path).convert("RGB")
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], pillow().Resampling.LANCZOS)
    return np.asarray(image)


def is_whole(path: epath.PathLike) -> bool:
    """Return whether an image's file can be read to its end."""
    pil = pillow()
    try:
        paths.refuse_special(path)
        with epath.Path(path).open("rb") as stream, pil.open(stream, formats=FORMATS) as opened:
            opened.verify()
    except Exception:  # Pillow's decoders raise whatever a damaged file makes them raise
        return False
    return True


def png_bytes(image: UInt8[np.ndarray, "H W 3"], most: int | None = None) -> bytes:
    """Return an image as a PNG file without metadata, made smaller where a side has more than `most` pixels."""
    drawn = pillow().fromarray(image)
    if most is not None and max(drawn.size) > most:
        drawn.thumbnail((most, most), pillow().Resampling.LANCZOS)
    stream = io.BytesIO()
    drawn.save(stream, format="PNG")
    return stream.getvalue()


def write_png(path: epath.PathLike, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Write an image as a PNG file, which is whole or not there."""
    atomic.write_bytes(path, png_bytes(image))
