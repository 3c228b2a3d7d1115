"""Which chips of a torus make up an axis of the mesh.

JAX's own choice fills whole torus axes. On a slice whose axes are no rings (v5e's and v6e's below 16 chips) that puts
an fsdp of 8 on a line, whose ends have one link where a ring has two; as a tile of 4 x 2 the same 8 chips form a ring,
and the axis takes half the time (docs/scaling.md).
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

WRAPS = 16  # a 2D torus is closed along an axis of so many chips; a 3D one along every axis that 4 divides
FLAT = ("v5 lite", "v6 lite", "v5e", "v6e")  # kinds of chips with links along two axes

Assignment = tuple[tuple[int, ...], ...]  # of each axis of the mesh: how many of it lie along each axis of the torus


def closed(chips: int, *, flat: bool) -> bool:
    """Whether a torus axis of so many chips is a ring: everything takes half the time that it takes on a line."""
    return chips == WRAPS if flat else chips % 4 == 0


def grid(devices: Sequence[Any]) -> np.ndarray:
    """The TPU devices of a slice by their coordinates (x, y, z, core of the chip), for `arranged`."""
    places = np.array([(*device.coords, device.core_on_chip) for device in devices])
    places -= places.min(0)
    out = np.full(places.max(0) + 1, None, object)
    out[tuple(places.T)] = list(devices)
    return out


def layout(devices: Sequence[Any], sizes: Sequence[int]) -> np.ndarray:
    """The devices of a slice as a mesh of `sizes`, the last axis the busiest."""
    chips = grid(devices)
    flat = any(kind in devices[0].device_kind for kind in FLAT)
    rings = [*(closed(size, flat=flat) for size in chips.shape[:-1]), True]  # the cores of a chip share its memory
    return arranged(chips, assign(chips.shape, rings, sizes))


def width(spread: Sequence[int], strides: Sequence[int], shape: Sequence[int], rings: Sequence[bool]) -> float:
    """Links that a group of chips has for itself, in rings' worth: 1 a ring, 1/2 a line, added over torus axes.

    `spread` chips along each torus axis, `strides` apart: as many groups lie between each other and share the links.
    """
    found = 0.0
    for size, stride, chips, ring in zip(spread, strides, shape, rings, strict=True):
        if size > 1:
            found += (1.0 if ring and size * stride == chips else 0.5) / stride
    return found


def assign(shape: Sequence[int], rings: Sequence[bool], sizes: Sequence[int]) -> Assignment:
    """How the mesh's axes, the last one the busiest, lie in a torus of `shape`: the busier, the wider.

    Of what is equally wide the one of the fewest hops, then of the squarest tiles, then along x and y, where the chips
    of a host lie.
    """

    def quality(found: Assignment) -> tuple:
        strides, widths, hops, longest = np.ones(len(shape), int), [], 0, 0
        for spread in reversed(found):
            widths.append(width(spread, strides.tolist(), shape, rings))
            hops += sum(size // 2 for size in spread)
            longest = max(longest, *spread)
            strides = strides * np.array(spread)
        return (*widths, -hops, -longest, *reversed(found))

    return max(_assignments(tuple(shape), tuple(reversed(sizes))), key=quality)


def _assignments(room: tuple[int, ...], sizes: tuple[int, ...]) -> Iterator[Assignment]:
    """Every way to lay axes of such sizes, the busiest first, into what room is left; as `assign` orders them."""
    if not sizes:
        if math.prod(room) == 1:
            yield ()
        return
    choices = [[n for n in range(1, chips + 1) if chips % n == 0] for chips in room]
    for spread in itertools.product(*choices):
        if math.prod(spread) == sizes[0]:
            left = tuple(chips // n for chips, n in zip(room, spread, strict=True))
            for rest in _assignments(left, sizes[1:]):
                yield (*rest, spread)


def arranged(chips: np.ndarray, found: Assignment) -> np.ndarray:
    """`chips` by their coordinates, as the mesh has them: an axis for each of `found`."""
    axes, dimensions = len(found), chips.ndim
    # a torus axis is cut into pieces, the busiest axis's the innermost
    cut = chips.reshape([found[axis][dimension] for dimension in range(dimensions) for axis in range(axes)])
    order = [dimension * axes + axis for axis in range(axes) for dimension in range(dimensions)]
    return cut.transpose(order).reshape([math.prod(spread) for spread in found])
