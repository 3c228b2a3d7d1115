"""The kernels of a program that was compiled for a GPU: what each computes and moves, and a model of its time.

    runs = kernels.read(program)
    low, high = kernels.seconds(runs, pod.chip, multiprocessors=132)

Without a GPU no kernel can be timed, so the model is stated here in full. A kernel takes as long as its operations or
its memory traffic, whichever is longer.

- Operations run at the share of the peak that the largest products reach (`Chip.ceiling`, measured by others), times
  the share of the multiprocessors' turns that have work, times what a tile of that size loses. Of the tiles in `TILES`,
  the best counts. cuDNN's convolutions are products of (batch · height · width) × (window · channels) and get
  `CONVOLUTION` of that; its fused attention gets `ATTENTION` of the ceiling, less what heads are padded to multiples of
  `HEAD`.
- Memory moves at `STREAMED` of its peak.
- The lower end of the range is this; at the upper end every share is `WORSE` of it, that of links and network too, and
  each kernel starts `START` seconds late.
- Transfers between GPUs run beside kernels where the compiled program lets them (`pods.schedule`).

How far off that is against published figures is in docs/scaling.md.
"""

import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from dreamjax.pods import roofline
from dreamjax.pods.collectives import FREE, KINDS
from dreamjax.pods.hlo import Computation, HloProgram, Instruction
from dreamjax.pods.topologies import Chip

Kind = Literal[
    "product (cuBLASLt)", "product (XLA)", "convolution (cuDNN)", "attention (cuDNN)", "fusion (Triton)", "fusion",
    "copy of weights", "copy of activations", "pad, cut or join", "library",
]  # fmt: skip
PRODUCTS = ("__cublas$lt$matmul", "__cublas$gemm")
CONVOLUTIONS = ("__cudnn$conv",)
ATTENTIONS = ("__cudnn$fmha",)
BACKWARD = 2.5  # the fused attention's backward pass has five products, its forward pass two
NO_KERNEL = {*FREE, *KINDS, "async", "partition-id", "replica-id", "iota"}
NO_WORK = {"parameter", "bitcast", "reshape", "constant", "tuple", "get-tuple-element"}  # in a fusion
MOVING = {"copy", "transpose", "concatenate", "pad", "slice"}
ELEMENTWISE = {
    *("add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "select", "compare", "and", "or", "not"),
    *("negate", "abs", "exponential", "log", "logistic", "tanh", "erf", "sqrt", "rsqrt", "sign", "clamp", "convert"),
}
# (rows, columns) of the result that a block of threads computes → share of the ceiling that such tiles reach
TILES = {(256, 128): 1.0, (128, 256): 1.0, (128, 128): 0.92, (64, 128): 0.8, (128, 64): 0.8, (64, 64): 0.6}
PROLOGUE = 128  # of the contracted dimension: what filling and emptying a tile's pipeline costs
CONVOLUTION, ATTENTION, FLOAT32 = 0.85, 0.5, 0.5  # FLOAT32: TF32's share of bfloat16's rate; the others are assumed
HEAD = 64  # the fused attention computes heads in multiples of it
STREAMED, WORSE, START = 0.92, 0.75, 3e-6
TARGET = re.compile(r'custom_call_target="([^"]*)"')
# of cuBLASLt's configuration, or of a dot
CONTRACTED = re.compile(r'lhs_contracting_dim(?:ension)?s"?[:=][\[{]([^\]}]*)')
BATCHED = re.compile(r'lhs_batch_dim(?:ension)?s"?[:=][\[{]([^\]}]*)')
SOURCE = re.compile(r'op_name="([^"]*)"')


@dataclass(frozen=True)
class Kernel:
    """One kernel. `flop` and `moved` (bytes) are of one run; `shape`: (products, rows, columns, contracted)."""

    kind: Kind
    types: str  # of its operands
    times: float  # a step runs it
    flop: float
    moved: float
    shape: tuple[int, int, int, int]
    source: str  # where the model's code made it
    head: int = 0  # width of a head, of fused attention
    unfused: bool = False  # a fusion of a single elementwise operation, or conversion, of activations
    name: str = ""  # of its instruction


@dataclass(frozen=True)
class KernelGroup:
    """Kernels of one kind and type, together, in a step; `milliseconds`: predicted, the lower end."""

    kind: str
    types: str
    kernels: int
    times: float
    flop: float
    moved: float
    milliseconds: float


def read(program: HloProgram, gathered: Collection[int] = ()) -> list[Kernel]:
    """Return every kernel of a step, without collectives. `gathered`: from how many devices weights are.

    What only changes an array's layout is a copy of weights where the array has the sizes, in any order, of a result of
    the step (parameters and the optimiser's state are), of one layer of it, or of either as gathered; else of
    activations.
    """
    kernels, weights = [], _weights(program, {count for count in gathered if count > 1})
    for computation, one, times in program.executed(fused=False):
        opcode = one.opcode.removesuffix("-start")
        if not opcode.endswith("-done") and opcode not in NO_KERNEL:
            kernels.append(_kernel(program, computation, one, times, weights))
    return kernels


def _weights(program: HloProgram, ways: Collection[int]) -> set[tuple[int, ...]]:
    """Return the sorted sizes of a step's results, also without the axis of layers, and as gathered."""
    entry = program.computations[program.entry]
    results = [shape.dims for shape in entry.instructions[entry.root].results]
    kept = {_sizes(dims) for whole in results for dims in ([whole, whole[1:]] if len(whole) > 2 else [whole])}
    gathered = {
        _sizes((*one[:i], count * one[i], *one[i + 1 :])) for one in kept for i in range(len(one)) for count in ways
    }
    return kept | gathered


def _sizes(dims: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(size for size in dims if size > 1))


def _kernel(
    program: HloProgram,
    computation: Computation,
    one: Instruction,
    times: float,
    weights: set[tuple[int, ...]],
) -> Kernel:
    inner = program.computations.get(one.called[0][1]) if one.opcode == "fusion" and one.called else None
    moved = roofline.moved(computation, one, inner)
    target = match[1] if (match := TARGET.search(one.rest)) else ""
    operands = [shape for operand in computation.operands(one) for shape in operand.results]
    types = operands[0].kind if target and operands else one.results[0].kind
    source = match[1] if (match := SOURCE.search(one.rest)) else one.name
    shape, flop, head = (0, 0, 0, 0), 0.0, 0
    kind: Kind = "library"
    if target.startswith(PRODUCTS):
        kind, shape = "product (cuBLASLt)", _product(computation, one)
    elif target.startswith(CONVOLUTIONS):
        kind, shape = "convolution (cuDNN)", _convolution(computation, one, target)
    elif target.startswith(ATTENTIONS):
        kind, (flop, head) = "attention (cuDNN)", _attention(computation, one, target)
    elif one.opcode == "dot":
        kind, shape = "product (XLA)", _product(computation, one)
    elif moves := _moves(one, inner):
        kind = "copy of weights" if _sizes(one.results[0].dims) in weights else "copy of activations"
        kind = kind if moves & {"copy", "transpose"} else "pad, cut or join"
    elif inner is not None:
        kind = "fusion (Triton)" if "__triton" in one.rest else "fusion"
    flop = flop or 2.0 * math.prod(shape)
    unfused = inner is not None and _is_one_operation(inner) and _sizes(one.results[0].dims) not in weights
    return Kernel(kind, types, times, flop, moved, shape, source, head, unfused, one.name)


def _dims(pattern: re.Pattern[str], one: Instruction) -> list[int]:
    match = pattern.search(one.rest)
    return [int(n) for n in re.findall(r"\d+", match[1])] if match else []


def _product(computation: Computation, one: Instruction) -> tuple[int, int, int, int]:
    """Return (products, rows, columns, contracted) of a call of cuBLASLt, or of a dot."""
    left, result = computation.operands(one)[0].results[0].dims, one.results[0].dims
    contracted, batched = _dims(CONTRACTED, one), _dims(BATCHED, one)
    count = math.prod(left[n] for n in batched)
    depth = math.prod(left[n] for n in contracted)
    rows = max(1, math.prod(left) // max(1, count * depth))
    return count, rows, max(1, math.prod(result) // max(1, count * rows)), depth


def _convolution(computation: Computation, one: Instruction, target: str) -> tuple[int, int, int, int]:
    """Return a cuDNN convolution as the matrix product that it is.

    The window's positions are counted whole, with those that meet padding.
    """
    labels = roofline.LABELS.search(one.rest)
    assert labels is not None, one.name
    first, second = (operand.results[0].dims for operand in computation.operands(one)[:2])
    result = one.results[0].dims
    # the arrays of the forward convolution, in whichever pass
    image, kernel, output = {
        "__cudnn$convBackwardInput": (result, second, first),
        "__cudnn$convBackwardFilter": (first, result, second),
    }.get(target, (first, second, result))
    window, dim_in, dim_out = _places(labels[2], kernel, "io"), *(kernel[labels[2].index(name)] for name in "io")
    places = _places(labels[3], output, "f")
    if target == "__cudnn$convBackwardFilter":
        return 1, window * dim_in, dim_out, places
    if target == "__cudnn$convBackwardInput":
        pixels = _places(labels[1], image, "f")
        return 1, pixels, dim_in, places * window * dim_out // pixels
    return 1, places, dim_out, window * dim_in


def _places(labels: str, sizes: Sequence[int], without: str) -> int:
    """Return the product of an array's sizes but for those of the dimensions `without`."""
    return math.prod(size for label, size in zip(labels, sizes, strict=True) if label not in without)


def _attention(computation: Computation, one: Instruction, target: str) -> tuple[float, int]:
    """Return (operations, width of a head) of cuDNN's fused attention, whose arrays are (batch, time, heads, width)."""
    q, k = (operand.results[0].dims for operand in computation.operands(one)[:2])
    flop = 4.0 * math.prod(q) * k[1]
    return flop * (BACKWARD if "Backward" in target else 1.0), q[-1]


def _moves(one: Instruction, inner: Computation | None) -> set[str]:
    """Return the opcodes by which an instruction moves data, if it does nothing else."""
    opcodes = {part.opcode for part in inner.instructions.values()} if inner else {one.opcode.removesuffix("-start")}
    moves = opcodes & MOVING
    if not inner or opcodes & {"copy", "transpose"}:
        opcodes -= {"convert"}  # on the way
    return moves if opcodes <= NO_WORK | MOVING else set()


def _is_one_operation(inner: Computation) -> bool:
    """Return whether a fusion is of one elementwise operation, with or without conversions, or of a conversion."""
    opcodes = [one.opcode for one in inner.instructions.values() if one.opcode not in NO_WORK | {"broadcast"}]
    opcodes = [opcode for opcode in opcodes if opcode != "convert"] or opcodes[:1]
    return len(opcodes) == 1 and opcodes[0] in ELEMENTWISE


# ------------------------------------------------------------------------------------------------------------ the model
def seconds(kernels: Iterable[Kernel], chip: Chip, multiprocessors: int) -> tuple[float, float]:
    """Return the seconds of a step's kernels, one after another: (best, worst)."""
    low = high = 0.0
    for one in kernels:
        best, worst = once(one, chip, multiprocessors)
        low += one.times * best
        high += one.times * worst
    return low, high


def once(one: Kernel, chip: Chip, multiprocessors: int) -> tuple[float, float]:
    """Return the seconds of one run of a kernel: (best, worst)."""
    shares = share(one, multiprocessors) * chip.ceiling
    computing = one.flop / (chip.flops * shares) if one.flop else 0.0
    best = max(computing, one.moved / (chip.bandwidth * STREAMED))
    return best, best / WORSE + START


def share(one: Kernel, multiprocessors: int) -> float:
    """Return the share of the ceiling at which a kernel's products run."""
    if one.kind == "attention (cuDNN)":
        return ATTENTION * one.head / (HEAD * math.ceil(one.head / HEAD))
    count, rows, columns, depth = one.shape
    if not count:
        return 1.0
    best = 0.0
    for (tall, wide), reached in TILES.items():
        tiles = count * math.ceil(rows / tall) * math.ceil(columns / wide)
        # where there are fewer tiles than multiprocessors, libraries also split the contracted dimension
        pieces = min(max(1, multiprocessors // tiles), max(1, depth // 512))
        turns = math.ceil(tiles * pieces / multiprocessors)
        used = count * rows * columns / (tiles * tall * wide) * tiles * pieces / (turns * multiprocessors)
        best = max(best, reached * used * (depth / pieces) / (depth / pieces + PROLOGUE))
    kind = CONVOLUTION if one.kind == "convolution (cuDNN)" else 1.0
    return best * kind * (FLOAT32 if one.types == "f32" else 1.0)


def grouped(kernels: Sequence[Kernel], chip: Chip, multiprocessors: int) -> list[KernelGroup]:
    """Return kernels by kind and type, those that take the longest first."""
    keys = {(one.kind, one.types) for one in kernels}
    groups = []
    for kind, types in sorted(keys):
        same = [one for one in kernels if (one.kind, one.types) == (kind, types)]
        flop, moved = sum(one.times * one.flop for one in same), sum(one.times * one.moved for one in same)
        took = 1e3 * seconds(same, chip, multiprocessors)[0]
        groups.append(KernelGroup(kind, types, len(same), sum(one.times for one in same), flop, moved, took))
    return sorted(groups, key=lambda group: -group.milliseconds)


def largest_traffic(kernels: Iterable[Kernel], count: int = 8) -> list[Kernel]:
    """Return the kernels other than products that move the most bytes in a step."""
    others = [one for one in kernels if not one.flop]
    return sorted(others, key=lambda one: -one.times * one.moved)[:count]


def unfused(kernels: Iterable[Kernel]) -> dict[str, float]:
    """Return the bytes that a step moves for `Kernel.unfused`, by where the model's code made them."""
    moved: dict[str, float] = {}
    for one in kernels:
        if one.unfused:
            moved[one.source] = moved.get(one.source, 0.0) + one.times * one.moved
    return dict(sorted(moved.items(), key=lambda item: -item[1]))
