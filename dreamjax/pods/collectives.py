"""The collectives of a step: the axis of the mesh, the bytes, and how often each runs.

They are read from a compiled program (`find`), or follow from the layout of the parameters (`of_training`).
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from dreamjax.parallel.mesh import AnyMesh
from dreamjax.pods.hlo import Computation, HloProgram, Instruction, Shape
from dreamjax.pods.topologies import Pod

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
RECEIVED = {kind: lambda n: (n - 1) / n for kind in ("all-gather", "reduce-scatter", "all-to-all")}
RECEIVED |= {"all-reduce": lambda n: 2 * (n - 1) / n, "permute": lambda n: 1.0, "broadcast": lambda n: 1.0}
# that take no time
FREE = ("get-tuple-element", "tuple", "bitcast", "parameter", "constant", "while", "conditional", "call", "after-all")
CHAIN, STARTS = "chain_id=", '"AsyncCollectiveStart"'
SLICES = "slices"  # the axis of transfers over the network between slices


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
    name: str = ""  # of its instruction

    @property
    def received(self) -> float:
        """Return the bytes that a chip receives in a step."""
        return self.payload * self.times * RECEIVED[self.kind](self.group)


# ----------------------------------------------------------------------------------------------- of a compiled program
@dataclass(frozen=True)
class ProgramCollectives:
    """The collectives of a program. `unknown`: unrecognised forms of opcodes that move data → how many."""

    collectives: list[Collective]
    unknown: Mapping[str, int]


def find(program: HloProgram, axes: Mapping[str, int]) -> ProgramCollectives:
    """Return every collective of a step. `axes`: name → size of the mesh, in the order of its device numbers."""
    collectives, unknown = [], Counter[str]()
    for computation, one, times in program.executed():
        opcode = one.opcode.removesuffix("-start")
        if opcode in KINDS and not _is_continued(computation, one):
            if (groups := _groups(one)) is None:
                unknown[f"{one.opcode} (its groups)"] += 1
            elif len(groups[0]) > 1:
                collectives.append(_collective(program, computation, one, times, groups[0], axes))
        elif one.opcode == "send":
            if (sent := _sent(computation, one, times)) is None:
                unknown["send (what for)"] += 1
            else:
                collectives.append(sent)
        elif opcode not in KINDS and re.match(r"(all-|collective-|reduce-scatter|ragged)(?!.*-done$)", opcode):
            unknown[one.opcode] += 1
    return ProgramCollectives(collectives, dict(unknown))


def _collective(
    program: HloProgram,
    computation: Computation,
    one: Instruction,
    times: float,
    group: Sequence[int],
    axes: Mapping[str, int],
) -> Collective:
    kind, given = KINDS[one.opcode.removesuffix("-start")], _given(computation, one)
    if kind == "all-reduce":
        given = one.results  # of the types that are summed, also where it converts what it is given
        if computation.name in program.fused and _is_cut(computation):
            kind = "reduce-scatter"  # TPU's compiler writes it as a fusion of a sum and of each chip's slice of it
    payload = _bytes(given) * (len(group) if kind == "all-gather" else 1)
    overlapped = CHAIN in one.rest or (one.opcode.endswith("-start") and _has_work_until_done(computation, one))
    along = axes_of(group, axes)
    return Collective(kind, along, len(group), payload, times, _types(given), overlapped, tuple(group), one.name)


def _has_work_until_done(computation: Computation, start: Instruction) -> bool:
    """Return whether other instructions run between the start of a transfer and its end, in the program's order."""
    names = list(computation.instructions)
    for name in names[names.index(start.name) + 1 :]:
        one = computation.instructions[name]
        if one.opcode.endswith("-done") and start.name in one.operands:
            return False
        if one.opcode not in FREE and one.opcode.removesuffix("-start").removesuffix("-done") not in KINDS:
            return True
    return True  # its end is in another computation


def _given(computation: Computation, one: Instruction) -> Sequence[Shape]:
    return [shape for operand in computation.operands(one) for shape in operand.results if shape.kind != "token"]


def _bytes(shapes: Iterable[Shape]) -> float:
    return sum(shape.bytes for shape in shapes)


def _types(shapes: Iterable[Shape]) -> tuple[str, ...]:
    return tuple(sorted({shape.kind for shape in shapes}))


def split_among_nodes(collectives: Iterable[Collective], pod: Pod) -> list[Collective]:
    """Return the collectives of a program for GPUs as they are executed: within each node, and between nodes."""
    parts = []
    for one in collectives:
        group = np.asarray(one.members)
        for part in among(group, pod, one.kind, " x ".join(one.axes), one.payload):
            kept = replace(part, times=one.times, types=one.types, overlapped=one.overlapped, name=one.name)
            parts.append(kept)
    return parts


def _is_continued(computation: Computation, one: Instruction) -> bool:
    """Return whether this only continues what another fusion started.

    TPU's compiler hides a collective behind other work by a chain of fusions, which all contain it: the first starts
    it, the next advance it while they compute, the last awaits it.
    """
    inside = [other.rest for other in computation.instructions.values() if other.opcode == "custom-call"]
    return CHAIN in one.rest and not any(STARTS in rest for rest in inside)


def _is_cut(computation: Computation) -> bool:
    """Return whether each chip keeps only a piece of the all-reduce in a fusion."""
    opcodes = {one.opcode for one in computation.instructions.values()}
    whole = max((one.bytes for one in computation.instructions.values() if one.opcode == "all-reduce"), default=0.0)
    kept = computation.instructions[computation.root].bytes
    return "dynamic-slice" in opcodes and kept < whole


def _sent(computation: Computation, one: Instruction, times: float) -> Collective | None:
    """Return a transfer between slices: the host's runtime executes it, and only its attributes describe it."""
    transfer = re.search(r'_xla_megascale_transfer_type="(\w+)"', one.rest)
    target = re.search(r'_xla_megascale_target="\{([\d,]+)\}', one.rest)
    if transfer is None or target is None or (name := transfer[1].lower().replace("_", "-")) not in KINDS:
        return None
    given, group = _given(computation, one), len(target[1].split(","))
    payload = _bytes(given) * (group if name == "all-gather" else 1)
    return Collective(KINDS[name], (SLICES,), group, payload, times, _types(given), True, ())


def axes_of(group: Sequence[int], axes: Mapping[str, int]) -> tuple[str, ...]:
    """Return the axes of the mesh along which the devices of a group differ."""
    places = np.unravel_index(np.asarray(group), tuple(axes.values()))
    return tuple(name for name, place in zip(axes, places, strict=True) if len(set(place.tolist())) > 1)


def _groups(one: Instruction) -> list[list[int]] | None:
    """Return the groups of partitions; None where they are written in an unknown form."""
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
    """Parse replica_groups=mesh['a'=16,'b'=16], device_ids=([16,16]T(1,0)) {'b'}."""
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


# -------------------------------------------------------------------------------------------------- of the layout alone
def of_training(count: int, mesh: AnyMesh, pod: Pod) -> list[Collective]:
    """Return the collectives of data and fsdp for `count` trained parameters: kernels gathered forward and backward,
    gradients summed in float32.

    That is what the compiled programs of pretraining hold, to 1 % (tests/pods).
    """
    members, collectives = _members(mesh), gathered(count, mesh, pod, 2)
    if mesh.shape["fsdp"] > 1:
        collectives += among(members[0, :, 0], pod, "reduce-scatter", "fsdp", 4.0 * count)
    if mesh.shape["data"] > 1:
        collectives += among(members[:, 0, 0], pod, "all-reduce", "data", 4.0 * count / mesh.shape["fsdp"])
    return collectives


def gathered(count: int, mesh: AnyMesh, pod: Pod, times: int) -> list[Collective]:
    """Return the collectives that gather `count` fsdp-sharded parameters in bfloat16, `times` times."""
    if mesh.shape["fsdp"] == 1:
        return []
    return among(_members(mesh)[0, :, 0], pod, "all-gather", "fsdp", 2.0 * count, times, "bf16")


def _members(mesh: AnyMesh) -> Int[np.ndarray, "data fsdp tensor"]:
    return np.arange(mesh.size).reshape(mesh.shape["data"], mesh.shape["fsdp"], -1)


def among(
    group: Int[np.ndarray, "n"], pod: Pod, kind: str, axis: str, payload: float, times: int = 1, kept_as: str = "f32"
) -> list[Collective]:
    """Return a collective as it is executed within and between nodes (or slices).

    Where several devices of a node take part, each sends only its share through the network, and the rest goes over
    the links within the node.
    """

    def over(kind: str, axis: str, group: Int[np.ndarray, "n"], payload: float) -> Collective:
        return Collective(kind, (axis,), len(group), payload, times, (kept_as,), times > 1, tuple(group.tolist()))

    home = group // (pod.devices // pod.slices)
    inside = group[home == home[0]]
    if len(inside) == len(group):
        return [over(kind, axis, group, payload)]
    collectives = [over(kind, SLICES, group[:: len(inside)], payload / len(inside))]
    if len(inside) > 1:
        within = [one for one in ("reduce-scatter", "all-gather") if kind in (one, "all-reduce")]
        collectives += [over(one, axis, inside, payload) for one in within]
    return collectives
