"""The torch and NumPy objects that pickles may describe, rebuilt by our own functions (see `pickle_reader`).

A tensor stays in the memory-mapped file until `np.asarray(tensor)` reads it; only its shape, strides and offset are
checked at once, so a file of any size opens in the time that its pickle takes.
"""

import math
import mmap
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike

from dreamjax.errors import UserError
from dreamjax.storage.checkpoint_files.pickle_reader import (
    AllowedFunction,
    Inert,
    Machine,
    Malformed,
    Unsupported,
    Value,
    checked_key,
)

MAX_ELEMENTS = 1 << 40
MAX_EXPANDED = 1 << 20  # elements of a tensor that repeats its storage (stride 0): a copy of it takes this many

STORAGE_DTYPES = {  # class of torch → type
    **{"DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BoolStorage": "bool"},
    **{"LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8"},
    **{"ByteStorage": "uint8", "UntypedStorage": "uint8", "BFloat16Storage": ml_dtypes.bfloat16},
    **{"ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128"},
}
TORCH_DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64", "complex128"),
    *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool"),
)
_NUMPY_CODE = re.compile(r"[|<>=]?(b1|[iu][1248]|f[248]|c8|c16|[SU]\d{1,5}|O8?)")


def release_pages(file: mmap.mmap) -> None:
    """Release the memory of all pages of the file that were read; they are read from the file again when needed.

    All pages, because reading one page also loads its neighbours, which belong to other tensors.
    """
    if hasattr(file, "madvise"):
        file.madvise(mmap.MADV_DONTNEED)


def release_file(array: np.ndarray) -> None:
    """Release the pages of the file that an array is a view of, where it is one."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    if isinstance(base, mmap.mmap):
        release_pages(base)


@dataclass(frozen=True)
class TorchDType:
    """A torch dtype or storage class in a pickle."""

    name: str
    dtype: np.dtype


@dataclass
class Storage:
    """Elements of one type in a memory-mapped file. `offset` is set once the file's layout is known."""

    file: mmap.mmap
    source: str
    name: str
    dtype: np.dtype
    length: int  # elements, as the pickle declares
    offset: int | None = None  # in bytes, in the file
    crc: int | None = None  # CRC-32 of the bytes, where the file has one
    checked: bool = False

    def array(self, dtype: np.dtype) -> np.ndarray:
        """Return the storage as `dtype`: a read-only view of the file. Raise UserError where its checksum is wrong."""
        if self.offset is None:
            raise UserError(f"{self.source}: the data of storage {self.name} is missing; the file is cut short")
        size = self.length * self.dtype.itemsize
        if self.crc is not None and not self.checked:
            with memoryview(self.file) as view:
                if zlib.crc32(view[self.offset : self.offset + size]) != self.crc:
                    raise UserError(
                        f"{self.source}: the checksum of storage {self.name} does not fit its bytes, so the file is "
                        "damaged (or was saved with set_crc32_options(False); save it again without)"
                    )
            self.checked = True
        return np.frombuffer(self.file, dtype, size // dtype.itemsize, self.offset)


@dataclass(frozen=True)
class TorchTensor:
    """A torch tensor in a file; `np.asarray(tensor)` copies it. Strides and offset count elements."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def numpy(self) -> np.ndarray:
        """Return a read-only view of the file."""
        flat = self.storage.array(self.dtype)[self.offset :]
        strides = tuple(s * self.dtype.itemsize for s in self.stride)
        return np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        array = np.array(self.numpy(), dtype or self.dtype)
        self.release()
        return array

    def release(self) -> None:
        """Release the file's memory after a copy was made: reading tensor by tensor then needs the memory of one."""
        release_pages(self.storage.file)


class PickledDType:
    """`numpy.dtype` in a pickle: a code, and a byte order that BUILD sets."""

    def __init__(self, code: str):
        self.dtype = np.dtype(code)

    def set_state(self, machine: Machine, state: Value) -> None:
        """Apply the state that BUILD sets."""
        if not (isinstance(state, tuple) and len(state) >= 5 and state[1] in ("<", ">", "|", "=")):
            raise Malformed("a NumPy type has no byte order")
        if state[2] is not None or state[3] is not None or state[4] is not None:
            raise Malformed("a NumPy type has fields")
        if state[1] in "<>":
            self.dtype = self.dtype.newbyteorder(state[1])


class PickledArray:
    """`numpy.ndarray` in a pickle. `np.asarray(array)` gives it; of objects, `array.objects` is the flat list."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = (0,)
        self.dtype = np.dtype(np.uint8)
        self.order: Literal["C", "F"] = "C"
        self.data: bytes | bytearray | memoryview = b""
        self.objects: list | None = None

    def set_state(self, machine: Machine, state: Value) -> None:
        """Apply the state that BUILD sets."""
        if not (isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], PickledDType)):
            raise Malformed("a NumPy array has no shape and type")
        _, shape, kind, fortran, data = state
        self.fill(shape, kind.dtype, bool(fortran), data)

    def fill(self, shape: Value, dtype: np.dtype, fortran: bool, data: Value) -> None:
        """Set shape, type and content, checked."""
        shape = _sizes(shape)
        if dtype.hasobject:
            if not isinstance(data, list) or len(data) != math.prod(shape):
                raise Malformed("an array of objects does not have as many objects as its shape says")
            self.objects = data
        else:
            data = data.encode("latin-1") if isinstance(data, str) else data  # written by Python 2
            if not isinstance(data, (bytes, bytearray, memoryview)) or len(data) != math.prod(shape) * dtype.itemsize:
                raise Malformed("an array does not have as many bytes as its shape says")
            self.data = data
        self.shape, self.dtype, self.order = shape, dtype, "F" if fortran else "C"

    def numpy(self) -> np.ndarray:
        """Return the array."""
        if self.objects is not None:
            array = np.empty(len(self.objects), object)
            array[:] = self.objects
        else:
            array = np.frombuffer(self.data, self.dtype)
        return array.reshape(self.shape, order=self.order)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        return array.astype(dtype or array.dtype.newbyteorder("="), copy=bool(copy))


def _sizes(value: Value) -> tuple[int, ...]:
    """Return a shape, checked."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value,)
    if not isinstance(value, (tuple, list)) or len(value) > 32:
        raise Malformed("an array has no shape")
    if not all(type(n) is int and 0 <= n <= MAX_ELEMENTS for n in value) or math.prod(value) > MAX_ELEMENTS:
        raise Malformed("an array has an impossible shape")
    return tuple(value)


# -------------------------------------------------------------------------------------------------- torch's functions
def _tensor(args: tuple, dtype: np.dtype | None) -> TorchTensor:
    """Return the tensor of (storage, offset, size, stride, …), as the storage's type or as `dtype`."""
    if len(args) < 4 or not isinstance(args[0], Storage):
        raise Unsupported
    storage, offset, size, stride = args[:4]
    shape, strides = _sizes(size), _sizes(stride)
    dtype = storage.dtype if dtype is None else dtype
    if type(offset) is not int or offset < 0 or len(strides) != len(shape):
        raise Malformed("a tensor has no valid offset in its storage")
    count = math.prod(shape)
    available = storage.length * storage.dtype.itemsize // dtype.itemsize
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if count and last >= available:
        raise Malformed("a tensor reaches beyond its storage")
    if count > max(available, MAX_EXPANDED):
        raise Malformed("a tensor repeats its storage too often")
    return TorchTensor(storage, dtype, offset if count else 0, shape, strides)


def _rebuild_tensor(machine: Machine, args: tuple) -> TorchTensor:
    return _tensor(args, None)


def _rebuild_tensor_v3(machine: Machine, args: tuple) -> TorchTensor:
    if len(args) < 7 or not isinstance(args[6], TorchDType):
        raise Unsupported
    return _tensor(args, args[6].dtype)


def _first_argument(machine: Machine, args: tuple) -> Value:
    if not args:
        raise Unsupported
    return args[0]


def _rebuild_from_type(machine: Machine, args: tuple) -> Value:
    if len(args) < 3 or not isinstance(args[0], AllowedFunction) or not isinstance(args[2], tuple):
        raise Unsupported
    if args[0].call not in (_rebuild_tensor, _rebuild_tensor_v3):
        raise Unsupported  # one level only: a chain of these would recurse
    return args[0].call(machine, args[2])


def _as_tuple(machine: Machine, args: tuple) -> tuple:
    if len(args) != 1 or not isinstance(args[0], (tuple, list)):
        raise Unsupported
    machine.charge(8 * len(args[0]))
    return tuple(args[0])


# --------------------------------------------------------------------------------------- NumPy's and Python's functions
def _numpy_dtype(machine: Machine, args: tuple) -> PickledDType:
    if not args or not isinstance(args[0], str) or not _NUMPY_CODE.fullmatch(args[0]):
        raise Unsupported
    return PickledDType(args[0])


def _numpy_reconstruct(machine: Machine, args: tuple) -> PickledArray:
    machine.charge(256)
    return PickledArray()


def _numpy_frombuffer(machine: Machine, args: tuple) -> PickledArray:
    if len(args) != 4 or not isinstance(args[1], PickledDType):
        raise Unsupported
    made = PickledArray()
    made.fill(args[2], args[1].dtype, args[3] == "F", args[0])
    return made


def _numpy_scalar(machine: Machine, args: tuple) -> Value:
    if len(args) != 2 or not isinstance(args[0], PickledDType):
        raise Unsupported
    data = args[1].encode("latin-1") if isinstance(args[1], str) else args[1]
    dtype = args[0].dtype
    if dtype.hasobject or not isinstance(data, bytes) or len(data) != dtype.itemsize:
        raise Unsupported
    machine.charge(len(data))
    return np.frombuffer(data, dtype)[0].item()


def _encode(machine: Machine, args: tuple) -> bytes:
    """Return the bytes of `_codecs.encode(text, "latin1")`, which protocol 2 writes."""
    if len(args) != 2 or not isinstance(args[0], str) or args[1] not in ("latin1", "latin-1"):
        raise Unsupported
    machine.charge(len(args[0]))
    return args[0].encode("latin-1")


def _bytes(machine: Machine, args: tuple) -> bytes:
    if not args:
        return b""
    if isinstance(args[0], bytes):
        return args[0]
    if isinstance(args[0], str) and len(args) == 2:
        return _encode(machine, args)
    raise Unsupported


def _dictionary(machine: Machine, args: tuple) -> dict:
    made: dict = {}
    pairs = args[0] if len(args) == 1 and isinstance(args[0], (list, tuple)) else ()
    machine.charge(128 * len(pairs))
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise Unsupported
        made[checked_key(pair[0])] = pair[1]
    return made


def _set(machine: Machine, args: tuple) -> set:
    items = args[0] if args and isinstance(args[0], (list, tuple)) else ()
    machine.charge(64 * len(items))
    return {checked_key(item) for item in items}


def _instance(machine: Machine, args: tuple) -> Value:
    """Return the instance of `copy_reg._reconstructor(cls, object, None)`, which protocols 0 and 1 write."""
    if not args or not isinstance(args[0], Inert):
        raise Unsupported
    return Inert(args[0].name)


def _entries() -> dict[str, object]:
    functions: dict[str, Callable[[Machine, tuple], Value]] = {
        "torch._utils._rebuild_tensor": _rebuild_tensor,
        "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
        "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
        "torch._utils._rebuild_parameter": _first_argument,
        "torch._utils._rebuild_parameter_with_state": _first_argument,
        "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
        "torch.Size": _as_tuple,
        "torch.device": _first_argument,
        "collections.OrderedDict": _dictionary,
        "collections.defaultdict": lambda machine, args: {},
        "_codecs.encode": _encode,
        "numpy.dtype": _numpy_dtype,
    }
    for core in ("numpy.core", "numpy._core"):
        functions[f"{core}.multiarray._reconstruct"] = _numpy_reconstruct
        functions[f"{core}.multiarray.scalar"] = _numpy_scalar
        functions[f"{core}.numeric._frombuffer"] = _numpy_frombuffer
    for builtins in ("builtins", "__builtin__"):
        functions[f"{builtins}.set"] = _set
        functions[f"{builtins}.bytes"] = _bytes
    for registry in ("copyreg", "copy_reg"):
        functions[f"{registry}._reconstructor"] = _instance
    entries: dict[str, object] = {name: AllowedFunction(name, function) for name, function in functions.items()}
    for name, kind in STORAGE_DTYPES.items():
        for module in ("torch", "torch.cuda", "torch.storage"):
            entries[f"{module}.{name}"] = TorchDType(name, np.dtype(kind))
    for name in TORCH_DTYPES:
        entries[f"torch.{name}"] = TorchDType(name, np.dtype(name))
    return entries


TABLE = _entries()
