"""Pods by name: the shape of their chips, and the FLOP/s, memory and bandwidths of a chip.

v5e-256, v5e:16x16        a slice of a TPU pod; v4, v5p and tpu7x count cores: v5p-512 are 256 chips
a100-8, h100-8, h200-64   GPUs, in nodes of 8; also l40s and b200

Rates are those that vendors publish, for TPUs in docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, of GPUs in
NVIDIA's data sheets of the SXM versions (dense bfloat16, which is half of what they advertise with sparsity) and of the
L40S, whose GPUs communicate over PCIe 4. The share of the peak that matrix products reach is that of the table of
maximum achievable FLOPS in Stas Bekman's Machine Learning Engineering (A100, H100, B200); the L40S's is assumed, and so
is a network port of 400 Gb/s a GPU (200 for A100, 100 for L40S). What
a TPU program may take of the memory is what the compiler refuses to go beyond. The network of v4 and tpu7x is assumed:
no figure of it was found. The clocks of v4, v5e and v5p are those at which their matrix units make up the published
peak; of v6e and tpu7x, those at which the compiler's estimate of a large matrix product and of streaming through memory
is the same share of the published peaks as on v5e (87 and 81 %).
"""

import itertools
import math
import re
from dataclasses import dataclass

from dreamjax.errors import UserError
from dreamjax.parallel import torus

GB, GIB, TERA = 10**9, 2**30, 10**12
ALIASES = {"v5litepod": "v5e", "v5lite": "v5e", "trillium": "v6e", "v7x": "tpu7x", "ironwood": "tpu7x"}
EXAMPLES = "v4-128, v5e-256, v5p-512, v6e-256, tpu7x-128, v5e:16x16, a100-8, l40s-8, h100-8, h200-64 or b200-8"
MOST = 9216  # chips of a slice: tpu7x's; v5p's has 8,960


@dataclass(frozen=True)
class Chip:
    """One accelerator. Rates are peaks, per second and chip.

    `link`: bytes a chip receives along one axis of its torus, from both neighbours together; of GPUs, over NVLink.
    `network`: bytes it receives from other slices, or from other nodes.
    """

    name: str
    flops: float = 0  # bfloat16
    usable: float = 0  # bytes of memory that a program may take
    bandwidth: float = 0  # bytes
    link: float = 0
    axes: int = 1  # of the torus: 2 or 3; 1 where every chip of a node is as near
    network: float = 0
    node: int = 0  # GPUs of one
    cores: int = 1  # of which the frameworks see each as a device: memory and rates are shared out among them
    clock: float = 0.0  # Hz, in which the compiler's estimates are; 0: it makes none
    ceiling: float = 1.0  # share of the peak that the largest matrix products reach, as others measured it

    @property
    def named_cores(self) -> int:
        """Return the units per chip that a name counts: v4-8, v5p-8 and tpu7x-8 are 4 chips."""
        return 2 if self.axes == 3 else 1


def _tpu(
    name: str, tera: float, usable: float, gbps: float, ici: float, axes: int, gbit: float, clock: float, cores: int = 1
) -> Chip:
    """Return a TPU chip. `usable`: GiB. `ici`: GB/s of a chip both ways, over all its 2 · axes links."""
    link, network = ici / 2 / axes * GB, gbit * (GB / 8)
    return Chip(name, tera * TERA, usable * GIB, gbps * GB, link, axes, network, cores=cores, clock=clock)


def _gpu(name: str, tera: float, gigabytes: float, gbps: float, nvlink: float, gbit: float, ceiling: float) -> Chip:
    """Return a GPU. `nvlink`: GB/s, one way. `gbit`: of its network port. JAX takes 0.75 of the memory."""
    link, network = nvlink * GB, gbit * (GB / 8)
    return Chip(name, tera * TERA, 0.75 * gigabytes * GB, gbps * GB, link, 1, network, node=8, ceiling=ceiling)


CHIPS = {
    chip.name: chip
    for chip in (
        _tpu("v4", 275, 30.75, 1200, 600, 3, 50, 1.05e9),
        _tpu("v5e", 197, 15.75, 819, 400, 2, 25, 1.5e9),
        _tpu("v5p", 459, 95.74, 2765, 1200, 3, 50, 1.75e9),
        _tpu("v6e", 918, 31.25, 1638, 800, 2, 100, 1.75e9),
        _tpu("tpu7x", 2307, 189.5, 7380, 1200, 3, 100, 2.3e9, cores=2),
        _gpu("a100", 312, 80, 2039, 300, 200, 0.86),
        _gpu("l40s", 362, 48, 864, 32, 100, 0.80),
        _gpu("h100", 989.4, 80, 3350, 450, 400, 0.80),
        _gpu("h200", 989.4, 141, 4800, 450, 400, 0.80),
        _gpu("b200", 2250, 180, 8000, 900, 400, 0.776),
    )
}


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
        """Return the number of devices, as the frameworks count them."""
        return self.chips * self.chip.cores

    @property
    def hosts(self) -> int:
        """Return the hosts of a slice; a node of GPUs is one host."""
        return math.prod(self.shape) // self.chips_of_a_host

    @property
    def chips_of_a_host(self) -> int:
        """Return the chips of a host: 1, 4 or 8 of v5e and v6e, whose slices of more than 8 chips have hosts of 4."""
        chips = math.prod(self.shape)
        if not self.is_tpu:
            return chips
        return min(chips, 8 if self.chip.axes == 2 and chips <= 8 else 4)

    @property
    def topology(self) -> str:
        """Return the compiler's name of a slice."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def name(self) -> str:
        """Return the name that users write."""
        times = f"{self.slices} x " if self.slices > 1 and self.is_tpu else ""
        count = math.prod(self.shape) * self.chip.named_cores if self.is_tpu else self.chips
        return f"{times}{self.chip.name}-{count}"

    def closed(self, axis: int) -> bool:
        """Return whether a torus axis is a ring."""
        return self.is_tpu and torus.closed(self.shape[axis], flat=self.chip.axes == 2)


def pod(name: str, slices: int = 1) -> Pod:
    """Return a pod by name. Raise UserError for an unknown name, or a number of chips that no slice has."""
    match = re.fullmatch(r"([a-z0-9]+?)([-:])(\d+(?:x\d+)*)", name.strip().lower())
    kind = ALIASES.get(match[1], match[1]) if match else ""
    if match is None or kind not in CHIPS or (match[2] == "-") != match[3].isdigit():
        raise UserError(f"unknown pod {name!r}; write one as {EXAMPLES}")
    if slices < 1:
        raise UserError(f"--slices is {slices}, but it must be 1 or more")
    chip, sizes = CHIPS[kind], tuple(int(n) for n in match[3].split("x"))
    if match[2] == "-":
        return (_nodes if chip.axes == 1 else _slices)(chip, name, sizes[0], slices)
    if chip.axes == 1:
        raise UserError(f"{name}: GPUs have no shape; write {chip.name}-64")
    if len(sizes) != chip.axes or min(sizes) < 1:
        raise UserError(
            f"{name}: a slice of {kind} has {chip.axes} axes; write it as {kind}:{'x'.join('4' * chip.axes)}"
        )
    if math.prod(sizes) > MOST or not all(_is_side(chip, side) for side in sizes):
        allowed = "1, 2, 4, 8 or 16 chips" if chip.axes == 2 else "1, 2 or a multiple of 4 chips"
        raise UserError(f"{name} is not a slice; each side has {allowed}, and the whole slice at most {MOST:,}")
    return Pod(chip, sizes, slices)


def _is_side(chip: Chip, side: int) -> bool:
    return side in (1, 2) or (side in (4, 8, 16) if chip.axes == 2 else side % 4 == 0)


def _slices(chip: Chip, name: str, count: int, slices: int) -> Pod:
    if count > MOST * chip.named_cores:
        raise UserError(f"{name}: no slice has that many chips; the largest has {MOST:,} chips")
    shape = _shape(chip, count // chip.named_cores) if count % chip.named_cores == 0 else ()
    if not shape:
        unit = "cores, two a chip" if chip.named_cores == 2 else "chips"
        raise UserError(f"{chip.name} has no slice of {count} {unit}; write its shape, as {chip.name}:4x4x8")
    return Pod(chip, shape, slices)


def _nodes(chip: Chip, name: str, count: int, slices: int) -> Pod:
    if count < 1 or (count > chip.node and count % chip.node):
        raise UserError(f"{name}: GPUs come in nodes of {chip.node}; write {chip.name}-8, {chip.name}-16 and so on")
    node = min(count, chip.node)
    return Pod(chip, (node,), slices * (count // node))


def _shape(chip: Chip, count: int) -> tuple[int, ...]:
    """Return the usual shape of `count` chips, () if there is none: as near to a cube (or a square) as possible."""
    shapes: list[tuple[int, ...]]
    if chip.axes == 2:
        sides = [2**k for k in range(5)]
        shapes = [(a, b) for a in sides for b in (a, 2 * a) if a * b == count and b <= torus.WRAPS]
    elif count < 64:
        shapes = [s for s in ((1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4)) if math.prod(s) == count]
    else:
        pairs = itertools.combinations_with_replacement(range(4, count // 16 + 1, 4), 2)
        shapes = [(a, b, count // (a * b)) for a, b in pairs if count % (4 * a * b) == 0 and count // (a * b) >= b]
    return min(shapes, key=lambda shape: max(shape) - min(shape), default=())
