"""Read and write safetensors files: 8 bytes of length, a JSON header of names, types and offsets, the numbers.

This replaces the `safetensors` package because its reader maps the file, so that everything read counts as memory until
the file is closed; its NumPy side lacks bfloat16 and float8 in some versions; and its writer needs all tensors in
memory at once. The tests compare with the package: the same tensors are read, the same bytes are written.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from etils import epath
from numpy.typing import DTypeLike

from dreamjax.errors import UserError
from dreamjax.storage import atomic, sniffing
from dreamjax.storage.checkpoint_files.ranges import Ranges

MAX_HEADER = 100_000_000  # bytes, as the format sets it
MAX_RANK = 32

# In the order of the package's own list, by which it sorts a file: the last come first (so that each lies aligned)
DTYPES: dict[str, np.dtype] = {
    code: np.dtype(name)
    for code, name in (
        *(("BOOL", "bool"), ("U8", "uint8"), ("I8", "int8"), ("F8_E5M2", "float8_e5m2")),
        *(("F8_E4M3", "float8_e4m3fn"), ("F8_E8M0", "float8_e8m0fnu"), ("F8_E4M3FNUZ", "float8_e4m3fnuz")),
        *(("F8_E5M2FNUZ", "float8_e5m2fnuz"), ("I16", "int16"), ("U16", "uint16"), ("F16", "float16")),
        *(("BF16", ml_dtypes.bfloat16), ("I32", "int32"), ("U32", "uint32"), ("F32", "float32")),
        *(("C64", "complex64"), ("F64", "float64"), ("I64", "int64"), ("U64", "uint64")),
    )
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
RANKS = {code: rank for rank, code in enumerate(DTYPES)}


@dataclass(frozen=True)
class SafetensorsTensor:
    """A tensor in a file at byte `start`; every `np.asarray(tensor)` reads it into new memory."""

    file: Ranges
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        """Return the size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def numpy(self) -> np.ndarray:
        """Read the tensor."""
        array = np.empty(self.shape, self.dtype)
        if array.size:
            self.file.read_into(array, self.start)
        return array

    def rows(self, which: slice) -> np.ndarray:
        """Read consecutive rows of the leading axis."""
        start, stop, _ = which.indices(self.shape[0])
        array = np.empty((stop - start, *self.shape[1:]), self.dtype)
        if array.size:
            self.file.read_into(array, self.start + start * (self.nbytes // self.shape[0]))
        return array

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return self.numpy().astype(dtype or self.dtype, copy=False)


class Tensor(Protocol):
    """Anything with `shape` and `dtype` that `np.asarray` reads."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __array__(self) -> np.ndarray: ...


# ------------------------------------------------------------------------------------------------------------- reading
class _Damaged(Exception):
    """A damaged header; the message is a phrase that says what is wrong."""


def read(path: epath.PathLike) -> dict[str, SafetensorsTensor]:
    """Return the tensors of a file by name, in the file's order; only the header is read.

    Raises UserError for a file that is missing, cut short, damaged, of another kind, or of a type that NumPy lacks.
    """
    file = Ranges(path)
    head = file.read(0, 64)
    length = int.from_bytes(head[:8], "little")
    try:
        if file.size < 8 or length > min(MAX_HEADER, file.size - 8):
            raise _Damaged(f"its header should take {length} bytes of {file.size}")
        return _checked(_header(file.read(8, length)), file, 8 + length)
    except _Damaged as problem:
        # checked last: a good file may begin with any byte, for its header may be of any length
        sniffing.refuse(head, file.source, "a safetensors file")
        if head.startswith((b"PK\x03\x04", b"\x80\x02")):
            raise UserError(f"{file.source}: torch.save wrote this, not safetensors; rename it to .bin") from None
        raise UserError(f"{file.source}: the file is damaged or cut short ({problem}); fetch it again") from problem


def _header(data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data.decode(), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as problem:
        raise _Damaged("its header is not JSON") from problem
    if not isinstance(header, dict) or not data.startswith(b"{"):
        raise _Damaged("its header is not a JSON object")
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise _Damaged("its metadata is not text")
    return header


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    header = dict(pairs)
    if len(header) != len(pairs):
        raise _Damaged("its header names something twice")
    return header


def _checked(header: Mapping[str, Any], file: Ranges, begin: int) -> dict[str, SafetensorsTensor]:
    """Return the header's tensors; they must be contiguous and fill the file from `begin` to its end."""
    tensors = {name: _tensor(name, entry, file, begin) for name, entry in header.items()}
    end = begin
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if tensor.start != end:
            raise _Damaged(
                f"{name!r:.80} lies {abs(tensor.start - end)} bytes {'beyond' if tensor.start > end else 'into'}"
                " what is before it"
            )
        end += tensor.nbytes
    if end != file.size:
        raise _Damaged(f"its tensors end at byte {end} and the file at {file.size}")
    return tensors


def _tensor(name: str, entry: object, file: Ranges, begin: int) -> SafetensorsTensor:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _Damaged(f"{name!r:.80} has no type, shape and offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not _sizes(shape) or len(shape) > MAX_RANK or not _sizes(offsets) or len(offsets) != 2:
        raise _Damaged(f"{name!r:.80} has an impossible shape or offsets")
    if not isinstance(code, str) or code not in DTYPES:
        raise UserError(
            f"{file.source}: {name!r:.80} has the type {code!r:.20}, which is not supported; it must be one of "
            f"{', '.join(DTYPES)}"
        )
    tensor = SafetensorsTensor(file, DTYPES[code], tuple(shape), begin + offsets[0])
    if tensor.nbytes != offsets[1] - offsets[0]:
        raise _Damaged(f"{name!r:.80} has {offsets[1] - offsets[0]} bytes, which do not fit its shape")
    if math.prod(n for n in shape if n) >= 1 << 48:  # where another size is 0
        raise _Damaged(f"{name!r:.80} has an impossible shape")
    return tensor


def _sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)


# ------------------------------------------------------------------------------------------------------------- writing
def write(path: epath.PathLike, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors` one after another; the file appears whole or not at all.

    The bytes are those that `safetensors.torch` writes with the metadata {"format": "pt"}, by which diffusers and
    transformers know that the names are PyTorch's. Raises UserError for a type that the format lacks.
    """
    kinds = {name: np.dtype(tensor.dtype) for name, tensor in tensors.items()}
    for name, kind in kinds.items():
        if kind not in CODES:
            raise UserError(f"{path}: {name} has the type {kind}, which safetensors files cannot hold")
    order = sorted(tensors, key=lambda name: (-RANKS[CODES[kinds[name]]], name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        shape = [int(n) for n in tensors[name].shape]
        start, end = end, end + math.prod(shape) * kinds[name].itemsize
        header[name] = {"dtype": CODES[kinds[name]], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic.new_file(path) as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            stream.write(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data)
