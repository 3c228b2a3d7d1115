"""Parse the text of a compiled program: its instructions, and how often a step runs each.

    program = hlo.read(compiled.as_text())
    for computation, instruction, times in program.executed():
        …

XLA counts the body of a loop once in its own statistics and does not write down how often it runs; here trips come from
computing the loop's condition and body on what is known of its state.
"""

import functools
import graphlib
import math
import operator
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

WIDTHS = {f"{kind}{bits}": bits / 8 for kind in ("s", "u", "f", "bf", "c") for bits in (4, 8, 16, 32, 64, 128)}
WIDTHS |= {"pred": 1, "token": 0, "opaque": 0}  # bytes
ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](?:\{([^{}]*)\})?")
HEAD = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+)\s*\(.*\{\s*$")
CALLED = re.compile(r"\b(calls|to_apply|body|condition|branch_computations|called_computations)=(\{[^}]*\}|%?[\w.\-]+)")
NAME = re.compile(r"%([\w.\-]+)")
TRIPS = re.compile(r'known_trip_count["=:{\\ ]+n"?:"?(\d+)')
MOST_TRIPS = 1 << 16  # that are counted
COMPUTED: dict[str, Any] = {"add": operator.add, "subtract": operator.sub, "fusion": None, "compare": None}
COMPUTED |= dict.fromkeys(("copy", "bitcast", "convert", "reshape"), operator.pos)
COMPUTED |= {f"compare {name}": getattr(operator, name.lower()) for name in ("LT", "LE", "GT", "GE", "EQ", "NE")}
Value = int | list["Value"] | None  # an integer, a tuple, or something that is not known


@dataclass(frozen=True)
class Shape:
    """An array: its type, its sizes, and whether it lies in the chip's own fast memory (S(1) of a layout)."""

    kind: str
    dims: tuple[int, ...]
    fast: bool = False

    @property
    def bytes(self) -> float:
        width = WIDTHS.get(self.kind, 1 if self.kind.startswith("f8") else 4)
        return width * math.prod(self.dims)


@dataclass(frozen=True)
class Instruction:
    """`operands` are names of the same computation; `called`: (how, computation)."""

    name: str
    opcode: str
    results: tuple[Shape, ...]
    operands: tuple[str, ...]
    rest: str = field(repr=False)  # what follows the operands: attributes, metadata, the backend's own
    called: tuple[tuple[str, str], ...] = ()

    @property
    def bytes(self) -> float:
        return sum(shape.bytes for shape in self.results)

    def number(self, key: str) -> int | None:
        """Return an integer of the backend's own configuration, such as estimated_cycles."""
        match = re.search(rf'"{key}":"?(-?\d+)', self.rest)
        return int(match[1]) if match else None


@dataclass(frozen=True)
class Computation:
    name: str
    instructions: dict[str, Instruction]
    root: str

    def operands(self, instruction: Instruction) -> list[Instruction]:
        return [self.instructions[name] for name in instruction.operands if name in self.instructions]


@dataclass(frozen=True)
class HloProgram:
    computations: dict[str, Computation]
    entry: str

    @functools.cached_property
    def times(self) -> dict[str, float]:
        """Return computation → how often a step runs it; a loop of unknown trip count (see `loops`) counts once."""
        times = dict.fromkeys(self.computations, 0.0) | {self.entry: 1.0}
        for name, instruction in self._callers_first():
            trips = self._trips(self.computations[name], instruction) if instruction.opcode == "while" else None
            for how, called in instruction.called:
                if called in times:
                    times[called] += times[name] * (1 if trips is None else trips + (how == "condition"))
        return times

    def executed(self, *, fused: bool = True) -> Iterator[tuple[Computation, Instruction, float]]:
        """Yield every instruction that runs, and how often; without `fused`, a fusion counts as one."""
        inner = set() if fused else self.fused
        for name, computation in self.computations.items():
            if self.times[name] and name not in inner:
                for instruction in computation.instructions.values():
                    yield computation, instruction, self.times[name]

    def loops(self) -> list[tuple[Instruction, int | None]]:
        """Return every loop that runs, with its trip count where it is known."""
        return [(one, self._trips(around, one)) for around, one, _ in self.executed() if one.opcode == "while"]

    @functools.cached_property
    def fused(self) -> set[str]:
        """Return the computations that are part of one instruction: fusions' and reducers', with all that they call."""
        names: set[str] = set()
        for name, instruction in self._callers_first():
            for how, called in instruction.called:
                reduces = how == "to_apply" and instruction.opcode != "call"
                if name in names or reduces or (how == "calls" and instruction.opcode == "fusion"):
                    names.add(called)
        return names

    def _callers_first(self) -> Iterator[tuple[str, Instruction]]:
        """Yield (computation, instruction), every computation after those that call it."""
        called = {
            name: {one for instruction in computation.instructions.values() for _, one in instruction.called}
            for name, computation in self.computations.items()
        }
        for name in reversed([*graphlib.TopologicalSorter(called).static_order()]):
            if name in self.computations:
                yield from ((name, one) for one in self.computations[name].instructions.values())

    # --------------------------------------------------------------------------------------------------- loops' trips
    def _trips(self, around: Computation, loop: Instruction) -> int | None:
        """Return how often a loop runs: as the compiler writes, else by computing the integers of its state."""
        if known := TRIPS.search(loop.rest):
            return int(known[1])
        called = dict(loop.called)
        condition, body = (self.computations.get(called.get(how, "")) for how in ("condition", "body"))
        if condition is None or body is None or not (start := around.operands(loop)):
            return None
        state, made = self._value(around, start[0], []), body.operands(body.instructions[body.root])
        if not isinstance(state, list) or len(made) != len(state) or body.instructions[body.root].opcode != "tuple":
            return None
        for trips in range(MOST_TRIPS):
            goes_on = self._value(condition, condition.instructions[condition.root], [state])
            if not isinstance(goes_on, int):
                return None
            if not goes_on:
                return trips
            before, turn = state, zip(state, made, strict=True)
            state = [None if value is None else self._value(body, one, [before]) for value, one in turn]
            if state == before:
                return None
        return None

    def _value(self, within: Computation, one: Instruction, given: Sequence[Value]) -> Value:
        """Return an instruction's result for its computation's arguments, if it is an integer or has integers."""
        if one.opcode == "parameter":
            return given[int(one.rest)] if int(one.rest) < len(given) else None
        operands = within.operands(one)
        if one.opcode == "tuple":
            return [self._value(within, operand, given) for operand in operands]
        if one.opcode == "get-tuple-element":
            state, index = self._value(within, operands[0], given), re.search(r"index=(\d+)", one.rest)
            return state[int(index[1])] if isinstance(state, list) and index else None
        if any(shape.dims or shape.kind[0] not in "sup" for shape in one.results):  # neither s32, u32 nor pred
            return None
        if one.opcode == "constant":
            return int(one.rest) if re.fullmatch(r"-?\d+", one.rest) else None
        if one.opcode not in COMPUTED:
            return None
        values = [self._value(within, operand, given) for operand in operands]
        if one.opcode == "fusion":
            inner = self.computations[one.called[0][1]]
            return self._value(inner, inner.instructions[inner.root], values)
        direction = re.search(r"direction=(\w+)", one.rest)
        function = COMPUTED[f"compare {direction[1]}" if direction else one.opcode]
        return None if None in values else function(*values)


# ------------------------------------------------------------------------------------------------------------- the text
def read(text: str) -> HloProgram:
    """Parse the text of an HLO module. Raise ValueError for one without an entry computation."""
    computations: dict[str, Computation] = {}
    entry, name, root = "", "", ""
    instructions: dict[str, Instruction] = {}
    for line in text.splitlines():
        if not name:
            if match := COMPUTATION.match(line):
                name, instructions, root = match[2], {}, ""
                entry = name if match[1] else entry
        elif line.startswith("}"):
            computations[name] = Computation(name, instructions, root)
            name = ""
        elif match := HEAD.match(line):
            instruction = _instruction(match[2], line[match.end() :])
            instructions[instruction.name] = instruction
            root = instruction.name if match[1] else root
    if not entry:
        raise ValueError("not a program of XLA: ENTRY is missing")
    return HloProgram(computations, entry)


def _instruction(name: str, text: str) -> Instruction:
    if text.startswith("("):
        end = _closing(text, 0) + 1
    else:  # of `f32[8,128]{1,0:T(8,128)} add(…)`, the place of the space
        end = match.end() if (match := ARRAY.match(text)) else text.index(" ")
    results, rest = text[:end], text[end:].lstrip()
    opcode = rest.partition("(")[0]
    stop = _closing(rest, len(opcode))
    inside, after = rest[len(opcode) + 1 : stop], rest[stop + 1 :]
    shapes = tuple(
        Shape(kind, tuple(int(n) for n in dims.split(",") if n), "S(1)" in layout)
        for kind, dims, layout in ARRAY.findall(results)
    )
    if opcode in ("constant", "parameter"):
        return Instruction(name, opcode, shapes, (), inside)
    called = tuple(
        (how, one) for how, names in CALLED.findall(after) for one in re.findall(r"[\w.\-]+", names.replace("%", ""))
    )
    return Instruction(name, opcode, shapes, tuple(NAME.findall(inside)), after, called)


def _closing(text: str, start: int) -> int:
    """Return the index of the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"a parenthesis is not closed: {text[:80]}")
