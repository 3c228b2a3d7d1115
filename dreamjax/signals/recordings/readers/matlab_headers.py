"""What the headers in a MATLAB file claim: the dimensions of its arrays, and small values, without the data.

MATLAB 5 (MAT-File Format, MathWorks): elements of tag and content, of which top-level ones may be packed by zlib. The
fields of a struct are elements too, and what `scipy.io.whosmat` does not show. MATLAB 7.3 is HDF5.
"""

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from dreamjax.errors import UserError, require

COMPRESSED, MATRIX = 15, 14  # types of elements
CHAR, STRUCT, FIRST_NUMBER = 4, 2, 6  # classes of arrays; numbers have 6 to 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}  # types
ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}  # of text, by type
SMALL = 4096  # bytes of a value that is read
MOST_PACKED = 1032  # bytes that zlib makes of one
MOST_FIELDS = 10_000
PIECE = 1 << 20


class TooLong(ValueError):
    """An array is longer than the file that should hold it."""


@dataclass(frozen=True)
class Claim:
    """An array as its header states it."""

    shape: tuple[int, ...]
    value: float | str | None = None  # of a number or of a short text

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class _Elements:
    """The bytes of a file, or of one of its packed elements, in order. Raise TooLong at the end."""

    def __init__(self, file: BinaryIO, order: Literal["big", "little"], limit: int, packed: bool):
        self.file, self.order, self.left = file, order, limit
        self.inflater = zlib.decompressobj() if packed else None
        self.most = limit * MOST_PACKED if packed else limit  # bytes that can still come
        self.ready = b""

    def take(self, n: int) -> bytes:
        """Return the next `n` bytes."""
        out = b"".join(self._pieces(n))
        if len(out) < n:
            raise TooLong
        return out

    def skip(self, n: int) -> None:
        """Pass over `n` bytes, which must be there."""
        if self.inflater is None:
            if n > self.left:
                raise TooLong
            self.file.seek(n, 1)
            self.left -= n
        elif n > self.most or sum(map(len, self._pieces(n))) < n:
            raise TooLong

    def _pieces(self, n: int) -> Iterator[bytes]:
        while n > 0:
            if self.inflater is None:
                piece = self.file.read(min(n, self.left, PIECE))
                self.left -= len(piece)
            else:
                piece = self._inflated(n)
            if not piece:
                return
            n -= len(piece)
            yield piece

    def _inflated(self, n: int) -> bytes:
        assert self.inflater is not None
        while not self.ready and not self.inflater.eof:
            packed = self.inflater.unconsumed_tail or self.file.read(min(self.left, PIECE))
            self.left -= 0 if self.inflater.unconsumed_tail else len(packed)
            if not packed:
                return b""
            self.ready = self.inflater.decompress(packed, PIECE)
        piece, self.ready = self.ready[:n], self.ready[n:]
        self.most -= len(piece)
        return piece

    def tag(self) -> tuple[int, int, bytes | None]:
        """Return (type, bytes, content where it lies in the tag)."""
        head = self.take(8)
        first, second = (int.from_bytes(head[i : i + 4], self.order) for i in (0, 4))
        small, kind = first >> 16, first & 0xFFFF
        return (kind, small, head[4 : 4 + small]) if small else (kind, second, None)

    def content(self, limit: int = SMALL) -> tuple[int, bytes]:
        """Return (type, content) of a short element."""
        kind, size, inside = self.tag()
        if inside is not None:
            return kind, inside
        if size > limit:
            raise ValueError("a header is too long")
        return kind, self.take(size + -size % 8)[:size]

    def integers(self) -> list[int]:
        _, content = self.content()
        order = "<i4" if self.order == "little" else ">i4"
        return np.frombuffer(content[: len(content) // 4 * 4], order).tolist()


def in_mat5(path: Path, struct: str, wanted: tuple[str, ...]) -> dict[str, Claim]:
    """Return the claims of the `wanted` arrays of a file, top-level or fields of `struct`; it stops at the last one.

    Raise TooLong where an array before that is longer than what the file holds, ValueError for another structure.
    """
    claims: dict[str, Claim] = {}
    with open(path, "rb") as file:
        size, order = path.stat().st_size, "big" if file.read(128)[126:128] == b"MI" else "little"
        while len(tag := file.read(8)) == 8 and not set(wanted) <= claims.keys():
            kind, length = (int.from_bytes(tag[i : i + 4], order) for i in (0, 4))  # type: ignore[arg-type]
            start = file.tell()
            if kind not in (COMPRESSED, MATRIX):
                raise ValueError("not an element of a MAT-file")
            if start + length > size:
                raise TooLong
            elements = _Elements(file, order, length, kind == COMPRESSED)  # type: ignore[arg-type]
            if kind == COMPRESSED:
                kind, length, _ = elements.tag()
            for name, claim in _matrix(elements, length, struct, wanted) if kind == MATRIX else ():
                claims.setdefault(name, claim)
                if set(wanted) <= claims.keys():
                    return claims
            file.seek(start + int.from_bytes(tag[4:], order))  # type: ignore[arg-type]
    return claims


def _matrix(
    elements: _Elements, length: int, struct: str, wanted: tuple[str, ...], field: str | None = None
) -> Iterator[tuple[str, Claim]]:
    """Yield the claims of an array of `length` bytes, or of the fields of the struct; all of it is passed."""
    before = elements.most if elements.inflater else elements.left
    if length > before:
        raise TooLong

    def rest() -> int:
        return length - (before - (elements.most if elements.inflater else elements.left))

    if length:
        flags, shape = elements.integers()[0] & 0xFF, tuple(elements.integers())
        name = elements.content()[1].decode("latin-1") or field or ""
        if flags == STRUCT and name == struct and math.prod(shape) == 1 and field is None:
            width, (_, names) = elements.integers()[0], elements.content(MOST_FIELDS * 64)
            for i in range(0, len(names), width if width > 0 else len(names) + 1):
                kind, inside, _ = elements.tag()
                if kind != MATRIX:
                    raise ValueError("a field is not an array")
                yield from _matrix(
                    elements, inside, struct, wanted, names[i : i + width].split(b"\0")[0].decode("latin-1")
                )
            return
        if name in wanted:
            yield name, Claim(shape, _value(elements, flags, shape, rest()))
    elements.skip(rest())


def _value(elements: _Elements, flags: int, shape: tuple[int, ...], left: int) -> float | str | None:
    if left > SMALL or (flags != CHAR and (math.prod(shape) != 1 or flags < FIRST_NUMBER)):
        return None
    kind, content = elements.content()
    order = "<" if elements.order == "little" else ">"
    if flags == CHAR:
        encoding = ENCODINGS.get(kind, "latin-1")
        return content.decode(f"{encoding}-{'le' if order == '<' else 'be'}" if encoding == "utf-16" else encoding)
    return float(np.frombuffer(content, order + NUMBERS[kind], 1)[0])


def in_hdf5(path: Path, struct: str, wanted: tuple[str, ...], most: int) -> dict[str, Claim]:
    """Return the claims of the `wanted` datasets of a file of MATLAB 7.3, top-level or in the group `struct`.

    Raise UserError where a part of it lies in another file, TooLong where one has more than `most` values.
    """
    require("h5py", "reading MATLAB 7.3 files")
    import h5py

    def check(_: str, entry: object) -> None:
        links = [entry.get(name, getlink=True) for name in entry] if isinstance(entry, h5py.Group) else []
        elsewhere = isinstance(entry, h5py.Dataset) and bool(entry.external or entry.is_virtual)
        if elsewhere or any(isinstance(link, h5py.ExternalLink) for link in links):
            raise UserError(f"{path}: a part of it lies in another file; save it whole, with all of its data in it")
        if isinstance(entry, h5py.Dataset) and entry.size is not None and entry.size > most:
            raise TooLong

    with h5py.File(path) as stored:
        check("", stored)
        stored.visititems(check)
        group = stored.get(struct, stored)
        there = {name: group[name] for name in wanted if isinstance(group.get(name), h5py.Dataset)}
        return {name: Claim(data.shape, _value_of(data)) for name, data in there.items()}


def _value_of(data: Any) -> float | str | None:
    if data.dtype == np.uint16 and data.size <= SMALL and data.attrs.get("MATLAB_class", b"char") == b"char":
        return "".join(map(chr, data[()].ravel(order="F")))
    return float(np.ravel(data[()])[0]) if data.size == 1 and data.dtype.kind in "fiu" else None
