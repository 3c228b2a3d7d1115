"""The images that simulated subjects see: one shape per class, drawn at some place, in some size and colour."""

import colorsys
from dataclasses import dataclass

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8

from dreamjax.storage import image_files

SHAPES = (  # the first ten differ coarsely: in where their mass lies, not in their outline alone
    "circle",
    "bar",
    "pillar",
    "cross",
    "ring",
    "slash",
    "backslash",
    "corner",
    "hook",
    "pair",
    "square",
    "triangle",
    "diamond",
    "star",
    "crescent",
    "hexagon",
    "arrow",
    "stripes",
    "heart",
)
PIXELS = 64
REACH = 0.32  # of places from the middle, the whole image being -1 … 1
HUES = 6
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
        """What the brain responses code, each between -1 and 1."""
        angle = 2 * np.pi * self.hue
        code = {"onset": 1.0, "x": self.x, "y": self.y, "size": self.size}
        return code | {"hue_cos": float(np.cos(angle)), "hue_sin": float(np.sin(angle)), f"class:{self.shape}": 1.0}


def image_set(classes: int, per_class: int, seed: int) -> tuple[Stimulus, ...]:
    """`classes` x `per_class` images whose attributes are drawn independently of the class and of each other."""
    rng = np.random.default_rng([seed, 1])
    images = []
    for shape in SHAPES[:classes]:
        for number in range(per_class):
            x, y, size = np.round(rng.uniform(-1, 1, 3), 3)
            hue = rng.integers(HUES) / HUES
            images.append(Stimulus(f"{shape}_{number:02d}.png", shape, float(x), float(y), float(size), float(hue)))
    return tuple(images)


def _inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Which points of the shape's own plane (u right, v up, about -1 … 1) belong to it."""
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    if shape == "circle":
        return radius <= 1
    if shape in ("bar", "pillar"):
        along, across = (u, v) if shape == "bar" else (v, u)
        return (abs(along) <= 1) & (abs(across) <= 0.35)
    if shape in ("slash", "backslash"):
        rise, across = (u + v, u - v) if shape == "slash" else (u - v, u + v)
        return (abs(rise) <= 1.6) & (abs(across) <= 0.5)
    if shape in ("corner", "hook"):  # along the left and the bottom, along the right and the top
        nearest = np.minimum(u, v) if shape == "corner" else -np.maximum(u, v)
        return (np.maximum(abs(u), abs(v)) <= 0.9) & (nearest <= -0.3)
    if shape == "pair":
        return np.hypot(abs(u) - 0.65, v) <= 0.38
    if shape == "square":
        return np.maximum(abs(u), abs(v)) <= 0.85
    if shape == "triangle":
        return (v >= -0.7) & (v <= 0.95 - 1.75 * abs(u))
    if shape == "cross":
        return (np.minimum(abs(u), abs(v)) <= 0.3) & (np.maximum(abs(u), abs(v)) <= 1)
    if shape == "ring":
        return (radius <= 1) & (radius >= 0.6)
    if shape == "diamond":
        return abs(u) / 0.75 + abs(v) <= 1
    if shape == "star":
        return radius <= 0.65 + 0.35 * np.cos(5 * (angle - np.pi / 2))
    if shape == "crescent":
        return (radius <= 1) & (np.hypot(u - 0.45, v) > 0.8)
    if shape == "hexagon":
        return np.maximum(abs(u), abs(u) / 2 + abs(v) * np.sqrt(3) / 2) <= 0.9
    if shape == "arrow":
        return ((u <= 0.1) & (u >= -1) & (abs(v) <= 0.25)) | ((u > 0.1) & (u <= 1) & (abs(v) <= (1 - u) * 0.9))
    if shape == "stripes":
        return (np.maximum(abs(u), abs(v)) <= 0.9) & (np.floor((v + 1) * 3) % 2 == 0)
    if shape == "heart":
        return (u**2 + (1.2 * v - 0.15) ** 2 - 0.55) ** 3 <= 1.1 * u**2 * (1.2 * v - 0.15) ** 3
    raise ValueError(shape)


def cover(image: Stimulus, pixels: int, fine: int = 4) -> Float[np.ndarray, "pixels pixels"]:
    """The share of each pixel that the shape covers, by `fine` x `fine` points in it."""
    points = pixels * fine
    axis = (np.arange(points) + 0.5) / points * 2 - 1
    extent = 0.58 * 2 ** (0.3 * image.size)  # half-width of the shape, the whole image being -1 … 1
    reach = min(REACH, 1 - extent)  # nothing is cut off
    u = (axis[None, :] - image.x * reach) / extent
    v = (-axis[:, None] - image.y * reach) / extent
    return _inside(image.shape, u, v).reshape(pixels, fine, pixels, fine).mean((1, 3))


def draw(image: Stimulus, pixels: int = PIXELS) -> UInt8[np.ndarray, "height width 3"]:
    """The image in RGB on grey, edges smoothed by 4 x 4 points per pixel."""
    share = cover(image, pixels)[..., None]
    colour = np.array(colorsys.hls_to_rgb(image.hue, LIGHTNESS, SATURATION)) * 255
    return np.round(share * colour + (1 - share) * GREY).astype(np.uint8)


def write_images(images: tuple[Stimulus, ...], folder: epath.Path, pixels: int = PIXELS) -> None:
    """One PNG file per image."""
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        image_files.write_png(folder / image.file, draw(image, pixels))


def feature_table(images: tuple[Stimulus, ...], names: list[str]) -> Float[np.ndarray, "images features"]:
    """Each image's value of each named feature; 0 where it has none (another class)."""
    return np.array([[p.features().get(name, 0.0) for name in names] for p in images])
