"""Held-out metrics of a state: sums over a whole stream, on the mesh that its parameters live on."""

from collections.abc import Callable

import jax
from jaxtyping import Array

from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.training.feeding import Feeder
from dreamjax.training.task import Batch, BatchSpec, Metrics, PyTree, State


def averaged(state: State) -> PyTree:
    """Return the parameters to evaluate: the moving average where one is kept."""
    return state.ema if jax.tree.leaves(state.ema) else state.params


def summed(metrics: Callable[[PyTree, Batch], Metrics], params: PyTree, spec: BatchSpec) -> Metrics:
    """Return the sums of `metrics(params, batch)` (jitted) over every batch of a finite stream."""
    totals: dict[str, tuple[Array | float, Array | float]] = {}
    with Feeder(spec, mesh_of(params), 0) as feeder:
        while True:
            try:
                batch = feeder.next()
            except StopIteration:
                return totals
            for name, pair in metrics(params, batch).items():
                total = totals.get(name, (0.0, 0.0))
                totals[name] = (total[0] + pair[0], total[1] + pair[1])


def mesh_of(params: PyTree) -> jax.sharding.Mesh:
    """Return the mesh that parameters live on; a mesh of one device for parameters without a mesh."""
    place = jax.tree.leaves(params)[0].sharding
    if isinstance(place, jax.sharding.NamedSharding) and isinstance(place.mesh, jax.sharding.Mesh):
        return place.mesh
    return meshes.make(MeshConfig(1), list(place.device_set)[:1])
