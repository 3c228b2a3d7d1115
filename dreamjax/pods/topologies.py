"""Names of what a run may have, as users say them → chips in a shape.

v5e-256, v5e:16x16        a slice of a TPU pod; v4, v5p and tpu7x count cores: v5p-512 are 256 chips
h100-8, h200-64           GPUs, in nodes of 8
"""

import itertools
import math
import re
from dataclasses import dataclass

from dreamjax.errors import UserError
from dreamjax.parallel import torus
from dreamjax.pods.chips import CHIPS, Chip

ALIASES = {"v5litepod": "v5e", "v5lite": "v5e", "trillium": "v6e", "v7x": "tpu7x", "ironwood": "tpu7x"}
EXAMPLES = "v4-128, v5e-256, v5p-512, v6e-256, tpu7x-128, v5e:16x16, h100-8 or h200-64"
MOST = 9216  # chips of a slice: tpu7x's; v5p's has 8,960


@dataclass(frozen=True)
class Pod:
    """`slices` slices, each `shape` chips of a kind; of GPUs, nodes in place of slices."""

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def is_tpu(self) -> bool:
        return self.chip.axes > 1

    @property
    def chips(self) -> int:
        return math.prod(self.shape) * self.slices

    @property
    def devices(self) -> int:
        """As the frameworks count them."""
        return self.chips * self.chip.cores

    @property
    def hosts(self) -> int:
        """Of a slice; a node of GPUs is one."""
        return math.prod(self.shape) // self.chips_of_a_host

    @property
    def chips_of_a_host(self) -> int:
        """v5e and v6e have hosts of 1, 4 and 8 chips, and slices of more than 8 are made of those of 4."""
        chips = math.prod(self.shape)
        if not self.is_tpu:
            return chips
        return min(chips, 8 if self.chip.axes == 2 and chips <= 8 else 4)

    @property
    def topology(self) -> str:
        """As the compiler knows a slice."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def name(self) -> str:
        """As users say it."""
        counted = math.prod(self.shape) * (2 if self.chip.counts_cores else 1)
        times = f"{self.slices} x " if self.slices > 1 and self.is_tpu else ""
        return f"{times}{self.chip.name}-{counted if self.is_tpu else self.chips}"

    def closed(self, axis: int) -> bool:
        """Whether a torus axis is a ring."""
        return self.is_tpu and torus.closed(self.shape[axis], flat=self.chip.axes == 2)


def pod(name: str, slices: int = 1) -> Pod:
    """Raises UserError for a name that says no pod, and for a number of chips that there is no slice of."""
    match = re.fullmatch(r"([a-z0-9]+?)([-:])(\d+(?:x\d+)*)", name.strip().lower())
    kind = ALIASES.get(match[1], match[1]) if match else ""
    if match is None or kind not in CHIPS or (match[2] == "-") != match[3].isdigit():
        raise UserError(f"unknown pod {name!r}; write one as {EXAMPLES}")
    if slices < 1:
        raise UserError(f"--slices is {slices}, but it must be 1 or more")
    chip = CHIPS[kind]
    if chip.axes == 1:
        return _nodes(chip, name, match, slices)
    if match[2] == ":":
        shape = tuple(int(n) for n in match[3].split("x"))
        if len(shape) != chip.axes or min(shape) < 1:
            raise UserError(
                f"{name}: a slice of {kind} has {chip.axes} axes; write it as {kind}:{'x'.join('4' * chip.axes)}"
            )
        if math.prod(shape) > MOST or not all(_is_side(chip, side) for side in shape):
            sides = "1, 2, 4, 8 or 16 chips" if chip.axes == 2 else "1, 2 or a multiple of 4 chips"
            raise UserError(
                f"{name}: there is no such slice; a side of one has {sides}, and all of it {MOST:,} at most"
            )
        return Pod(chip, shape, slices)
    count, per_chip = int(match[3]), 2 if chip.counts_cores else 1
    if count > MOST * per_chip:
        raise UserError(f"{name}: there is no slice of so many; the largest has {MOST:,} chips")
    shape = _shape(chip, count // per_chip) if count % per_chip == 0 else ()
    if not shape:
        unit = "cores, two a chip" if per_chip == 2 else "chips"
        raise UserError(f"there is no slice of {count} {unit}, of {kind}; write its shape, as {kind}:4x4x8")
    return Pod(chip, shape, slices)


def _is_side(chip: Chip, side: int) -> bool:
    return side in (1, 2) or (side in (4, 8, 16) if chip.axes == 2 else side % 4 == 0)


def _nodes(chip: Chip, name: str, match: re.Match, slices: int) -> Pod:
    if match[2] == ":":
        raise UserError(f"{name}: GPUs have no shape; write {chip.name}-64")
    count = int(match[3])
    if count < 1 or (count > chip.node and count % chip.node):
        raise UserError(f"{name}: GPUs come in nodes of {chip.node}; write {chip.name}-8, {chip.name}-16 and so on")
    node = min(count, chip.node)
    return Pod(chip, (node,), slices * (count // node))


def _shape(chip: Chip, count: int) -> tuple[int, ...]:
    """The usual shape of so many chips, () where there is none: as near to a cube (or a square) as slices come."""
    shapes: list[tuple[int, ...]]
    if chip.axes == 2:
        sides = [2**k for k in range(5)]
        shapes = [(a, b) for a in sides for b in (a, 2 * a) if a * b == count and b <= torus.WRAPS]
    elif count < 64:
        shapes = [s for s in ((1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4)) if math.prod(s) == count]
    else:
        fours = range(4, count // 16 + 1, 4)
        shapes = [
            (a, b, count // (a * b))
            for a, b in itertools.combinations_with_replacement(fours, 2)
            if count % (a * b) == 0 and (count // (a * b)) % 4 == 0 and count // (a * b) >= b
        ]
    return min(shapes, key=lambda shape: max(shape) - min(shape), default=())
