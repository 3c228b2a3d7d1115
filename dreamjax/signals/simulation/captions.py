"""Drawn images with captions that say what is on them, as a folder to train text-to-image models on.

    a small red circle on the left
    a blue star at the top right        (neither small nor large)

`write` gives the layout of Hugging Face's imagefolder.
"""

import json
import time

import numpy as np
from etils import epath

from dreamjax.errors import UserError
from dreamjax.signals.simulation.stimuli import HUES, SHAPES, Stimulus, new_set, write_images
from dreamjax.typing import JsonDict

COLOURS = ("red", "yellow", "green", "cyan", "blue", "magenta")  # by hue, in sixths of a turn
SIZES = ("small", "", "large")
PLACES = (  # rows from the top, columns from the left
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the middle", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)
METADATA = "metadata.jsonl"


def _third(value: float) -> int:
    """Map -1 … 1 to 0, 1, 2."""
    return min(int((value + 1) * 1.5), 2)


def caption(image: Stimulus) -> str:
    """Return a caption of an image: size, colour, shape, place."""
    place = PLACES[2 - _third(image.y)][_third(image.x)]
    colour = COLOURS[round(image.hue * HUES) % HUES]
    return " ".join(word for word in ("a", SIZES[_third(image.size)], colour, image.shape, place) if word)


def captioned_set(count: int, classes: int, seed: int) -> tuple[Stimulus, ...]:
    """Return `count` images of the first `classes` shapes, with attributes drawn independently of each other."""
    rng = np.random.default_rng([seed, 2])
    shapes = rng.integers(classes, size=count)
    places, hues = np.round(rng.uniform(-1, 1, (count, 3)), 3), rng.integers(HUES, size=count) / HUES
    drawn = zip(shapes, places.tolist(), hues.tolist(), strict=True)
    return tuple(
        Stimulus(f"{i:06d}.png", SHAPES[shape], x, y, size, hue) for i, (shape, (x, y, size), hue) in enumerate(drawn)
    )


def write(out: epath.PathLike, count: int, *, classes: int, pixels: int, seed: int) -> JsonDict:
    """Draw `count` images of `pixels` x `pixels` into the new folder `out`, with metadata.jsonl; return a summary.

    Raise UserError for a number that cannot be, and for a folder that exists and is not empty.
    """
    for name, value, most in (("captioned", count, 10**6), ("classes", classes, len(SHAPES)), ("pixels", pixels, 1024)):
        if not 1 <= value <= most:
            raise UserError(f"simulate: {name} is {value}, but must be 1 to {most}")
    started, out = time.monotonic(), epath.Path(out)
    with new_set(out, last=METADATA) as root:
        drawn = captioned_set(count, classes, seed)
        rows = [{"file_name": image.file, "text": caption(image), "label": image.shape} for image in drawn]
        write_images(drawn, root, pixels)
        (root / METADATA).write_text("\n".join(map(json.dumps, rows)) + "\n")
    return {
        "out": str(out),
        "images": count,
        "captions": len({row["text"] for row in rows}),
        "pixels": pixels,
        "classes": list(SHAPES[:classes]),
        "example": rows[0]["text"],
        "seconds": round(time.monotonic() - started, 2),
    }
