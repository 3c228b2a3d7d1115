"""Batches of a random-access source, read ahead by a thread or by worker processes."""

import math
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, SupportsInt

import jax
import numpy as np

Element = dict[str, jax.ShapeDtypeStruct]  # shape and type of one example, by name
Rows = dict[str, np.ndarray]  # examples as arrays with a leading axis, by name
ALIGNMENT = 8  # bytes


@dataclass(frozen=True)
class Batches:
    """Batch number → this process's rows of it: the random-access source that Grain reads ahead in."""

    rows: Callable[[np.ndarray], Rows]  # global example indices (uint64) → the examples
    count: int | None  # examples there are; None: endless
    start: int
    batch_size: int
    first: int  # of this process's rows within a batch
    stop: int

    def __len__(self) -> int:
        if self.count is None:
            return (sys.maxsize - self.start) // self.batch_size
        return -(-max(self.count - self.start, 0) // self.batch_size)

    def __getitem__(self, batch: SupportsInt) -> Rows:
        origin = self.start + int(batch) * self.batch_size
        return self.rows(np.arange(origin + self.first, origin + self.stop, dtype=np.uint64))


@dataclass(frozen=True)
class _PackedBatches:
    """The batches of a source, each as one array of bytes: one shared-memory block per batch on its way here."""

    source: Batches

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, batch: SupportsInt) -> np.ndarray:
        arrays = [
            np.ascontiguousarray(rows).reshape(-1).view(np.uint8) for _, rows in sorted(self.source[batch].items())
        ]
        return np.concatenate([np.pad(array, (0, -len(array) % ALIGNMENT)) for array in arrays])


def _close(iterators: list[Any]) -> None:
    while iterators:
        iterators.pop().close()


class ReadAhead:
    """An iterator over a source's batches in order, read ahead by Grain: by a thread (workers 0) or by processes.

    Closes when exhausted, when deleted, and before the interpreter ends: no worker or shared memory outlives it.
    """

    def __init__(self, source: Batches, element: Callable[[], Element], workers: int, prefetch: int):
        import grain
        from absl import flags

        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads absl flags, and dreamjax is not started by absl's app.run
        self.element, self.rows = element() if workers else None, source.stop - source.first
        ahead = max(prefetch, 1)
        data = grain.MapDataset.source(_PackedBatches(source) if workers else source).to_iter_dataset(
            grain.ReadOptions(num_threads=1, prefetch_buffer_size=1 if workers else ahead)
        )
        if workers and len(source):
            options = grain.MultiprocessingOptions(min(workers, len(source)), per_worker_buffer_size=ahead)
            data = data.mp_prefetch(options)
        self._iterators = [iter(data)]  # in a list, so that closing deletes it while Grain's modules still live
        self.close = weakref.finalize(self, _close, self._iterators)

    def __iter__(self) -> "ReadAhead":
        return self

    def __next__(self) -> Rows:
        if not self._iterators:
            raise StopIteration
        try:
            batch = next(self._iterators[0])
        except BaseException:
            self.close()
            raise
        # copied, so that the shared block can go now
        return batch if self.element is None else self._unpack(np.array(batch), self.element)

    def _unpack(self, packed: np.ndarray, element: Element) -> Rows:
        out, at = {}, 0
        for name, spec in sorted(element.items()):
            size = self.rows * math.prod(spec.shape) * spec.dtype.itemsize
            out[name] = packed[at : at + size].view(spec.dtype).reshape(self.rows, *spec.shape)
            at += size + -size % ALIGNMENT
        return out
