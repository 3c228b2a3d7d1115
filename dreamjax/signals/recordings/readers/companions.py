"""The files of a recording that its content names: signal, markers, later parts. They need not share its name.

They are looked for among the files of the same folder, without the libraries that read these formats: `prepare` does
this in the parent process, which must not crash or run out of memory on a hostile file.
"""

import os
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Literal

from dreamjax.errors import UserError
from dreamjax.signals.recordings.readers import uci
from dreamjax.signals.recordings.readers.mne_formats import MATLAB_5, sections
from dreamjax.signals.recordings.readers.recording import Source

PIECE = 1 << 20  # bytes searched at once
LONGEST = 1024  # bytes of a name, in any encoding: the overlap of pieces
MAX_UNPACKED = 1 << 28  # bytes of a compressed element that are searched
COMPRESSED = 15  # type of a compressed element of MATLAB 5
OF_NIHON = {".LOG": "no annotations", ".21E": "electrodes have the names that the device gives by default"}
RUNS = re.compile(rb"[\w. -]{4,}"), re.compile(rb"(?:[\w. -]\x00){4,}")  # plain characters in UTF-8 and UTF-16
END = 1 << 20  # bytes at the end of a FIF file, where it names its next part


def named_in(source: Source) -> list[Path]:
    """Return the files next to a recording that it names, sorted; none for formats of one file."""
    path = Path(source.path)
    if source.reader == "brainvision":
        try:
            common = sections(path).get("common infos", {})
        except UserError:  # the reader says what is wrong with it
            return []
        names = {common.get(key, "").replace("$b", path.stem) for key in ("datafile", "markerfile")}
        return [p for p in _neighbours(path) if p.name in names]
    if source.reader == "eeglab":
        signals = [p for p in _neighbours(path) if p.suffix.lower() == ".fdt"]
        return _mentioned(_unpacked(path), signals) if signals else []
    if source.reader == "fif":
        return _parts(path)
    return uci.trials_of(path)[1:] if source.reader == "uci" else []


def missing(source: Source) -> list[str]:
    """Return a note for each companion file that is missing without an error from the reader: what is lost with it."""
    path = Path(source.path)
    if source.reader == "brainvision":
        marker_file = sections(path).get("common infos", {}).get("markerfile", "").replace("$b", path.stem)
        lost = marker_file and not (path.parent / os.path.basename(marker_file)).is_file()
        return ["the marker file that the header names is missing: no events and no discontinuities"] if lost else []
    if source.reader == "nihon":
        there = {p.suffix.lower() for p in _neighbours(path) if p.stem == path.stem}
        return [
            f"its {suffix} file is missing: {lost}" for suffix, lost in OF_NIHON.items() if suffix.lower() not in there
        ]
    return []


def _neighbours(path: Path) -> list[Path]:
    return sorted(p for p in path.parent.iterdir() if p != path and p.is_file())


def _parts(first: Path) -> list[Path]:
    """Return the later parts of a split FIF file: by their names, and those that a part names at its end."""
    others = [p for p in _neighbours(first) if p.name.lower().endswith((".fif", ".fif.gz"))]
    stem = re.sub(r"_split-\d+", "", first.name.removesuffix(".fif"))
    chosen = {p for p in others if re.sub(r"_split-\d+|-\d{1,3}(?=\.fif$)", "", p.name) == f"{stem}.fif"}
    new = [first, *chosen]
    while new:
        parts = set(_mentioned(_tail(new.pop()), [p for p in others if p not in chosen]))
        chosen |= parts
        new += parts
    return sorted(chosen)


def _tail(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - END))
        yield file.read(END)


def _mentioned(pieces: Iterator[bytes], files: Collection[Path]) -> list[Path]:
    """Return the files whose names are in one of the pieces, in UTF-8 or UTF-16, and not as the end of a longer one.

    One pass over a piece collects its runs of plain characters; only files whose names end like one are searched for.
    """
    ends = defaultdict[bytes, set[Path]](set)  # the last run of a name → files
    for path in files:
        for name, runs in zip(_encoded(path.name), RUNS, strict=True):
            ends[runs.findall(name)[-1]].add(path)
    sizes, left = {len(end) for end in ends}, set(files)
    for piece in pieces:
        there = {
            run[:LONGEST] for runs in RUNS for run in runs.findall(piece) if b".f" in run.lower().replace(b"\0", b"")
        }
        possible = {path for run in there for size in sizes for path in ends.get(run[:size], ())}
        left -= {path for path in possible & left if _pattern(path.name).search(piece)}
        if not left:
            break
    return sorted({*files} - left)


def _encoded(name: str) -> tuple[bytes, bytes]:
    return os.fsencode(name), name.encode("utf-16-le", "surrogatepass")


def _pattern(name: str) -> re.Pattern[bytes]:
    return re.compile(rb"(?<![\w. -])%b|(?<![\w. -]\x00)%b" % tuple(map(re.escape, _encoded(name))))


def _unpacked(path: Path) -> Iterator[bytes]:
    """Yield overlapping pieces of a MATLAB file, and of what its compressed elements hold."""
    with open(path, "rb") as file:
        start = file.read(128)
        if not start.startswith(MATLAB_5):
            yield from _overlapping(iter(lambda: file.read(PIECE), b""))
            return
        order: Literal["big", "little"] = "big" if start[126:128] == b"MI" else "little"
        while len(tag := file.read(8)) == 8:
            kind, size = (int.from_bytes(tag[i : i + 4], order) for i in (0, 4))
            content = _limited(file.read, size)
            yield from _overlapping(_inflated(content) if kind == COMPRESSED else content)


def _limited(read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    while size > 0 and (piece := read(min(size, PIECE))):
        size -= len(piece)
        yield piece


def _inflated(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the pieces as unpacked by zlib, up to `MAX_UNPACKED` bytes; all pieces are taken."""
    inflater, total = zlib.decompressobj(), 0
    for piece in pieces:
        while piece and total < MAX_UNPACKED:
            try:
                out = inflater.decompress(piece, PIECE)
            except zlib.error:
                total = MAX_UNPACKED
                break
            total, piece = total + len(out), inflater.unconsumed_tail
            yield out


def _overlapping(pieces: Iterator[bytes]) -> Iterator[bytes]:
    before = b""
    for piece in pieces:
        yield before + piece
        before = piece[-LONGEST:]
