"""Rows of named arrays as examples: fMRI betas, feature vectors, anything without a time axis.

stream = open_arrays({"betas": "betas.npy", "embedding": embeddings}, seed=0, endless=True)
batch = next(stream.batches(batch_size=64))     # betas [64, …], embedding [64, …], index, weight
"""

import os
from collections.abc import Mapping
from functools import cached_property

import numpy as np
from etils import epath

from dreamjax.errors import UserError
from dreamjax.signals.datasets.examples import Examples, Rows


def open_npy(path: epath.PathLike) -> np.ndarray:
    """Return the array of a .npy file, memory-mapped; from an object store it is read whole.

    Raise UserError for a missing file and for one that is not a .npy array. Pickled objects are never loaded.
    """
    path = epath.Path(path)
    try:
        if "://" in str(path):
            with path.open("rb") as stream:
                return np.load(stream, allow_pickle=False)
        return np.load(os.fspath(path), mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; name an array that np.save wrote") from None
    except (OSError, ValueError, EOFError) as problem:
        raise UserError(f"{path}: not readable as a .npy array ({problem}); write it with np.save") from problem


class ArrayExamples(Examples):
    """The rows of arrays [N, …] as a `training.task.Stream` of N examples."""

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray | epath.PathLike],
        *,
        seed: int = 0,
        endless: bool,
        shuffle: bool | None = None,
        workers: int = 0,
        prefetch: int = 2,
    ):
        """Open arrays in memory or .npy files, which are memory-mapped.

        Args:
            arrays: by the name that their rows have in a batch.
            seed: of the order.
            endless: passes without end, as for training; otherwise exactly one pass, whose last batch is filled up
                with rows of weight 0.
            shuffle: None: where `endless`. Every pass of an endless stream has another order.
            workers, prefetch: as of every `Examples`.

        Raises:
            UserError: for arrays of different lengths or none, and for a file that is not a .npy array.
        """
        self.sources, self.workers, self.prefetch = dict(arrays), workers, prefetch
        if reserved := {"index", "weight"} & set(arrays):
            raise UserError(f"an array is called {min(reserved)!r}, which every batch has already; choose another name")
        counts = {name: array.shape[0] if array.ndim else 0 for name, array in self.arrays.items()}
        if not counts or min(counts.values()) == 0 or len(set(counts.values())) > 1:
            rows = ", ".join(f"{name} has {count}" for name, count in counts.items()) or "there are no arrays"
            raise UserError(f"arrays of examples need the same number of rows, at least one; {rows}")
        shuffle = endless if shuffle is None else shuffle
        super().__init__([min(counts.values())], seed=seed, endless=endless, shuffle=shuffle)

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by name; files are memory-mapped when first needed, in every process."""
        return {name: x if isinstance(x, np.ndarray) else open_npy(x) for name, x in self.sources.items()}

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in super().__getstate__().items() if name != "arrays"}

    def read(self, keys: np.ndarray, index: np.ndarray) -> Rows:
        """Return the rows `keys` of every array."""
        return {name: np.asarray(array[keys]) for name, array in self.arrays.items()}


open_arrays = ArrayExamples  # as the other modules' `open_stream`
