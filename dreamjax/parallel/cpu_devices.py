"""The devices that JAX makes of the CPU for training: one per core, where batch, mesh and memory allow it.

One device uses all cores too, but XLA splits a step less well than the data-parallel mesh does (docs/benchmarks.md).
"""

import os
from collections.abc import Callable

import jax
from jax.sharding import AbstractDevice, AbstractMesh

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.parallel import environment
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import AXES, MeshConfig
from dreamjax.parallel.tree_paths import PyTree

MOST = 8  # more have not been measured
ROWS = 4  # of a batch, at least, on each device
THREADS = "NPROC"  # variable from which XLA takes the threads of its pools, cores where it is not set. A device that
# waits for the others in a sum occupies one: with no more threads than devices, a run stood still and XLA ended it
SHARE = 4  # the states of all devices take at most 1 / SHARE of the machine's memory


def make_one_per_core(
    init: Callable[[jax.Array], PyTree], config: MeshConfig, batch_size: int, microbatches: int = 1
) -> None:
    """Have JAX make one device per core, if it has made none yet and their number is not set.

    `init`: of the training state. It changes nothing where JAX uses an accelerator, or where several processes train.
    """
    from jax._src import xla_bridge

    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    chosen |= any(os.environ.get(name) for name in ("JAX_NUM_CPU_DEVICES", environment.COUNT))
    if chosen or jax.distributed.is_initialized() or xla_bridge.backends_are_initialized():
        return
    # the shapes, without asking JAX which devices there are
    mesh = AbstractMesh((1,) * len(AXES), AXES, abstract_device=AbstractDevice("cpu", None, "cpu"))
    with jax.sharding.use_abstract_mesh(mesh):
        state = jax.eval_shape(lambda: init(jax.random.key(0)))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state) if hasattr(leaf.dtype, "itemsize"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    count = choose(config, batch_size, microbatches, size, environment.cores(), memory)
    if count > 1 and not xla_bridge.backends_are_initialized():
        log.debug("%d CPU devices, one per core", count)
        os.environ.setdefault(THREADS, str(environment.cores() + count))
        jax.config.update("jax_num_cpu_devices", count)


def choose(config: MeshConfig, batch_size: int, microbatches: int, state: int, cores: int, memory: int) -> int:
    """Return the number of devices: the most, up to the cores, that the mesh takes and the batch divides by.

    `state` and `memory`: bytes of a device's state and of the machine.
    """
    for count in range(min(cores, MOST, memory // SHARE // max(1, state)), 1, -1):
        try:
            data, fsdp, _ = meshes.sizes(config, count)
        except UserError:
            continue
        if batch_size % (data * fsdp * microbatches) == 0 and batch_size >= ROWS * data * fsdp * microbatches:
            return count
    return 1
