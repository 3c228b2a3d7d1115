"""Read what an image shows from its pixels: the inverse of `stimuli.draw`, for images that a model generated.

No network judges: the shape, place and size are those of the drawing that overlaps best.
"""

import colorsys
import functools
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from scipy.stats import binomtest

from dreamjax.signals.simulation.captions import COLOURS, PLACES, caption
from dreamjax.signals.simulation.stimuli import GREY, HUES, LIGHTNESS, SATURATION, SHAPES, Stimulus, cover

TRIED = (np.arange(12) + 0.5) / 6 - 1  # middles of cells, four to a third: none is on the border of two words
FAINT = 0.01  # mean cover below which nothing is drawn; the smallest triangle covers 0.04
COLOURLESS = 0.2  # difference of the strongest and the weakest channel, below which a blob has no hue; drawn: 0.8
CONTRAST = 255 * (LIGHTNESS + (1 - LIGHTNESS) * SATURATION) - GREY  # of a colour's strongest channel to the grey


@functools.lru_cache(maxsize=2)
def _drawings(pixels: int, classes: int) -> tuple[list[Stimulus], Float[np.ndarray, "N P"]]:
    """Return drawings of every shape, place and size, and their covers."""
    tried = TRIED.tolist()
    drawings = [
        Stimulus("", shape, x, y, size, 0.0)
        for shape, size, x, y in itertools.product(SHAPES[:classes], tried, tried, tried)
    ]
    return drawings, np.stack([cover(p, pixels, 2).ravel() for p in drawings]).astype(np.float32)


def read(image: UInt8[np.ndarray, "pixels pixels 3"], classes: int = 4) -> Stimulus | None:
    """Return the drawing, of the first `classes` shapes, most similar to `image`; None where it has no colour.

    Likeness is Tanimoto's a·b / (a·a + b·b - a·b) of the two covers; the hue is that of the mean colour under it.
    """
    off = np.abs(image.astype(np.float32) - GREY).max(-1)
    share = np.clip(off / CONTRAST, 0, 1)
    if share.mean() < FAINT:
        return None
    colour = (image * share[..., None]).sum((0, 1)) / share.sum() / 255
    if np.ptp(colour) < COLOURLESS:  # black and white have no hue, and would pass for red
        return None
    candidates, covers = _drawings(len(image), classes)
    both = covers @ share.ravel()
    best = candidates[int(np.argmax(both / (np.square(covers).sum(1) + np.square(share).sum() - both)))]
    hue = round(colorsys.rgb_to_hls(*colour.tolist())[0] * HUES) % HUES / HUES
    return Stimulus("", best.shape, best.x, best.y, best.size, hue)


class Share(NamedTuple):
    """The share of correct images with its 95 % interval (Wilson 1927), and the best score of a constant answer."""

    share: float
    low: float
    high: float
    chance: float  # the share of the most frequent word among the prompts


def as_prompted(
    images: Sequence[UInt8[np.ndarray, "pixels pixels 3"]], prompts: Sequence[str], classes: int = 4
) -> dict[str, Share]:
    """Return the share of images that agree with their prompt, for "shape", "colour" and "place".

    Each prompt is a caption, as `captions.caption` gives them; raise ValueError for one that names no shape, colour or
    place.
    An image on which there is nothing shows nothing.
    """
    words = {"shape": SHAPES[:classes], "colour": COLOURS, "place": tuple(itertools.chain(*PLACES))}
    shown = [caption(drawing) if drawing else "" for drawing in (read(image, classes) for image in images)]

    def word_of(text: str, among: Sequence[str]) -> str:  # "at the top right" is not "at the top"
        return max((word for word in among if f" {word} " in f" {text} "), key=len)

    shares = {}
    for name, among in words.items():
        right = [
            bool(text) and word_of(text, among) == word_of(prompt, among)
            for text, prompt in zip(shown, prompts, strict=True)
        ]
        low, high = binomtest(sum(right), len(right)).proportion_ci(method="wilson")
        commonest = Counter(word_of(prompt, among) for prompt in prompts).most_common(1)[0][1]
        shares[name] = Share(sum(right) / len(right), float(low), float(high), commonest / len(prompts))
    return shares
