"""The order of examples: mixture of corpora, shuffle, repetition, by Grain's index transformations."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, SupportsInt

import numpy as np
from jaxtyping import Int

from dreamjax.signals.datasets import rng


def order(sizes: Sequence[int], weights: Sequence[float], *, seed: int, shuffle: bool) -> Sequence[int]:
    """Return the endless order: global example index → record number in the concatenation of the corpora.

    Without weights a training epoch is every record of every corpus once; the shuffle is keyed by (seed, training
    epoch). With weights the corpora take turns in these proportions, each shuffled by its own epochs.
    """
    if not weights:
        return _passes(0, sum(sizes), rng.fold(seed, "shuffle") % 2**32, shuffle)
    import grain

    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    corpora = [
        _passes(start, size, rng.fold(seed, f"shuffle {i}") % 2**32, shuffle)
        for i, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]
    datasets = [grain.MapDataset.source(x) if isinstance(x, _SmallShuffle) else x for x in corpora]
    return grain.MapDataset.mix(datasets, list(weights))


def share(size: int, fraction: float) -> Int[np.ndarray, "n"]:
    """Return the numbers, ascending, of a share of `size` records: at least one, the same for every seed.

    Those of a smaller share are among those of a larger one.
    """
    drawn = _permutation(size, rng.fold(0, "share") % 2**32, 0)
    return np.sort(drawn[: max(1, round(fraction * size))])


SMALL = 1 << 16  # records; Grain's constant-memory shuffle walks about 2^16 / n steps an index below this


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
