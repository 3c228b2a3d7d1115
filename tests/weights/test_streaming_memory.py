"""Weights larger than what the host may spend on them reach the devices: measured in a process of its own."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from dreamjax.parallel.tree_paths import named_leaves
from dreamjax.weights.weight_files import write_safetensors
from tests.conftest import REPOSITORY
from tests.weights.streaming_child import TABLE, shapes

DEPTH, WIDTH = 8, 1024


class Random:
    """A tensor that is made when it is written."""

    dtype = np.dtype(np.float32)

    def __init__(self, name, shape):
        self.name, self.shape = name, shape

    def __array__(self, dtype=None, copy=None):
        return np.random.default_rng(list(self.name.encode())).standard_normal(self.shape, np.float32)


@pytest.mark.long
def test_streaming_needs_less_extra_memory_than_the_largest_file(tmp_path):
    """256 MB or more in 3 shards onto 8 devices: peak above start and arrays ≤ 1.2 × the largest shard."""
    slots = TABLE.slots(shapes(DEPTH, WIDTH))
    tensors = {name: Random(name, place.shape) for name, place in slots.items()}
    total = sum(4 * int(np.prod(tensor.shape)) for tensor in tensors.values())
    files = write_safetensors(tmp_path, "model", tensors, max_shard_bytes=int(total / 2.6))
    shards = [(tmp_path / name).stat().st_size for name in files if name.endswith(".safetensors")]
    assert len(shards) == 3
    assert sum(shards) >= 256 << 20
    child = subprocess.run(
        [sys.executable, "-m", "tests.weights.streaming_child", str(tmp_path), str(DEPTH), str(WIDTH)],
        cwd=REPOSITORY,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    said = json.loads(child.stdout)
    assert said["devices"] == 8
    assert set(said["whole"]) <= {"blocks/qkv/bias"}
    print(
        f"extra {said['extra'] / 2**20:.0f} MiB, largest shard {max(shards) / 2**20:.0f} MiB, "
        f"largest leaf {said['largest_leaf'] / 2**20:.0f} MiB, arrays {said['arrays'] / 2**20:.0f} MiB"
    )
    assert said["extra"] <= 1.2 * max(shards)
    assert said["extra"] <= 2.5 * said["largest_leaf"]
    for path, leaf in named_leaves(shapes(DEPTH, WIDTH)).items():
        assert leaf.shape
        wanted = sum(float(np.asarray(tensors[n], np.float64).sum()) for n, p in slots.items() if p.path == path)
        assert said["sums"][path] == pytest.approx(wanted, rel=1e-9, abs=1e-6)
