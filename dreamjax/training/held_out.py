"""Held-out metrics of a state: sums over a whole stream, on the mesh that its parameters live on."""

import importlib.util
from collections.abc import Callable

import jax
from jaxtyping import Array

from dreamjax.errors import MissingSplit, UserError
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel import processes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.training.feeding import Feeder
from dreamjax.training.task import Batch, BatchSpec, Metrics, PyTree, State, Task
from dreamjax.training.train_config import TrainConfig


def image_every(config: TrainConfig) -> int:
    """Return the steps between two logged images, the same in every process."""
    drawn = importlib.util.find_spec("matplotlib") is not None
    default = config.eval_every if processes.agree("images", drawn) else 0
    return default if config.image_every is None else config.image_every


def check(task: Task) -> None:
    """Open the held-out data, so that a missing split is reported before training."""
    try:
        task.data("val")
    except MissingSplit as problem:
        raise UserError(
            f"{problem}; or train without a held-out score: --config.train.eval_every=0 --config.train.image_every=0"
        ) from problem


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
