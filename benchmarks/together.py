"""K points of a sweep trained as one program against K one after another, in one run; and what a pod would gain.

    python benchmarks/together.py                                  # tiny, 8 points, on this machine's CPU
    python benchmarks/together.py --preset small --points 4
    python benchmarks/together.py --pod v5e-64 --points 64         # predicted too, from compiled programs

Prints one JSON object: milliseconds in which every point has done a step (median, and the range over rounds), of the
points one after another on all of the machine, of all as one program on one device and on a device per core, and of
PyTorch: one after another, and as one under torch.func.vmap. Ratios are taken round by round. With --pod the program of
one point over the whole pod and that of all points, each on separate chips, are compiled for it, and the times
between which a step must lie are predicted from what they compute, read and send (docs/scaling.md).
"""

import argparse
import functools
import json
import statistics
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from common import CORES, Step, Times, interleaved, machine, on_gpu, summary, timed, training_step
from pretrain import batch_of, comparable, torch_step

from dreamjax.pods.jobs import TrainingStep

ROUNDS, STEPS = 7, 5
ALONE = "dreamjax, one after another"


def points(config: Any, count: int) -> list[Any]:
    """Return runs that differ in their seed and their rate."""
    rates = np.geomspace(1e-4, 1e-2, count)
    return [
        replace(config, seed=i, optim=replace(config.optim, learning_rate=float(rate)), train=_plain(config))
        for i, rate in enumerate(rates)
    ]


def _plain(config: Any) -> Any:
    return replace(config.train, eval_every=0, image_every=0, microbatches=1)


def as_one(configs: list[Any], devices: int) -> tuple[Step, float]:
    from dreamjax.parallel.mesh import MeshConfig
    from dreamjax.sweeps import vectorised
    from dreamjax.systems import registry

    one = configs[0]
    rows = one.train.batch_size * len(configs)
    data = batch_of(one.model.channels, one.data.samples, rows)
    task = vectorised.Vectorised(tuple(map(registry.build, configs)), tuple(configs))
    return training_step(task, MeshConfig(data=devices), data, devices)


def one_after_another(steps: list[Step]) -> Step:
    def run(count: int) -> None:
        for step in steps:
            step(count)

    return run


def torch_as_one(config: Any, count: int, device: str) -> Step:
    """Return a step of the twin: parameters stacked, gradients by vmap over them, one fused AdamW for all."""
    import torch
    from torch_twin import MaskedAutoencoder, Shape

    m = config.model
    sizes = (m.dim, m.depth, m.heads, m.mlp_ratio, m.decoder_dim, m.decoder_depth, m.decoder_heads)
    shape = Shape(m.channels, config.data.samples, m.patch, *sizes, config.mask.ratios[0])
    torch.set_num_threads(CORES)
    models = [MaskedAutoencoder(shape).to(device) for _ in range(count)]
    params, buffers = torch.func.stack_module_state(models)
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    base = MaskedAutoencoder(shape).to("meta")
    rows = batch_of(m.channels, config.data.samples, config.train.batch_size * count)["signal"]
    signal = torch.from_numpy(rows).to(device).reshape(count, config.train.batch_size, m.channels, -1)
    optimiser = torch.optim.AdamW(leaves.values(), lr=1e-3, fused=True)

    def loss(trained: Any, fixed: Any, x: Any) -> Any:
        return torch.func.functional_call(base, (trained, fixed), (x,))

    each = torch.func.vmap(loss, randomness="different")

    def run(steps: int) -> None:
        for _ in range(steps):
            optimiser.zero_grad(set_to_none=True)
            each(leaves, buffers, signal).sum().backward()
            optimiser.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


@dataclass(frozen=True)
class Together(TrainingStep):
    """A step of all points as one, for `plan`. `config`: of the first."""

    others: tuple[Any, ...] = ()

    @functools.cached_property
    def task(self) -> Any:
        from dreamjax.sweeps import vectorised
        from dreamjax.systems import registry

        return vectorised.Vectorised(tuple(map(registry.build, self.others)), self.others)

    def __post_init__(self) -> None:
        """Do nothing: the number of examples is that of its points."""

    @property
    def examples(self) -> int:
        return self.config.train.batch_size * len(self.others)

    def trace(self, mesh: Any) -> Any:
        from dreamjax.pods import ahead

        return ahead.trace_step(self.task, mesh, self.examples, self.task.tasks[0].example())


def predicted(configs: list[Any], name: str) -> dict[str, Any]:
    """Return the milliseconds a step of all points on a pod: one after another on all chips, and each on its own."""
    from dreamjax.pods import plan, topologies

    pod = topologies.pod(name)
    alone = plan.plan(TrainingStep(configs[0]), pod).seconds
    together = plan.plan(Together(configs[0], tuple(configs)), pod).seconds
    milliseconds = {"one after another": [len(configs) * end for end in (alone.low, alone.high)]}
    milliseconds["as one"] = [together.low, together.high]
    gain = [milliseconds["one after another"][i] / milliseconds["as one"][i] for i in range(2)]
    return {
        "pod": pod.name,
        "ms_per_step": {how: [round(1e3 * x, 3) for x in ends] for how, ends in milliseconds.items()},
        "times_faster": [round(x, 2) for x in gain],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--points", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32, help="windows of each point")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--steps", type=int, default=STEPS, help="steps per round and contestant")
    parser.add_argument("--pod", default="", help="such as v5e-64: predict it there too (TPU's compiler)")
    args = parser.parse_args()
    import jax

    jax.config.update("jax_num_cpu_devices", CORES)
    from dreamjax.systems import registry

    configs = points(comparable(args.preset, args.batch, "float32", unroll=False), args.points)
    one, gpu = configs[0], on_gpu()
    data = batch_of(one.model.channels, one.data.samples, args.batch)
    made = [training_step(registry.build(config), config.train.mesh, data) for config in configs]
    whole, compile_s = as_one(configs, 1)
    contestants: dict[str, Step] = {ALONE: one_after_another([step for step, _ in made])}
    contestants["dreamjax, as one"] = whole
    if not gpu and CORES > 1 and args.points % CORES == 0:
        contestants["dreamjax, as one, a device per core"], _ = as_one(configs, CORES)
    device = "cuda" if gpu else "cpu"
    twins = [torch_step(config, device, compiled=False) for config in configs]
    contestants["torch eager, one after another"] = one_after_another(twins)
    contestants["torch.func.vmap"] = torch_as_one(one, args.points, device)
    times = interleaved({name: timed(step) for name, step in contestants.items()}, args.rounds, args.steps)
    flops = registry.build(one).flops() * args.batch * args.points
    facts = machine() | {
        "preset": args.preset,
        "points": args.points,
        "batch": args.batch,
        "gflop_per_step": round(flops / 1e9, 2),
        "compile_s": {"each alone": [round(s, 1) for _, s in made], "as one": round(compile_s, 1)},
    }
    if args.pod:
        facts["predicted"] = predicted(configs, args.pod)
    facts["times_faster_than_one_after_another"] = {
        name: gain(times, ALONE, name) for name in times if name.startswith("dreamjax") and name != ALONE
    }
    print(json.dumps(facts | {"contestants": summary(times)}, indent=1))


def gain(times: Times, alone: str, other: str) -> list[float]:
    """Return the median, the minimum and the maximum over rounds."""
    ratios = [a[0] / b[0] for a, b in zip(times[alone], times[other], strict=True)]
    return [round(f(ratios), 3) for f in (statistics.median, min, max)]


if __name__ == "__main__":
    main()
