"""Weights from files into arrays that are split over the devices already, one leaf after another.

The host holds one leaf, whole and in its final type, and the tensor that is being read into it: what is needed beyond
the arrays themselves is about twice the largest leaf, however large the checkpoint is.
"""

import gc
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding

from dreamjax.parallel.tree_paths import like
from dreamjax.weights.table import Table, flatten

PyTree = Any


def source(
    table: Table, tensors: Mapping[str, Any], source_name: str, whole: PyTree | None = None
) -> Callable[[PyTree], PyTree]:
    """What fills a network's parameters from `tensors` (as `files.open_weights` gives them).

    Of the type that `Task.weights` wants: abstract parameters (nested dicts of ShapeDtypeStruct with shardings) →
    arrays of those shapes, types and places; a leaf without a sharding goes to the first device. In a run of several
    processes each calls it, and places what its own devices hold.

    `whole`: the parameters that `tensors` should fit, where only a part of them is filled. `source_name` is what errors
    call the weights. The result raises WeightMismatch, before the first tensor is read,
    with every missing, extra and misshapen one.
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
    # JAX lets go of `array` when it is called next or Python collects: else it would stay while the next leaf is made
    gc.collect(0)
    return placed
