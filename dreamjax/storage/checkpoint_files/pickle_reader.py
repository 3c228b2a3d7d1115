"""Read a pickle without unpickling it: a stack machine over `pickletools.genops` that never imports and never calls.

A pickle is a program; its REDUCE, BUILD, INST, OBJ and NEWOBJ opcodes call what its GLOBAL opcodes import. This machine
does neither. A global that is in the caller's table (torch and NumPy reconstructions, see `torch_pickle`) becomes one
of our functions; every other global becomes an `Inert` placeholder, and so does whatever is made from a placeholder.
Whatever the bytes are, `interpret` returns or raises one UserError: the work is linear in the length of the pickle, and
what it may allocate is bounded.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from dreamjax.errors import UserError

Value = Any  # anything that a pickle can describe
MAX_OPCODES = 10_000_000  # an opcode makes at most one container, of at most 216 bytes
MAX_KEY_ITEMS = 64  # scalars in one dictionary key: hashing (t, t) of (t, t) of … takes exponential time
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
        """Push a value."""
        self.stack.append(value)

    def top(self) -> Value:
        """Return the top of the stack."""
        if not self.stack:
            raise Malformed("its stack runs empty")
        return self.stack[-1]

    def pop(self) -> Value:
        """Remove and return the top of the stack."""
        if not self.stack:
            raise Malformed("its stack runs empty")
        return self.stack.pop()

    def pop_mark(self) -> list:
        """Remove and return everything above the last mark."""
        if not self.marks:
            raise Malformed("it closes a group that it never opened")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def find(self, name: str) -> Value:
        """Return the table's entry for a global, or a placeholder."""
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

    def set_items(self, pairs: list) -> None:
        """Set items of the dictionary on top of the stack."""
        target = self.top()
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


def _pairs(flat: list) -> list[tuple[Value, Value]]:
    if len(flat) % 2:
        raise Malformed("a dictionary has a key without a value")
    return list(zip(flat[::2], flat[1::2], strict=True))


# ------------------------------------------------------------------------------------------------------ the opcodes
Opcode = Callable[[Machine, Value], object]


def _memoize(m: Machine, index: Value) -> None:
    m.memo[int(index)] = m.top()


def _recall(m: Machine, index: Value) -> None:
    if int(index) not in m.memo:
        raise Malformed("it recalls what it never stored")
    m.push(m.memo[int(index)])


def _push_tuple(count: int) -> Opcode:
    return lambda m, _: m.push(tuple([m.pop() for _ in range(count)][::-1]))


def _push_dict(m: Machine, _: Value) -> None:
    items = m.pop_mark()
    m.push({})
    m.set_items(_pairs(items))


def _mark(m: Machine, _: Value) -> None:
    m.marks.append(m.stack)
    m.stack = []


def _pop(m: Machine, _: Value) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.pop_mark()


def _set_item(m: Machine, _: Value) -> None:
    value, key = m.pop(), m.pop()
    m.set_items([(key, value)])


def _global(m: Machine, arg: Value) -> Value:
    return m.find(str(arg).replace(" ", ".", 1))  # genops joins module and name by a space


def _stack_global(m: Machine, _: Value) -> None:
    name, module = m.pop(), m.pop()
    if not (isinstance(name, str) and isinstance(module, str)):
        raise Malformed("it imports something that is not a name")
    m.push(m.find(f"{module}.{name}"))


def _reduce(m: Machine, _: Value) -> None:
    args, function = m.pop(), m.pop()
    m.push(m.call(function, args))


def _new_with_keywords(m: Machine, _: Value) -> None:
    keywords, args, cls = m.pop(), m.pop(), m.pop()
    m.push(m.call(cls, args) if not keywords else Inert(getattr(cls, "name", "an object"), (args, keywords)))


def _instance(m: Machine, arg: Value) -> None:
    args = m.pop_mark()
    m.push(m.call(_global(m, arg), tuple(args)))


def _object(m: Machine, _: Value) -> None:
    items = m.pop_mark()
    if not items:
        raise Malformed("it makes an object without a class")
    m.push(m.call(items[0], tuple(items[1:])))


def _persistent(m: Machine, pid: Value) -> None:
    m.push(m.persistent(m, pid) if m.persistent else Inert("a persistent id"))


def _buffer(m: Machine, _: Value) -> None:
    raise Malformed("its arrays lie in buffers outside of the file")


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
    "DICT": _push_dict,
    "FROZENSET": lambda m, _: m.push(frozenset(map(checked_key, m.pop_mark()))),
    "TUPLE1": _push_tuple(1),
    "TUPLE2": _push_tuple(2),
    "TUPLE3": _push_tuple(3),
    "APPEND": lambda m, _: m.add_items([m.pop()]),
    "APPENDS": lambda m, _: m.add_items(m.pop_mark()),
    "ADDITEMS": lambda m, _: m.add_items(m.pop_mark()),
    "SETITEM": _set_item,
    "SETITEMS": lambda m, _: m.set_items(_pairs(m.pop_mark())),
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": lambda m, _: m.pop_mark(),
    "DUP": lambda m, _: m.push(m.top()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _memoize),
    "MEMOIZE": lambda m, _: _memoize(m, len(m.memo)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _recall),
    "GLOBAL": lambda m, arg: m.push(_global(m, arg)),
    "STACK_GLOBAL": _stack_global,
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), lambda m, code: m.push(Inert(f"extension {code}"))),
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_with_keywords,
    "INST": _instance,
    "OBJ": _object,
    "BUILD": lambda m, _: m.build(m.pop()),
    "PERSID": _persistent,
    "BINPERSID": lambda m, _: _persistent(m, m.pop()),
    **dict.fromkeys(("NEXT_BUFFER", "READONLY_BUFFER"), _buffer),
    **dict.fromkeys(("PROTO", "FRAME"), lambda m, _: None),
}


def interpret(
    stream: BinaryIO, size: int, table: Mapping[str, object], source: str, persistent: Persistent | None = None
) -> Value:
    """Return the object that the pickle at the stream's position describes; nothing is executed.

    Args:
        stream: is left after the pickle's STOP.
        size: the length of the pickle in bytes, at most.
        table: "module.name" of a global → an `AllowedFunction`, or the value of a constant.
        source: what error messages begin with.
        persistent: makes the object of a persistent id.

    Raises:
        UserError: for bytes that are not a pickle, and for a pickle that asks for too much.
    """
    machine = Machine(table, persistent, budget=4 * size + SPARE_BYTES)
    try:
        for count, (opcode, arg, _) in enumerate(pickletools.genops(stream)):
            if opcode.name == "STOP":
                return machine.pop()
            if count >= MAX_OPCODES:
                raise Malformed(f"it has more than {MAX_OPCODES:,} instructions")
            OPCODES[opcode.name](machine, arg)
        raise Malformed("it has no end")
    except Malformed as problem:
        raise UserError(f"{source}: the pickle in this file is not readable ({problem}); save it again") from problem
    except (MemoryError, RecursionError) as problem:
        raise UserError(f"{source}: the pickle in this file is too large or too deep to be read") from problem
    except Exception as problem:  # genops answers damaged bytes with a dozen kinds of error, and files come from anyone
        raise UserError(
            f"{source}: the pickle in this file is damaged ({type(problem).__name__}: {problem})"
        ) from problem
