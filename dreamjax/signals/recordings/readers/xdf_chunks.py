"""The chunks of an XDF file, checked before pyxdf parses them.

`XDF:`, then chunks of [length of length: 1, 4 or 8][length][tag: 2 bytes][content]. pyxdf believes every length and
every count, so it gets only chunks that hold exactly what they claim, of the streams that are wanted. After
damage, reading goes on at the next boundary chunk, as the format intends.

Specification: https://github.com/sccn/xdf/wiki/Specifications
"""

import gzip
import io
import math
import mmap
import os
import struct
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dreamjax.errors import UserError
from dreamjax.signals.recordings.scrub import error_text

MAGIC = b"XDF:"
BOUNDARY = bytes.fromhex("43a546dccbf5410fb30ed5467383cbe4")
HEADER, SAMPLES, CLOCK, FOOTER = 2, 3, 4, 6  # tags of the chunks that belong to a stream
BYTES = {"int8": 1, "int16": 2, "int32": 4, "int64": 8, "float32": 4, "double64": 8}
MAX_HEADER = 1 << 24
MAX_CHANNELS = 1 << 14
MAX_CLOCKS = 100_000  # clock measurements of a stream: a week of them
MOST_PACKED = 64  # bytes that a byte of a gzipped file may unpack to
# of a parser, a number, a refusal of defusedxml, or an unknown encoding
BAD_XML = (SyntaxError, ValueError, LookupError)

Bytes = bytes | mmap.mmap


@dataclass
class Stream:
    """A stream as its header describes it, and where its chunks are."""

    number: int
    format: str
    channels: int
    rate: float
    info: Any  # XML element
    chunks: list[tuple[int, int, int]] = field(default_factory=list)  # tag, begin and end of the content
    samples: int = 0
    clocks: int = 0


@dataclass
class XdfFile:
    """The streams of a file and how much of it is damaged."""

    data: Bytes
    streams: dict[int, Stream] = field(default_factory=dict)
    damaged: int = 0  # chunks or stretches that are left out
    cut_short: bool = False

    def only(self, numbers: Collection[int]) -> io.BytesIO:
        """Return an XDF file of the valid chunks of these streams."""
        view, out = memoryview(self.data), io.BytesIO()
        out.write(MAGIC)
        for number in numbers:
            for tag, begin, end in self.streams[number].chunks:
                out.write(struct.pack("<BIHI", 4, end - begin + 6, tag, number) + view[begin:end])
        out.seek(0)
        return out


def read_chunks(path: str) -> XdfFile:
    """Return the valid streams and chunks of a file. Raise UserError for any other file."""
    file = XdfFile(_bytes_of(path))
    data = memoryview(file.data)
    for tag, begin, end in _chunks(file):
        if tag not in (HEADER, SAMPLES, CLOCK, FOOTER) or end - begin < 4:
            continue
        (number,) = struct.unpack_from("<I", data, begin)
        begin += 4
        stream = file.streams.get(number)
        if tag == HEADER:
            made = None if stream else _stream(number, bytes(data[begin:end]))
            if made:
                file.streams[number] = made
                made.chunks.append((tag, begin, end))
            file.damaged += made is None
        elif stream is None or not _belongs(stream, tag, data[begin:end]):
            file.damaged += tag != FOOTER
        else:
            stream.chunks.append((tag, begin, end))
    return file


def _bytes_of(path: str) -> Bytes:
    """Return the bytes of a file, mapped into memory; those of a gzipped file are unpacked."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(4)
        if start == MAGIC:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    most = MOST_PACKED * size
    try:
        with gzip.open(path) as packed:
            data = packed.read(most + 1)
    except (OSError, EOFError, zlib.error) as e:
        raise UserError(f"{path}: not an XDF file ({error_text(e)}); restore it from its source") from e
    if not data.startswith(MAGIC) or len(data) > most:
        raise UserError(f"{path}: not an XDF file, as its first bytes show; restore it from its source")
    return data


def _chunks(file: XdfFile) -> Iterator[tuple[int, int, int]]:
    """Yield (tag, begin, end) of the content of every chunk that lies within the file."""
    data, at, size = memoryview(file.data), len(MAGIC), memoryview(file.data).nbytes
    while at < size:
        width = data[at]
        begin = at + 1 + width
        length = int.from_bytes(data[at + 1 : begin], "little") if width in (1, 4, 8) and begin <= size else -1
        if length >= 2 and begin + length <= size:
            yield struct.unpack_from("<H", data, begin)[0], begin + 2, begin + length
            at = begin + length
            continue
        boundary = file.data.find(BOUNDARY, at + 1)
        if boundary < 0:
            file.cut_short = True
            return
        file.damaged += 1
        at = boundary + len(BOUNDARY)


def _stream(number: int, xml: bytes) -> Stream | None:
    """Return the stream of a header; None for one that says nothing usable."""
    from defusedxml import ElementTree

    if len(xml) > MAX_HEADER:
        return None
    try:
        info = ElementTree.fromstring(xml.decode("utf-8", "replace"), forbid_dtd=True)
        channels, rate = int(_text(info, "channel_count")), float(_text(info, "nominal_srate"))
    except BAD_XML:
        return None
    format_ = _text(info, "channel_format")
    known = format_ in BYTES or format_ == "string"
    if not known or not 1 <= channels <= MAX_CHANNELS or not math.isfinite(rate) or info.find("name") is None:
        return None
    return Stream(number, format_, channels, rate, info)


def _text(info: Any, path: str) -> str:
    return (info.findtext(path) or "").strip()


def _belongs(stream: Stream, tag: int, content: memoryview) -> bool:
    """Return whether the content of a chunk is exactly what its tag and the stream's header claim; count it."""
    if tag == CLOCK:
        stream.clocks += 1
        return (
            len(content) == 16
            and all(map(math.isfinite, struct.unpack("<dd", content)))
            and stream.clocks <= MAX_CLOCKS
        )
    if tag == FOOTER:
        return _is_footer(bytes(content[:MAX_HEADER]))
    width = content[0] if len(content) else 0
    count = int.from_bytes(content[1 : 1 + width], "little") if width in (1, 4, 8) else -1
    if not 0 <= count <= len(content):
        return False
    if not _fits(stream, content[1 + width :], count):
        return False
    stream.samples += count
    return True


def _is_footer(xml: bytes) -> bool:
    from defusedxml import ElementTree

    try:
        return int(_text(ElementTree.fromstring(xml, forbid_dtd=True), "sample_count")) >= 0
    except BAD_XML:
        return False


def _fits(stream: Stream, content: memoryview, count: int) -> bool:
    """Return whether `count` samples, each with or without a time stamp of 8 bytes, fill the content exactly."""
    size, at = len(content), 0
    if stream.format != "string":
        width = stream.channels * BYTES[stream.format]
        for stamp in (0, 8):  # nearly always all of them have one, or none
            if size == count * (1 + stamp + width):
                flags = np.frombuffer(content, np.uint8)[:: 1 + stamp + width]
                if (flags > 0).all() if stamp else not flags.any():
                    return True
        for _ in range(count):
            if at >= size:
                return False
            at += 1 + (8 if content[at] else 0) + width
        return at == size
    for _ in range(count):
        if at >= size:
            return False
        at += 9 if content[at] else 1
        for _ in range(stream.channels):
            width = content[at] if at < size else 0
            if width not in (1, 4, 8):
                return False
            at += 1 + width + int.from_bytes(content[at + 1 : at + 1 + width], "little")
            if at > size:
                return False
    return at == size
