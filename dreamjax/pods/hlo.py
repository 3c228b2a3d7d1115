"""The text of a compiled program, read: its instructions, and how often a step runs each.

    program = hlo.read(compiled.as_text())
    for instruction, times in program.executed():
        …

XLA counts the body of a loop once in its own statistics and does not write down how often it runs; here trips come from
the loop's condition and its start.
"""

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

WIDTHS = {
    "pred": 1,
    "s4": 0.5,
    "u4": 0.5,
    "s8": 1,
    "u8": 1,
    "s16": 2,
    "u16": 2,
    "bf16": 2,
    "f16": 2,
    "s32": 4,
    "u32": 4,
}
WIDTHS |= {"f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16, "token": 0, "opaque": 0}
ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](?:\{([^{}]*)\})?")
HEAD = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+)\s*\(.*\{\s*$")
CALLED = re.compile(r"\b(calls|to_apply|body|condition|branch_computations|called_computations)=(\{[^}]*\}|%?[\w.\-]+)")
NAME = re.compile(r"%([\w.\-]+)")


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
        """An integer of the backend's own configuration, such as estimated_cycles."""
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
        """Computation → how often a step runs it; a loop whose trips cannot be told (see `loops`) counts once."""
        times = dict.fromkeys(self.computations, 0.0)
        for name in self._callers_first():
            here = 1.0 if name == self.entry else times[name]
            times[name] = here
            for instruction in self.computations[name].instructions.values():
                for how, called in instruction.called:
                    if called in times:
                        times[called] += here * self._runs(name, instruction, how)
        return times

    def executed(self, *, fused: bool = True) -> Iterator[tuple[Computation, Instruction, float]]:
        """Every instruction that runs, and how often; without `fused`, a fusion as one."""
        inner = set() if fused else self.fused
        for name, computation in self.computations.items():
            if self.times[name] and name not in inner:
                for instruction in computation.instructions.values():
                    yield computation, instruction, self.times[name]

    def loops(self) -> list[tuple[Instruction, int | None]]:
        """Every loop that runs, with its trips where they can be told."""
        loops = []
        for computation, instruction, _ in self.executed():
            if instruction.opcode == "while":
                loops.append((instruction, self._trips(computation, instruction)))
        return loops

    @functools.cached_property
    def fused(self) -> set[str]:
        """Computations that run as a part of one instruction: fusions' and reducers', with all that they call."""
        names: set[str] = set()
        for name in self._callers_first():
            for instruction in self.computations[name].instructions.values():
                for how, called in instruction.called:
                    if name in names or how == "to_apply" or (how == "calls" and instruction.opcode == "fusion"):
                        names.add(called)
        return names

    def _callers_first(self) -> list[str]:
        order: list[str] = []
        seen: set[str] = set()
        stack = [(self.entry, False)]
        while stack:
            name, done = stack.pop()
            if done:
                order.append(name)
            elif name not in seen and name in self.computations:
                seen.add(name)
                stack.append((name, True))
                for instruction in self.computations[name].instructions.values():
                    stack += [(called, False) for _, called in instruction.called]
        return order[::-1]

    def _runs(self, name: str, instruction: Instruction, how: str) -> float:
        if instruction.opcode != "while":
            return 1.0
        trips = self._trips(self.computations[name], instruction)
        return 1.0 if trips is None else trips + (how == "condition")

    # --------------------------------------------------------------------------------------------------- loops' trips
    def _trips(self, around: Computation, loop: Instruction) -> int | None:
        """Of a loop that counts: from its start by its step up to, without, the limit of its condition."""
        if (known := re.search(r'known_trip_count["=:{\\ ]+n"?:"?(\d+)', loop.rest)) is not None:
            return int(known[1])
        called = dict(loop.called)
        condition, body = (self.computations.get(called.get(how, "")) for how in ("condition", "body"))
        if condition is None or body is None:
            return None
        test = self._comparison(condition)
        if test is None:
            return None
        place, limit, direction = test
        start, step = self._start(around, loop, place), self._step(body, place)
        end = self._start(around, loop, limit[1]) if isinstance(limit, tuple) else limit
        if start is None or not step or end is None or (step > 0) != (direction in ("LT", "LE")):
            return None
        return max(0, -(-(end - start + (direction == "LE") - (direction == "GE")) // step))

    def _comparison(self, condition: Computation) -> "tuple[int, int | tuple[str, int], str] | None":
        """(place of the counter, limit or the place of it, direction) of `counter < limit`."""
        outer, test = condition, condition.instructions[condition.root]
        given: dict[int, Instruction] = {}
        if test.opcode == "fusion":
            outer, given = condition, dict(enumerate(condition.operands(test)))
            inner = self.computations[test.called[0][1]]
            test = inner.instructions[inner.root]
        else:
            inner = condition
        known = re.search(r"direction=(\w+)", test.rest)
        if test.opcode != "compare" or known is None:
            return None
        sides = [self._value(inner, one, given, outer) for one in inner.operands(test)]
        if len(sides) != 2:
            return None
        direction, (left, right) = known[1], sides
        if not isinstance(left, tuple):  # limit > counter
            left, right = right, left
            direction = {"GT": "LT", "GE": "LE", "LT": "GT", "LE": "GE"}.get(direction, direction)
        return (left[1], right, direction) if isinstance(left, tuple) and right is not None else None

    def _value(
        self, inner: Computation, one: Instruction, given: dict[int, Instruction], outer: Computation
    ) -> "int | tuple[str, int] | None":
        """A constant, or ("place", i) of the loop's state."""
        while one.opcode in ("copy", "bitcast", "convert", "reshape"):
            below = inner.operands(one)
            if not below:
                return None
            one = below[0]
        if one.opcode == "parameter" and given:
            number = int(one.rest)
            return self._value(outer, given[number], {}, outer) if number in given else None
        if one.opcode == "constant":
            match = re.match(r"-?\d+", one.rest)
            return int(match[0]) if match else None
        if one.opcode == "get-tuple-element":
            return ("place", int(re.search(r"index=(\d+)", one.rest)[1]))  # type: ignore[index]
        return None

    def _start(self, around: Computation, loop: Instruction, place: int) -> int | None:
        state = around.operands(loop)
        if not state or state[0].opcode != "tuple":
            return None
        value = self._value(around, around.operands(state[0])[place], {}, around)
        return value if isinstance(value, int) else None

    def _step(self, body: Computation, place: int) -> int | None:
        root = body.instructions[body.root]
        if root.opcode != "tuple":
            return None
        following, given, inner = body.operands(root)[place], {}, body
        while following.opcode in ("copy", "bitcast"):
            following = body.operands(following)[0]
        if following.opcode == "fusion":
            given = dict(enumerate(body.operands(following)))
            inner = self.computations[following.called[0][1]]
            following = inner.instructions[inner.root]
        if following.opcode not in ("add", "subtract"):
            return None
        values = [self._value(inner, one, given, body) for one in inner.operands(following)]
        steps = [value for value in values if isinstance(value, int)]
        if len(steps) != 1 or ("place", place) not in values:
            return None
        return steps[0] if following.opcode == "add" else -steps[0]


# ------------------------------------------------------------------------------------------------------------- the text
def read(text: str) -> HloProgram:
    """Raises ValueError where there is no entry."""
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
    end = _closing(text, 0) + 1 if text.startswith("(") else _end_of_type(text)
    results, rest = text[:end], text[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    start = len(opcode)
    stop = _closing(rest, start)
    inside, after = rest[start + 1 : stop], rest[stop + 1 :]
    if opcode in ("constant", "parameter"):
        return Instruction(name, opcode, _shapes(results), (), inside)
    called = tuple(
        (how, one) for how, names in CALLED.findall(after) for one in re.findall(r"[\w.\-]+", names.replace("%", ""))
    )
    return Instruction(name, opcode, _shapes(results), tuple(NAME.findall(inside)), after, called)


def _closing(text: str, start: int) -> int:
    """Of the parenthesis at `start`, the place of the one that closes it."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"a parenthesis is not closed: {text[:80]}")


def _end_of_type(text: str) -> int:
    """Of `f32[8,128]{1,0:T(8,128)} add(…)`, the place of the space."""
    match = ARRAY.match(text)
    return match.end() if match else text.index(" ")


def _shapes(text: str) -> tuple[Shape, ...]:
    return tuple(
        Shape(kind, tuple(int(n) for n in dims.split(",") if n), "S(1)" in layout)
        for kind, dims, layout in ARRAY.findall(text)
    )
