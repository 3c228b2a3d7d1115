"""What is on an image is read off as it was drawn; other captions are met by chance, and by nothing at all never."""

import functools
import importlib.util
from pathlib import Path

import numpy as np

from dreamjax.signals.simulation import captions
from dreamjax.signals.simulation.stimuli import GREY, REACH, Stimulus, draw

SPEC = importlib.util.spec_from_file_location("drawn", Path(__file__).resolve().parents[2] / "demo" / "drawn.py")
drawn = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(drawn)


@functools.cache
def read_bytes(data, classes, read=drawn.read):
    return read(np.frombuffer(data, np.uint8).reshape(32, 32, 3), classes)


drawn.read = lambda pixels, classes=4: read_bytes(pixels.tobytes(), classes)  # several tests read the same images

SET = captions.captioned_set(96, 4, seed=3)
IMAGES = [draw(image, 32) for image in SET]
CAPTIONS = [captions.caption(image) for image in SET]


def test_a_drawing_is_read_as_it_was_drawn():
    for image, pixels in zip(SET, IMAGES, strict=True):
        read = drawn.read(pixels)
        assert (read.shape, read.hue) == (image.shape, image.hue)
        pixels_off = np.abs([read.x - image.x, read.y - image.y]).max() * REACH * 16
        assert pixels_off < 0.845  # half a step of those tried, and a little
        assert abs(read.size - image.size) < 1 / 3  # two of the sizes that are tried


def test_drawings_show_what_their_captions_say():
    shares = drawn.as_prompted(IMAGES, CAPTIONS)
    assert (shares["shape"].share, shares["colour"].share) == (1, 1)
    assert shares["place"].share > 0.95  # places have borders, near which a pixel decides
    shapes = [image.shape for image in SET]
    assert shares["shape"].chance == max(map(shapes.count, set(shapes))) / len(SET)


def test_captions_of_others_are_met_by_chance():
    images, others = IMAGES * 2, [CAPTIONS[i] for i in np.random.default_rng(0).integers(len(SET), size=2 * 96)]
    for found in drawn.as_prompted(images, others).values():
        assert abs(found.share - found.chance) < 5 * np.sqrt(found.chance * (1 - found.chance) / len(images))


def test_the_interval_is_wilsons():
    """5 of 10: 0.5 ± 0.263, from its closed form with z = 1.95996."""
    red, blue = (draw(Stimulus("", "circle", 0.0, 0.0, 0.0, hue), 32) for hue in (0.0, 4 / 6))
    found = drawn.as_prompted([red, blue] * 5, ["a red circle in the middle"] * 10)["colour"]
    half = 1.95996 / (1 + 1.95996**2 / 10) * np.sqrt(0.25 / 10 + 1.95996**2 / 400)
    np.testing.assert_allclose(found, (0.5, 0.5 - half, 0.5 + half, 1), atol=1e-5)


def test_nothing_and_noise():
    assert drawn.read(np.full((32, 32, 3), GREY, np.uint8)) is None
    empty = np.full((32, 32, 3), GREY, np.uint8)
    for achromatic in (0, 255):  # what a broken network makes
        assert drawn.read(np.full((32, 32, 3), achromatic, np.uint8)) is None
    assert drawn.as_prompted([empty], ["a red circle in the middle"])["shape"].share == 0
    assert drawn.read(np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)) is None


def test_a_corner_is_not_its_edge():
    high = draw(Stimulus("", "circle", 0.8, 0.8, 0.0, 0.0), 32)
    assert drawn.as_prompted([high], ["a red circle at the top right"])["place"].share == 1
    assert drawn.as_prompted([high], ["a red circle at the top"])["place"].share == 0
