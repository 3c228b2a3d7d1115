"""Measure a step, and its compilation, as batch and depth grow: JSON on stdout.

    python benchmarks/linear.py

Times are medians over rounds, the sizes interleaved, so that a machine that is busy slows all of them. A straight line
a + b·n is fitted; `share` is the largest deviation from it relative to the line.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from dreamjax import config as configs
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.systems import registry
from dreamjax.training import program

CONFIG = "configs/pretrain/small.py"
SIZES = [("model.interpolation", "none"), ("train.microbatches", "1")]  # one size a step, however large the batch


class Timed:
    """A config's step, ready to run on one device; `compiling`: seconds of tracing and compiling."""

    def __init__(self, overrides: Sequence[tuple[str, str]], rows: int) -> None:
        config = configs.load(CONFIG, [*SIZES, *overrides], registry.schema_of)
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=rows))
        task, self.mesh = registry.build(config), meshes.make(MeshConfig(1), jax.devices()[:1])
        rng = np.random.default_rng(0)
        self.batch = {
            name: rng.normal(size=(rows, *one.shape)).astype(one.dtype)
            if np.issubdtype(one.dtype, np.floating)
            else np.ones((rows, *one.shape), one.dtype)
            for name, one in task.example().items()
        }
        with jax.set_mesh(self.mesh):
            built = program.build(task, self.mesh)
            self.state = built.init(jax.random.key(0))
            started = time.perf_counter()
            self.compiled = built.step.lower(self.state, self.batch).compile()
            self.compiling = time.perf_counter() - started

    def step(self) -> float:
        started = time.perf_counter()
        self.state, metrics = self.compiled(self.state, self.batch)
        jax.block_until_ready(metrics)
        return time.perf_counter() - started


def measured(sizes: Sequence[int], make: Callable[[int], Timed], rounds: int) -> dict[str, Any]:
    """Return the milliseconds a step by size, and the deviation from a straight line."""
    ready = {size: make(size) for size in sizes}
    for one in ready.values():
        one.step()
    taken: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size, one in ready.items():
            taken[size].append(one.step())
    ms = {size: 1e3 * statistics.median(times) for size, times in taken.items()}
    slope, start = np.polyfit(list(ms), list(ms.values()), 1)
    line = {size: start + slope * size for size in sizes}
    return {
        "ms": {size: round(value, 2) for size, value in ms.items()},
        "ms_each": round(slope, 3),
        "ms_fixed": round(start, 2),
        "share": round(max(abs(ms[size] / line[size] - 1) for size in sizes), 3),
        "compiling_s": {size: round(one.compiling, 2) for size, one in ready.items()},
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    args = parser.parse_args(argv)
    jax.config.update("jax_enable_compilation_cache", False)
    result = {
        "config": CONFIG,
        "batch": measured(args.batches, lambda rows: Timed([], rows), args.rounds),
        "depth": measured(args.depths, lambda depth: Timed([("model.depth", str(depth))], 16), args.rounds),
    }
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
