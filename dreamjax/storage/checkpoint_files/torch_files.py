"""Open `.pth`, `.pt`, `.npy` and pickle files of any origin, without executing what they hold (see `pickle_reader`).

`torch.save` has written two layouts: a zip archive of one pickle and one stored entry per storage (since torch 1.6),
and before that five pickles followed by the storages' bytes. Both are memory-mapped: tensors are read when used.
"""

import io
import mmap
import struct
import zipfile
from collections.abc import Mapping

import numpy as np
from etils import epath

from dreamjax.errors import UserError
from dreamjax.storage import sniffing
from dreamjax.storage.checkpoint_files import pickle_reader
from dreamjax.storage.checkpoint_files.pickle_reader import Inert, Machine, Malformed, Value
from dreamjax.storage.checkpoint_files.ranges import Ranges
from dreamjax.storage.checkpoint_files.torch_pickle import (
    TABLE,
    PickledArray,
    Storage,
    TorchDType,
    TorchTensor,
    release_pages,
)

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
AT_ONCE = 256  # storages whose offsets are looked up before the pages that this touched are released
MAX_PLAIN, MAX_DEPTH = 100_000, 8  # values of a configuration, and how deep they are nested
LARGE = 1 << 16  # bytes of an archive's pickle that stays in the file
MAX_ENTRIES = 4_000_000  # a corpus saved as one tensor per trial has 10⁴ to 10⁵


def read(path: epath.PathLike) -> Value:
    """Return the object tree of a file: dicts, lists, scalars, `TorchTensor`, arrays, and `Inert` for everything else.

    Raises UserError for a file that is missing, cut short, damaged or of another kind.
    """
    source = str(path)
    file = Ranges(path).map()
    head = file[:64]
    if head.startswith(b"PK\x03\x04"):
        return _read_zip(file, source)
    if head.startswith(b"\x93NUMPY"):
        return _read_npy(file, source)
    sniffing.refuse(head, source, "a checkpoint")
    first = pickle_reader.interpret(file, len(file), TABLE, source)  # type: ignore[arg-type]
    if isinstance(first, int) and first == LEGACY_MAGIC:
        return _read_legacy(file, source)
    return first


def tensors(state: Value, source: str) -> dict[str, TorchTensor | PickledArray]:
    """Return the tensors of a state dict by name. Raise UserError naming every entry that is not a plain tensor."""
    if not isinstance(state, Mapping):
        raise UserError(f"{source}: this is {_kind(state)}, not a state dict (names with tensors)")
    refused = [f"{k} is {_kind(v)}" for k, v in state.items() if not isinstance(v, (TorchTensor, PickledArray))]
    if refused:
        raise UserError(f"{source}: {len(refused)} of {len(state)} entries are not tensors: {'; '.join(refused[:20])}")
    return {str(name): value for name, value in state.items()}


def plain(value: Value, source: str = "the pickle") -> Value:
    """Return `value` where it is plain data (numbers, text, None, and lists, tuples and dicts of them), else None.

    Raise UserError for too many values: a short pickle can refer to one list 300 times, and to that list again.
    """
    left = MAX_PLAIN

    def copy(value: Value, depth: int) -> Value:
        nonlocal left
        left -= 1
        if left < 0:
            raise UserError(f"{source}: the settings in this file have more than {MAX_PLAIN:,} values; save them again")
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if depth and isinstance(value, (list, tuple)):
            return [copy(item, depth - 1) for item in value]
        if depth and isinstance(value, dict):
            return {k: copy(v, depth - 1) for k, v in value.items() if isinstance(k, str)}
        return None

    return copy(value, MAX_DEPTH)


def _kind(value: Value) -> str:
    if isinstance(value, Inert):
        return f"made by {value.name}, which is not executed"
    return f"a {type(value).__name__}"


def _storage(file: mmap.mmap, source: str, pid: Value) -> Storage:
    """Return a storage from torch's persistent id ("storage", class, key, device, elements, …), without its offset."""
    if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[2], str)):
        raise Malformed("a persistent id is not one of torch's")
    kind, key, length = pid[1], pid[2], pid[4]
    if type(length) is not int or not 0 <= length * kind.dtype.itemsize <= len(file):
        raise Malformed(f"storage {key[:40]} claims more than the file holds")
    return Storage(file, source, key, kind.dtype, length)


# ------------------------------------------------------------------------------------------------------- zip archives
def _read_zip(file: mmap.mmap, source: str) -> Value:
    try:
        archive = zipfile.ZipFile(file)  # type: ignore[call-overload]
        entries = {info.filename: info for info in archive.infolist()}
    except Exception as problem:  # BadZipFile, struct.error, NotImplementedError, … from a damaged directory
        raise UserError(f"{source}: the archive is damaged or cut short ({problem}); fetch it again") from problem
    pickles = [name for name in entries if name.count("/") <= 1 and name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1 or len(entries) > MAX_ENTRIES:
        raise UserError(f"{source}: this zip archive was not written by torch.save; it has {len(pickles)} data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    ranges = {}
    for number, (name, info) in enumerate(entries.items()):
        ranges[name] = _entry_range(file, info, source)
        if number % AT_ONCE == 0:
            release_pages(file)

    def bytes_of(name: str) -> bytes:
        start, size = ranges[name]
        return file[start : start + size]

    if f"{folder}byteorder" in ranges and bytes_of(f"{folder}byteorder") != b"little":
        raise UserError(f"{source}: it was written on a big-endian machine; save it again on another")

    def persistent(machine: Machine, pid: Value) -> Value:
        if isinstance(pid, tuple) and len(pid) > 1 and not isinstance(pid[1], TorchDType):
            return Inert("a storage of unknown type")
        storage = _storage(file, source, pid)
        name = f"{folder}data/{storage.name}"
        if name not in ranges:
            raise Malformed(f"storage {storage.name[:40]} is missing from the archive")
        storage.offset, size = ranges[name]
        if size != storage.length * storage.dtype.itemsize:
            raise Malformed(f"storage {storage.name[:40]} has {size} bytes and claims {storage.length} elements")
        storage.crc = entries[name].CRC
        return storage

    start, size = ranges[pickles[0]]
    if size > LARGE:  # arrays of NumPy, which lie in the pickle
        file.seek(start)
        return pickle_reader.interpret(file, size, TABLE, source, persistent)
    return pickle_reader.interpret(io.BytesIO(file[start : start + size]), size, TABLE, source, persistent)


def _entry_range(file: mmap.mmap, info: zipfile.ZipInfo, source: str) -> tuple[int, int]:
    """Return (first byte, size) of a stored entry, from its local header. Refuse a compressed one: no zip bombs."""
    header = file[info.header_offset : info.header_offset + 30] if info.header_offset >= 0 else b""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size != info.compress_size:
        raise UserError(f"{source}: {info.filename} is compressed, which torch.save never does; zip it with zip -0")
    if len(header) != 30 or header[:4] != b"PK\x03\x04":
        raise UserError(f"{source}: the archive is damaged at {info.filename}; fetch it again")
    name_length, extra_length = struct.unpack_from("<HH", header, 26)
    start = info.header_offset + 30 + name_length + extra_length
    if start + info.file_size > len(file):
        raise UserError(f"{source}: {info.filename} reaches beyond the end; the file is cut short")
    return start, info.file_size


# ------------------------------------------------------------------------------------------------------ legacy layout
def _read_legacy(file: mmap.mmap, source: str) -> Value:
    """Read what follows the magic number: version, system, object, keys of the storages, (count, bytes) of each."""

    def following(persistent: pickle_reader.Persistent | None = None) -> Value:
        return pickle_reader.interpret(file, len(file), TABLE, source, persistent)  # type: ignore[arg-type]

    storages: dict[str, list[tuple[Storage, int]]] = {}  # key → the storages and views of it, with their offsets

    def persistent(machine: Machine, pid: Value) -> Value:
        if isinstance(pid, tuple) and len(pid) > 1 and not isinstance(pid[1], TorchDType):
            return Inert("a storage of unknown type")
        storage = _storage(file, source, pid)
        view = pid[5] if len(pid) > 5 and isinstance(pid[5], tuple) and len(pid[5]) == 3 else ("", 0, storage.length)
        if type(view[1]) is not int or type(view[2]) is not int or min(view[1:]) < 0:
            raise Malformed("a view of a storage has no valid offset")
        part = Storage(file, source, storage.name, storage.dtype, view[2])
        storages.setdefault(storage.name, []).append((part, view[1]))
        return part

    following()
    system = following()
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise UserError(f"{source}: it was written on a big-endian machine; save it again on another")
    root = following(persistent)
    keys = following()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise UserError(f"{source}: the list of storages is missing; the file is cut short")
    place = file.tell()
    for number, key in enumerate(keys):
        if number % AT_ONCE == 0:
            release_pages(file)
        parts = storages.get(key, [])
        count = int.from_bytes(file[place : place + 8], "little", signed=True)
        itemsize = parts[0][0].dtype.itemsize if parts else 1
        if count < 0 or place + 8 + count * itemsize > len(file):
            raise UserError(f"{source}: the data of storage {key:.40} is missing; the file is cut short")
        for part, offset in parts:
            if part.dtype.itemsize != itemsize or offset + part.length > count:
                raise UserError(f"{source}: storage {key:.40} has {count} elements, fewer than it claims")
            part.offset = place + 8 + offset * itemsize
        place += 8 + count * itemsize
    return root


def _read_npy(file: mmap.mmap, source: str) -> Value:
    """Read a `.npy` file: a read-only view of its numbers, or, of objects, an array of what the pickle describes."""
    try:
        file.seek(0)
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = reader(file)
    except Exception as problem:  # ValueError, SyntaxError, TokenError, … from a damaged header
        raise UserError(f"{source}: the NumPy header is damaged ({problem})") from problem
    if dtype.hasobject:
        if dtype.fields is not None or dtype.subdtype is not None:
            raise UserError(f"{source}: arrays of records with objects are not read; save plain arrays")
        content = pickle_reader.interpret(file, len(file), TABLE, source)  # type: ignore[arg-type]
        return content.numpy() if isinstance(content, PickledArray) else content
    if not dtype.itemsize or dtype.fields is not None or dtype.subdtype is not None:
        raise UserError(f"{source}: an array of {dtype}, which are not numbers; save plain arrays")
    place, count = file.tell(), int(np.prod(shape, dtype=object))
    if any(n < 0 for n in shape) or place + count * dtype.itemsize > len(file):
        raise UserError(f"{source}: the header announces {shape} values of {dtype}, but the file ends before")
    return np.frombuffer(file, dtype, count, place).reshape(shape, order="F" if fortran else "C")
