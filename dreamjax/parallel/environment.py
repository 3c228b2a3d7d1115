"""The environment of a process: variables of a run of several processes, the target platform, BLAS threads.

Imported by parents that only watch their children, so nothing here imports JAX before it is called for.
"""

import contextlib
import ctypes
import functools
import os
import signal
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from dreamjax.errors import UserError

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

    from dreamjax.parallel.mesh import AnyMesh

COORDINATOR = "DREAMJAX_COORDINATOR"  # HOST:PORT of process 0, or auto
COUNT = "DREAMJAX_PROCESSES"
INDEX = "DREAMJAX_PROCESS"
LOCAL_DEVICES = "DREAMJAX_LOCAL_DEVICES"  # GPUs of a host that has one process
JOIN = "DREAMJAX_JOIN_SECONDS"  # how long processes wait for each other at the start
HEARTBEAT = "DREAMJAX_HEARTBEAT_SECONDS"  # how long one may be silent before it counts as gone
WATCHED = "DREAMJAX_WATCHED"  # set in processes that have a parent of `parallel.watcher`
PR_SET_PDEATHSIG = 1  # an option of prctl(2)

RESUME_HINT = "start the same command again: the run continues from its last saved step"


def end_with_parent() -> None:
    """Have SIGTERM sent to this process when its watching parent is killed, so that it does not run on (Linux)."""
    if os.environ.get(WATCHED):
        with contextlib.suppress(Exception):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def target_platform(mesh: "AnyMesh | None" = None) -> str:
    """Return cpu, gpu or tpu: the platform of `mesh`, by default the one that the program being traced is for.

    That is the mesh set by `jax.set_mesh`, whose devices need not be attached; without one it is JAX's default backend.
    """
    import jax

    abstract = jax.sharding.get_abstract_mesh() if mesh is None else getattr(mesh, "abstract_mesh", mesh)
    device = getattr(abstract, "abstract_device", None)
    return str(getattr(device, "platform", None) or jax.default_backend()).replace("cuda", "gpu").replace("rocm", "gpu")


# of the GPU that a program is traced for, where none of that kind is attached (`pods.gpus`)
CAPABILITY: ContextVar[tuple[int, int] | None] = ContextVar("CAPABILITY", default=None)


def compute_capability() -> tuple[int, int] | None:
    """Return the compute capability, as (9, 0), of the GPU that the program being traced is for; None if unknown."""
    import jax

    if (planned := CAPABILITY.get()) is not None or jax.default_backend() != "gpu":
        return planned
    major, _, minor = str(getattr(jax.local_devices()[0], "compute_capability", "")).partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def check_attention(kind: str, key: str, remedy: str) -> None:
    """Raise UserError where this process's devices cannot compute the attention `kind`, the value of `key`."""
    import jax

    if kind == "cudnn" and jax.default_backend() != "gpu":
        raise UserError(
            f"{key} is cudnn, which needs an NVIDIA GPU, but JAX computes on {jax.default_backend()} here; set {remedy}"
        )


def single_blas_thread() -> AbstractContextManager:
    """Return a context in which BLAS and LAPACK use one thread.

    NumPy, SciPy and, through SciPy, XLA on CPU factor many small matrices. On all cores each factorisation costs more
    than on one, because the library's threads spin while they wait: a training step with the interpolation layer took
    90 ms instead of 58 on two idle cores, and 830 ms on busy ones.
    """
    return _blas_libraries().limit(limits=1, user_api="blas")


@functools.cache
def _blas_libraries() -> "ThreadpoolController":
    import scipy.linalg  # noqa: F401  (loads the library that is to be limited)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()  # inspects every loaded library: 3 ms
