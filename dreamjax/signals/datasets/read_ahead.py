"""Examples by their global index → this process's rows of every batch, read ahead by a thread or by processes."""

import math
import sys
import weakref
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

from dreamjax.errors import UserError


class Examples(Protocol):
    """What a stream is made of: any example of it can be asked for. Picklable where worker processes are wanted."""

    training: bool  # endless, where True

    def __len__(self) -> int: ...

    def rows(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """The examples `index` (uint64) as arrays with a leading axis; beyond a finite end, any with weight 0."""
        ...


def index_and_weight(index: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """What every batch carries: each example's global index in two halves, and 0 for what lies beyond `count`."""
    halves = np.stack([index >> np.uint64(32), index & np.uint64(0xFFFFFFFF)], axis=1)
    return {"index": halves.astype(np.uint32), "weight": (index < count).astype(np.float32)}


class IndexedStream:
    """A `training.task.Stream` over `examples`; a subclass sets these three, and `element`."""

    examples: Any  # an `Examples`
    workers: int = 0
    prefetch: int = 2

    def element(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and type of one example, by name; without the batch axis."""
        raise NotImplementedError

    def batches(
        self, *, start: int = 0, batch_size: int, process: int = 0, processes: int = 1, workers: int | None = None
    ) -> "ReadAhead":
        """This process's rows of each global batch of `batch_size` examples, from global example `start` on.

        `close()` the iterator, or let it go, to end its worker processes (None: as many as the config says). Raises
        UserError where the batch does not divide.
        """
        if batch_size % processes:
            raise UserError(f"a batch of {batch_size} does not divide among {processes} processes")
        share = batch_size // processes
        source = Batches(self.examples, start, batch_size, process * share, (process + 1) * share)
        workers = self.workers if workers is None else workers
        return ReadAhead(source, self.element(), workers, self.prefetch)


@dataclass(frozen=True)
class Batches:
    """Batch number → this process's rows of it: the random-access source that Grain reads ahead in."""

    examples: Examples
    start: int
    batch_size: int
    first: int  # of this process's rows within a batch
    stop: int

    def __len__(self) -> int:
        if self.examples.training:
            return (sys.maxsize - self.start) // self.batch_size
        return -(-max(len(self.examples) - self.start, 0) // self.batch_size)

    def __getitem__(self, batch: Any) -> dict[str, np.ndarray]:
        origin = self.start + int(batch) * self.batch_size
        return self.examples.rows(np.arange(origin + self.first, origin + self.stop, dtype=np.uint64))


@dataclass(frozen=True)
class _Packed:
    """The batches of a source, each as one array of 32-bit words: one shared-memory block a batch on its way here."""

    source: Batches

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, batch: Any) -> np.ndarray:
        return np.concatenate([rows.reshape(-1).view(np.uint32) for _, rows in sorted(self.source[batch].items())])


def _close(held: list[Any]) -> None:
    while held:
        held.pop().close()


class ReadAhead:
    """Iterates over a source's batches in order, read ahead by a thread (workers 0) or by processes. Grain's part.

    Closes when exhausted, when let go, and before the interpreter ends: no worker and no shared memory outlives it.
    """

    def __init__(self, source: Batches, element: dict[str, jax.ShapeDtypeStruct], workers: int, prefetch: int):
        import grain
        from absl import flags

        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads absl flags, and dreamjax is not started by absl's app.run
        self.packed, self.element, self.rows = workers > 0, element, source.stop - source.first
        ahead = max(prefetch, 1)
        data = grain.MapDataset.source(_Packed(source) if workers else source).to_iter_dataset(
            grain.ReadOptions(num_threads=1, prefetch_buffer_size=1 if workers else ahead)
        )
        if workers and len(source):
            options = grain.MultiprocessingOptions(min(workers, len(source)), per_worker_buffer_size=ahead)
            data = data.mp_prefetch(options)
        self._held = [iter(data)]  # in a list, so that closing lets go of it while Grain's modules still live
        self.close = weakref.finalize(self, _close, self._held)

    def __iter__(self) -> "ReadAhead":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if not self._held:
            raise StopIteration
        try:
            batch = next(self._held[0])
        except BaseException:
            self.close()
            raise
        return self._unpack(np.array(batch)) if self.packed else batch  # copied, so that the shared block can go now

    def _unpack(self, words: np.ndarray) -> dict[str, np.ndarray]:
        out, at = {}, 0
        for name, spec in sorted(self.element.items()):
            size = self.rows * math.prod(spec.shape)
            out[name] = words[at : at + size].view(spec.dtype).reshape(self.rows, *spec.shape)
            at += size
        return out
