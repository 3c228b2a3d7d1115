"""Published networks with their weights, streamed from files onto the devices of a mesh, one leaf after another."""

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, Sharding, SingleDeviceSharding
from jax.typing import DTypeLike

from dreamjax.errors import UserError
from dreamjax.parallel import sharding
from dreamjax.parallel.tree_paths import like, named_leaves
from dreamjax.typing import JsonDict
from dreamjax.weights import config_json, networks
from dreamjax.weights.config_json import Config, class_of
from dreamjax.weights.networks import Network
from dreamjax.weights.table import PyTree, Table, Tensors

ALIGNMENT = 64  # bytes: an array of the host that begins at a multiple is a CPU device's buffer without a copy


def source(
    table: Table,
    tensors: Tensors,
    source_name: str,
    whole: PyTree | None = None,
    empty: Callable[..., np.ndarray] = np.empty,
) -> Callable[[PyTree], PyTree]:
    """Return a function that fills a network's parameters from `tensors` (see `weight_files.open_weights`).

    It has the type of `Task.weights`: abstract parameters (nested dicts of ShapeDtypeStruct with shardings) → arrays of
    those shapes, types and shardings; a leaf without a sharding goes to the first device, and every process fills the
    shards of its own devices. `whole`: the parameters that `tensors` should fit, where only a part is filled.
    `source_name`: what errors call the weights. `empty`: use `aligned_empty` only for arrays that are
    never donated: donating a shared array copies it. Raises WeightMismatch as `Table.leaves`.

    The host holds one leaf, complete and in its final type, and blocks of the tensor that is read into it, or (not from
    safetensors) all of it: beyond the arrays themselves at most about twice the largest leaf, however large the
    checkpoint is.
    """

    def fill(abstract: PyTree) -> PyTree:
        leaves, filled = named_leaves(abstract), {}
        for path, array in table.leaves(tensors, abstract, source_name, whole, empty):
            filled[path] = _on_devices(array, leaves[path].sharding)
            del array  # the next leaf is made before this name is taken again
        return like(abstract, filled)

    return fill


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return an uninitialised array that is aligned, so that a CPU device can use it without a copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _on_devices(array: np.ndarray, place: Sharding | None) -> jax.Array:
    place = place or SingleDeviceSharding(jax.local_devices()[0])
    placed = jax.make_array_from_callback(array.shape, place, lambda index: array[index])
    placed.block_until_ready()
    # JAX releases `array` at its next call or when Python collects: otherwise it would stay while the next leaf is made
    gc.collect(0)
    return placed


class ComponentSource(Protocol):
    """Configs and weights of the components of a model: a `PipelineFolder`, or several folders combined."""

    def path(self, name: str) -> epath.Path: ...

    def config(self, name: str) -> JsonDict: ...

    def tensors(self, name: str) -> Tensors: ...

    def source(self, name: str) -> str: ...


@dataclass(frozen=True)
class LoadedNetwork:
    """A network and its parameters on a mesh; a compiled program takes `params` as its argument and binds them."""

    network: Network
    arguments: Config
    params: PyTree

    def bound(self, params: PyTree) -> Any:
        """Return the module with `params`."""
        return self.network.bind(self.arguments, params)


def load_network(
    folders: ComponentSource,
    name: str,
    mesh: Mesh,
    *,
    dtype: DTypeLike = jnp.float32,
    attention: str = "auto",
    weights: bool = True,
) -> LoadedNetwork:
    """Return a network with its weights streamed onto `mesh`; matrices are kept in `dtype`.

    Without `weights`, parameters are abstract (shapes and shardings): enough to compile for devices that are not
    attached. Raises UserError for a config that is not supported and weights that do not fit it.
    """
    described = folders.source(name)
    config = folders.config(name)
    network = networks.of(config, described)
    if (wanted := networks.ROLES.get(name)) and networks.CLASSES.get(class_of(config) or "") != wanted:
        classes = " or ".join(cls for cls, one in networks.CLASSES.items() if one == wanted)
        raise UserError(
            f"{described} describes a {class_of(config)}, but the {name} of a pipeline must be of class {classes}"
        )
    arguments = network.arguments(config, described) | {"dtype": dtype, "attention": attention}
    if weights:
        return filled(network, arguments, folders.tensors(name), str(folders.path(name)), mesh)
    return LoadedNetwork(network, arguments, placed(network.shapes(arguments), mesh, dtype))


def filled(network: Network, arguments: Config, tensors: Tensors, source_name: str, mesh: Mesh) -> LoadedNetwork:
    """Return a network with weights streamed onto `mesh`; matrices are kept in the type that it computes in."""
    config_json.check_counts(arguments, [tuple(tensor.shape) for tensor in tensors.values()], source_name)
    abstract = placed(network.shapes(arguments), mesh, arguments.get("dtype", jnp.float32))
    return LoadedNetwork(network, arguments, source(network.table, tensors, source_name, empty=aligned_empty)(abstract))


def placed(shapes: PyTree, mesh: Mesh, dtype: DTypeLike = jnp.float32) -> PyTree:
    """Return each parameter's shape, type and sharding: matrices in `dtype`, vectors in float32."""
    places = sharding.shardings(shapes, mesh)

    def abstract(leaf: jax.ShapeDtypeStruct, place: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, dtype if leaf.ndim > 1 else leaf.dtype, sharding=place)

    return jax.tree.map(abstract, shapes, places)
