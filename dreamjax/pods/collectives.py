"""What a compiled program moves between chips: every collective, along which axis of the mesh, how much, how often."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from dreamjax.pods.hlo import Computation, HloProgram, Instruction

# opcode → what it is; `-start` and `-done` of an asynchronous pair are one collective
KINDS = {
    "all-gather": "all-gather",
    "all-reduce": "all-reduce",
    "reduce-scatter": "reduce-scatter",
    "all-to-all": "all-to-all",
    "ragged-all-to-all": "all-to-all",
    "collective-permute": "permute",
    "collective-broadcast": "broadcast",
}
# what a chip receives of a payload of 1 over a ring of n
RECEIVED = {
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "permute": lambda n: 1.0,
    "broadcast": lambda n: 1.0,
}
CHAIN, STARTS = "chain_id=", '"AsyncCollectiveStart"'
SLICES = "slices"  # the axis of what crosses the network between slices


@dataclass(frozen=True)
class Collective:
    """`payload`: bytes of the whole array, before it is cut or after it is gathered; `times`: a step runs it.

    `axes`: of the mesh; `group`: chips that take part together; `types`: of the arrays.
    """

    kind: str
    axes: tuple[str, ...]
    group: int
    payload: float
    times: float
    types: tuple[str, ...]
    overlapped: bool  # other work goes on until it is done
    members: tuple[int, ...]  # of one group, as the mesh numbers its devices
    name: str

    @property
    def received(self) -> float:
        """Bytes that a chip receives in a step."""
        return self.payload * self.times * RECEIVED[self.kind](self.group)


@dataclass(frozen=True)
class ProgramCollectives:
    """`unknown`: opcodes, or forms of one, that move data and that nothing here is known of: opcode → how many."""

    collectives: list[Collective]
    unknown: Mapping[str, int]


def find(program: HloProgram, axes: Mapping[str, int]) -> ProgramCollectives:
    """Every collective of a step. `axes`: name → size of the mesh, in the order that its devices are numbered in."""
    collectives, unknown = [], Counter[str]()
    for computation, one, times in program.executed():
        opcode = one.opcode.removesuffix("-start")
        if opcode in KINDS and _is_continued(computation, one):
            continue
        if opcode in KINDS:
            groups = _groups(one)
            if groups is None:
                unknown[f"{one.opcode} (its groups)"] += 1
            elif len(groups[0]) > 1:
                collectives.append(_collective(program, computation, one, times, opcode, groups, axes))
        elif one.opcode == "send":
            sent = _sent(computation, one, times)
            if sent is None:
                unknown["send (what for)"] += 1
            else:
                collectives.append(sent)
        elif re.match(r"(all-|collective-|reduce-scatter|ragged)", opcode) and not one.opcode.endswith("-done"):
            unknown[one.opcode] += 1
    return ProgramCollectives(collectives, dict(unknown))


def _collective(
    program: HloProgram,
    computation: Computation,
    one: Instruction,
    times: float,
    opcode: str,
    groups: Sequence[Sequence[int]],
    axes: Mapping[str, int],
) -> Collective:
    kind, group = KINDS[opcode], len(groups[0])
    given = [shape for operand in computation.operands(one) for shape in operand.results]
    if kind == "all-reduce":  # its results are of the types that are summed, also where it converts what it is given
        given = list(one.results)
    payload = sum(shape.bytes for shape in given)
    if kind == "all-gather":
        payload *= group
    if kind == "all-reduce" and computation.name in program.fused and _is_cut(computation):
        kind = "reduce-scatter"  # TPU's compiler writes it as a fusion of a sum and of each chip's slice of it
    types = tuple(sorted({shape.kind for shape in given}))
    over = axes_of(groups[0], axes)
    overlapped = one.opcode.endswith("-start") or CHAIN in one.rest
    return Collective(kind, over, group, payload, times, types, overlapped, tuple(groups[0]), one.name)


def _is_continued(computation: Computation, one: Instruction) -> bool:
    """Whether this only takes up again what another fusion started.

    TPU's compiler hides a collective behind other work by a chain of fusions, which all contain it: the first starts
    it, the next advance it while they compute, the last awaits it.
    """
    inside = [other.rest for other in computation.instructions.values() if other.opcode == "custom-call"]
    return CHAIN in one.rest and not any(STARTS in rest for rest in inside)


def _is_cut(computation: Computation) -> bool:
    """Whether of the all-reduce in a fusion each chip keeps a piece alone."""
    opcodes = {one.opcode for one in computation.instructions.values()}
    whole = max((one.bytes for one in computation.instructions.values() if one.opcode == "all-reduce"), default=0.0)
    kept = computation.instructions[computation.root].bytes
    return "dynamic-slice" in opcodes and kept < whole


def _sent(computation: Computation, one: Instruction, times: float) -> Collective | None:
    """Through the network between slices: the host's runtime does it, and only its attributes say what it is."""
    kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', one.rest)
    among = re.search(r'_xla_megascale_target="\{([\d,]+)\}', one.rest)
    if kind is None or among is None or (name := kind[1].lower().replace("_", "-")) not in KINDS:
        return None
    shapes = [shape for operand in computation.operands(one) for shape in operand.results if shape.kind != "token"]
    group, types = len(among[1].split(",")), tuple(sorted({shape.kind for shape in shapes}))
    payload = sum(shape.bytes for shape in shapes) * (group if name == "all-gather" else 1)
    return Collective(KINDS[name], (SLICES,), group, payload, times, types, True, (), one.name)


# ------------------------------------------------------------------------------------------------------------- who with
def axes_of(group: Sequence[int], axes: Mapping[str, int]) -> tuple[str, ...]:
    """Along which axes of the mesh the devices of a group differ."""
    places = np.unravel_index(np.asarray(group), tuple(axes.values()))
    return tuple(name for name, place in zip(axes, places, strict=True) if len(set(place.tolist())) > 1)


def _groups(one: Instruction) -> list[list[int]] | None:
    """Which partitions take part together; None where that is written in a way that is not known."""
    if one.opcode.startswith("collective-permute"):
        pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", one.rest)
        between = [[int(n) for n in pair] for pair in re.findall(r"\{(\d+),(\d+)", pairs[0])] if pairs else []
        return [next((pair for pair in between if pair[0] != pair[1]), between[0])] if between else None
    lists = re.search(r"replica_groups=\{(\{[\d,{}]*\})\}", one.rest)
    if lists:
        return [[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", lists[1])]
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]<=(\[[\d,]+\])(?:T\(([\d,]+)\))?", one.rest):
        return _iota(iota[3], iota[4]).reshape(int(iota[1]), int(iota[2])).tolist()
    return _of_mesh(one.rest)


def _of_mesh(rest: str) -> list[list[int]] | None:
    """replica_groups=mesh['a'=16,'b'=16], device_ids=([16,16]T(1,0)) {'b'}"""
    match = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((\[[\d,]+\])(?:T\(([\d,]+)\))?\))? \{([^}]*)\}", rest
    )
    if not match:
        return None
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match[1])}
    within = re.findall(r"'(\w+)'", match[4])
    if not set(within) <= set(sizes):
        return None
    count = math.prod(sizes.values())
    devices = (_iota(match[2], match[3]) if match[2] else np.arange(count)).reshape(tuple(sizes.values()))
    inner = [place for place, name in enumerate(sizes) if name in within]
    outer = [place for place in range(len(sizes)) if place not in inner]
    return devices.transpose(*outer, *inner).reshape(-1, math.prod(sizes[name] for name in within)).tolist()


def _iota(dims: str, order: str | None) -> Int[np.ndarray, "..."]:
    sizes = [int(n) for n in dims.strip("[]").split(",")]
    numbers = np.arange(math.prod(sizes)).reshape(sizes)
    return numbers.transpose([int(n) for n in order.split(",")]).reshape(-1) if order else numbers.reshape(-1)
