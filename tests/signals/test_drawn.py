"""What is on a picture is read off as it was drawn; other captions are met by chance, and by nothing at all never."""

import numpy as np

from dreamjax.signals.simulation import captions, drawn
from dreamjax.signals.simulation.pictures import GREY, REACH, Picture, draw

SET = captions.captioned_set(96, 4, seed=3)
PICTURES = [draw(picture, 32) for picture in SET]
CAPTIONS = [captions.caption(picture) for picture in SET]


def test_a_drawing_is_read_as_it_was_drawn():
    for picture, pixels in zip(SET, PICTURES, strict=True):
        read = drawn.read(pixels)
        assert (read.shape, read.hue) == (picture.shape, picture.hue)
        pixels_off = np.abs([read.x - picture.x, read.y - picture.y]).max() * REACH * 16
        assert pixels_off < 0.845  # half a step of those tried, and a little
        assert abs(read.size - picture.size) < 1 / 3  # two of the sizes that are tried


def test_drawings_show_what_their_captions_say():
    shares = drawn.as_prompted(PICTURES, CAPTIONS)
    assert (shares["shape"].share, shares["colour"].share) == (1, 1)
    assert shares["place"].share > 0.95  # places have borders, near which a pixel decides
    shapes = [picture.shape for picture in SET]
    assert shares["shape"].chance == max(map(shapes.count, set(shapes))) / len(SET)


def test_captions_of_others_are_met_by_chance():
    pictures, others = PICTURES * 5, [CAPTIONS[i] for i in np.random.default_rng(0).integers(len(SET), size=5 * 96)]
    for found in drawn.as_prompted(pictures, others).values():
        assert abs(found.share - found.chance) < 5 * np.sqrt(found.chance * (1 - found.chance) / len(pictures))


def test_the_interval_is_wilsons():
    """5 of 10: 0.5 ± 0.263, from its closed form with z = 1.95996."""
    red, blue = (draw(Picture("", "circle", 0.0, 0.0, 0.0, hue), 32) for hue in (0.0, 4 / 6))
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
    high = draw(Picture("", "circle", 0.8, 0.8, 0.0, 0.0), 32)
    assert drawn.as_prompted([high], ["a red circle at the top right"])["place"].share == 1
    assert drawn.as_prompted([high], ["a red circle at the top"])["place"].share == 0
