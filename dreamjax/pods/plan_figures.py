"""Images of a plan: what a device holds, the roofline, weak scaling."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from dreamjax.pods.collectives import SLICES
from dreamjax.pods.plan_text import NAMES
from dreamjax.reports import tables
from dreamjax.storage import atomic

GIB = 2**30
STORED = ("params", "opt", "ema", "frozen", "extra", "gradients", "activations")
COLOURS = ("#3b6ea5", "#6fa1d6", "#a9c8e8", "#7f8c8d", "#bdc3c7", "#d98e04", "#b5523b", "#8e44ad", "#2e8b57")


def figures(result: Mapping[str, Any]) -> dict[str, Any]:
    """name → matplotlib figure."""
    found = {"memory": memory(result)} | ({"roofline": roofline(result)} if result["examples_per_second"] else {})
    return found | ({"scaling": scaling(result["scaling"])} if result.get("scaling") else {})


def write(result: dict[str, Any], out: epath.PathLike) -> list[str]:
    """plan.json, and a PNG of each figure, in the folder `out`; their paths."""
    folder, files = epath.Path(out), []
    for name, figure in figures(result).items():
        atomic.write_bytes(folder / f"{name}.png", tables.png(figure))
        files.append(str(folder / f"{name}.png"))
    atomic.write_text(folder / "plan.json", json.dumps(result, indent=1))
    return [*files, str(folder / "plan.json")]


def parts(held: Mapping[str, float | None]) -> list[tuple[str, float]]:
    """(name, bytes) of what a device holds at once, without what is counted twice; together they are the peak."""
    found = [(NAMES.get(name, name), float(held[name] or 0.0)) for name in STORED if held.get(name)]
    if held.get("arguments"):
        found.append(("batch and padding", max(0.0, held["arguments"] - sum(size for _, size in found))))  # type: ignore[operator]
    rest = held["peak"] - sum(size for _, size in found)  # type: ignore[operator]
    return [*found, ("gradients, activations, code", rest)] if rest > 0 else found


def memory(result: Mapping[str, Any]) -> Any:
    """A stacked bar beside what the compiler may use."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(9, 2.4), layout="constrained", facecolor="white")
    axis, left = fig.subplots(), 0.0
    for (name, size), colour in zip(parts(result["memory"]), COLOURS, strict=False):
        axis.barh(0, size / GIB, left=left, height=0.6, color=colour, label=f"{name}, {size / GIB:.2f}")
        left += size / GIB
    usable = result["usable"] / GIB
    axis.axvline(usable, color="#c0392b", lw=1.6)
    axis.annotate(f"usable, {usable:.2f} ", (usable, 0.42), ha="right", va="bottom", fontsize=9, color="#c0392b")
    axis.set_xlim(0, 1.04 * max(usable, left))
    axis.set_ylim(-0.4, 0.75)
    axis.set_yticks([])
    axis.set_xlabel(f"GiB of a device ({result['how']})")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.35))
    return fig


def roofline(result: Mapping[str, Any]) -> Any:
    """FLOP/s against FLOP a byte, of memory and of what crosses chips: under which roof the step stands."""
    from matplotlib.figure import Figure

    rates, seconds = result["rates"], result["seconds"]
    fig = Figure(figsize=(6.4, 4.4), layout="constrained", facecolor="white")
    axis = fig.subplots()
    flop = seconds["matrix"] * rates["flops"]
    received = {"links": 0.0, "network": 0.0}
    for one in result["collectives"]:
        received["network" if one["axes"] == [SLICES] else "links"] += one["received"]
    ways = {"memory": seconds["memory"] * rates["memory"], **received}
    shown = [(name, moved) for name, moved in ways.items() if moved and flop]
    x = np.logspace(0, 6, 200)
    for (name, moved), colour in zip(shown, ("#3b6ea5", "#d98e04", "#b5523b"), strict=False):
        axis.plot(x, np.minimum(x * rates[name], rates["flops"]) / 1e12, color=colour, lw=1.6, label=name)
        intensity = flop / moved
        axis.plot(intensity, min(intensity * rates[name], rates["flops"]) / 1e12, "o", color=colour, ms=7)
    low, high = (flop / seconds[end] / 1e12 for end in ("high", "low"))
    axis.axhspan(low, high, color="0.85", zorder=0, label="predicted for the step")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_ylim(max(rates["flops"] / 1e12 / 1e3, low / 3), 1.6 * rates["flops"] / 1e12)
    for which in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        which("{x:g}")
    axis.set_xlabel("FLOP a byte moved (dots: this step)")
    axis.set_ylabel("TFLOP/s of a device")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9, loc="lower right")
    return fig


def scaling(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Efficiency against chips, where nothing overlaps and where all does."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(6.4, 3.6), layout="constrained", facecolor="white")
    axis, chips = fig.subplots(), [row["chips"] for row in rows]
    for end, label, colour in (("low", "all overlapped", "#3b6ea5"), ("high", "nothing overlapped", "#b5523b")):
        axis.plot(chips, [row["efficiency"][end] for row in rows], "o-", color=colour, ms=5, label=label)
    axis.axhline(0.9, color="0.6", lw=0.8, ls=":")
    axis.set_xscale("log", base=2)
    axis.set_xticks(chips, [f"{count:,}" for count in chips])
    axis.set_ylim(0, 1.08)
    axis.set_xlabel("chips, the same examples on each")
    axis.set_ylabel("weak-scaling efficiency")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9, loc="lower left")
    return fig
