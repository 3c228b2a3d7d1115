"""Compare DreamDiffusion's stage-B step with PyTorch: the published code's step, and a careful one of the same math.

    python benchmarks/stage_b.py                                  # half of every width and side, on this machine's CPU
    taskset -c 0 python benchmarks/stage_b.py                     # the same on one core: fair where others compute too
    python benchmarks/stage_b.py --model sd15 --batch 1 --apart   # the published sizes: 14 GiB at a time
    python benchmarks/stage_b.py --count --batch 25               # bytes alone, counted; nothing is computed
    python benchmarks/stage_b.py --count --batch 25 --chip v5e    # ours compiled for a TPU, which takes libtpu

A step is encoder, maps and U-Net forward and backward, clipping and AdamW, in float32. `torch, as published` also runs
the autoencoder over the images and CLIP's tower in the graph, keeps gradients of all that it does not train, and
writes its attention out; `torch, competent` has cached latents and embeddings as ours has, fused kernels, and no
gradient of what is frozen. Each contestant is a separate process. Prints one JSON object: times of interleaved
rounds, and the peak of memory in steps after the first, less what the process held before it made anything.
"""

import argparse
import ctypes
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import diffusion_models as models
import stage_b_sizes
from stage_b_sizes import Sizes

PUBLISHED, COMPETENT = "torch, as published", "torch, competent"
CONTESTANTS = ("dreamjax", PUBLISHED, COMPETENT)


# ---------------------------------------------------------------------------------------------------------- measured
class Resident:
    """The peak bytes of the steps after the first: of a GPU if `on_gpu`, else of the process.

    Compiling and drawing weights are left out, and what the process held before.
    """

    def __init__(self, on_gpu: Callable[[], float | None]):
        self.on_gpu, self.before = on_gpu, _status("VmRSS")

    def watching(self, step: common.Step) -> common.Step:
        first = True

        def run(steps: int) -> None:
            nonlocal first
            step(steps)
            if first:
                ctypes.CDLL(None).malloc_trim(0)
                Path("/proc/self/clear_refs").write_text("5")  # the peak starts from now
            first = False

        return run

    def peak(self) -> float:
        return self.on_gpu() or _status("VmHWM") - self.before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def contestant(name: str, sizes: Sizes) -> None:
    """Serve as one of them, in a separate process."""
    if name == "dreamjax":
        import jax

        jax.devices()
        held = Resident(models.our_peak)

        def work() -> common.Step:
            task = stage_b_sizes.task_of(sizes)
            return held.watching(common.training_step(task, sizes.config.train.mesh, stage_b_sizes.our_batch(sizes))[0])
    else:
        import stage_b_twin as twin
        import torch

        torch.set_num_threads(common.CORES)
        held = Resident(models.their_peak)

        def work() -> common.Step:
            made = twin.made(sizes, published=name == PUBLISHED, remat=sizes.config.model.remat != "none")

            def step(count: int) -> None:
                for _ in range(count):
                    made.step()
                models.wait(made.alphas.device)

            return held.watching(step)

    common.serve({"train": work}, held.peak)


# ----------------------------------------------------------------------------------------------------------- counted
def counted(sizes: Sizes, chip: str | None) -> dict[str, dict[str, int]]:
    """Return each contestant's peak MiB of a step; ours as compiled for this machine, or for one TPU chip."""
    import stage_b_twin as twin

    remat = sizes.config.model.remat != "none"
    counts = {"dreamjax": ours_compiled(sizes, chip)}
    for name in (PUBLISHED, COMPETENT):
        common.say(f"counting {name} …")
        counts[name] = twin.counted(sizes, published=name == PUBLISHED, remat=remat)
    return {name: {kind: round(size / 2**20) for kind, size in one.items()} for name, one in counts.items()}


def ours_compiled(sizes: Sizes, chip: str | None) -> dict[str, int]:
    import jax

    from dreamjax.parallel import mesh as meshes
    from dreamjax.pods import ahead

    task = stage_b_sizes.task_of(sizes)
    mesh = meshes.make(sizes.config.train.mesh, ahead.topology(f"{chip}:2x2")[:1] if chip else jax.devices()[:1])
    compiled = ahead.compile_step(task, mesh, sizes.batch, task.example(), effort=-1.0 if chip else None)
    state = jax.eval_shape(lambda: task.init(jax.random.key(0)))
    parts = {"parameters": (state.params, state.frozen), "gradients": state.params, "optimiser": state.opt}
    counts = {name: sum(4 * x.size for x in jax.tree.leaves(part)) for name, part in parts.items()}
    total = ahead.memory(compiled)["total"]
    return counts | {"rest": total - sum(counts.values()), "total": total}


# -------------------------------------------------------------------------------------------------------------- both
def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="half (of every width), sd15 (as published) or tiny")
    parser.add_argument("--size", type=int, help="of the latents; the model's own by default")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="per round and contestant")
    parser.add_argument("--remat", default="full", choices=["none", "full"], help="of ours and the competent one")
    parser.add_argument("--apart", action="store_true", help="one process after another, where two do not fit")
    parser.add_argument("--count", action="store_true", help="count bytes, of sd15 by default; compute nothing")
    parser.add_argument("--chip", help="with --count: a TPU such as v5e that ours is compiled for; this machine's CPU")
    parser.add_argument("--only", choices=CONTESTANTS, help=argparse.SUPPRESS)  # this is the child of a benchmark
    return parser.parse_args()


def main() -> None:
    args = parsed()
    name = args.model or ("sd15" if args.count else "half")
    sizes = stage_b_sizes.sizes_of(name, args.size, args.batch, args.remat, attention="pallas" if args.chip else "auto")
    if args.only:
        return contestant(args.only, sizes)
    facts = common.machine() | sizes.facts() | {"remat": args.remat}
    if args.count:
        results: dict[str, Any] = counted(sizes, args.chip)
        totals = {name: results[name]["total"] for name in CONTESTANTS}
        facts |= {"compiled_for": args.chip or "cpu", "mib": results}
    else:
        times, facts_of = common.compared(list(CONTESTANTS), "train", args.rounds, args.steps, apart=args.apart)
        results = {name: one | facts_of[name] for name, one in common.summary(times).items()}
        totals = {name: results[name]["peak_mib"] for name in CONTESTANTS}
        facts |= {"apart": args.apart, "contestants": results}
    facts["dreamjax's memory / its"] = {n: round(totals["dreamjax"] / totals[n], 3) for n in (PUBLISHED, COMPETENT)}
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    main()
