"""One pretraining step in dreamjax and in PyTorch, side by side: same model, batch, precision, interleaved in one run.

    python benchmarks/pretrain.py                                   # small, float32, on this machine's CPU
    python benchmarks/pretrain.py --preset dreamdiffusion_paper --batch 100 --dtype bfloat16     # on a GPU

Prints one JSON object: milliseconds per step of each contestant (median, and the range over rounds), the ratio of
PyTorch's time to ours round by round (above 1: we are faster), the process's CPU time per step, TFLOP/s, their share of
the rate of a large matrix product in the same run, and MFU where the device's peak is known. Interleaving makes a
busy machine slow all alike, so quote the ratio. On CPU dreamjax runs twice: as `dreamjax train` does by default
(one device, which uses every core), and with one device per core (JAX_NUM_CPU_DEVICES).
"""

import argparse
import json
from dataclasses import replace
from typing import Any

import numpy as np
from common import CORES, Step, interleaved, machine, matrix_product_rate, on_gpu, summary, timed, training_step

ROUNDS, STEPS = 7, 5


def batch_of(channels: int, samples: int, size: int) -> dict[str, np.ndarray]:
    """Return a batch of white noise with every field that the pipeline delivers."""
    rng = np.random.default_rng(0)
    return {
        "signal": rng.standard_normal((size, channels, samples)).astype(np.float32),
        "valid": np.ones((size, samples), np.float32),
        "channel_ok": np.ones((size, channels), np.float32),
        "index": np.stack([np.zeros(size), np.arange(size)], axis=1).astype(np.uint32),
        "weight": np.ones(size, np.float32),
    }


def dreamjax_step(config: Any, devices: int = 1) -> tuple[Step, float]:
    """Return (the real Task's step over a mesh of that many devices, compiled as in the loop; seconds of compiling)."""
    from dreamjax.systems import registry

    data = batch_of(config.model.channels, config.data.samples, config.train.batch_size)
    return training_step(registry.build(config), config.train.mesh, data, devices)


def twin_of(config: Any, device: str, *, compiled: bool, microbatches: int = 1, mode: str | None = None) -> Any:
    """Return the trainer of `torch_twin.py` in the sizes of the same config; `mode`: of `torch.compile`."""
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
    bfloat16 = m.dtype == "bfloat16"
    return Trainer(shape, device, bfloat16=bfloat16, compiled=compiled, microbatches=microbatches, mode=mode)


def steps_of(trainer: Any, config: Any) -> Step:
    """Return the trainer's step on the batch that dreamjax has."""
    import torch

    m, device = config.model, trainer.device
    signal = torch.from_numpy(batch_of(m.channels, config.data.samples, config.train.batch_size)["signal"]).to(device)

    def step(steps: int) -> None:
        for _ in range(steps):
            trainer.step(signal)
        trainer.wait()

    return step


def torch_step(config: Any, device: str, *, compiled: bool, microbatches: int = 1) -> Step:
    return steps_of(twin_of(config, device, compiled=compiled, microbatches=microbatches), config)


def comparable(preset: str, batch: int, dtype: str, unroll: bool) -> Any:
    """Return the preset in the form that both sides share: one mask ratio, no padding, no EMA, no extra layers."""
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
    from dreamjax.systems import registry
    from dreamjax.training import devices

    config = comparable(args.preset, args.batch, args.dtype, args.unroll)
    gpu = on_gpu()
    contestants: dict[str, Step] = {}
    contestants["dreamjax"], compile_s = dreamjax_step(config)
    if not gpu and CORES > 1 and args.batch % CORES == 0:
        contestants["dreamjax, a device per core"], _ = dreamjax_step(config, CORES)
    device = "cuda" if gpu else "cpu"
    contestants["torch eager"] = torch_step(config, device, compiled=False)
    if not args.without_compile:
        contestants["torch.compile"] = torch_step(config, device, compiled=True)
        if not gpu and args.batch % 4 == 0:  # smaller pieces help dreamjax on CPU: the twin may have them too
            contestants["torch.compile, 4 micro-batches"] = torch_step(config, device, compiled=True, microbatches=4)
    ceiling = matrix_product_rate(args.dtype, 8192 if gpu else 1024)
    times = interleaved({name: timed(step) for name, step in contestants.items()}, args.rounds, args.steps)
    flops = registry.build(config).flops() * args.batch
    facts = machine() | {
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
