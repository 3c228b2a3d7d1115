"""Training on a CPU: one device per core, where batch, mesh and memory allow it."""

import os
import subprocess
import sys

import pytest

from dreamjax.parallel import cpu_devices
from dreamjax.parallel.mesh import MeshConfig

GIB = 2**30


@pytest.mark.parametrize(
    ("mesh", "batch", "pieces", "state", "cores", "expected"),
    [
        (MeshConfig(), 32, 1, 1 << 20, 2, 2),
        (MeshConfig(), 32, 1, 1 << 20, 12, 8),
        (MeshConfig(), 30, 1, 1 << 20, 4, 3),  # 4 do not divide it
        (MeshConfig(), 8, 1, 1 << 20, 4, 2),  # four rows each
        (MeshConfig(), 32, 8, 1 << 20, 4, 1),
        (MeshConfig(), 7, 1, 1 << 20, 4, 1),
        (MeshConfig(data=1), 32, 1, 1 << 20, 4, 1),
        (MeshConfig(data=2, fsdp=2), 32, 1, 1 << 20, 8, 4),
        (MeshConfig(), 32, 1, 14 * GIB, 8, 1),  # Stable Diffusion's state
    ],
)
def test_chooses_as_many_devices_as_batch_mesh_and_memory_take(mesh, batch, pieces, state, cores, expected):
    assert cpu_devices.choose(mesh, batch, pieces, state, cores, 16 * GIB) == expected


def devices_of(script, **environment):
    unset = ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS", cpu_devices.THREADS)
    left = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run([sys.executable, "-c", script], env=left | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


SCRIPT = """
import os
os.sched_getaffinity = lambda process: set(range(4))
import jax, jax.numpy as jnp
from dreamjax.parallel import cpu_devices, environment
from dreamjax.parallel.mesh import MeshConfig

def init(key):
    assert environment.target_platform() == "cpu"
    return jax.random.normal(key, (4,))

cpu_devices.make_one_per_core(init, MeshConfig(), 32)
print(len(jax.devices()))
"""


@pytest.mark.parametrize(("given", "expected"), [({}, 4), ({"JAX_NUM_CPU_DEVICES": "3"}, 3)])
def test_makes_the_devices_unless_their_number_is_set(given, expected):
    assert devices_of(SCRIPT, JAX_PLATFORMS="cpu", **given) == expected


def test_xla_has_more_threads_than_devices_that_may_wait():
    script = (
        SCRIPT
        + """
(jnp.ones((256, 256)) @ jnp.ones((256, 256))).block_until_ready()
"""
    )
    script = (
        script.replace("print(len(jax.devices()))", "").rstrip()
        + """
names = [open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")]
print(names.count("tf_XLAEigen"))
"""
    )
    assert devices_of(script, JAX_PLATFORMS="cpu") == 8  # four cores, four devices
