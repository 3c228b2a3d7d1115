"""One pretraining step in dreamjax and in PyTorch, side by side: same model, batch, precision, interleaved in one run.

    python benchmarks/pretrain.py                                   # small, float32, on this machine's CPU
    python benchmarks/pretrain.py --preset dreamdiffusion_paper --batch 100 --dtype bfloat16     # on a GPU

Prints one JSON object: milliseconds per step of each contestant (median, and the range over rounds), the ratio of
PyTorch's time to ours round by round (above 1: we are faster), TFLOP/s, and MFU where the device's peak is known.
Interleaving makes a busy machine slow all alike; the ratio is what to quote.
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


def dreamjax_step(config: Any) -> tuple[Callable[[], None], dict[str, Any]]:
    """`(run one step and wait, facts)` of the real Task, compiled as the loop compiles it."""
    import jax

    from dreamjax.systems import registry

    task = registry.build(config)
    batch = jax.device_put(batch_of(config.model.channels, config.data.samples, config.train.batch_size))
    rng = jax.random.key(0)
    state = jax.jit(task.init)(rng)
    started = time.monotonic()
    compiled = jax.jit(task.update, donate_argnums=0).lower(state, batch, rng).compile()
    facts = {"compile_s": round(time.monotonic() - started, 1), "flops_per_example": task.flops_per_example()}

    def step(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, _metrics = compiled(state, batch, rng)
        jax.block_until_ready(state.params)

    return step, facts


def torch_step(config: Any, device: str, *, compiled: bool) -> Callable[[int], None]:
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
    torch.set_num_threads(os.cpu_count() or 1)
    trainer = Trainer(shape, device, bfloat16=m.dtype == "bfloat16", compiled=compiled)
    signal = torch.from_numpy(batch_of(m.channels, config.data.samples, config.train.batch_size)["signal"]).to(device)

    def step(steps: int) -> None:
        for _ in range(steps):
            trainer.step(signal)
        trainer.wait()

    return step


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
        train=replace(config.train, batch_size=batch, microbatches=1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--steps", type=int, default=STEPS, help="steps per round and contestant")
    parser.add_argument("--without-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--unroll", action="store_true", help="model.scan_layers=false: slower to compile")
    args = parser.parse_args()

    import jax
    import torch

    from dreamjax.training import devices

    config = comparable(args.preset, args.batch, args.dtype, args.unroll)
    on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
    ours, facts = dreamjax_step(config)
    contestants: dict[str, Callable[[int], None]] = {"dreamjax": ours}
    contestants["torch eager"] = torch_step(config, "cuda" if on_gpu else "cpu", compiled=False)
    if not args.without_compile:
        contestants["torch.compile"] = torch_step(config, "cuda" if on_gpu else "cpu", compiled=True)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for name, step in contestants.items():
        print(f"warming up {name} …", file=sys.stderr, flush=True)
        step(3)
    for i in range(args.rounds):
        for name, step in contestants.items():
            started = time.perf_counter()
            step(args.steps)
            times[name].append((time.perf_counter() - started) / args.steps)
        print(f"round {i + 1} of {args.rounds}", file=sys.stderr, flush=True)

    flops = facts["flops_per_example"] * args.batch
    peak = devices.peak_flops()
    result: dict[str, Any] = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "device": jax.devices()[0].device_kind,
        "versions": {"jax": jax.__version__, "torch": torch.__version__},
        "preset": args.preset,
        "batch": args.batch,
        "dtype": args.dtype,
        "gflop_per_step": round(flops / 1e9, 2),
        "scan_layers": not args.unroll,
        "compile_s": facts["compile_s"],
        "contestants": {},
    }
    for name, seconds in times.items():
        median = statistics.median(seconds)
        ratios = [theirs / mine for theirs, mine in zip(seconds, times["dreamjax"], strict=True)]
        result["contestants"][name] = {
            "ms_per_step": round(1e3 * median, 2),
            "ms_range": [round(1e3 * min(seconds), 2), round(1e3 * max(seconds), 2)],
            "tflop_per_s": round(flops / median / 1e12, 4),
            "mfu": round(flops / median / peak, 4) if peak else None,
            "times_dreamjax": round(statistics.median(ratios), 3),
            "times_dreamjax_range": [round(min(ratios), 3), round(max(ratios), 3)],
        }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
