"""Assign the chips of a torus to the axes of the mesh.

JAX's default fills whole torus axes. On a slice whose axes are not rings (v5e and v6e below 16 chips) that puts an fsdp
of 8 on a line, whose ends have one link where a ring has two; as a tile of 4 x 2 the same 8 chips form a ring, and the
axis takes half the time (docs/scaling.md).
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import jax

WRAPS = 16  # a 2D torus is closed along an axis of this many chips; a 3D one along every axis that 4 divides
FLAT = ("v5 lite", "v6 lite", "v5e", "v6e")  # kinds of chips with links along two axes

Assignment = tuple[tuple[int, ...], ...]  # of each axis of the mesh: how many of it lie along each axis of the torus


def closed(chips: int, *, flat: bool) -> bool:
    """Return whether a torus axis of `chips` chips is a ring, on which collectives take half the time of a line."""
    return chips == WRAPS if flat else chips % 4 == 0


def grid(devices: Sequence["jax.Device"]) -> np.ndarray:
    """Return the TPU devices of a slice by their coordinates (x, y, z, core of the chip), for `arranged`."""
    places = np.array([(*device.coords, device.core_on_chip) for device in devices])
    places -= places.min(0)
    out = np.full(places.max(0) + 1, None, object)
    out[tuple(places.T)] = list(devices)
    return out


def layout(devices: Sequence["jax.Device"], sizes: Sequence[int]) -> np.ndarray:
    """Return the devices of a slice as a mesh of `sizes`, the last axis the busiest."""
    chips = grid(devices)
    flat = any(kind in devices[0].device_kind for kind in FLAT)
    rings = [*(closed(size, flat=flat) for size in chips.shape[:-1]), True]  # the cores of a chip share its memory
    return arranged(chips, assign(chips.shape, rings, sizes))


def width(spread: Sequence[int], strides: Sequence[int], shape: Sequence[int], rings: Sequence[bool]) -> float:
    """Return the bandwidth of a group of chips in units of one ring: 1 per ring, 1/2 per line, summed over torus axes.

    The group has `spread` chips along each torus axis, `strides` apart: this many interleaved groups share the links.
    """
    links = 0.0
    for size, stride, chips, ring in zip(spread, strides, shape, rings, strict=True):
        if size > 1:
            links += (1.0 if ring and size * stride == chips else 0.5) / stride
    return links


def assign(shape: Sequence[int], rings: Sequence[bool], sizes: Sequence[int]) -> Assignment:
    """Assign the mesh's axes, the last one the busiest, to a torus of `shape`: the busier, the more bandwidth.

    Of equal bandwidth, prefer the fewest hops, then the squarest tiles, then x and y, where the chips of a host lie.
    """

    def quality(assignment: Assignment) -> tuple:
        strides, widths, hops, longest = np.ones(len(shape), int), [], 0, 0
        for spread in reversed(assignment):
            widths.append(width(spread, strides.tolist(), shape, rings))
            hops += sum(size // 2 for size in spread)
            longest = max(longest, *spread)
            strides = strides * np.array(spread)
        return (*widths, -hops, -longest, *reversed(assignment))

    return max(_assignments(tuple(shape), tuple(reversed(sizes))), key=quality)


def _assignments(room: tuple[int, ...], sizes: tuple[int, ...]) -> Iterator[Assignment]:
    """Yield every assignment of axes of such sizes, the busiest first, to the remaining `room`."""
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


def arranged(chips: np.ndarray, assignment: Assignment) -> np.ndarray:
    """Return `chips`, given by coordinates, as the mesh has them: one axis for each of `assignment`."""
    axes, dimensions = len(assignment), chips.ndim
    # a torus axis is cut into pieces, the busiest axis's the innermost
    cut = chips.reshape([assignment[axis][dimension] for dimension in range(dimensions) for axis in range(axes)])
    order = [dimension * axes + axis for axis in range(axes) for dimension in range(dimensions)]
    return cut.transpose(order).reshape([math.prod(spread) for spread in assignment])
