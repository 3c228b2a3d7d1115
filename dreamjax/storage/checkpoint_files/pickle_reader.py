"""Read a pickle without unpickling it: a stack machine over `pickletools.genops` that never imports and never calls.

A pickle is a program; its REDUCE, BUILD, INST, OBJ and NEWOBJ opcodes call what its GLOBAL opcodes import. This
machine does neither. A global that is in the caller's table (torch and NumPy reconstructions, see `reconstructions`)
becomes one of our own functions; every other global becomes an `Inert` placeholder, and what is made from a placeholder
is a placeholder. Whatever the bytes are, `interpret` returns or raises one UserError: the work is linear in the length
of the pickle, and what it may allocate is bounded.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from dreamjax.errors import UserError

MAX_OPCODES = 10_000_000  # an opcode makes at most one container, of at most 216 bytes
MAX_KEY_ITEMS = 64  # scalars in one dictionary key: hashing (t, t) of (t, t) of … takes exponential time
SPARE_BYTES = 64 << 20  # what the table's functions may allocate beyond four times the pickle


class Malformed(Exception):
    """The bytes are no pickle that this machine can follow."""


class Unsupported(Exception):
    """A function of the table was given what it does not take; its result becomes a placeholder."""


class Inert:
    """What stands for an object whose class or function is not in the table. It holds data and does nothing."""

    __slots__ = ("args", "items", "name", "state")

    def __init__(self, name: str, args: tuple = ()):
        self.name, self.args = name, args
        self.state: Any = None
        self.items: list = []  # what APPEND, ADDITEMS and SETITEM(S) gave it

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes that BUILD set, as they lay in the pickle: `config.num_heads` of a pickled config object."""
        parts = self.state if isinstance(self.state, tuple) else (self.state,)
        return {str(k): v for part in parts if isinstance(part, dict) for k, v in part.items()}

    def __repr__(self) -> str:
        return f"<{self.name}, not executed>"


@dataclass(frozen=True)
class Known:
    """A function of the table: `call(machine, args)` is ours and checks its arguments."""

    name: str
    call: Callable[["Machine", tuple], Any]


Persistent = Callable[["Machine", Any], Any]


@dataclass
class Machine:
    """One run over one pickle. `table` maps "module.name" to a `Known` or to the value of a constant."""

    table: Mapping[str, Any]
    persistent: Persistent | None
    budget: int  # bytes that functions of the table may still allocate
    stack: list = field(default_factory=list)
    marks: list[list] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def charge(self, size: int) -> None:
        """Account for `size` bytes: a short program may not ask for many copies of a long string."""
        self.budget -= size
        if self.budget < 0:
            raise Malformed("it would take far more memory than the file is long")

    def pop(self) -> Any:
        if not self.stack:
            raise Malformed("its stack runs empty")
        return self.stack.pop()

    def pop_mark(self) -> list:
        if not self.marks:
            raise Malformed("it closes what it never opened")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def find(self, name: str) -> Any:
        """The table's entry for a global, or a placeholder."""
        return self.table[name] if name in self.table else Inert(name)

    def call(self, function: Any, args: Any) -> Any:
        """What stands for `function(*args)`."""
        if not isinstance(args, tuple):
            raise Malformed("it calls something without a tuple of arguments")
        if isinstance(function, Known):
            try:
                return function.call(self, args)
            except Unsupported:
                return Inert(function.name, args)
        if isinstance(function, Inert):
            return Inert(function.name, args)
        return Inert(f"a {type(function).__name__}", args)  # not callable in Python either

    def build(self, target: Any, state: Any) -> None:
        """What stands for `target.__setstate__(state)`: only placeholders and unfinished arrays take a state."""
        if isinstance(target, Inert):
            target.state = state if target.state is None else (target.state, state)
        elif hasattr(type(target), "set_state"):
            target.set_state(self, state)
        # an OrderedDict's attributes (state_dict()._metadata) and the like are not needed

    def set_items(self, target: Any, pairs: list) -> None:
        if isinstance(target, Inert):
            target.items += pairs
        elif isinstance(target, dict):
            for key, value in pairs:
                target[checked_key(key)] = value
        else:
            raise Malformed("it sets an item of something that is no dictionary")

    def add_items(self, target: Any, items: list) -> None:
        if isinstance(target, Inert):
            target.items += items
        elif isinstance(target, list):
            target += items
        elif isinstance(target, set):
            target.update(checked_key(item) for item in items)
        else:
            raise Malformed("it appends to something that is no list")


def checked_key(key: Any) -> Any:
    """`key`, if hashing it takes bounded time."""
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


def pairs_of(flat: list) -> list[tuple[Any, Any]]:
    if len(flat) % 2:
        raise Malformed("a dictionary has a key without a value")
    return list(zip(flat[::2], flat[1::2], strict=True))


# ------------------------------------------------------------------------------------------------------ the opcodes
def _memoize(m: Machine, index: Any) -> None:
    m.memo[int(index)] = m.stack[-1] if m.stack else m.pop()


def _recall(m: Machine, index: Any) -> None:
    if int(index) not in m.memo:
        raise Malformed("it recalls what it never stored")
    m.stack.append(m.memo[int(index)])


def _tuple_of(count: int) -> Callable[[Machine, Any], None]:
    def push(m: Machine, _: Any) -> None:
        items = [m.pop() for _ in range(count)]
        m.stack.append(tuple(reversed(items)))

    return push


def _container(make: Callable[[Machine, list], Any]) -> Callable[[Machine, Any], None]:
    def push(m: Machine, _: Any) -> None:
        items = m.pop_mark()
        m.stack.append(make(m, items))

    return push


def _dict_from_mark(m: Machine, items: list) -> dict:
    made: dict = {}
    m.set_items(made, pairs_of(items))
    return made


def _mark(m: Machine, _: Any) -> None:
    m.marks.append(m.stack)
    m.stack = []


def _pop(m: Machine, _: Any) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.pop_mark()


def _duplicate(m: Machine, _: Any) -> None:
    item = m.pop()
    m.stack += [item, item]


def _append(m: Machine, _: Any) -> None:
    item = m.pop()
    m.add_items(_top(m), [item])


def _extend(m: Machine, _: Any) -> None:
    items = m.pop_mark()
    m.add_items(_top(m), items)


def _set_item(m: Machine, _: Any) -> None:
    value, key = m.pop(), m.pop()
    m.set_items(_top(m), [(key, value)])


def _set_items(m: Machine, _: Any) -> None:
    items = m.pop_mark()
    m.set_items(_top(m), pairs_of(items))


def _top(m: Machine) -> Any:
    if not m.stack:
        raise Malformed("its stack runs empty")
    return m.stack[-1]


def _global(m: Machine, arg: Any) -> None:
    m.stack.append(m.find(str(arg).replace(" ", ".", 1)))  # genops joins module and name by a space


def _stack_global(m: Machine, _: Any) -> None:
    name, module = m.pop(), m.pop()
    if not (isinstance(name, str) and isinstance(module, str)):
        raise Malformed("it imports something that is no name")
    m.stack.append(m.find(f"{module}.{name}"))


def _reduce(m: Machine, _: Any) -> None:
    args, function = m.pop(), m.pop()
    m.stack.append(m.call(function, args))


def _new_with_keywords(m: Machine, _: Any) -> None:
    keywords, args, cls = m.pop(), m.pop(), m.pop()
    made = m.call(cls, args) if not keywords else Inert(getattr(cls, "name", "an object"), (args, keywords))
    m.stack.append(made)


def _inst(m: Machine, arg: Any) -> None:
    args = m.pop_mark()
    m.stack.append(m.call(m.find(str(arg).replace(" ", ".", 1)), tuple(args)))


def _obj(m: Machine, _: Any) -> None:
    items = m.pop_mark()
    if not items:
        raise Malformed("it makes an object of no class")
    m.stack.append(m.call(items[0], tuple(items[1:])))


def _build(m: Machine, _: Any) -> None:
    state = m.pop()
    m.build(_top(m), state)


def _persistent(m: Machine, pid: Any) -> None:
    m.stack.append(m.persistent(m, pid) if m.persistent else Inert("a persistent id"))


def _buffer(m: Machine, _: Any) -> None:
    raise Malformed("its arrays lie in buffers outside of the file")


def _push_arg(m: Machine, arg: Any) -> None:
    m.stack.append(arg)


def _nothing(m: Machine, _: Any) -> None:
    pass


_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_BYTES = ("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
_TEXTS = ("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")

OPCODES: dict[str, Callable[[Machine, Any], None]] = {
    **dict.fromkeys(_NUMBERS + _BYTES + _TEXTS, _push_arg),
    "NONE": lambda m, _: m.stack.append(None),
    "NEWTRUE": lambda m, _: m.stack.append(True),
    "NEWFALSE": lambda m, _: m.stack.append(False),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "EMPTY_SET": lambda m, _: m.stack.append(set()),
    "LIST": _container(lambda m, items: items),
    "TUPLE": _container(lambda m, items: tuple(items)),
    "DICT": _container(_dict_from_mark),
    "FROZENSET": _container(lambda m, items: frozenset(checked_key(item) for item in items)),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "APPEND": _append,
    "APPENDS": _extend,
    "ADDITEMS": _extend,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": lambda m, _: void(m.pop_mark()),
    "DUP": _duplicate,
    "PUT": _memoize,
    "BINPUT": _memoize,
    "LONG_BINPUT": _memoize,
    "MEMOIZE": lambda m, _: _memoize(m, len(m.memo)),
    "GET": _recall,
    "BINGET": _recall,
    "LONG_BINGET": _recall,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "EXT1": lambda m, code: m.stack.append(Inert(f"extension {code}")),
    "EXT2": lambda m, code: m.stack.append(Inert(f"extension {code}")),
    "EXT4": lambda m, code: m.stack.append(Inert(f"extension {code}")),
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_with_keywords,
    "INST": _inst,
    "OBJ": _obj,
    "BUILD": _build,
    "PERSID": _persistent,
    "BINPERSID": lambda m, _: _persistent(m, m.pop()),
    "NEXT_BUFFER": _buffer,
    "READONLY_BUFFER": _buffer,
    "PROTO": _nothing,
    "FRAME": _nothing,
}


def void(_: Any) -> None:
    """Drop a value."""


def interpret(
    stream: BinaryIO, size: int, table: Mapping[str, Any], source: str, persistent: Persistent | None = None
) -> Any:
    """The object that the pickle at the stream's position describes, `size` bytes long at most; nothing is executed.

    Leaves the stream after the pickle's STOP. Raises UserError, whose sentence starts with `source`, for bytes that are
    no pickle and for a pickle that asks for too much.
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
