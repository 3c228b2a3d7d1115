"""The files of a recording that its content names: signal, markers, later parts. They need not share its name.

They are looked for among the files of the same folder, without the libraries that read these formats: `prepare` does
this in the parent process, which must not crash or run out of memory on a hostile file.
"""

import os
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

from dreamjax.errors import UserError
from dreamjax.signals.recordings.readers import meg, uci
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
        return sorted(p for p in map(_folder(path).by_name.get, names - {path.name}) if p)
    if source.reader == "eeglab":
        return sorted(_folder(path).signals.mentioned(_unpacked(path)) - {path})
    if source.reader == "fif":
        return _parts(path)
    if source.reader == "bti":
        return meg.bti_files(path)
    if source.reader == "kit":
        return sorted(meg.kit_files(path).values())
    return uci.trials_of(path)[1:] if source.reader == "uci" else []


def missing(source: Source) -> list[str]:
    """Return a note for each companion file that is missing without an error from the reader: what is lost with it."""
    path = Path(source.path)
    if source.reader == "brainvision":
        marker_file = sections(path).get("common infos", {}).get("markerfile", "").replace("$b", path.stem)
        lost = marker_file and not (path.parent / os.path.basename(marker_file)).is_file()
        return ["the marker file that the header names is missing: no events and no discontinuities"] if lost else []
    if source.reader == "nihon":
        there = {p.suffix.lower() for p in _folder(path).by_stem.get(path.stem, ())}
        return [
            f"its {suffix} file is missing: {lost}" for suffix, lost in OF_NIHON.items() if suffix.lower() not in there
        ]
    return []


def _folder(path: Path) -> "_Folder":
    """Return the files of a recording's folder; one is listed once, however many recordings it holds."""
    return _listed(path.parent, path.parent.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _listed(folder: Path, stamp: int) -> "_Folder":
    return _Folder([p for p in folder.iterdir() if p.is_file()])


def forget() -> None:
    """List folders again: what a link points to may come without a change of its folder."""
    _listed.cache_clear()


class _Folder:
    """The files of a folder, indexed by name, stem and kind."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    @cached_property
    def by_name(self) -> dict[str, Path]:
        return {p.name: p for p in self.files}

    @cached_property
    def by_stem(self) -> dict[str, list[Path]]:
        return _grouped(self.files, lambda p: p.stem)

    @cached_property
    def signals(self) -> "_Mentions":
        """Return the .fdt files, to which EEGLAB files refer by name."""
        return _Mentions([p for p in self.files if p.suffix.lower() == ".fdt"])

    @cached_property
    def fif(self) -> "_Mentions":
        return _Mentions([p for p in self.files if p.name.lower().endswith((".fif", ".fif.gz"))])

    @cached_property
    def parts(self) -> dict[str, list[Path]]:
        """Return name of a first part → the FIF files that are parts of it by their names."""
        return _grouped(self.fif.files, lambda p: re.sub(r"_split-\d+|-\d{1,3}(?=\.fif$)", "", p.name))


def _grouped(files: Collection[Path], key: Callable[[Path], str]) -> dict[str, list[Path]]:
    groups = defaultdict[str, list[Path]](list)
    for path in files:
        groups[key(path)].append(path)
    return groups


def _parts(first: Path) -> list[Path]:
    """Return the later parts of a split FIF file: by their names, and those that a part names at its end."""
    folder = _folder(first)
    stem = re.sub(r"_split-\d+", "", first.name.removesuffix(".fif"))
    chosen = {first, *folder.parts.get(f"{stem}.fif", ())}
    new = list(chosen)
    while new:
        parts = folder.fif.mentioned(_tail(new.pop())) - chosen
        chosen |= parts
        new += parts
    return sorted(chosen - {first})


def _tail(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - END))
        yield file.read(END)


class _Mentions:
    """Files whose names are looked for in the content of others, in UTF-8 or UTF-16.

    One pass over a piece collects its runs of plain characters; only files whose names end like one are searched for.
    """

    def __init__(self, files: Collection[Path]) -> None:
        self.files = files
        self.ends = defaultdict[bytes, set[Path]](set)  # the last run of a name → files
        for path in files:
            for name, runs in zip(_encoded(path.name), RUNS, strict=True):
                self.ends[runs.findall(name)[-1]].add(path)
        self.sizes = {len(end) for end in self.ends}

    def mentioned(self, pieces: Iterator[bytes]) -> set[Path]:
        """Return the files whose names are in one of the pieces, and not as the end of a longer one."""
        seen: set[Path] = set()
        while len(seen) < len(self.files) and (piece := next(pieces, None)) is not None:
            there = {
                run[:LONGEST]
                for runs in RUNS
                for run in runs.findall(piece)
                if b".f" in run.lower().replace(b"\0", b"")
            }
            possible = {path for run in there for size in self.sizes for path in self.ends.get(run[:size], ())}
            seen |= {path for path in possible - seen if _pattern(path.name).search(piece)}
        return seen


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
