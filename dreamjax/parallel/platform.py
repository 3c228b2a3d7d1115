"""Which kind of device the program being traced is for: code for CPU, GPU and TPU is chosen where it is traced."""

import jax

from dreamjax.errors import UserError


def target() -> str:
    """cpu, gpu or tpu: of the mesh set by `jax.set_mesh`, whose devices need not be here, else of JAX."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return str(getattr(device, "platform", None) or jax.default_backend()).replace("cuda", "gpu").replace("rocm", "gpu")


def check_attention(kind: str, key: str, remedy: str) -> None:
    """Raises UserError for an attention (the value of `key`) that this process's devices do not have."""
    if kind == "cudnn" and jax.default_backend() != "gpu":
        raise UserError(
            f"{key} is cudnn, which takes an NVIDIA GPU, but JAX computes on {jax.default_backend()} here; set {remedy}"
        )
