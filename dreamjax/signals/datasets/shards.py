"""Shards: ArrayRecord files of serialised records with random access; errors name the file.

ArrayRecord reads local files. A shard under any other path (gs://…) is first copied, once, into a local folder
($DREAMJAX_CACHE, else the system's temporary folder), so that every path that `epath` knows works.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
import uuid
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from etils import epath

from dreamjax.errors import UserError
from dreamjax.storage import atomic, manifest, paths, presence

WRITER_OPTIONS = "group_size:1,zstd:3"  # one record per chunk: random access reads nothing else
READER_OPTIONS = "readahead_buffer_size:0"
BUFFER = 32768


class CannotWrite(UserError):
    """The output cannot be written (a full disk, say): unlike a bad recording, it ends a run over many recordings."""

    @classmethod
    def of(cls, path: object, problem: object) -> "CannotWrite":
        """Return the error for an exception of the operating system, or of array_record, which quotes its message."""
        why = getattr(problem, "strerror", None) or str(problem).partition(";")[0].rpartition("failed: ")[2]
        return cls(
            f"{path}: cannot be written ({why}); free disk space or choose another disk, then run the command again"
        )


@dataclass(frozen=True)
class Shard:
    """A finished shard file. `name` is relative to its dataset's folder."""

    name: str
    records: int
    size: int  # bytes
    sha256: str


def local_copy(path: epath.PathLike) -> str:
    """Return a local file with the content of `path`: itself where it is local, else a copy made once."""
    path = epath.Path(path)
    text = os.fspath(path)
    if "://" not in text:
        return text
    stat = path.stat()
    key = hashlib.sha256(f"{text} {stat.length} {stat.mtime}".encode()).hexdigest()[:24]
    given = os.environ.get("DREAMJAX_CACHE")
    folder = Path(given) if given else paths.private_folder(f"{tempfile.gettempdir()}/dreamjax-cache-{os.getuid()}")
    copy = folder / f"{key}-{path.name}"
    if not presence.exists(copy):
        with path.open("rb") as source, atomic.new_file(copy) as target:
            shutil.copyfileobj(source, target, manifest.CHUNK)
    return str(copy)


# -------------------------------------------------------------------------------------------------------------- writing
class ShardWriter:
    """One shard file of raw records: written under a temporary name, named when the block ends, removed if it fails.

    with ShardWriter(folder / "part-0.array_record") as writer:
        writer.write(record)
    writer.shard
    """

    def __init__(self, path: epath.PathLike):
        from array_record.python import array_record_module

        self.path = epath.Path(path)
        self.records, self.bytes = 0, 0
        self.shard: Shard  # once closed
        self._remote = "://" in os.fspath(self.path)
        folder = Path(tempfile.gettempdir()) if self._remote else Path(self.path.parent)
        self._part = folder / f".{self.path.name}.{uuid.uuid4().hex[:8]}.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._part.touch()  # raises OSError on a full or read-only disk
        except OSError as problem:
            raise CannotWrite.of(self.path, problem) from problem
        self._writer = array_record_module.ArrayRecordWriter(str(self._part), WRITER_OPTIONS)

    def write(self, record: bytes) -> None:
        self._writer.write(record)
        self.records += 1
        self.bytes += len(record)

    def _finish(self) -> None:
        """Give the file its name. Raise CannotWrite where not every record reached the disk."""
        self._writer.close()
        if _count(str(self._part)) != self.records:
            raise CannotWrite(f"{self.path}: not every record could be written; is the disk full?")
        self.shard = Shard(self.path.name, self.records, self._part.stat().st_size, manifest.file_hash(self._part))
        if self._remote:
            epath.Path(self._part).copy(self.path, overwrite=True)
        else:
            os.replace(self._part, self.path)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        except (OSError, RuntimeError, ValueError) as problem:
            raise CannotWrite.of(self.path, problem) from problem
        finally:
            with contextlib.suppress(Exception):  # a full disk fails again here; the file is deleted anyway
                if self._writer.is_open():
                    self._writer.close()
            self._part.unlink(missing_ok=True)


def _open(path: str) -> Any:
    from array_record.python import array_record_module

    return array_record_module.ArrayRecordReader(path, options=READER_OPTIONS, file_reader_buffer_size=BUFFER)


def _close(reader: Any) -> None:
    """Close a reader; that of a damaged file raises again here."""
    with contextlib.suppress(RuntimeError, ValueError):
        reader.close()


def _count(path: str) -> int | None:
    """Return how many records a local shard holds; None where it is truncated, damaged or not a shard."""
    with presence.reading(path), open(path, "rb"):  # array_record reports an unreadable file as a damaged one
        reader = _open(path)
    try:
        return reader.num_records() if reader.ok() else None
    finally:
        _close(reader)


def open_shard(path: epath.PathLike) -> "ShardReader":
    """Open one shard whose number of records is not known."""
    if not presence.exists(path):
        raise UserError(f"{path}: no such shard")
    records = _count(local_copy(path))
    if records is None:
        raise UserError(f"{path}: this shard is truncated or damaged; prepare the recording again")
    return ShardReader([path], [records])


# -------------------------------------------------------------------------------------------------------------- reading
class ShardReader:
    """Random access to the records of several shards, in order: a Grain data source of bytes. Picklable, thread-safe.

    Shards open when first needed. A missing, truncated or corrupted one raises UserError with its name.
    """

    def __init__(self, files: Sequence[epath.PathLike], records: Sequence[int]):
        """Open shards. `records`: the number of records of each shard, from its dataset.json."""
        self.paths = [os.fspath(epath.Path(p)) for p in files]
        self.records = list(records)
        self._ends = list(accumulate(self.records))
        self._readers: list[Any] = [None] * len(self.paths)
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        return ShardReader, (self.paths, self.records)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _reader(self, shard: int) -> Any:
        with self._lock:
            if self._readers[shard] is None:
                path = self.paths[shard]
                if not presence.exists(path):
                    raise UserError(f"{path}: this shard is missing; prepare the dataset again, or copy it whole")
                with presence.reading(path), open(copy := local_copy(path), "rb"):
                    reader = _open(copy)
                count = reader.num_records() if reader.ok() else None
                if count != self.records[shard]:
                    _close(reader)
                    what = "it is truncated or damaged" if count is None else f"it holds {count} records"
                    raise UserError(
                        f"{path}: {self.records[shard]} records were written to this shard but {what}; "
                        "prepare the dataset again, or copy the shard again"
                    )
                self._readers[shard] = reader
            return self._readers[shard]

    def read(self, keys: Sequence[int]) -> list[bytes]:
        """Return the records `keys`, in their order."""
        by_shard: dict[int, list[tuple[int, int]]] = {}
        for row, key in enumerate(keys):
            if not 0 <= key < len(self):
                raise IndexError(key)
            shard = bisect_right(self._ends, key)
            by_shard.setdefault(shard, []).append((key - self._ends[shard] + self.records[shard], row))
        out: list[bytes] = [b""] * len(keys)
        for shard, wanted in by_shard.items():
            reader = self._reader(shard)
            try:
                read = reader.read([position for position, _ in wanted])
            except (RuntimeError, ValueError) as problem:
                raise UserError(f"{self.paths[shard]}: this shard is corrupted ({str(problem)[:120]})") from problem
            for (_, row), record in zip(wanted, read, strict=True):
                out[row] = record
        return out

    def __getitem__(self, key: int) -> bytes:
        return self.read([key])[0]


def joined(readers: Sequence[ShardReader]) -> ShardReader:
    """Return a reader of the records of all readers, one after another."""
    return ShardReader([p for r in readers for p in r.paths], [n for r in readers for n in r.records])
