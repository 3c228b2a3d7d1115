"""Predict a range of step times: operations and bytes moved, divided by a chip's rates.

The range has two ends. *All overlapped*: communication and instructions run at the same time, and the slowest of the
instructions, matrix units, memory, torus and network determines the time. *Nothing overlapped*: every instruction, one
after another, and then every collective. The time of instructions is the compiler's own estimate; operations are those
of matrix products and convolutions, for every trip of every loop. For GPUs both ends follow the schedule of the
compiled program (`pods.schedule`, `pods.kernels`).
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from dreamjax.parallel import torus
from dreamjax.pods.collectives import FREE, SLICES, Collective
from dreamjax.pods.hlo import Computation, HloProgram, Instruction
from dreamjax.pods.topologies import Pod
from dreamjax.typing import JsonDict

HOP = 1e-6  # s: from a chip to its neighbour, before the first byte
BROUGHT = {"copy-start": 0, "slice-start": 1}  # between memories: which of the results is the copy
ALLOCATES = 'custom_call_target="AllocateBuffer"'
READS_A_PIECE, WRITES_A_PIECE = ("dynamic-slice", "slice", "gather"), "dynamic-update-slice"
LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
WINDOW = re.compile(r"window=\{([^}]*)\}")


@dataclass(frozen=True)
class Times:
    """Seconds of a step. `links`: by axes of the mesh.

    `computing`: of its instructions, as the compiler estimates them, or for GPUs as the model of `pods.kernels` does;
    None without. `scheduled`: (best, worst) of that model for the step as its program is scheduled, transfers beside
    kernels; `low` and `high` are these where they are known. `hurried`: the compiler ran with little effort, so that
    the real program would be faster.
    """

    matrix: float
    memory: float
    links: Mapping[str, float]
    network: float
    computing: float | None
    hurried: bool = False
    scheduled: tuple[float, float] | None = None

    @property
    def crossing(self) -> float:
        """Return the time of all communication between chips, one transfer after another."""
        return sum(self.links.values()) + self.network

    @property
    def low(self) -> float:
        """Return the time of a step at best: scheduled, or where everything overlaps."""
        if self.scheduled:
            return self.scheduled[0]
        instructions = 0.0 if self.hurried else self.computing or 0.0
        return max(instructions, self.matrix, self.memory, sum(self.links.values()), self.network)

    @property
    def high(self) -> float:
        """Return the time of a step at worst: scheduled, or where nothing overlaps."""
        if self.scheduled:
            return self.scheduled[1]
        instructions = self.matrix + self.memory if self.computing is None else max(self.computing, self.matrix)
        return instructions + self.crossing

    def as_json(self) -> JsonDict:
        """Return the figures and what follows from them."""
        return asdict(self) | {"crossing": self.crossing, "low": self.low, "high": self.high}


def times(
    pod: Pod,
    flops: float,
    traffic: float,
    collectives: Iterable[Collective],
    places: Sequence[Sequence[int]],
    cycles: float,
    *,
    hurried: bool = False,
) -> Times:
    """Return the times of a step from a device's FLOP, memory traffic in bytes and cycles.

    `places`: the coordinates of each device of the mesh in its torus, in the order that the mesh numbers them.
    """
    chip, links, network = pod.chip, dict[str, float](), 0.0
    for one in collectives:
        if SLICES in one.axes:
            network += seconds(one, pod, places)
        else:
            where = " x ".join(one.axes)
            links[where] = links.get(where, 0.0) + seconds(one, pod, places)
    matrix, memory = flops / (chip.flops / chip.cores), traffic / (chip.bandwidth / chip.cores)
    return Times(matrix, memory, links, network, cycles / chip.clock if cycles and chip.clock else None, hurried)


def seconds(one: Collective, pod: Pod, places: Sequence[Sequence[int]]) -> float:
    """Return the seconds of a collective over its group's torus axes, whose links are shared with the groups between.

    All groups communicate at once, including those of a chip's other cores. Slices and nodes have the network between
    them.
    """
    if SLICES in one.axes:
        return one.received / pod.chip.network * pod.chip.cores
    spans = np.array([places[member] for member in one.members])
    along = [np.unique(axis) for axis in spans.T][: len(pod.shape)]
    spread = [len(where) for where in along]
    strides = [int(np.diff(where).min()) if len(where) > 1 else 1 for where in along]
    rings = [pod.closed(axis) for axis in range(len(pod.shape))]
    width = torus.width(spread, strides, pod.shape, rings) if pod.is_tpu else float(any(size > 1 for size in spread))
    if not width:  # the two cores of a chip
        return 0.0
    hops = sum(size // 2 * stride for size, stride in zip(spread, strides, strict=True))
    cores = len(one.members) // len(set(map(tuple, spans.tolist())))  # cores of a chip that are in the group
    return one.received * pod.chip.cores / cores / (width * pod.chip.link) + one.times * hops * HOP


# ----------------------------------------------------------------------------------------------- of a compiled program
def cycles(program: HloProgram) -> float:
    """Return the compiler's estimate for a step's instructions on one core, in cycles; 0 where it gives none."""
    return sum((one.number("estimated_cycles") or 0) * often for _, one, often in program.executed(fused=False))


def traffic(program: HloProgram) -> float:
    """Return the bytes that a step reads from and writes to a device's memory.

    Every instruction reads its operands and writes its results, but for those that lie in fast memory; of an array that
    a fusion only takes a slice of, or only writes a slice to, the slice counts.
    """
    total = 0.0
    for computation, one, often in program.executed(fused=False):
        if one.opcode in FREE or one.opcode.endswith("-done") or ALLOCATES in one.rest:
            continue
        if one.opcode in BROUGHT:
            source, copy = computation.operands(one)[0].results[0], one.results[BROUGHT[one.opcode]]
            total += often * copy.bytes * ((not source.fast) + (not copy.fast))
            continue
        inner = program.computations.get(one.called[0][1]) if one.opcode == "fusion" and one.called else None
        total += often * moved(computation, one, inner)
    return total


def moved(computation: Computation, one: Instruction, inner: Computation | None) -> float:
    """Return the bytes that one instruction reads and writes; `inner`: its computation, if it is a fusion."""
    return _read(computation, one, inner) + _written(computation, one, inner)


def _read(computation: Computation, one: Instruction, inner: Computation | None) -> float:
    total = 0.0
    for number, operand in enumerate(computation.operands(one)):
        whole = _slow_bytes(operand)
        piece = _piece(inner, number) if inner else _own_piece(one, number)
        total += whole if piece is None else min(whole, piece)
    return total


def _slow_bytes(one: Instruction) -> float:
    return sum(shape.bytes for shape in one.results if not shape.fast)


def _own_piece(one: Instruction, number: int) -> float | None:
    """Return the bytes that an instruction other than a fusion reads of an operand; None for all."""
    if one.opcode in READS_A_PIECE and number == 0:
        return one.bytes
    return 0.0 if one.opcode == WRITES_A_PIECE and number == 0 else None


def _piece(inner: Computation, number: int) -> float | None:
    """Return the bytes that a fusion reads of an operand of which it only uses or writes slices; None for all."""
    names = [i.name for i in inner.instructions.values() if i.opcode == "parameter" and i.rest == str(number)]
    users = [(user, name) for user in inner.instructions.values() for name in names if name in user.operands]
    pieces = [_own_piece(user, user.operands.index(name)) for user, name in users]
    return sum(p for p in pieces if p is not None) if users and None not in pieces else None


def _written(computation: Computation, one: Instruction, inner: Computation | None) -> float:
    if inner is None:
        if one.opcode == WRITES_A_PIECE:  # as much as was read of its update
            return sum(operand.bytes for operand in computation.operands(one)[1:2])
        return _slow_bytes(one)
    root = inner.instructions[inner.root]
    made = inner.operands(root) if root.opcode == "tuple" else [root]
    total = 0.0
    for shape, part in zip(one.results, made, strict=False):
        update = inner.operands(part)[1].bytes if part.opcode == WRITES_A_PIECE else shape.bytes
        total += 0.0 if shape.fast else update
    return total


def flops(program: HloProgram) -> float:
    """Return the floating-point operations of a step on one device; a multiply-add counts 2."""
    counts = {"convolution": _convolution, "dot": _dot}
    return sum(
        times * counts[one.opcode](computation, one)
        for computation, one, times in program.executed()
        if one.opcode in counts
    )


def _dot(computation: Computation, one: Instruction) -> float:
    """Return 2 · outputs · contracted."""
    match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest)
    left = computation.operands(one)[0].results[0].dims
    contracted = [int(n) for n in match[1].split(",") if n] if match else []
    return 2.0 * math.prod(one.results[0].dims) * math.prod(left[n] for n in contracted)


def _convolution(computation: Computation, one: Instruction) -> float:
    """Return 2 · batch · output features · input features of a group · pairs of (output, window) positions that meet.

    TPU's compiler writes every matrix product as a convolution; the dimensions of a batch of products become spatial
    ones which a dilated window passes one at a time. So of a window only those places count that meet an element: not
    padding, not the gaps of a dilation.
    """
    labels = LABELS.search(one.rest)
    assert labels is not None, one.name
    left, right = (operand.results[0].dims for operand in computation.operands(one))
    sizes = dict(zip(labels[3], one.results[0].dims, strict=True))
    kernel, given = dict(zip(labels[2], right, strict=True)), dict(zip(labels[1], left, strict=True))
    match = WINDOW.search(one.rest)
    window = dict(re.findall(r"(\w+)=(\S+)", match[1])) if match else {}
    pairs = 1
    for place, label in enumerate(sorted(label for label in labels[3] if label.isdigit())):
        stride, spread, apart = (
            int(window[name].split("x")[place]) if name in window else 1
            for name in ("stride", "lhs_dilate", "rhs_dilate")
        )
        low = int(window["pad"].split("x")[place].split("_")[0]) if "pad" in window else 0
        at = np.arange(sizes[label])[:, None] * stride + np.arange(kernel[label])[None] * apart - low
        pairs *= int(((at >= 0) & (at <= (given[label] - 1) * spread) & (at % spread == 0)).sum())
    return 2.0 * sizes["b"] * sizes["f"] * kernel["i"] * pairs
