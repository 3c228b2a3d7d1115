"""Which kind of device the program being traced is for: code for CPU, GPU and TPU is chosen where it is traced."""

from typing import Any

import jax


def target() -> str:
    """cpu, gpu or tpu: of the mesh set by `jax.set_mesh`, whose devices need not be here, else of JAX."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return str(getattr(device, "platform", None) or jax.default_backend()).replace("cuda", "gpu").replace("rocm", "gpu")


def written_once(tree: Any) -> Any:
    """On CPU, `tree` as arrays in memory: what reads them does not compute them again. Elsewhere as it came.

    XLA on CPU puts cheap operations, a transpose among them, into every loop that reads them.
    """
    return jax.lax.optimization_barrier(tree) if target() == "cpu" else tree
