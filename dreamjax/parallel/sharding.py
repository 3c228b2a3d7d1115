"""Rules that shard every array: a short list of (regex on the parameter's name, PartitionSpec), and a fallback.

The names of optimiser moments and averaged copies end in the name of their parameter, so one rule covers all of them.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dreamjax.errors import UserError
from dreamjax.parallel import environment
from dreamjax.parallel.mesh import AnyMesh
from dreamjax.parallel.tree_paths import named_leaves, path_name

PyTree = Any
Rules = Sequence[tuple[str, P]]
ArrayLike = jax.Array | jax.ShapeDtypeStruct

SMALL = 64 << 10  # bytes: a leaf below this is cheaper replicated than gathered
TOLERANCE = 0.02  # share of the bytes in larger leaves that may stay unsharded
ROWS = ("data", "fsdp")  # axes of the mesh that share a batch
BATCH = P(ROWS)


def _bytes(leaf: ArrayLike) -> int:
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return 0 if is_key else int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize


def fsdp_spec(leaf: ArrayLike, mesh: AnyMesh) -> P:
    """Return the fallback: split the longest axis that fsdp divides (of equals the last); replicate small leaves.

    On GPUs the rows of a kernel, its axis before the last, where they are an eighth of the longest axis or more (a
    shorter axis is one of layers or of a convolution's window): kernels are then gathered and gradients summed in the
    order in which they lie in memory. Otherwise XLA's compiler for GPUs copies parameters and the optimiser's state.
    """
    size = mesh.shape["fsdp"]
    axes = [a for a, n in enumerate(leaf.shape) if n % size == 0 and n >= size]
    if size == 1 or not axes or _bytes(leaf) < SMALL:
        return P()
    rows = len(leaf.shape) - 2 if environment.target_platform(mesh) == "gpu" else None
    axis = max(axes, key=lambda a: (a == rows and 8 * leaf.shape[a] >= max(leaf.shape), leaf.shape[a], a))
    return P(*(None,) * axis, "fsdp")


def spec_of(name: str, leaf: ArrayLike, mesh: AnyMesh, rules: Rules = ()) -> P:
    """Return the first rule whose regex matches within `name` and whose axes divide the leaf, else `fsdp_spec`.

    A rule about `tensor` counts only on a mesh that has such an axis.
    """
    for pattern, spec in rules:
        idle = "tensor" in spec and mesh.shape["tensor"] == 1
        if not idle and re.search(pattern, name) and _divides(leaf, spec, mesh):
            return spec
    return fsdp_spec(leaf, mesh)


def _divides(leaf: ArrayLike, spec: P, mesh: AnyMesh) -> bool:
    names = [(axes,) if isinstance(axes, str) else axes or () for axes in spec]
    sizes = [math.prod(mesh.shape[axis] for axis in axes) for axes in names]
    return len(spec) <= len(leaf.shape) and not any(n % size for n, size in zip(leaf.shape, sizes, strict=False))


def shardings(tree: PyTree, mesh: AnyMesh, rules: Rules = ()) -> PyTree:
    """Return a NamedSharding for every leaf of `tree` (shapes suffice)."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, spec_of(path_name(path), leaf, mesh, rules)), tree
    )


def unsharded_share(tree: PyTree, placed: PyTree) -> tuple[float, list[str]]:
    """Return the share of the bytes of leaves of ≥ 64 KiB that are replicated, and those leaves' names."""
    places = named_leaves(placed)
    large = {name: _bytes(leaf) for name, leaf in named_leaves(tree).items() if _bytes(leaf) >= SMALL}
    whole = [name for name in large if places[name].is_fully_replicated]
    total = sum(large.values())
    return (sum(large[name] for name in whole) / total if total else 0.0), whole


def check_sharded(tree: PyTree, placed: PyTree, mesh: AnyMesh) -> None:
    """Raise UserError when more than 2 % of the bytes in large leaves are replicated on an fsdp mesh."""
    if mesh.shape["fsdp"] == 1:
        return
    share, whole = unsharded_share(tree, placed)
    if share > TOLERANCE:
        raise UserError(
            f"train.mesh.fsdp={mesh.shape['fsdp']} leaves {share:.0%} of the large arrays' bytes unsharded "
            f"({', '.join(whole[:4])}{', …' if len(whole) > 4 else ''}): choose a size that divides their axes"
        )


# ------------------------------------------------------------------------------------------------------------- batches
def batch_sharding(mesh: AnyMesh) -> NamedSharding:
    """Return the sharding of a batch: its leading axis over data × fsdp; tensor devices share their rows."""
    return NamedSharding(mesh, BATCH)


def split_rows(x: jax.Array) -> jax.Array:
    """Return `x` with its leading axis kept over data × fsdp (inside jit, under `jax.set_mesh`; elsewhere `x` itself).

    Without it the compiler may split the inner axis of the product with a split kernel, and sum *activations* over the
    fsdp devices in the compute type; with it the kernel is gathered where it is used.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.shape.get("fsdp", 1) == 1:
        return x
    return jax.lax.with_sharding_constraint(x, P(*BATCH, *(P.UNCONSTRAINED,) * (x.ndim - 1)))


def sum_over_rows(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """Return the sum of `function(*arrays)` over all rows, in float32, where the function sums over leading axes.

    Each device computes its rows; their sums are added in float32 whatever the function's type. Rows that devices
    cannot share evenly are left to the compiler, which adds in the function's type.
    """
    mesh = jax.sharding.get_abstract_mesh()
    shares = 1 if mesh.empty else math.prod(mesh.shape.get(axis, 1) for axis in ROWS)
    if shares == 1 or len(arrays[0]) % shares:
        return function(*arrays).astype(jnp.float32)

    def of_rows(*rows: jax.Array) -> jax.Array:
        return jax.lax.psum(function(*rows).astype(jnp.float32), ROWS)

    return jax.shard_map(of_rows, in_specs=BATCH, out_specs=P(), check_vma=False)(*arrays)


def check_batch(batch_size: int, mesh: AnyMesh, microbatches: int = 1) -> None:
    """Raise UserError when a (micro-)batch does not divide evenly over the devices."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % (shards * microbatches):
        pieces = f"{shards} devices (data × fsdp)" + (f" × {microbatches} micro-batches" if microbatches > 1 else "")
        raise UserError(f"train.batch_size is {batch_size}, but it must divide by {pieces}")


def rows_by_process(mesh: Mesh, batch_size: int) -> dict[int, tuple[int, ...]]:
    """Return process → the rows of a global batch that its devices hold, in order.

    They need not be adjacent: along a torus a host's chips lie in several groups of the mesh.
    Raise UserError where processes share some of their rows but not all.
    """
    rows: dict[int, set[int]] = {}
    indices: Mapping[Any, Any] = batch_sharding(mesh).devices_indices_map((batch_size,))
    for device, index in indices.items():
        rows.setdefault(device.process_index, set()).update(range(*index[0].indices(batch_size)))
    if sum(map(len, set(map(frozenset, rows.values())))) != batch_size:
        raise UserError(
            "train.mesh gives processes rows of which they share only some; set tensor to at most the devices of a host"
        )
    return {process: tuple(sorted(held)) for process, held in rows.items()}


def process_rows(mesh: Mesh, batch_size: int, process: int | None = None) -> tuple[int, int]:
    """Return (p, P): a process (default: this one) is the p-th of P in order of the rows that it holds.

    It reads the p-th part of each global batch, whichever rows of the arrays these become: an example is identified by
    its index, not by its row. Processes that share rows get equal results.
    """
    rows = rows_by_process(mesh, batch_size)
    parts = sorted(set(rows.values()))
    return parts.index(rows[jax.process_index() if process is None else process]), len(parts)


def to_devices(rows: Mapping[str, np.ndarray], mesh: AnyMesh, batch_size: int) -> dict[str, jax.Array]:
    """Make global arrays of leading axis `batch_size` from this process's rows of a batch."""
    place = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(place, np.asarray(value), (batch_size, *np.shape(value)[1:]))
        for name, value in rows.items()
    }
