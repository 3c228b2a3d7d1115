"""Examples by their global index: the base of every stream that trains or evaluates a system.

Everything about global example number i follows from (seed, i). So the data position of a run is that one number, and
any count of workers and processes gives the same stream.
"""

import sys
from collections.abc import Sequence
from functools import cached_property

import jax
import numpy as np

from dreamjax.errors import UserError
from dreamjax.signals.datasets import mixture
from dreamjax.signals.datasets.read_ahead import Batches, Element, ReadAhead, Rows


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
        """Describe which examples there are and in which order.

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
        """Global example index → number of the example in the concatenation of the corpora; see `mixture.order`."""
        if not self.endless and not self.shuffle:
            return range(len(self))
        return mixture.order(self.sizes, self.weights, seed=self.shuffle_seed, shuffle=self.shuffle)

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
    ) -> ReadAhead:
        """Return this process's rows of each global batch of `batch_size` examples, from global example `start` on.

        `close()` the iterator, or let it go, to end its worker processes (None: as many as the config says). Raises
        UserError where the batch does not divide.
        """
        if batch_size % processes:
            raise UserError(f"a batch of {batch_size} does not divide among {processes} processes")
        share = batch_size // processes
        count = None if self.endless else len(self)
        source = Batches(self.rows, count, start, batch_size, process * share, (process + 1) * share)
        return ReadAhead(source, self.element, self.workers if workers is None else workers, self.prefetch)
