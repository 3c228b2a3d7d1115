"""Write files as `torch.save` does, without torch: nested dicts, lists, texts and numbers, NumPy arrays as tensors.

It serves data sets that are published this way; `torch.load(..., weights_only=True)` opens the files.
"""

import pickle
import struct
import zipfile
from collections.abc import Mapping

import numpy as np
from etils import epath

from dreamjax.storage import atomic

STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "int64": "LongStorage"}


def save(path: epath.PathLike, value: object) -> None:
    """Write `value` (dict, list, str, int, float, None, bool and arrays of float32, float64 or int64) to `path`."""
    body = _Body()
    entries = {"data.pkl": b"\x80\x02" + body.of(value) + b".", "byteorder": b"little", "version": b"3\n"}
    with atomic.new_file(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)
        for key, array in enumerate(body.tensors):
            archive.writestr(zipfile.ZipInfo(f"archive/data/{key}"), array.tobytes())


class _Body:
    """The pickle of a value; `tensors` are the arrays that it refers to, by their keys."""

    def __init__(self) -> None:
        self.tensors: list[np.ndarray] = []

    def of(self, value: object) -> bytes:
        """Return the opcodes that push `value`."""
        if isinstance(value, np.ndarray):
            return self._tensor(np.ascontiguousarray(value))
        if isinstance(value, Mapping):
            return b"}(" + b"".join(self.of(k) + self.of(v) for k, v in value.items()) + b"u"
        if isinstance(value, list):
            return b"](" + b"".join(map(self.of, value)) + b"e"
        if value is None or isinstance(value, (bool, int, float, str)):
            return _text(value) if isinstance(value, str) else _plain(value)
        raise TypeError(f"a {type(value).__name__} cannot be written; use dicts, lists, texts, numbers and arrays")

    def _tensor(self, array: np.ndarray) -> bytes:
        """Return the opcodes of `_rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())`."""
        key = str(len(self.tensors))
        self.tensors.append(array)
        storage = b"(" + _text("storage") + f"ctorch\n{STORAGES[array.dtype.name]}\n".encode() + _text(key)
        storage += _text("cpu") + _plain(array.size) + b"tQ"
        strides = [s // array.itemsize for s in array.strides]
        sizes = b"".join(b"(" + b"".join(map(_plain, numbers)) + b"t" for numbers in (array.shape, strides))
        empty = b"ccollections\nOrderedDict\n)R"
        return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _plain(0) + sizes + b"\x89" + empty + b"tR"


def _text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _plain(value: object) -> bytes:
    return pickle.dumps(value, 2)[2:-1]
