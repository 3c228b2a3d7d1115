"""Many images in one grid."""

import numpy as np
import pytest
from PIL import Image

from dreamjax.reports import figures


@pytest.mark.parametrize(
    ("count", "columns"), [(1, 1), (3, 3), (4, 4), (7, 7), (8, 4), (9, 5), (12, 4), (24, 6), (48, 8)]
)
def test_rows_are_full_where_they_can_be(count, columns):
    assert figures.columns_of(count) == columns


def test_grid_shows_every_image_in_its_place(tmp_path):
    """One colour an image: the grid has each, the later the further right and down."""
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]
    images = [np.full((8, 8, 3), colour, np.uint8) for colour in colours]
    (tmp_path / "grid.png").write_bytes(figures.image_grid(images, [f"number {i}" for i in range(5)]))
    page = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB")).astype(int)
    places = [np.argwhere(np.abs(page - colour).sum(2) < 8).mean(0) for colour in colours]
    assert [round(row / 10) for row, _ in places] == [round(places[0][0] / 10)] * 5  # five columns, one row
    assert [column for _, column in places] == sorted(column for _, column in places)
