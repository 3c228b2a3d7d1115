"""The images that simulated subjects see: one shape per class, drawn at some place, in some size and colour."""

import colorsys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8

from dreamjax.errors import UserError
from dreamjax.parallel import environment
from dreamjax.storage import atomic, image_files, locks, presence

# Which points of the shape's own plane (u right, v up, about -1 … 1) belong to it. The first ten differ coarsely: in
# where their mass lies, not in their outline alone.
_INSIDE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": lambda u, v: np.hypot(u, v) <= 1,
    "bar": lambda u, v: (abs(u) <= 1) & (abs(v) <= 0.35),
    "pillar": lambda u, v: (abs(v) <= 1) & (abs(u) <= 0.35),
    "cross": lambda u, v: (np.minimum(abs(u), abs(v)) <= 0.3) & (np.maximum(abs(u), abs(v)) <= 1),
    "ring": lambda u, v: (np.hypot(u, v) <= 1) & (np.hypot(u, v) >= 0.6),
    "slash": lambda u, v: (abs(u + v) <= 1.6) & (abs(u - v) <= 0.5),
    "backslash": lambda u, v: (abs(u - v) <= 1.6) & (abs(u + v) <= 0.5),
    "corner": lambda u, v: (np.maximum(abs(u), abs(v)) <= 0.9) & (np.minimum(u, v) <= -0.3),  # left and bottom
    "hook": lambda u, v: (np.maximum(abs(u), abs(v)) <= 0.9) & (np.maximum(u, v) >= 0.3),  # right and top
    "pair": lambda u, v: np.hypot(abs(u) - 0.65, v) <= 0.38,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) <= 0.85,
    "triangle": lambda u, v: (v >= -0.7) & (v <= 0.95 - 1.75 * abs(u)),
    "diamond": lambda u, v: abs(u) / 0.75 + abs(v) <= 1,
    "star": lambda u, v: np.hypot(u, v) <= 0.65 + 0.35 * np.cos(5 * (np.arctan2(v, u) - np.pi / 2)),
    "crescent": lambda u, v: (np.hypot(u, v) <= 1) & (np.hypot(u - 0.45, v) > 0.8),
    "hexagon": lambda u, v: np.maximum(abs(u), abs(u) / 2 + abs(v) * np.sqrt(3) / 2) <= 0.9,
    "arrow": lambda u, v: (
        ((u <= 0.1) & (u >= -1) & (abs(v) <= 0.25)) | ((u > 0.1) & (u <= 1) & (abs(v) <= (1 - u) * 0.9))
    ),
    "stripes": lambda u, v: (np.maximum(abs(u), abs(v)) <= 0.9) & (np.floor((v + 1) * 3) % 2 == 0),
    "heart": lambda u, v: (u**2 + (1.2 * v - 0.15) ** 2 - 0.55) ** 3 <= 1.1 * u**2 * (1.2 * v - 0.15) ** 3,
}
SHAPES = tuple(_INSIDE)
PIXELS = 64
REACH = 0.32  # of places from the middle, the whole image being -1 … 1
HUES = 6
CONCEPTS = len(SHAPES) * HUES  # shapes in a colour
GREY = 128  # behind the shape
LIGHTNESS, SATURATION = 0.55, 0.9  # of a shape's colour


@dataclass(frozen=True)
class Stimulus:
    """A stimulus: its class and what differs within the class."""

    file: str  # relative to the set's stimuli folder
    shape: str  # the class
    x: float  # -1 left … 1 right
    y: float  # -1 bottom … 1 top
    size: float  # -1 small … 1 large
    hue: float  # of the colour circle, in turns

    def features(self) -> dict[str, float]:
        """Return the features that the brain responses code, each between -1 and 1."""
        angle = 2 * np.pi * self.hue
        code = {"onset": 1.0, "x": self.x, "y": self.y, "size": self.size}
        return code | {"hue_cos": float(np.cos(angle)), "hue_sin": float(np.sin(angle)), f"class:{self.shape}": 1.0}


def image_set(classes: int, per_class: int, seed: int) -> tuple[Stimulus, ...]:
    """Return `classes` x `per_class` images with attributes drawn independently of the class and of each other."""
    rng = np.random.default_rng([seed, 1])
    images = []
    for shape in SHAPES[:classes]:
        for number in range(per_class):
            x, y, size = np.round(rng.uniform(-1, 1, 3), 3).tolist()
            images.append(Stimulus(f"{shape}_{number:02d}.png", shape, x, y, size, int(rng.integers(HUES)) / HUES))
    return tuple(images)


def concept_images(rng: np.random.Generator, counts: Sequence[int]) -> list[list[Stimulus]]:
    """Draw concepts, so many images of each. A concept is a shape in a colour, whose name stands for the file.

    Within a concept place and size differ.
    """
    drawn = []
    for which, count in zip(rng.permutation(CONCEPTS)[: len(counts)].tolist(), counts, strict=True):
        shape, hue = SHAPES[which % len(SHAPES)], which // len(SHAPES)
        images = []
        for _ in range(count):
            x, y, size = np.round(rng.uniform(-1, 1, 3), 3).tolist()
            images.append(Stimulus(f"{shape}{hue}", shape, x, y, size, hue / HUES))
        drawn.append(images)
    return drawn


def classes_of(images: tuple[Stimulus, ...]) -> tuple[str, ...]:
    """Return the shapes among images, in the order in which they first occur."""
    return tuple(dict.fromkeys(image.shape for image in images))


def cover(image: Stimulus, pixels: int, fine: int = 4) -> Float[np.ndarray, "pixels pixels"]:
    """Return the share of each pixel that the shape covers, by `fine` x `fine` points in it."""
    points = pixels * fine
    axis = (np.arange(points) + 0.5) / points * 2 - 1
    extent = 0.58 * 2 ** (0.3 * image.size)  # half-width of the shape, the whole image being -1 … 1
    reach = min(REACH, 1 - extent)  # nothing is cut off
    u = (axis[None, :] - image.x * reach) / extent
    v = (-axis[:, None] - image.y * reach) / extent
    return _INSIDE[image.shape](u, v).reshape(pixels, fine, pixels, fine).mean((1, 3))


def draw(image: Stimulus, pixels: int = PIXELS) -> UInt8[np.ndarray, "height width 3"]:
    """Draw the image in RGB on grey, edges smoothed by 4 x 4 points per pixel."""
    share = cover(image, pixels)[..., None]
    colour = np.array(colorsys.hls_to_rgb(image.hue, LIGHTNESS, SATURATION)) * 255
    return np.round(share * colour + (1 - share) * GREY).astype(np.uint8)


def write_images(images: tuple[Stimulus, ...], folder: epath.Path, pixels: int = PIXELS) -> None:
    """Write one PNG file per image."""
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(environment.cores()) as pool:
        list(pool.map(lambda image: image_files.write_png(folder / image.file, draw(image, pixels)), images))


def feature_table(images: tuple[Stimulus, ...], names: list[str]) -> Float[np.ndarray, "images features"]:
    """Return each image's value of each named feature; 0 where it has none (another class)."""
    return np.array([[p.features().get(name, 0.0) for name in names] for p in images])


@contextmanager
def new_set(out: epath.Path, last: str = "") -> Iterator[epath.Path]:
    """Yield a folder that becomes `out` as a whole or not at all.

    Raise UserError where `out` exists and is not an empty folder.
    """
    with locks.output(out):
        if presence.exists(out) and (not presence.is_folder(out) or presence.entries(out)):
            raise UserError(f"simulate: {out} exists and is not empty; name another folder or remove it")
        with atomic.new_folder(out, last=last) as root:
            yield root
