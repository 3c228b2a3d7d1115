"""One pretraining step in dreamjax and in PyTorch, side by side: same model, batch, precision, interleaved in one run.

    python benchmarks/pretrain.py                                   # small, float32, on this machine's CPU
    python benchmarks/pretrain.py --preset dreamdiffusion_paper --batch 100 --dtype bfloat16     # on a GPU

Prints one JSON object: milliseconds per step of each contestant (median, and the range over rounds), the ratio of
PyTorch's time to ours round by round (above 1: we are faster), the process's CPU time per step, TFLOP/s, their share of
the rate of a large matrix product measured beside them, and MFU where the device's peak is known. Interleaving makes a
busy machine slow all alike; the ratio is what to quote. On CPU dreamjax runs twice: as `dreamjax train` does by default
(one device, which uses every core), and with one device per core (JAX_NUM_CPU_DEVICES).
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

ROUNDS, STEPS = 7, 5
CORES = len(os.sched_getaffinity(0))
Step = Callable[[int], None]  # run so many steps and wait


def batch_of(channels: int, samples: int, size: int) -> dict[str, np.ndarray]:
    """A batch of white noise with every field that the pipeline delivers."""
    rng = np.random.default_rng(0)
    return {
        "signal": rng.standard_normal((size, channels, samples)).astype(np.float32),
        "valid": np.ones((size, samples), np.float32),
        "channel_ok": np.ones((size, channels), np.float32),
        "index": np.stack([np.zeros(size), np.arange(size)], axis=1).astype(np.uint32),
        "weight": np.ones(size, np.float32),
    }


def dreamjax_step(config: Any, devices: int = 1) -> tuple[Step, float]:
    """(the real Task's step over a mesh of so many devices, compiled as the loop compiles it; seconds of compiling)."""
    import jax

    from dreamjax.parallel import mesh as meshes
    from dreamjax.parallel import sharding
    from dreamjax.systems import registry
    from dreamjax.training import program

    mesh = meshes.make(config.train.mesh, jax.devices()[:devices])
    data = batch_of(config.model.channels, config.data.samples, config.train.batch_size)
    with jax.set_mesh(mesh):
        built = program.build(registry.build(config), mesh)
        batch = jax.device_put(data, sharding.batch_sharding(mesh))
        rng = jax.random.key(0)
        state = built.init(rng)
        started = time.monotonic()
        compiled = built.step.lower(state, batch, rng).compile()
        compile_s = time.monotonic() - started

    def step(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, _metrics = compiled(state, batch, rng)
        jax.block_until_ready(state.params)

    return step, compile_s


def torch_step(config: Any, device: str, *, compiled: bool, microbatches: int = 1) -> Step:
    """The twin of `torch_twin.py` in the sizes of the same config."""
    import torch
    from torch_twin import Shape, Trainer

    m = config.model
    shape = Shape(
        m.channels,
        config.data.samples,
        m.patch,
        m.dim,
        m.depth,
        m.heads,
        m.mlp_ratio,
        m.decoder_dim,
        m.decoder_depth,
        m.decoder_heads,
        config.mask.ratios[0],
    )
    torch.set_num_threads(CORES)
    trainer = Trainer(shape, device, bfloat16=m.dtype == "bfloat16", compiled=compiled, microbatches=microbatches)
    signal = torch.from_numpy(batch_of(m.channels, config.data.samples, config.train.batch_size)["signal"]).to(device)

    def step(steps: int) -> None:
        for _ in range(steps):
            trainer.step(signal)
        trainer.wait()

    return step


def matrix_product_rate(dtype: str, size: int) -> float:
    """FLOP/s of `size`³ matrix products, the best of five runs: what the step could reach at most."""
    import jax
    import jax.numpy as jnp

    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(lambda a: jnp.dot(a, a))
    product(a).block_until_ready()
    repeats, seconds = 10, []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(repeats):
            result = product(a)
        result.block_until_ready()
        seconds.append((time.perf_counter() - started) / repeats)
    return 2 * size**3 / min(seconds)


def comparable(preset: str, batch: int, dtype: str, unroll: bool) -> Any:
    """The preset in the plain form that both sides share: one mask ratio, no padding, no EMA, no extra layers."""
    from dreamjax.systems import masked_presets

    config = masked_presets.PRESETS[preset]
    return replace(
        config,
        model=replace(config.model, dtype=dtype, interpolation="none", scan_layers=not unroll),
        mask=replace(
            config.mask, ratio=config.mask.ratios[0], ratio_between=False, kind="random", kind_weights=(), padding=False
        ),
        optim=replace(config.optim, ema_decay=None),
        train=replace(config.train, batch_size=batch),
    )


def interleaved(contestants: dict[str, Step], rounds: int, steps: int) -> dict[str, list[tuple[float, float]]]:
    """(wall seconds, CPU seconds) per step of every contestant in every round."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for name, step in contestants.items():
        print(f"warming up {name} …", file=sys.stderr, flush=True)
        step(3)
    for i in range(rounds):
        for name, step in contestants.items():
            wall, busy = time.perf_counter(), time.process_time()
            step(steps)
            times[name].append(((time.perf_counter() - wall) / steps, (time.process_time() - busy) / steps))
        print(f"round {i + 1} of {rounds}", file=sys.stderr, flush=True)
    return times


def summary(times: dict[str, list[tuple[float, float]]], flops: float, ceiling: float, peak: float | None) -> dict:
    """The contestants' part of the JSON; `flops` of one step."""
    found: dict[str, Any] = {}
    for name, pairs in times.items():
        wall = [seconds for seconds, _ in pairs]
        median = statistics.median(wall)
        found[name] = {
            "ms_per_step": round(1e3 * median, 2),
            "ms_range": [round(1e3 * min(wall), 2), round(1e3 * max(wall), 2)],
            "cpu_ms_per_step": round(1e3 * statistics.median(busy for _, busy in pairs), 2),
            "tflop_per_s": round(flops / median / 1e12, 4),
            "share_of_matrix_product": round(flops / median / ceiling, 3),
            "mfu": round(flops / median / peak, 4) if peak else None,
        }
        for ours in (n for n in times if n.startswith("dreamjax") and not name.startswith("dreamjax")):
            ratios = [theirs / mine for theirs, (mine, _) in zip(wall, times[ours], strict=True)]
            found[name][f"time / {ours}"] = [round(f(ratios), 3) for f in (statistics.median, min, max)]
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--steps", type=int, default=STEPS, help="steps per round and contestant")
    parser.add_argument("--without-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--unroll", action="store_true", help="model.scan_layers=false: slower to compile")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    import jax

    jax.config.update("jax_num_cpu_devices", CORES)
    import torch

    from dreamjax.systems import registry
    from dreamjax.training import devices

    config = comparable(args.preset, args.batch, args.dtype, args.unroll)
    on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
    contestants: dict[str, Step] = {}
    contestants["dreamjax"], compile_s = dreamjax_step(config)
    if not on_gpu and CORES > 1 and args.batch % CORES == 0:
        contestants["dreamjax, a device per core"], _ = dreamjax_step(config, CORES)
    device = "cuda" if on_gpu else "cpu"
    contestants["torch eager"] = torch_step(config, device, compiled=False)
    if not args.without_compile:
        contestants["torch.compile"] = torch_step(config, device, compiled=True)
        if not on_gpu and args.batch % 4 == 0:  # smaller pieces help dreamjax on CPU: the twin may have them too
            contestants["torch.compile, 4 micro-batches"] = torch_step(config, device, compiled=True, microbatches=4)
    ceiling = matrix_product_rate(args.dtype, 8192 if on_gpu else 1024)
    times = interleaved(contestants, args.rounds, args.steps)
    flops = registry.build(config).flops_per_example() * args.batch
    facts = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": CORES},
        "device": jax.devices()[0].device_kind,
        "versions": {"jax": jax.__version__, "torch": torch.__version__},
        "preset": args.preset,
        "batch": args.batch,
        "dtype": args.dtype,
        "gflop_per_step": round(flops / 1e9, 2),
        "matrix_product_tflop_per_s": round(ceiling / 1e12, 4),
        "scan_layers": not args.unroll,
        "compile_s": round(compile_s, 1),
    }
    print(json.dumps(facts | {"contestants": summary(times, flops, ceiling, devices.peak_flops())}, indent=1))


if __name__ == "__main__":
    main()
