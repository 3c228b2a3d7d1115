"""Read a pickle without unpickling it: a stack machine over pickle's opcodes that never imports and never calls.

A pickle is a program; its REDUCE, BUILD, INST, OBJ and NEWOBJ opcodes call what its GLOBAL opcodes import. This machine
does neither. A global that is in the caller's table (torch and NumPy reconstructions, see `torch_pickle`) becomes one
of our functions; every other global becomes an `Inert` placeholder, and so does whatever is made from a placeholder.
Whatever the bytes are, `interpret` returns or raises one UserError: the work is linear in the length of the pickle, and
what it may allocate is bounded.
"""

import mmap
import pickletools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from dreamjax.errors import UserError

Value = Any  # anything that a pickle can describe
MAX_OPCODES = 10_000_000  # an opcode makes at most one container, of at most 216 bytes
MAX_KEY_ITEMS = 64  # scalars in one dictionary key: hashing (t, t) of (t, t) of … takes exponential time
LONG = 1 << 16  # bytes: longer strings of bytes stay in a memory-mapped file
LONG_BYTES = {"BINBYTES": 4, "BINBYTES8": 8, "BYTEARRAY8": 8}  # opcode → bytes of its length
SPARE_BYTES = 64 << 20  # what the table's functions may allocate beyond four times the pickle


class Malformed(Exception):
    """The bytes are not a pickle that this machine can follow."""


class Unsupported(Exception):
    """A function of the table got arguments that it does not take; its result becomes a placeholder."""


class Inert:
    """Placeholder for an object whose class or function is not in the table. It holds data and does nothing."""

    __slots__ = ("args", "items", "name", "state")

    def __init__(self, name: str, args: tuple = ()):
        self.name, self.args = name, args
        self.state: Value = None
        self.items: list = []  # from APPEND, ADDITEMS and SETITEM(S)

    @property
    def attributes(self) -> dict[str, Value]:
        """Return the attributes that BUILD set: `config.num_heads` of a pickled config object."""
        parts = self.state if isinstance(self.state, tuple) else (self.state,)
        return {str(k): v for part in parts if isinstance(part, dict) for k, v in part.items()}

    def __repr__(self) -> str:
        return f"<{self.name}, not executed>"


@dataclass(frozen=True)
class AllowedFunction:
    """A function of the table: `call(machine, args)` is ours and checks its arguments."""

    name: str
    call: Callable[["Machine", tuple], Value]


Persistent = Callable[["Machine", Value], Value]


@dataclass
class Machine:
    """One run over one pickle. `table` maps "module.name" to an `AllowedFunction` or to the value of a constant."""

    table: Mapping[str, object]
    persistent: Persistent | None
    budget: int  # bytes that functions of the table may still allocate
    stack: list = field(default_factory=list)
    marks: list[list] = field(default_factory=list)
    memo: dict[int, Value] = field(default_factory=dict)

    def charge(self, size: int) -> None:
        """Account for `size` bytes: a short program may not ask for many copies of a long string."""
        self.budget -= size
        if self.budget < 0:
            raise Malformed("it would take far more memory than the file is long")

    def push(self, value: Value) -> None:
        self.stack.append(value)

    def top(self) -> Value:
        if not self.stack:
            raise Malformed("its stack runs empty")
        return self.stack[-1]

    def pop(self) -> Value:
        value = self.top()
        del self.stack[-1]
        return value

    def pop_mark(self) -> list:
        """Remove and return everything above the last mark."""
        if not self.marks:
            raise Malformed("it closes a group that it never opened")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def find(self, name: Value) -> Value:
        """Return the table's entry for a global, or a placeholder."""
        name = str(name).replace(" ", ".", 1)  # genops joins module and name by a space
        return self.table[name] if name in self.table else Inert(name)

    def call(self, function: Value, args: Value) -> Value:
        """Return what stands for `function(*args)`."""
        if not isinstance(args, tuple):
            raise Malformed("it calls something without a tuple of arguments")
        if isinstance(function, AllowedFunction):
            try:
                return function.call(self, args)
            except Unsupported:
                return Inert(function.name, args)
        if isinstance(function, Inert):
            return Inert(function.name, args)
        return Inert(f"a {type(function).__name__}", args)  # not callable in Python either

    def build(self, state: Value) -> None:
        """Apply `state` to the top of the stack: only placeholders and unfinished arrays take one."""
        target = self.top()
        if isinstance(target, Inert):
            target.state = state if target.state is None else (target.state, state)
        elif hasattr(type(target), "set_state"):
            target.set_state(self, state)
        # an OrderedDict's attributes (state_dict()._metadata) and the like are not needed

    def set_items(self, flat: list) -> None:
        """Set items, key after value after key, of the dictionary on top of the stack."""
        if len(flat) % 2:
            raise Malformed("a dictionary has a key without a value")
        target, pairs = self.top(), list(zip(flat[::2], flat[1::2], strict=True))
        if isinstance(target, Inert):
            target.items += pairs
        elif isinstance(target, dict):
            for key, value in pairs:
                target[checked_key(key)] = value
        else:
            raise Malformed("it sets an item of something that is not a dictionary")

    def add_items(self, items: list) -> None:
        """Add items to the list or set on top of the stack."""
        target = self.top()
        if isinstance(target, Inert):
            target.items += items
        elif isinstance(target, list):
            target += items
        elif isinstance(target, set):
            target.update(checked_key(item) for item in items)
        else:
            raise Malformed("it appends to something that is not a list")

    # the opcodes that take more than an expression; each is given the opcode's argument
    def memoize(self, index: Value) -> None:
        self.memo[int(index)] = self.top()

    def recall(self, index: Value) -> None:
        if int(index) not in self.memo:
            raise Malformed("it recalls what it never stored")
        self.push(self.memo[int(index)])

    def push_dict(self, _: Value) -> None:
        items = self.pop_mark()
        self.push({})
        self.set_items(items)

    def mark(self, _: Value) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def discard(self, _: Value) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def named_on_stack(self, _: Value) -> None:
        name, module = self.pop(), self.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise Malformed("it imports something that is not a name")
        self.push(self.find(f"{module}.{name}"))

    def reduce(self, _: Value) -> None:
        args, function = self.pop(), self.pop()
        self.push(self.call(function, args))

    def new_with_keywords(self, _: Value) -> None:
        keywords, args, cls = self.pop(), self.pop(), self.pop()
        self.push(self.call(cls, args) if not keywords else Inert(getattr(cls, "name", "an object"), (args, keywords)))

    def instance(self, name: Value) -> None:
        args = self.pop_mark()
        self.push(self.call(self.find(name), tuple(args)))

    def from_class(self, _: Value) -> None:
        items = self.pop_mark()
        if not items:
            raise Malformed("it makes an object without a class")
        self.push(self.call(items[0], tuple(items[1:])))

    def persistent_id(self, pid: Value) -> None:
        self.push(self.persistent(self, pid) if self.persistent else Inert("a persistent id"))

    def refuse_buffer(self, _: Value) -> None:
        raise Malformed("its arrays lie in buffers outside of the file")


def checked_key(key: Value) -> Value:
    """Return `key` if hashing it takes bounded time."""
    waiting, seen = [key], 0
    while waiting:
        item = waiting.pop()
        seen += 1
        if isinstance(item, (list, dict, set, bytearray)) or seen > MAX_KEY_ITEMS:
            raise Malformed("it uses a container as a key")
        if isinstance(item, (tuple, frozenset)):
            if len(item) > MAX_KEY_ITEMS:
                raise Malformed("it uses a container as a key")
            waiting += item
    return key


Opcode = Callable[[Machine, Value], object]


def _push_tuple(count: int) -> Opcode:
    return lambda m, _: m.push(tuple([m.pop() for _ in range(count)][::-1]))


_PUSH_ARGUMENT = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
)
OPCODES: dict[str, Opcode] = {
    **dict.fromkeys(_PUSH_ARGUMENT, lambda m, arg: m.push(arg)),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_SET": lambda m, _: m.push(set()),
    "LIST": lambda m, _: m.push(m.pop_mark()),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_mark())),
    "DICT": Machine.push_dict,
    "FROZENSET": lambda m, _: m.push(frozenset(map(checked_key, m.pop_mark()))),
    "TUPLE1": _push_tuple(1),
    "TUPLE2": _push_tuple(2),
    "TUPLE3": _push_tuple(3),
    "APPEND": lambda m, _: m.add_items([m.pop()]),
    "APPENDS": lambda m, _: m.add_items(m.pop_mark()),
    "ADDITEMS": lambda m, _: m.add_items(m.pop_mark()),
    "SETITEM": lambda m, _: m.set_items([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, _: m.set_items(m.pop_mark()),
    "MARK": Machine.mark,
    "POP": Machine.discard,
    "POP_MARK": lambda m, _: m.pop_mark(),
    "DUP": lambda m, _: m.push(m.top()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), Machine.memoize),
    "MEMOIZE": lambda m, _: m.memoize(len(m.memo)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Machine.recall),
    "GLOBAL": lambda m, name: m.push(m.find(name)),
    "STACK_GLOBAL": Machine.named_on_stack,
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), lambda m, code: m.push(Inert(f"extension {code}"))),
    "REDUCE": Machine.reduce,
    "NEWOBJ": Machine.reduce,
    "NEWOBJ_EX": Machine.new_with_keywords,
    "INST": Machine.instance,
    "OBJ": Machine.from_class,
    "BUILD": lambda m, _: m.build(m.pop()),
    "PERSID": Machine.persistent_id,
    "BINPERSID": lambda m, _: m.persistent_id(m.pop()),
    **dict.fromkeys(("NEXT_BUFFER", "READONLY_BUFFER"), Machine.refuse_buffer),
    **dict.fromkeys(("PROTO", "FRAME"), lambda m, _: None),
}


BY_CODE = {opcode.code: opcode for opcode in pickletools.opcodes}


def _instructions(stream: BinaryIO | mmap.mmap) -> Iterator[tuple[str, Value]]:
    """Yield (opcode, argument) as `pickletools.genops`, but long bytes of a memory-mapped file as views of it."""
    while True:
        code = stream.read(1)
        if (opcode := BY_CODE.get(code.decode("latin-1"))) is None:
            raise Malformed(f"it has the unknown instruction {code!r}" if code else "it has no end")
        if isinstance(stream, mmap.mmap) and opcode.name in LONG_BYTES:
            start = stream.tell() + LONG_BYTES[opcode.name]
            count = int.from_bytes(stream.read(start - stream.tell()), "little")
            if start + count > len(stream):
                raise Malformed(f"{count:,} bytes are announced, and the file ends before")
            arg = memoryview(stream)[start : start + count]
            stream.seek(start + count)
            yield opcode.name, arg if count > LONG else bytes(arg)
        else:
            yield opcode.name, None if opcode.arg is None else opcode.arg.reader(stream)  # type: ignore[arg-type]


def interpret(
    stream: BinaryIO | mmap.mmap,
    size: int,
    table: Mapping[str, object],
    source: str,
    persistent: Persistent | None = None,
) -> Value:
    """Return the object that the pickle at the stream's position describes; nothing is executed.

    `stream` is left after the pickle's STOP. `size`: its length in bytes, at most. `table`: "module.name" of a global →
    an `AllowedFunction`, or the value of a constant. `source`: what error messages begin with. `persistent`: makes the
    object of a persistent id. Raises UserError for bytes that are not a pickle, and for one that asks for too much.
    """
    machine = Machine(table, persistent, budget=4 * size + SPARE_BYTES)
    try:
        for count, (name, arg) in enumerate(_instructions(stream)):
            if name == "STOP":
                return machine.pop()
            if count >= MAX_OPCODES:
                raise Malformed(f"it has more than {MAX_OPCODES:,} instructions")
            OPCODES[name](machine, arg)
        raise AssertionError  # the loop ends at STOP
    except Malformed as problem:
        raise UserError(f"{source}: the pickle in this file is not readable ({problem}); save it again") from problem
    except (MemoryError, RecursionError) as problem:
        raise UserError(f"{source}: the pickle in this file is too large or too deep to be read") from problem
    except Exception as problem:  # genops answers damaged bytes with a dozen kinds of error, and files come from anyone
        raise UserError(
            f"{source}: the pickle in this file is damaged ({type(problem).__name__}: {problem})"
        ) from problem
