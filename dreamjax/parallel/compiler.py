"""What the compiler is told, by platform; the one place, with a reason for each.

They are options of a program and not flags of the process, so a plan compiles with what a run will compile with. What
those of TPU and CPU do was seen in compiled programs; those of GPU are what XLA's documents recommend for sharded
training, and were not measured here.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

TPU: Mapping[str, Any] = MappingProxyType(
    {
        # A product with a split kernel may become a loop over the kernel's pieces: of a kernel split over 16 chips it
        # multiplies 1/16 at a time, 20 of 320 channels on units that are 128 wide. Above this size alone (MiB), which
        # is never: the kernel is gathered, in the compute type, for the whole product (tests/pods/test_ahead.py).
        "xla_jf_spmd_threshold_for_windowed_einsum_mib": 1 << 20,
    }
)
GPU: Mapping[str, Any] = MappingProxyType(
    {
        # Instructions are ordered so that what crosses GPUs runs beside what does not need it yet; off by default.
        "xla_gpu_enable_latency_hiding_scheduler": True,
        # Gathers of the next layer's kernels, and sums of the last one's gradients, start a loop's turn early.
        "xla_gpu_enable_pipelined_all_gather": True,
        "xla_gpu_enable_pipelined_reduce_scatter": True,
        "xla_gpu_enable_pipelined_all_reduce": True,
        # Many small sums become few large ones, up to so many bytes; of larger ones the first could start no earlier.
        "xla_gpu_all_reduce_combine_threshold_bytes": 128 << 20,
        "xla_gpu_all_gather_combine_threshold_bytes": 128 << 20,
        "xla_gpu_reduce_scatter_combine_threshold_bytes": 128 << 20,
    }
)
CPU: Mapping[str, Any] = MappingProxyType(
    {
        # The compiler takes the barriers of `jax.checkpoint` away and then finds that what is to be computed again is
        # already there: without this, layers that are not scanned keep all their activations whatever remat says
        # (docs/benchmarks.md).
        "xla_disable_hlo_passes": "cse_barrier_expander",
    }
)
OPTIONS = {"tpu": TPU, "gpu": GPU, "cuda": GPU, "cpu": CPU}


def options(platform: str) -> dict[str, Any] | None:
    """`compiler_options` of `jax.jit` for a program on such devices; None where nothing is told."""
    found = OPTIONS.get(platform)
    return dict(found) if found else None


def for_one_call(platform: str) -> dict[str, Any] | None:
    """Of what runs once: on CPU, optimising the drawing of 100 kernels takes longer than drawing them.

    17 s of processor time became 4 for the small autoencoder; the values differ in the last bit.
    """
    return {"xla_backend_optimization_level": 0} if platform == "cpu" else None
