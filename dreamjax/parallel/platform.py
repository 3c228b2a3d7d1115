"""Which kind of device the program being traced is for: code for CPU, GPU and TPU is chosen where it is traced."""

import jax


def target() -> str:
    """cpu, gpu or tpu: of the mesh set by `jax.set_mesh`, whose devices need not be here, else of JAX."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return str(getattr(device, "platform", None) or jax.default_backend()).replace("cuda", "gpu").replace("rocm", "gpu")
