"""Streams a folder of weights onto 8 devices in a process of its own, and prints what that took of memory.

python -m tests.weights.streaming_child FOLDER DEPTH
"""

import json
import os
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import psutil

from dreamjax.parallel import sharding
from dreamjax.parallel.tree_paths import named_leaves
from dreamjax.weights.loaded import source
from dreamjax.weights.table import IDENTITY, KERNEL, Table
from dreamjax.weights.weight_files import open_weights

TABLE = Table(
    ("embed.weight", "embed/table", IDENTITY),
    ("blocks.{i}.qkv.weight", "blocks/qkv/kernel", KERNEL),  # stacked over i, read from several shards
    ("blocks.{i}.qkv.bias", "blocks/qkv/bias", IDENTITY),
    ("down.{i}.conv.weight", "down/{i}/conv/kernel", KERNEL),
    ("head.weight", "head/kernel", KERNEL),
)


def shapes(depth: int, width: int) -> dict:
    """Parameters, in float32."""
    tree = {
        "embed": {"table": (16 * width, width)},
        "blocks": {"qkv": {"kernel": (depth, width, 3 * width), "bias": (depth, 3 * width)}},
        "down": {str(i): {"conv": {"kernel": (3, 3, width // 2, width)}} for i in range(depth)},
        "head": {"kernel": (width, 16 * width)},
    }
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, np.float32), tree, is_leaf=lambda x: isinstance(x, tuple))


def placed(tree: dict) -> dict:
    """`tree` with its shardings on a mesh of all devices, split over fsdp."""
    mesh = jax.make_mesh((1, jax.device_count(), 1), ("data", "fsdp", "tensor"), (jax.sharding.AxisType.Auto,) * 3)
    slots = sharding.shardings(tree, mesh)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, slots)


class Peak:
    """The largest resident memory meanwhile: what the kernel kept of it, or samples where it does not."""

    def __enter__(self) -> "Peak":
        self.process, self.done, self.sampled = psutil.Process(), threading.Event(), 0
        self.start = self.process.memory_info().rss
        try:
            Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
            self.kept = True
        except OSError:
            self.kept = False
        self.sampler = threading.Thread(target=self._sample)
        self.sampler.start()
        return self

    def _sample(self) -> None:
        while not self.done.wait(0.001):
            self.sampled = max(self.sampled, self.process.memory_info().rss)

    def __exit__(self, *problem: object) -> None:
        self.done.set()
        self.sampler.join()
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        high = int(status["VmHWM"].split()[0]) * 1024 if self.kept and "VmHWM" in status else 0
        self.bytes = max(self.sampled, high) - self.start


def main(folder: Path, depth: int, width: int) -> None:
    small = placed(shapes(1, 64))
    source(TABLE, TABLE.to_torch(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), small)), "first")(
        small
    )  # loads code
    abstract = placed(shapes(depth, width))
    with Peak() as peak:
        params = source(TABLE, open_weights(folder), "big")(abstract)
    leaves = named_leaves(params)
    held = sum(shard.data.nbytes for leaf in leaves.values() for shard in leaf.addressable_shards)
    said = {
        "devices": jax.device_count(),
        "arrays": held,
        "extra": peak.bytes - held,
        "largest_leaf": max(leaf.nbytes for leaf in leaves.values()),
        "whole": [name for name, leaf in leaves.items() if leaf.is_fully_replicated],
        "sums": {name: float(np.asarray(leaf, np.float64).sum()) for name, leaf in leaves.items()},
    }
    print(json.dumps(said), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
