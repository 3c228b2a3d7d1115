"""XLA compiler options by platform, with a reason for each.

They are options of a program and not flags of the process, so a plan compiles with the options of the run. Their
effects were seen in compiled programs. Their effect on speed was not measured on GPUs.
"""

Option = str | bool | int

TPU: dict[str, Option] = {
    # A product with a split kernel may become a loop over the kernel's pieces: of a kernel split over 16 chips it
    # multiplies 1/16 at a time, 20 of 320 channels on units that are 128 wide. Above this size alone (MiB), which
    # is never: the kernel is gathered, in the compute type, for the whole product (tests/pods/test_ahead.py).
    "xla_jf_spmd_threshold_for_windowed_einsum_mib": 1 << 20
}
COMBINED_BYTES = 32 << 20
GPU: dict[str, Option] = {
    # Transfers between GPUs overlap with computation that does not need them yet; off by default.
    "xla_gpu_enable_latency_hiding_scheduler": True,
    # Gathers of the next layer's kernels, and sums of the last one's gradients, start one iteration early.
    "xla_gpu_enable_pipelined_all_gather": True,
    "xla_gpu_enable_pipelined_reduce_scatter": True,
    "xla_gpu_enable_pipelined_all_reduce": True,
    # Many small transfers become few large ones, up to this many bytes of their results. A larger one starts later and
    # hides behind less.
    "xla_gpu_all_gather_combine_threshold_bytes": COMBINED_BYTES,
    "xla_gpu_all_reduce_combine_threshold_bytes": COMBINED_BYTES,
}
CPU: dict[str, Option] = {
    # The compiler removes the barriers of `jax.checkpoint` and then merges the recomputation with the first
    # computation: without this, layers that are not scanned keep all activations whatever the setting of remat
    # (docs/benchmarks.md).
    "xla_disable_hlo_passes": "cse_barrier_expander"
}
OPTIONS = {"tpu": TPU, "gpu": GPU, "cuda": GPU, "cpu": CPU}


def options(platform: str, fsdp: int = 1) -> dict[str, Option] | None:
    """Return `compiler_options` of `jax.jit` for a program on `platform`; None for the defaults.

    `fsdp`: the size of that axis. The compiler for GPUs limits a combined sum by the size of its result, which is one
    device's share. One sum of all gradients could start only after the backward pass.
    """
    if platform not in OPTIONS:
        return None
    summed = {"xla_gpu_reduce_scatter_combine_threshold_bytes": COMBINED_BYTES // fsdp}
    return OPTIONS[platform] | (summed if OPTIONS[platform] is GPU else {})


def for_one_call(platform: str) -> dict[str, Option] | None:
    """Return options for a program that runs once: on CPU, optimising the initialisation takes longer than running it.

    Initialising the small autoencoder took 4 s of processor time instead of 17; the values differ in the last bit.
    """
    return {"xla_backend_optimization_level": 0} if platform == "cpu" else None
