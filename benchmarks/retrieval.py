"""Training of retrieval networks in dreamjax and in PyTorch, data on the device, interleaved in one run.

    python benchmarks/retrieval.py                                    # NICE, ATM-S, the brain module: published sizes
    python benchmarks/retrieval.py --systems nice --runs 5 --rounds 9
    python benchmarks/retrieval.py --smallest --without-compile       # tiny sizes, to try the script

dreamjax trains one run alone, and several seeds as one program; PyTorch, eager and compiled, one run. In every round
each of them takes a turn of one epoch, whose batches are drawn and gathered on the device. Before that, both sides must
have the same number of parameters, and with the same weights the same vectors and loss. Prints a table, and last one
JSON object: milliseconds of a step of one run, and PyTorch's time divided by ours, round by round (above 1: ours is
shorter).
"""

import argparse
import json
import os
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # else PyTorch's threads wait busily for each other: see the docs

import retrieval_sides as sides
from common import Timed, interleaved, machine, say, summary, timed

MOST = {"vectors": 1e-4, "loss": 1e-4}  # relative differences that rounding in float32 explains
COLUMNS = ("system", "side", "ms a step", "CPU ms", "PyTorch's time / dreamjax", "… / the seeds as one program")


def per_step(run: Timed, steps: int) -> Timed:
    """Return turns whose times are those of one step of one run."""

    def turn(epochs: int) -> tuple[float, float]:
        wall, busy = run(epochs)
        return wall / steps, busy / steps

    return turn


def measured(name: str, sizes: sides.Sizes, args: argparse.Namespace) -> dict[str, Any]:
    """Return the result of a system. Stop where the sides are not the same."""
    tasks = [sides.task_of(name, sizes, seed, small=args.smallest) for seed in range(args.runs)]
    say(f"{name}: compiling …")
    alone, together = (sides.Ours(tasks[:runs], sizes, args.steps) for runs in (1, args.runs))
    eager = sides.Theirs(tasks[0], sizes, args.steps)
    ours = sides.our_parameters(alone.state.params)
    if ours != eager.parameters:
        raise SystemExit(f"{name}: dreamjax has {ours} parameters, the twin {eager.parameters}")
    differences = sides.differences(tasks[0], alone, eager, sizes)
    for what, value in differences.items():
        if not value <= MOST[what]:
            raise SystemExit(f"{name}: {what} of the two sides differ by {value:.2g}, rounding explains {MOST[what]}")
    turns = {
        "dreamjax": per_step(timed(alone.run), args.steps),
        f"dreamjax, {args.runs} seeds as one": per_step(timed(together.run), args.steps * args.runs),
        "torch eager": per_step(timed(eager.run), args.steps),
    }
    if not args.without_compile:
        compiled = sides.Theirs(tasks[0], sizes, args.steps, compiled=True)
        turns["torch.compile"] = per_step(timed(compiled.run), args.steps)
    times = interleaved(turns, args.rounds, 1, warm=1)
    shapes = {key: getattr(sizes, key) for key in sizes.__dataclass_fields__}
    return {"sizes": shapes, "parameters": ours, "differences": differences, "contestants": summary(times)}


def table(systems: dict[str, Any], runs: int) -> str:
    """Return the results as a table in Markdown: medians and ranges over the rounds."""
    rows = [COLUMNS, ["---"] * len(COLUMNS)]
    for name, result in systems.items():
        for side, one in result["contestants"].items():
            low, high = one["ms_range"]
            ratios = (one.get(f"time / {ours}") for ours in ("dreamjax", f"dreamjax, {runs} seeds as one"))
            shown = ("" if x is None else f"{x[0]:.2f} ({x[1]:.2f}-{x[2]:.2f})" for x in ratios)
            times = (f"{one['ms_per_step']:.4g} ({low:.4g}-{high:.4g})", f"{one['cpu_ms_per_step']:.4g}")
            rows.append([f"{name}, batch {result['sizes']['batch']}", side, *times, *shown])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=list(sides.PUBLISHED), choices=list(sides.PUBLISHED))
    parser.add_argument("--runs", type=int, default=3, help="seeds that are one program (%(default)s)")
    parser.add_argument("--steps", type=int, default=1, help="batches of an epoch (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (%(default)s)")
    parser.add_argument("--batch", type=int, help="examples of a batch (default: as published)")
    parser.add_argument("--without-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--smallest", action="store_true", help="tiny sizes, to try the script")
    args = parser.parse_args()
    result: dict[str, Any] = {**machine(), "runs": args.runs, "systems": {}}
    for name in args.systems:
        sizes = (sides.SMALLEST if args.smallest else sides.PUBLISHED)[name]
        sizes = sides.replace(sizes, batch=args.batch or sizes.batch)
        result["systems"][name] = measured(name, sizes, args)
        say(table({name: result["systems"][name]}, args.runs))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
