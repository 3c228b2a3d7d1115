"""Drawn images with captions: the captions tell what is drawn, the folder opens, mistakes are one sentence."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image

from dreamjax.cli.main import main
from dreamjax.signals.simulation import captions
from dreamjax.signals.simulation.stimuli import Stimulus, draw


def drawn(**attributes):
    return draw(
        Stimulus(**{"file": "", "shape": "circle", "x": 0.0, "y": 0.0, "size": 0.0, "hue": 0.0} | attributes), 32
    )


def covered(image):
    """(rows, columns) that are not background, and the mean colour there."""
    inside = np.abs(image.astype(int) - 128).max(2) > 40
    return np.nonzero(inside), image[inside].mean(0)


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"x": -0.9, "size": -0.9}, "a small red circle on the left"),
        ({"x": 0.9, "y": 0.9, "size": 0.9, "hue": 4 / 6, "shape": "star"}, "a large blue star at the top right"),
        ({"y": -0.9, "hue": 2 / 6}, "a green circle at the bottom"),
        ({"hue": 1 / 6, "shape": "cross"}, "a yellow cross in the middle"),
    ],
)
def test_a_caption_says_what_is_drawn(attributes, says):
    image = Stimulus(**{"file": "", "shape": "circle", "x": 0.0, "y": 0.0, "size": 0.0, "hue": 0.0} | attributes)
    assert captions.caption(image) == says


def test_the_image_shows_what_the_caption_says():
    (rows, columns), colour = covered(drawn(x=-0.9, y=0.9))
    assert rows.mean() < 12
    assert columns.mean() < 12
    assert colour.argmax() == 0
    assert len(covered(drawn(size=0.9))[0][0]) > 2 * len(covered(drawn(size=-0.9))[0][0])
    for hue, name in enumerate(captions.COLOURS):
        low = covered(drawn(hue=hue / 6))[1] < 128
        assert {"red": (0, 1, 1), "yellow": (0, 0, 1), "green": (1, 0, 1)}.get(name, tuple(low)) == tuple(low)


def test_every_third_of_every_attribute_occurs_independently_of_the_shape():
    drawn = captions.captioned_set(4000, 4, 0)
    counts = np.zeros((4, 3, 3, 6))
    for p in drawn:
        counts[captions.SHAPES.index(p.shape), captions._third(p.x), captions._third(p.size), round(p.hue * 6)] += 1
    assert counts.min() > 0
    assert abs(counts.sum((1, 2, 3)) / 1000 - 1).max() < 0.1


def test_the_folder_is_huggingfaces_imagefolder_and_the_seed_decides(tmp_path, capsys):
    for name in ("a", "b"):
        words = ["simulate", "--captioned", "6", "--pixels", "16", "--seed", "5", "--out", str(tmp_path / name)]
        assert main([*words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["images"] == 6
    lines = [json.loads(line) for line in (tmp_path / "a" / "metadata.jsonl").read_text().splitlines()]
    assert all(set(line) == {"file_name", "text", "label"} for line in lines)
    assert all(line["label"] in line["text"].split() for line in lines)
    known = ("a", *captions.SIZES, *captions.COLOURS, *captions.SHAPES[:4], *itertools.chain(*captions.PLACES))
    assert set(" ".join(line["text"] for line in lines).split()) <= set(" ".join(known).split())
    for line in lines:
        with Image.open(tmp_path / "a" / line["file_name"]) as image:
            assert (image.size, image.mode) == ((16, 16), "RGB")
        assert (tmp_path / "a" / line["file_name"]).read_bytes() == (tmp_path / "b" / line["file_name"]).read_bytes()
    assert main(["simulate", "--captioned", "6", "--seed", "6", "--out", str(tmp_path / "c")]) == 0
    assert "6 images of 64 x 64 pixels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--captioned", "0"], "not a whole number from 1"),
        (["--captioned", "3", "--subjects", "2"], "--subjects would have no effect with --captioned"),
        (["--pixels", "32"], "--pixels would do nothing without --captioned"),
        (["--captioned", "3", "--classes", "20"], "classes is 20, but must be 1 to 19"),
        (["--captioned", "3", "--pixels", "5000"], "pixels is 5000, but must be 1 to 1024"),
    ],
)
def test_rejects_wrong_captioned_settings(words, says, tmp_path, capsys):
    assert main(["simulate", "--out", str(tmp_path / "x"), *words]) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
