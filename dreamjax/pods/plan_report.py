"""A plan in words, tables and figures: for a terminal and as files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from dreamjax.console import counted
from dreamjax.pods.collectives import SLICES
from dreamjax.pods.plan import PodPlan, ScalingRow
from dreamjax.reports import figures, palette
from dreamjax.reports.pages import Page, Section
from dreamjax.reports.tables import Table
from dreamjax.storage import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GIB = 2**30
NAMES = {"params": "parameters", "opt": "optimiser", "ema": "average", "frozen": "frozen", "extra": "statistics"}
INSTRUCTIONS = "all instructions, as the compiler estimates them"
STORED = (*NAMES, "gradients", "activations")
TITLES = {"memory": "Memory of a device", "roofline": "Roofline of the step", "scaling": "Weak scaling"}


def text(plan: PodPlan) -> str:
    """Return the plan for a terminal."""
    return _page(plan).text(plan.files)


def write(plan: PodPlan, out: epath.PathLike) -> PodPlan:
    """Write plan.json, plan.html and a PNG of each figure into the folder `out`; return the plan with their paths."""
    folder = epath.Path(out)
    drawn = {"memory": draw_memory(plan)} | ({"roofline": draw_roofline(plan)} if plan.outlook else {})
    drawn |= {"scaling": draw_scaling(plan.scaling)} if plan.scaling else {}
    plots = {name: figures.png(figure) for name, figure in drawn.items()}
    page = _page(plan, [Section(TITLES[name], png=data, half=name != "memory") for name, data in plots.items()])
    contents = {f"{name}.png": data for name, data in plots.items()}
    contents |= {"plan.html": page.html().encode(), "plan.json": json.dumps(plan.as_json(), indent=1).encode()}
    atomic.write_together(folder, contents)
    return replace(plan, files=[str(folder / name) for name in contents])


# --------------------------------------------------------------------------------------------------------------- words
def _page(plan: PodPlan, plots: Sequence[Section] = ()) -> Page:
    """Return the page: the request, whether it fits, communication, and the duration of a step and of the run."""
    pod, batch = plan.pod, plan.batch
    axes = ", ".join(f"{name} {size}" for name, size in plan.mesh.items() if size > 1) or "one device"
    title = (
        f"{plan.job.config.system}, {plan.job.what}, on {pod.name} ({counted(pod.chips, 'chip')}, {pod.topology}): "
        f"{axes}; {batch['step']:,} examples, {batch['device']:,} a device"
    )
    warnings = []
    if count := plan.computed_twice:
        warnings.append(f"it fits only because the compiler computes {count} instructions twice: use a smaller batch")
    if plan.strange_loops:
        trips = _joined(plan.strange_loops, "?")
        warnings.append(f"loops with {trips} trips are not in the model: their operations may be miscounted")
    sections = [*plots, _memory(plan), _collectives(plan), *_kernels(plan), _time(plan)]
    sections += [_scaling(plan)] if plan.scaling else []
    return Page(title, sections, statements=warnings)


def _joined(trips: Sequence[int | None], unknown: str) -> str:
    return ", ".join(unknown if count is None else str(count) for count in trips)


def _memory(plan: PodPlan) -> Section:
    spare = (plan.usable - (plan.memory["peak"] or 0.0)) / GIB
    rows = [[NAMES.get(name, name), f"{size / GIB:.3f}"] for name, size in plan.memory.items() if size is not None]
    verdict = f"fits: {spare:.2f} GiB to spare" if spare >= 0 else f"does not fit: {-spare:.2f} GiB too much"
    known = plan.memory.get("activations", 0.0) is not None
    unknown = "" if known else "; activations are unknown without the compiler"
    whole = f"{plan.unsharded:.1%} of the larger arrays' bytes are whole on every device"
    title = f"GiB of a device ({plan.how}; the compiler may use {plan.usable / GIB:.2f})"
    return Section(title, Table(["", "GiB"], rows), notes=[f"{verdict}{unknown}; {whole}"])


def _collectives(plan: PodPlan) -> Section:
    rows = []
    for one in plan.collectives:
        sizes = (f"{one.times:.0f}", f"{one.payload / GIB:.4f}", f"{one.received / GIB:.4f}")
        types = ", ".join(one.types)
        rows.append([one.kind, " x ".join(one.axes), f"{one.group}", types, *sizes, "yes" if one.overlapped else "no"])
    if not rows:
        return Section(notes=["no communication between chips"])
    notes = []
    if plan.unrecognised:
        forms = ", ".join(f"{count} x {form}" for form, count in plan.unrecognised.items())
        notes.append(f"not recognised, and not counted: {forms}")
    if plan.loops:
        notes.append(f"trip counts of the loops: {_joined(plan.loops, 'unknown (counted once)')}")
    header = ["collective", "over", "chips", "of", "times", "GiB", "GiB received", "overlapped"]
    return Section("Communication between chips in a step", Table(header, rows), notes=notes)


def _kernels(plan: PodPlan) -> list[Section]:
    """Return the kernels of a program for GPUs by kind, and those without products that move the most."""
    if not plan.kernels:
        return []
    rows = []
    for group in plan.kernels:
        sizes = (f"{group.flop / 1e12:.2f}", f"{group.moved / GIB:.2f}", f"{group.milliseconds:.2f}")
        rows.append([group.kind, group.types, f"{group.times:,.0f}", *sizes])
    header = ["kernels", "type", "times", "TFLOP", "GiB moved", "ms (predicted)"]
    moving = [
        [one.kind, _source(one.source), f"{one.times:.0f}", f"{one.times * one.moved / GIB:.2f}"]
        for one in plan.traffic
    ]
    return [
        Section("Kernels of a step", Table(header, rows)),
        Section("Largest memory traffic without products", Table(["kernel", "from", "times", "GiB"], moving)),
    ]


def _source(path: str) -> str:
    """Return the end of an operation's path: `transpose(jvp())/while/body/mul` of `jit(update)/…`."""
    parts = [
        part for part in path.split("/") if part not in ("closed_call", "body", "while") and "jit(update" not in part
    ]
    return "/".join(parts)[-60:]


def _time(plan: PodPlan) -> Section:
    seconds, what, outlook = plan.seconds, plan.job.what, plan.outlook
    durations = {
        "products, at the peak" if plan.kernels else "matrix units, at their peak": seconds.matrix if outlook else 0,
        "memory, at its peak": seconds.memory,
        **{f"links, over {axis}": duration for axis, duration in seconds.links.items()},
        "network between slices": seconds.network,
        "all kernels, one after another" if plan.kernels else INSTRUCTIONS: seconds.computing,
    }
    always = ("memory", "links", *(["matrix"] if outlook else []))
    rows = [[name, f"{1e3 * (took or 0):.2f}"] for name, took in durations.items() if took or name.startswith(always)]
    notes = [f"the duration of {what} is unknown: its operations are counted only in compiled programs"]
    if outlook:
        (low, high), mfu = outlook["examples_per_second"], outlook["mfu"]
        between = f"{1e3 * seconds.low:.1f} ms if everything overlaps, {1e3 * seconds.high:.1f} if nothing does"
        if seconds.scheduled:
            between = f"{1e3 * seconds.low:.1f} to {1e3 * seconds.high:.1f} ms, as the program is scheduled"
        notes = [
            f"{what}: {between}",
            f"{_number(low)} to {_number(high)} examples a second, MFU {mfu[0]:.1%} to {mfu[1]:.1%}",
        ]
        if plan.job.runs:
            (most, least), (more, fewer) = outlook["hours"], outlook["chip_hours"]
            notes.append(
                f"{plan.job.runs:,} steps: {_number(least)} to {_number(most)} hours, "
                f"{_number(fewer)} to {_number(more)} chip-hours"
            )
    return Section(f"Milliseconds of {what} (predicted)", Table(["", "ms"], rows), notes=notes)


def _number(value: float) -> str:
    """Return a number with at least three digits: `0.0042`, `3.14`, `1,280`."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _scaling(plan: PodPlan) -> Section:
    cells = []
    for row in plan.scaling:
        times = (f"{1e3 * row.low:.1f} to {1e3 * row.high:.1f}", f"{1e3 * row.crossing:.1f}")
        cells.append([row.name, f"{row.chips:,}", *times, *(f"{row.efficiency[end]:.1%}" for end in ("low", "high"))])
    ends = ("efficiency, at best", "at worst") if plan.kernels else ("efficiency, all overlapped", "nothing overlapped")
    header = ["pod", "chips", "ms of a step", "of these across chips", *ends]
    title = f"Weak scaling, {plan.scaling[0].batch // plan.scaling[0].chips:,} examples a chip"
    return Section(title, Table(header, cells))


# ------------------------------------------------------------------------------------------------------------- figures
def parts(memory: Mapping[str, float | None]) -> list[tuple[str, float]]:
    """Return (name, bytes) of what a device holds at once, each byte counted once; together they are the peak."""
    sizes = [(NAMES.get(name, name), float(memory[name] or 0.0)) for name in STORED if memory.get(name)]
    if arguments := memory.get("arguments"):
        sizes.append(("batch and padding", max(0.0, arguments - sum(size for _, size in sizes))))
    rest = (memory["peak"] or 0.0) - sum(size for _, size in sizes)
    return [*sizes, ("gradients, activations, code", rest)] if rest > 0 else sizes


def draw_memory(plan: PodPlan) -> "Figure":
    """Draw a stacked bar, and what the compiler may use."""
    fig, axis = figures.single(9, 2.4)
    sizes, left = parts(plan.memory), 0.0
    for (name, size), colour in zip(sizes, palette.areas(len(sizes)), strict=True):
        axis.barh(0, size / GIB, left=left, height=0.6, color=colour, label=f"{name}, {size / GIB:.2f}")
        left += size / GIB
    usable = plan.usable / GIB
    axis.axvline(usable, color=palette.LIMIT, lw=1.6)
    axis.annotate(f"usable, {usable:.2f} ", (usable, 0.42), ha="right", va="bottom", fontsize=9, color=palette.LIMIT)
    axis.set(xlim=(0, 1.04 * max(usable, left)), ylim=(-0.4, 0.75), yticks=[], xlabel=f"GiB of a device ({plan.how})")
    axis.spines["left"].set_visible(False)
    figures.legend(axis, fontsize=9, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.35))
    return fig


def draw_roofline(plan: PodPlan) -> "Figure":
    """Draw FLOP/s against FLOP a byte, of memory and of what crosses chips: which roof bounds the step."""
    from matplotlib.ticker import LogLocator

    rates, seconds = plan.rates, plan.seconds
    peak, flop = rates["flops"] / 1e12, seconds.matrix * rates["flops"]
    fig, axis = figures.single(6.4, 4.4)
    moved = {"memory": seconds.memory * rates["memory"], "links": 0.0, "network": 0.0}
    for one in plan.collectives:
        moved["network" if one.axes == (SLICES,) else "links"] += one.received
    x = np.logspace(0, 6, 200)
    roofs = [(name, size) for name, size in moved.items() if size and flop]
    for (name, size), colour in zip(roofs, palette.SERIES, strict=False):
        axis.plot(x, np.minimum(x * rates[name] / 1e12, peak), color=colour, lw=1.6, label=name)
        axis.plot(flop / size, min(flop / size * rates[name] / 1e12, peak), "o", color=colour, ms=7)
    low, high = (flop / end / 1e12 for end in (seconds.high, seconds.low))
    axis.axhspan(low, high, color=palette.SHADE, zorder=0, label="predicted for the step")
    axis.set(xscale="log", yscale="log", ylim=(max(peak / 1e3, low / 3), 1.6 * peak))
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("")
    axis.set(xlabel="FLOP a byte moved (dots: this step)", ylabel="TFLOP/s of a device")
    figures.legend(axis, fontsize=9, loc="lower right")
    return fig


def draw_scaling(rows: Sequence[ScalingRow]) -> "Figure":
    """Draw efficiency against chips, where nothing overlaps and where all does."""
    fig, axis = figures.single(6.4, 3.6)
    chips = [row.chips for row in rows]
    ends = {"low": ("all overlapped", palette.BLUE), "high": ("nothing overlapped", palette.VERMILLION)}
    for end, (label, colour) in ends.items():
        axis.plot(chips, [row.efficiency[end] for row in rows], "o-", color=colour, ms=5, label=label)
    axis.axhline(0.9, color=palette.GRID, lw=0.8, ls=":")
    axis.set_xscale("log", base=2)
    axis.set_xticks(chips, [f"{count:,}" for count in chips])
    axis.set(ylim=(0, 1.08), xlabel="chips, the same examples on each", ylabel="weak-scaling efficiency")
    figures.legend(axis, fontsize=9, loc="lower left")
    return fig
