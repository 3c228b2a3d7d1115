"""How the time of each kind of work grows with its size, as the fitted exponent of a power: JSON on stdout.

    python benchmarks/growth.py                                       # every axis, 9 minutes of processor time
    python benchmarks/growth.py --axes prepare-copies resume --rounds 7
    taskset -c 0 python benchmarks/growth.py --cpu                    # on a machine that others use too

An axis varies one size and keeps the others. Sizes and contestants take turns in every round, in this process; the
least seconds of all rounds count, since other work on the machine only adds to them (`--cpu`: of processor time, which
leaves most of it out). The exponent p is that of

    seconds = fixed + factor · size^p,   fixed ≥ 0,

by least squares of relative errors, so that a fixed cost does not hide the growth. Its range is that of the middle 95 %
of fits to rounds drawn with replacement; of a few rounds that is narrower than a confidence interval. `operations`: the
same fit to the counted floating-point operations of a network, which is the growth that its definition implies. A table
goes to stderr, with the reason for every exponent above 1.1.
"""

import argparse
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
from common import say, timed
from growth_axes import Axis, Work, axes

TURN_S = 0.1  # of steps, at least, in one turn
DRAWS = 200  # of rounds, for ranges
EXPONENTS = np.linspace(0, 3, 301)
LINEAR = 1.1  # exponents up to here count as linear
NOT_GROWN = 1.3  # a largest size that takes less than this many times the smallest has no exponent


# ----------------------------------------------------------------------------------------------------------- the fit
def fit(sizes: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """Return (exponent, fixed seconds)."""
    y = np.array(seconds)
    grown = (np.array(sizes) / max(sizes))[None] ** EXPONENTS[:, None]
    u, v = np.broadcast_to(1 / y, grown.shape), grown / y  # fixed · u + factor · v ≈ 1
    uu, uv, vv, su, sv = ((a * b).sum(1) for a, b in ((u, u), (u, v), (v, v), (u, 1), (v, 1)))
    determinant = np.where(uu * vv - uv**2 > 1e-12 * uu * vv, uu * vv - uv**2, np.inf)
    fixed = np.clip((su * vv - sv * uv) / determinant, 0, None)
    factor = np.clip((sv - fixed * uv) / vv, 0, None)
    best = int(np.square(fixed[:, None] * u + factor[:, None] * v - 1).sum(1).argmin())
    return float(EXPONENTS[best]), float(fixed[best])


def law(sizes: Sequence[int], rounds: Sequence[Mapping[int, float]]) -> dict[str, Any]:
    """Return the seconds of every size, and their exponent with its range. `rounds`: size → seconds of each."""
    taken = np.array([[one[size] for size in sizes] for one in rounds])
    least = taken.min(0)
    result: dict[str, Any] = {"seconds": {size: float(f"{s:.4g}") for size, s in zip(sizes, least, strict=True)}}
    if len(sizes) < 3 or least[-1] < NOT_GROWN * least[0]:
        return result | {"exponent": None}
    exponent, fixed = fit(sizes, least.tolist())
    drawn = np.random.default_rng(0).integers(0, len(taken), (DRAWS, len(taken)))
    low, high = np.quantile([fit(sizes, taken[draw].min(0).tolist())[0] for draw in drawn], [0.025, 0.975])
    ends = [round(float(end), 2) for end in (low, high)]
    return result | {"exponent": round(exponent, 2), "range": ends, "fixed_s": float(f"{fixed:.3g}")}


def measured(axis: Axis, sizes: Sequence[int], rounds: int, folder: Path, *, cpu: bool) -> dict[str, Any]:
    """Return the law of every contestant of an axis, and that of the operations where they are counted.

    `cpu`: of seconds of processor time.
    """

    def seconds(work: Work, count: int) -> float:
        return timed(work.step)(count)[int(cpu)] / count

    turns: dict[tuple[str, int], tuple[Work, int]] = {}
    for size in sizes:
        for name, make in axis.contestants.items():
            work = make(size, folder)
            if axis.rounds is None:
                seconds(work, 1)  # with one-off work, such as compiling
            turns[name, size] = work, max(1, math.ceil(TURN_S / seconds(work, 1)))
    rounds = min(rounds, axis.rounds or rounds)
    taken: dict[str, list[dict[int, float]]] = {name: [{} for _ in range(rounds)] for name in axis.contestants}
    for i in range(rounds):
        for (name, size), (work, count) in turns.items():
            taken[name][i][size] = seconds(work, count)
    result: dict[str, Any] = {"what": axis.what, "rounds": rounds}
    for name, each in taken.items():
        result[name] = law(sizes, each)
        operations = [turns[name, size][0].operations for size in sizes]
        if None not in operations and len(sizes) > 2:
            result["operations"] = {"exponent": round(fit(sizes, operations)[0], 2)}  # type: ignore[arg-type]
    return result


def table(results: Mapping[str, Mapping[str, Any]], known: Mapping[str, Axis]) -> list[str]:
    """Return the rows of the table, in Markdown."""
    rows = ["| what, size | sizes | seconds | exponent (range) | operations | peer's seconds | its exponent (range) |"]
    rows.append("|---|---|---|---|---|---|---|")
    for name, result in results.items():
        laws = [result[contestant] for contestant in known[name].contestants]
        cells = []
        for one in laws:
            times = list(one["seconds"].values())
            power = "no growth" if one["exponent"] is None else f"{one['exponent']:.2f} ({_range(one['range'])})"
            cells.append((f"{times[0]:.2g} to {times[-1]:.2g}", power))
        sizes = list(laws[0]["seconds"])
        counted = result.get("operations", {}).get("exponent", "")
        peer = cells[1] if len(cells) > 1 else ("", "")
        row = (result["what"], f"{sizes[0]:,} to {sizes[-1]:,}", *cells[0], counted, *peer)
        rows.append(f"| {' | '.join(map(str, row))} |")
    return rows


def _range(ends: Sequence[float]) -> str:
    return " to ".join(f"{end:.2f}" for end in ends)


def reasons(results: Mapping[str, Mapping[str, Any]], known: Mapping[str, Axis]) -> list[str]:
    """Return a line for each axis whose exponent is above `LINEAR`."""
    above = [name for name, result in results.items() if (result["dreamjax"]["exponent"] or 0) > LINEAR]
    return [f"{name} grows faster than its size: {known[name].why or 'no reason is known'}" for name in above]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", default=[], help="names, or first words of names (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="at most 3 of work that takes seconds (default: 5)")
    parser.add_argument("--smallest", action="store_true", help="sizes that only show that it runs")
    parser.add_argument("--cpu", action="store_true", help="seconds of processor time in place of those of a clock")
    args = parser.parse_args()
    from dreamjax.console import log
    from dreamjax.training import compile_cache

    log.setLevel("ERROR")
    compile_cache.use("auto")
    known = axes()
    chosen = [n for n in known if not args.axes or any(n == one or n.startswith(f"{one}-") for one in args.axes)]
    if unknown := [one for one in args.axes if not any(n == one or n.startswith(f"{one}-") for n in known)]:
        parser.error(f"unknown axis {unknown[0]}; choose from {', '.join(known)}")
    results = {}
    for name in chosen:
        axis = known[name]
        with tempfile.TemporaryDirectory() as folder:
            sizes = axis.smallest if args.smallest else axis.sizes
            results[name] = measured(axis, sizes, args.rounds, Path(folder), cpu=args.cpu)
        say(f"{name}: {results[name]['dreamjax']}")
    reasons_given = reasons(results, known)
    for line in (*table(results, known), *reasons_given):
        say(line)
    facts = {
        "cores": common.CORES,
        "load": os.getloadavg()[0],
        "seconds": "of processor time" if args.cpu else "of a clock",
    }
    print(json.dumps(facts | {"axes": results, "above_linear": reasons_given}, indent=1))


if __name__ == "__main__":
    main()
