"""Where the axes of a mesh lie in a torus: by hand, and what holds of every slice."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from dreamjax.parallel import torus


@pytest.mark.parametrize(
    ("spread", "strides", "rings", "links"),
    [
        ((16, 1), (1, 1), (True, True), 1.0),  # a whole ring
        ((8, 1), (1, 1), (True, True), 0.5),  # half of one is a line
        ((4, 4), (1, 1), (True, True), 1.0),  # a tile: two lines
        ((8, 1), (2, 1), (True, True), 0.5),  # every second chip of a ring, shared by two groups
        ((4, 1), (2, 1), (True, True), 0.25),  # of half of it
        ((1, 1), (1, 1), (True, True), 0.0),
    ],
)
def test_links_of_a_group_by_hand(spread, strides, rings, links):
    assert torus.width(spread, strides, (16, 16), rings) == links


@pytest.mark.parametrize(
    ("shape", "sizes", "busiest"),
    [
        ((8, 8), (8, 8, 1), (4, 2)),  # no rings: a tile has two lines, an axis is one
        ((16, 16), (16, 16, 1), (16, 1)),  # rings for both
        ((16, 16), (32, 8, 1), (4, 2)),
        ((4, 4), (1, 16, 1), (4, 4)),
    ],
)
def test_fsdp_lies_where_most_links_are(shape, sizes, busiest):
    rings = [torus.closed(size, flat=True) for size in shape]
    found = torus.assign(shape, rings, sizes)
    assert found[1] == busiest
    assert [math.prod(spread) for spread in found] == list(sizes)


def test_tensor_keeps_to_a_host_of_a_cube():
    """Hosts of v5p are 2 x 2 x 1."""
    assert torus.assign((4, 4, 4), [True] * 3, (4, 8, 2))[2] == (2, 1, 1)


@pytest.mark.parametrize("sizes", [(4, 8, 1), (2, 4, 4), (1, 32, 1), (32, 1, 1)])
def test_every_chip_is_used_once_and_groups_match_the_assignment(sizes):
    shape = (4, 8)
    chips = np.arange(32).reshape(shape)
    found = torus.assign(shape, (False, False), sizes)
    mesh = torus.arranged(chips, found)
    assert mesh.shape == sizes
    assert sorted(mesh.flat) == list(range(32))
    for axis, spread in enumerate(found):
        for group in np.moveaxis(mesh, axis, -1).reshape(-1, sizes[axis]):
            places = np.stack(np.unravel_index(group, shape))
            assert [len(set(along.tolist())) for along in places] == list(spread)


def test_devices_are_placed_by_their_coordinates_in_any_order():
    """Two cores a chip lie next to each other along the busiest axis."""
    devices = [
        SimpleNamespace(coords=(x, y, z), core_on_chip=core, device_kind="TPU7x")
        for x in (2, 3)
        for y in (0, 1)
        for z in (0, 1)
        for core in (0, 1)
    ]
    mesh = torus.layout(devices[::-1], (2, 4, 2))
    assert mesh.shape == (2, 4, 2)
    for chip in mesh.reshape(-1, 2):
        assert len({device.coords for device in chip}) == 1
        assert [device.core_on_chip for device in chip] == [0, 1]
