"""Examples by their global index: the base of every stream that trains or evaluates a system.

Everything about global example number i follows from (seed, i). So the data position of a run is that one number, and
any count of workers and processes gives the same stream.
"""

import math
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any, SupportsInt

import jax
import numpy as np
from jaxtyping import Int

from dreamjax.errors import UserError
from dreamjax.signals.datasets import rng

Element = dict[str, jax.ShapeDtypeStruct]  # shape and type of one example, by name
Rows = dict[str, np.ndarray]  # examples as arrays with a leading axis, by name
ALIGNMENT = 8  # bytes
SMALL = 1 << 16  # records; Grain's constant-memory shuffle walks about 2^16 / n steps an index below this


class Examples:
    """A `training.task.Stream` of examples, any of which can be asked for. A subclass implements `read`.

    Endless, every example once per training epoch, or exactly one pass. Picklable, for worker processes.
    """

    workers: int = 0  # processes that read ahead; 0: a thread of this one
    prefetch: int = 2  # batches that each worker holds ready

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        seed: int,
        endless: bool,
        shuffle: bool,
        shuffle_seed: int | None = None,
        weights: Sequence[float] = (),
        keys: np.ndarray | None = None,
    ):
        """Define the examples and their order.

        Args:
            sizes: number of examples of each corpus.
            seed: of every random choice about an example.
            endless: whether passes follow one another without end, each shuffled on its own.
            shuffle: whether a pass is shuffled.
            shuffle_seed: of the order; None: `seed`.
            weights: share of each corpus in an endless mixture; empty: by size.
            keys: what `read` is given for each example of the concatenated corpora; None: its number.
        """
        self.sizes, self.weights, self.keys = tuple(sizes), tuple(weights), keys
        self.seed, self.endless, self.shuffle = seed, endless, shuffle
        self.shuffle_seed = seed if shuffle_seed is None else shuffle_seed

    def read(self, keys: np.ndarray, index: np.ndarray) -> Rows:
        """Return the examples with these keys; `index` (uint64, global) keys every random choice about them."""
        raise NotImplementedError

    def __len__(self) -> int:
        """Return the number of examples in one pass."""
        return sum(self.sizes)

    @cached_property
    def order(self) -> Sequence[int]:
        """Return global example index → number of the example in the concatenation of the corpora; see `mixture`."""
        if not self.endless and not self.shuffle:
            return range(len(self))
        return mixture(self.sizes, self.weights, seed=self.shuffle_seed, shuffle=self.shuffle)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "order"}

    def rows(self, index: np.ndarray) -> Rows:
        """Return the examples `index` (uint64) as arrays with a leading axis; beyond the end, the last with weight 0.

        Every batch carries `index`, each example's global index in two halves, and `weight`.
        """
        count = sys.maxsize if self.endless else len(self)
        keys = np.array([self.order[min(int(i), count - 1)] for i in index])
        halves = np.stack([index >> np.uint64(32), index & np.uint64(0xFFFFFFFF)], axis=1)
        rows = self.read(keys if self.keys is None else self.keys[keys], index)
        return rows | {"index": halves.astype(np.uint32), "weight": (index < count).astype(np.float32)}

    def element(self) -> Element:
        """Return shape and type of one example, by name; without the batch axis."""
        first = self.rows(np.zeros(1, np.uint64))
        return {name: jax.ShapeDtypeStruct(rows.shape[1:], rows.dtype) for name, rows in first.items()}

    def batches(
        self, *, start: int = 0, batch_size: int, process: int = 0, processes: int = 1, workers: int | None = None
    ) -> "ReadAhead":
        """Return this process's rows of each global batch of `batch_size` examples, from global example `start` on.

        `close()` the iterator, or let it go, to end its worker processes (None: as many as the config says). Raises
        UserError where the batch does not divide.
        """
        if batch_size % processes:
            raise UserError(f"a batch of {batch_size} does not divide among {processes} processes")
        share = batch_size // processes
        workers = self.workers if workers is None else workers
        end = sys.maxsize if self.endless else len(self)
        count = (end - start) // batch_size if self.endless else -(-max(end - start, 0) // batch_size)
        first = start + process * share
        source = _Batches(self.rows, count, batch_size, first, first + share, packed=workers > 0)
        return ReadAhead(source, self.element() if workers else None, workers, max(self.prefetch, 1))


# --------------------------------------------------------------------------------------------------------------- order
def mixture(sizes: Sequence[int], weights: Sequence[float], *, seed: int, shuffle: bool) -> Sequence[int]:
    """Return the endless order: global example index → record number in the concatenation of the corpora.

    Without weights a training epoch is every record of every corpus once; the shuffle is keyed by (seed, training
    epoch). With weights the corpora take turns in these proportions, each shuffled by its own epochs.
    """
    if not weights:
        return _passes(0, sum(sizes), rng.fold(seed, "shuffle") % 2**32, shuffle)
    import grain

    starts = [0, *accumulate(sizes)]
    passes = [_passes(starts[i], n, rng.fold(seed, f"shuffle {i}") % 2**32, shuffle) for i, n in enumerate(sizes)]
    datasets = [grain.MapDataset.source(x) if isinstance(x, _SmallShuffle) else x for x in passes]
    return grain.MapDataset.mix(datasets, list(weights))


def share(size: int, fraction: float) -> Int[np.ndarray, "n"]:
    """Return the numbers, ascending, of a share of `size` records: at least one, the same for every seed.

    Those of a smaller share are among those of a larger one.
    """
    drawn = _permutation(size, rng.fold(0, "share") % 2**32, 0)
    return np.sort(drawn[: max(1, round(fraction * size))])


def _passes(first: int, size: int, seed: int, shuffle: bool) -> Any:
    """Return records first … first + size - 1, endlessly: a `_SmallShuffle` or a grain.MapDataset."""
    if shuffle and size <= SMALL:
        return _SmallShuffle(first, size, seed)
    import grain

    records = grain.MapDataset.range(first, first + size)
    return (records.shuffle(seed=seed) if shuffle else records).repeat()


@lru_cache(maxsize=8)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.argsort(rng.uniform(seed, f"epoch {epoch}", np.arange(n, dtype=np.uint64), 1)[:, 0], kind="stable")


@dataclass(frozen=True)
class _SmallShuffle:
    """Records first … first + n - 1, endlessly, in another order in each training epoch."""

    first: int
    n: int
    seed: int

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: SupportsInt) -> int:
        epoch, position = divmod(int(index), self.n)
        return self.first + int(_permutation(self.n, self.seed, epoch)[position])


# ------------------------------------------------------------------------------------------------------------- batches
@dataclass(frozen=True)
class _Batches:
    """Batch number → this process's rows of it: the random-access source that Grain reads ahead in.

    `packed`: as one array of bytes, which is one block of shared memory on its way from a worker process.
    """

    rows: Callable[[np.ndarray], Rows]  # global example indices (uint64) → the examples
    count: int
    batch_size: int
    first: int  # this process's examples of the first batch
    stop: int
    packed: bool

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, batch: SupportsInt) -> Rows | np.ndarray:
        origin = int(batch) * self.batch_size
        rows = self.rows(np.arange(origin + self.first, origin + self.stop, dtype=np.uint64))
        if not self.packed:
            return rows
        arrays = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for _, array in sorted(rows.items())]
        return np.concatenate([np.pad(array, (0, -len(array) % ALIGNMENT)) for array in arrays])


def _close(iterators: list[Any]) -> None:
    while iterators:
        iterators.pop().close()


class ReadAhead:
    """An iterator over batches in order, read ahead by Grain: by a thread (workers 0) or by processes.

    Closes when exhausted, when deleted, and before the interpreter ends: no worker or shared memory outlives it.
    """

    def __init__(self, source: _Batches, element: Element | None, workers: int, prefetch: int):
        import grain
        from absl import flags

        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads absl flags, and dreamjax is not started by absl's app.run
        self.element, self.rows = element, source.stop - source.first
        data = grain.MapDataset.source(source).to_iter_dataset(
            grain.ReadOptions(num_threads=1, prefetch_buffer_size=1 if workers else prefetch)
        )
        if workers and len(source):
            options = grain.MultiprocessingOptions(min(workers, len(source)), per_worker_buffer_size=prefetch)
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
        if self.element is None:
            return batch
        packed, rows, at = np.array(batch), {}, 0  # copied, so that the shared block can go now
        for name, spec in sorted(self.element.items()):
            size = self.rows * math.prod(spec.shape) * spec.dtype.itemsize
            rows[name] = packed[at : at + size].view(spec.dtype).reshape(self.rows, *spec.shape)
            at += size + -size % ALIGNMENT
        return rows
