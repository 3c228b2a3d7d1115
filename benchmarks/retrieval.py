"""Training of retrieval networks in dreamjax and in PyTorch, data on the device, interleaved in one run.

    python benchmarks/retrieval.py                                  # NICE, ATM-S and the brain module, on CPU
    python benchmarks/retrieval.py --systems nice --batch 256 --runs 3

An epoch of a few batches is drawn, gathered and stepped through. dreamjax runs once alone and once with several seeds
as one program; PyTorch eager and compiled, one run. Prints one JSON object: milliseconds of a step of one run, the
ratio of PyTorch's time to ours round by round (above 1: we are faster), and the number of parameters on both sides,
which must be equal.
"""

import argparse
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import CORES, Timed, interleaved, machine, on_gpu, summary

from dreamjax.systems import registry
from dreamjax.systems.retrieval_base import SizesConfig, gathered
from dreamjax.training import in_memory

STEPS = 3  # batches of an epoch
SIZES = {  # system → channels, samples, features
    "nice": (63, 250, 768),
    "atm": (63, 250, 1024),
    "brain_module": (272, 181, 768),
}


def examples_of(channels: int, samples: int, features: int, count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "signal": rng.standard_normal((count, channels, samples)).astype(np.float32),
        "subject": np.zeros(count, np.int32),
        "image": np.arange(count, dtype=np.int32),
        "vectors": rng.standard_normal((count, features)).astype(np.float32),
    }


def positions_of(channels: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(-0.1, 0.1, (channels, 3)).astype(np.float32)


def dreamjax_epoch(name: str, sizes: tuple[int, int, int], batch: int, runs: int) -> tuple[Timed, int]:
    """Return the epoch of `runs` seeds as one program, and the number of parameters of one."""
    channels, samples, features = sizes
    kind = registry.find(name)
    base = kind.Config
    shape = SizesConfig(channels=channels, samples=samples, people=1, features=features)
    tasks = [registry.build(base(seed=seed, sizes=shape, epochs=1)) for seed in range(runs)]
    for task in tasks:
        task.__dict__["positions"] = positions_of(channels)  # in place of those of a dataset
    data = examples_of(*sizes, count=STEPS * batch)
    vectors = {"vector": jnp.asarray(data.pop("vectors"))}
    arrays = {key: jnp.asarray(x)[None] for key, x in data.items()}
    state = in_memory.initial(tasks)
    epoch = in_memory.epoch_of(tasks[0], STEPS * batch, batch, gathered)
    sets, seeds = jnp.zeros(runs, jnp.int32), jnp.arange(runs)
    kept = {"state": state, "number": 0}
    parameters = sum(x[0].size for x in jax.tree.leaves(state.params))

    def run(epochs: int) -> tuple[float, float]:
        import time

        wall, busy = time.perf_counter(), time.process_time()
        for _ in range(epochs):
            kept["state"], loss, _ = epoch(kept["state"], sets, seeds, jnp.int32(kept["number"]), arrays, vectors)
            kept["number"] += 1
        jax.block_until_ready(loss)
        scale = STEPS * runs
        return (time.perf_counter() - wall) / scale, (time.process_time() - busy) / scale

    return run, parameters


def torch_epoch(name: str, sizes: tuple[int, int, int], batch: int, compiled: bool) -> tuple[Timed, int]:
    """Return the twin's epoch, with the same objective and optimiser, and its number of parameters."""
    import time

    import torch

    from dreamjax.systems.pytorch import brain_encoders

    channels, samples, features = sizes
    device = "cuda" if on_gpu() else "cpu"
    torch.manual_seed(0)
    classes = {"nice": "NICE", "atm": "ATMS", "brain_module": "BrainModule"}
    make = getattr(brain_encoders, classes[name])
    arguments: dict[str, Any] = {"channels": channels, "samples": samples, "features": features}
    if name == "brain_module":
        arguments |= {"people": 1}
    encoder = make(**arguments).to(device)
    scale = torch.nn.Parameter(torch.tensor(np.log(1 / 0.07), dtype=torch.float32, device=device))
    data = examples_of(*sizes, count=STEPS * batch)
    signal, vectors = (torch.from_numpy(data[key]).to(device) for key in ("signal", "vectors"))
    extra = []
    if name == "brain_module":
        extra = [
            torch.zeros(batch, dtype=torch.long, device=device),
            torch.from_numpy(positions_of(channels)).to(device),
        ]
    optimiser = torch.optim.AdamW([*encoder.parameters(), scale], lr=2e-4, betas=(0.5, 0.999), weight_decay=0.0)

    def loss_of(x: "torch.Tensor", v: "torch.Tensor") -> "torch.Tensor":
        u = torch.nn.functional.normalize(encoder(x, *extra), dim=-1)
        logits = scale.exp() * u @ torch.nn.functional.normalize(v, dim=-1).T
        right = torch.arange(len(logits), device=logits.device)
        cross = torch.nn.functional.cross_entropy
        return 0.5 * (cross(logits, right) + cross(logits.T, right))

    step_loss = torch.compile(loss_of) if compiled else loss_of

    def run(epochs: int) -> tuple[float, float]:
        wall, busy = time.perf_counter(), time.process_time()
        for _ in range(epochs):
            order = torch.randperm(STEPS * batch, device=device)
            for first in range(0, STEPS * batch, batch):
                rows = order[first : first + batch]
                loss = step_loss(signal[rows], vectors[rows])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
        float(loss)
        return (time.perf_counter() - wall) / STEPS, (time.process_time() - busy) / STEPS

    count = sum(p.numel() for p in encoder.parameters()) + 1
    count += sum(b.numel() for b in encoder.buffers() if b.is_floating_point())
    return run, count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3, help="seeds that are trained as one program")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--smallest", action="store_true", help="tiny sizes, to try the script")
    args = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "batch": args.batch, "runs": args.runs, "systems": {}}
    for name in args.systems:
        sizes = (8, 120, 16) if args.smallest else SIZES[name]
        alone, ours = dreamjax_epoch(name, sizes, args.batch, 1)
        together, _ = dreamjax_epoch(name, sizes, args.batch, args.runs)
        eager, theirs = torch_epoch(name, sizes, args.batch, compiled=False)
        if ours != theirs:
            raise SystemExit(f"{name}: dreamjax has {ours} parameters, the twin {theirs}")
        contestants = {"dreamjax": alone, f"dreamjax, {args.runs} runs as one": together, "torch eager": eager}
        if not args.without_compile:
            contestants["torch.compile"] = torch_epoch(name, sizes, args.batch, compiled=True)[0]
        times = interleaved(contestants, args.rounds, 1, warm=1)
        result["systems"][name] = {"parameters": ours, "contestants": summary(times)}
    result["cores"] = CORES
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
