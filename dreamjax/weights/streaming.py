"""Load weights from files directly into sharded arrays, one leaf after another.

The host holds one leaf, complete and in its final type, and the tensor that is read into it: beyond the arrays
themselves it needs about twice the largest leaf, however large the checkpoint is.
"""

import gc
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding

from dreamjax.parallel.tree_paths import like
from dreamjax.weights.table import PyTree, Table, Tensors, flatten


def source(table: Table, tensors: Tensors, source_name: str, whole: PyTree | None = None) -> Callable[[PyTree], PyTree]:
    """Return a function that fills a network's parameters from `tensors` (see `weight_files.open_weights`).

    It has the type that `Task.weights` needs: abstract parameters (nested dicts of ShapeDtypeStruct with shardings) →
    arrays of those shapes, types and shardings; a leaf without a sharding goes to the first device. In a run of several
    processes each calls it, and fills the shards of its own devices. It raises WeightMismatch, before the first tensor
    is read, with every missing, extra and misshapen one.

    `whole`: the parameters that `tensors` should fit, where only a part of them is filled. `source_name`: what errors
    call the weights.
    """

    def fill(abstract: PyTree) -> PyTree:
        leaves, placed = flatten(abstract), {}
        for path, array in table.leaves(tensors, abstract, source_name, whole):
            placed[path] = _place(array, leaves[path].sharding)
            del array  # the next leaf is made before this name is taken again
        return like(abstract, placed)

    return fill


def _place(array: np.ndarray, sharding: Sharding | None) -> jax.Array:
    sharding = sharding or SingleDeviceSharding(jax.local_devices()[0])
    placed = jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
    placed.block_until_ready()
    # JAX releases `array` at its next call or when Python collects: otherwise it would stay while the next leaf is made
    gc.collect(0)
    return placed
