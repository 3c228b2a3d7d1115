"""Which record is global example number i: mixture of corpora, shuffle, repetition. Grain's index transformations."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from dreamjax.signals import keyed


def order(sizes: Sequence[int], weights: Sequence[float], *, seed: int, shuffle: bool, repeat: bool) -> Any:
    """A random-access grain.MapDataset: global example index → record number in the concatenation of the corpora.

    Without weights a training epoch is every record of every corpus once; the shuffle is keyed by (seed, training
    epoch). With weights the corpora take turns in these proportions, each shuffled by its own epochs.
    """
    import grain

    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    if not weights:
        records = grain.MapDataset.range(sum(sizes))
        return _passes(records, keyed.fold(seed, "shuffle") % 2**32, shuffle, repeat)
    if not repeat:
        raise ValueError("a weighted mixture has no end: leave the weights out for a single pass")
    corpora = [
        _passes(
            grain.MapDataset.range(start, start + size), keyed.fold(seed, f"shuffle {i}") % 2**32, shuffle, repeat=True
        )
        for i, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]
    return grain.MapDataset.mix(corpora, list(weights))


SMALL = 1 << 16  # records; Grain's constant-memory shuffle walks about 2^16 / n steps an index below this


def _passes(records: Any, seed: int, shuffle: bool, repeat: bool) -> Any:
    if shuffle and len(records) <= SMALL:
        import grain

        endless = grain.MapDataset.source(_SmallShuffle(records[0], len(records), seed))
        return endless if repeat else endless[: len(records)]
    if shuffle:
        records = records.shuffle(seed=seed)
    return records.repeat() if repeat else records


@lru_cache(maxsize=8)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.argsort(keyed.uniform(seed, f"epoch {epoch}", np.arange(n, dtype=np.uint64), 1)[:, 0], kind="stable")


@dataclass(frozen=True)
class _SmallShuffle:
    """Records first … first + n - 1, endlessly, in an order drawn anew for each training epoch."""

    first: int
    n: int
    seed: int

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: Any) -> int:
        epoch, place = divmod(int(index), self.n)
        return self.first + int(_permutation(self.n, self.seed, epoch)[place])
