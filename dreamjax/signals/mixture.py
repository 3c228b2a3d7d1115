"""Which record is global example number i: mixture of corpora, shuffle, repetition. Grain's index transformations."""

from collections.abc import Sequence
from typing import Any

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


def _passes(records: Any, seed: int, shuffle: bool, repeat: bool) -> Any:
    if shuffle:
        records = records.shuffle(seed=seed)
    return records.repeat() if repeat else records
