"""NVIDIA GPUs that are not attached, as XLA's compiler has to know them.

    devices = gpus.devices("h200", nodes=8, per_node=8)
    with gpus.unattached("h200"):
        compiled = traced.lower().compile(gpus.OPTIONS)

The compiler comes with the package jax-cuda12-plugin of JAX's version (183 MB; without a driver and without CUDA).
Properties of the chips are those that XLA publishes with its sources (xla/backends/gpu/target_config/specs), where the
drivers reported them; of the L40S, which is not there, those of NVIDIA's data sheet and of compute capability 8.9.
"""

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from dreamjax import console
from dreamjax.errors import UserError
from dreamjax.parallel import environment

WHEEL = "jax-cuda12-plugin"
CUDNN = (9, 10)  # the version that is assumed; kernels of later ones are chosen at run time
CUDA = (12, 9)
# Options of a program, where no kernel can be timed: products go to cuBLASLt, as the tiles of Triton's would be guesses
# that may not compile.
OPTIONS: dict[str, bool | int | float | str] = {"xla_gpu_enable_triton_gemm": False}


@dataclass(frozen=True)
class Target:
    """A GPU as its driver describes it. `shared`: bytes of shared memory of a multiprocessor; `largest`: of a block."""

    title: str  # JAX's device_kind
    capability: tuple[int, int]
    multiprocessors: int
    units: int  # float32, of a multiprocessor
    threads: int  # of a multiprocessor
    shared: int
    largest: int
    cache: int  # bytes, second level
    memory: int  # bytes
    bandwidth: int  # bytes a second
    gigahertz: float

    def text(self) -> str:
        """Return the compiler's GpuTargetConfigProto in text form."""
        capability = f"major: {self.capability[0]} minor: {self.capability[1]}"
        if self.capability[0] >= 9:
            capability += " feature_extension: ACCELERATED_FEATURES"
        sizes = {
            "threads_per_block_limit": 1024,
            "threads_per_warp": 32,
            "shared_memory_per_block": 49152,
            "shared_memory_per_core": self.shared,
            "threads_per_core_limit": self.threads,
            "core_count": self.multiprocessors,
            "fpus_per_core": self.units,
            "block_dim_limit_x": 2147483647,
            "block_dim_limit_y": 65535,
            "block_dim_limit_z": 65535,
            "memory_bandwidth": self.bandwidth,
            "l2_cache_size": self.cache,
            "clock_rate_ghz": self.gigahertz,
            "device_memory_size": self.memory,
            "shared_memory_per_block_optin": self.largest,
            "registers_per_core_limit": 65536,
            "registers_per_block_limit": 65536,
        }
        described = " ".join(f"{name}: {value}" for name, value in sizes.items())
        return (
            f'platform_name: "CUDA" dnn_version_info {{major: {CUDNN[0]} minor: {CUDNN[1]}}} '
            f'runtime_version {{major: {CUDA[0]} minor: {CUDA[1]}}} device_description_str: "{self.title}" '
            f"gpu_device_info {{{described} cuda_compute_capability {{{capability}}}}}"
        )


TARGETS = {
    "a100": Target(
        *("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 2048, 167_936, 166_912),
        *(41_943_040, 85_100_068_864, 2_039_040_000_000, 1.41),
    ),
    "l40s": Target(
        *("NVIDIA L40S", (8, 9), 142, 128, 1536, 102_400, 101_376),
        *(100_663_296, 47_810_000_000, 864_000_000_000, 2.52),
    ),
    "h100": Target(
        *("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 2048, 233_472, 232_448),
        *(52_428_800, 84_942_979_072, 3_352_320_000_000, 1.98),
    ),
    "h200": Target(
        *("NVIDIA H200", (9, 0), 132, 128, 2048, 233_472, 232_448),
        *(52_428_800, 151_397_597_184, 4_800_000_000_000, 1.98),
    ),
    "b200": Target(
        *("NVIDIA B200", (10, 0), 148, 128, 2048, 233_472, 232_448),
        *(132_644_864, 191_514_411_008, 7_672_320_000_000, 1.965),
    ),
}


def available() -> bool:
    """Return whether the compiler is installed."""
    return importlib.util.find_spec("jax_plugins") is not None and any(
        importlib.util.find_spec(f"jax_plugins.xla_cuda{version}") is not None for version in (12, 13)
    )


def remedy() -> str:
    """Return the command that installs the compiler, without CUDA."""
    return f"pip install {WHEEL}=={jax.__version__}"


def devices(name: str, nodes: int = 1, per_node: int = 8) -> Sequence[jax.Device]:
    """Return the GPUs of `nodes` nodes, none of which has to be attached.

    Raise UserError where the compiler is not installed.
    """
    if not available():
        raise UserError(f"compiling for {name} requires XLA's compiler for GPUs: {remedy()}")
    from jax.experimental import topologies

    shape = f"1x{nodes}x{per_node}"
    try:
        with console.no_native_messages():
            return topologies.get_topology_desc(
                platform="cuda", topology_name=name, topology=shape, target_config=TARGETS[name].text()
            ).devices
    except (RuntimeError, ValueError, NotImplementedError) as problem:  # such as a plugin of another version of JAX
        reason = str(problem).splitlines()[0]
        raise UserError(f"XLA's compiler for GPUs does not work here ({reason}): {remedy()}") from problem


@contextlib.contextmanager
def unattached(name: str) -> Iterator[None]:
    """Answer, in a context, the questions that JAX asks an attached GPU while it traces and lowers for one.

    These are the platform's name (jax-ml/jax#23971), cuDNN's version, and what the GPU is capable of.
    """
    from jax._src import xla_bridge
    from jax._src.cudnn import fused_attention_stablehlo

    bridge: Any = xla_bridge
    cudnn: Any = fused_attention_stablehlo
    canonical, capability = bridge.canonicalize_platform, TARGETS[name].capability
    answers: list[tuple[Any, str, Any]] = [
        (bridge, "canonicalize_platform", lambda platform: "cuda" if platform == "gpu" else canonical(platform)),
        (cudnn, "check_cudnn_version", lambda: CUDNN[0] * 10_000 + CUDNN[1] * 100),
        (cudnn, "check_compute_capability", lambda wanted: capability >= _numbers(wanted)),
        (cudnn, "is_cuda_compute_capability_equal", lambda wanted: capability == _numbers(wanted)),
    ]
    try:
        before = [(module, attribute, getattr(module, attribute)) for module, attribute, _ in answers]
    except AttributeError as problem:
        raise UserError(
            f"this version of JAX ({jax.__version__}) cannot plan for GPUs; install one that constraints.txt names"
        ) from problem
    token = environment.CAPABILITY.set(capability)
    try:
        for module, attribute, answer in answers:
            setattr(module, attribute, answer)
        yield
    finally:
        environment.CAPABILITY.reset(token)
        for module, attribute, value in before:
            setattr(module, attribute, value)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
