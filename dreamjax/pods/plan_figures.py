"""Figures of a plan: what a device holds, the roofline, weak scaling; and the files of a plan."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from dreamjax.pods import plan_text
from dreamjax.pods.collectives import SLICES
from dreamjax.pods.plan_text import GIB, NAMES
from dreamjax.reports import figures, palette
from dreamjax.reports.pages import Section
from dreamjax.storage import atomic
from dreamjax.typing import JsonDict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STORED = ("params", "opt", "ema", "frozen", "extra", "gradients", "activations")
TITLES = {"memory": "Memory of a device", "roofline": "Roofline of the step", "scaling": "Weak scaling"}


def draw(result: Mapping[str, Any]) -> "dict[str, Figure]":
    """Return name → figure."""
    drawn = {"memory": memory(result)} | ({"roofline": roofline(result)} if result["examples_per_second"] else {})
    return drawn | ({"scaling": scaling(result["scaling"])} if result.get("scaling") else {})


def write(result: JsonDict, out: epath.PathLike) -> list[str]:
    """Write plan.json, plan.html and a PNG of each figure into the folder `out`; return their paths."""
    folder = epath.Path(out)
    plots = {name: figures.png(figure) for name, figure in draw(result).items()}
    page = plan_text.page(
        result, [Section(TITLES[name], png=data, half=name != "memory") for name, data in plots.items()]
    ).html()
    contents = {f"{name}.png": data for name, data in plots.items()}
    contents |= {"plan.html": page.encode(), "plan.json": json.dumps(result, indent=1).encode()}
    for name, data in contents.items():
        atomic.write_bytes(folder / name, data)
    return [str(folder / name) for name in contents]


def parts(held: Mapping[str, float | None]) -> list[tuple[str, float]]:
    """Return (name, bytes) of what a device holds at once, each byte counted once; together they are the peak."""
    sizes = [(NAMES.get(name, name), float(held[name] or 0.0)) for name in STORED if held.get(name)]
    if arguments := held.get("arguments"):
        sizes.append(("batch and padding", max(0.0, arguments - sum(size for _, size in sizes))))
    rest = (held["peak"] or 0.0) - sum(size for _, size in sizes)
    return [*sizes, ("gradients, activations, code", rest)] if rest > 0 else sizes


def memory(result: Mapping[str, Any]) -> "Figure":
    """Draw a stacked bar beside what the compiler may use."""
    fig, axis = figures.single(9, 2.4)
    sizes, left = parts(result["memory"]), 0.0
    for (name, size), colour in zip(sizes, palette.areas(len(sizes)), strict=True):
        axis.barh(0, size / GIB, left=left, height=0.6, color=colour, label=f"{name}, {size / GIB:.2f}")
        left += size / GIB
    usable = result["usable"] / GIB
    axis.axvline(usable, color=palette.LIMIT, lw=1.6)
    axis.annotate(f"usable, {usable:.2f} ", (usable, 0.42), ha="right", va="bottom", fontsize=9, color=palette.LIMIT)
    axis.set_xlim(0, 1.04 * max(usable, left))
    axis.set_ylim(-0.4, 0.75)
    axis.set_yticks([])
    axis.set_xlabel(f"GiB of a device ({result['how']})")
    axis.spines["left"].set_visible(False)
    figures.legend(axis, fontsize=9, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.35))
    return fig


def roofline(result: Mapping[str, Any]) -> "Figure":
    """Draw FLOP/s against FLOP a byte, of memory and of what crosses chips: which roof bounds the step."""
    from matplotlib.ticker import LogLocator

    rates, seconds = result["rates"], result["seconds"]
    fig, axis = figures.single(6.4, 4.4)
    flop = seconds["matrix"] * rates["flops"]
    received = {"links": 0.0, "network": 0.0}
    for one in result["collectives"]:
        received["network" if one["axes"] == [SLICES] else "links"] += one["received"]
    moved = {name: size for name, size in {"memory": seconds["memory"] * rates["memory"], **received}.items() if size}
    x = np.logspace(0, 6, 200)
    for (name, size), colour in zip(moved.items() if flop else (), palette.SERIES, strict=False):
        axis.plot(x, np.minimum(x * rates[name], rates["flops"]) / 1e12, color=colour, lw=1.6, label=name)
        intensity = flop / size
        axis.plot(intensity, min(intensity * rates[name], rates["flops"]) / 1e12, "o", color=colour, ms=7)
    low, high = (flop / seconds[end] / 1e12 for end in ("high", "low"))
    axis.axhspan(low, high, color=palette.SHADE, zorder=0, label="predicted for the step")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_ylim(max(rates["flops"] / 1e12 / 1e3, low / 3), 1.6 * rates["flops"] / 1e12)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("")
    axis.set_xlabel("FLOP a byte moved (dots: this step)")
    axis.set_ylabel("TFLOP/s of a device")
    figures.legend(axis, fontsize=9, loc="lower right")
    return fig


def scaling(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw efficiency against chips, where nothing overlaps and where all does."""
    fig, axis = figures.single(6.4, 3.6)
    chips = [row["chips"] for row in rows]
    for end, label, colour in (
        ("low", "all overlapped", palette.BLUE),
        ("high", "nothing overlapped", palette.VERMILLION),
    ):
        axis.plot(chips, [row["efficiency"][end] for row in rows], "o-", color=colour, ms=5, label=label)
    axis.axhline(0.9, color=palette.GRID, lw=0.8, ls=":")
    axis.set_xscale("log", base=2)
    axis.set_xticks(chips, [f"{count:,}" for count in chips])
    axis.set_ylim(0, 1.08)
    axis.set_xlabel("chips, the same examples on each")
    axis.set_ylabel("weak-scaling efficiency")
    figures.legend(axis, fontsize=9, loc="lower left")
    return fig
