"""A plan in words and tables, for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from dreamjax.reports import tables

GIB = 2**30
NAMES = {"params": "parameters", "opt": "optimiser", "ema": "average", "frozen": "frozen", "extra": "statistics"}


def text(result: Mapping[str, Any]) -> str:
    """What was asked for, whether it fits, what crosses chips, how long a step and the run take."""
    pod, mesh, batch, seconds = (result[key] for key in ("pod", "mesh", "batch", "seconds"))
    axes = ", ".join(f"{name} {size}" for name, size in mesh.items() if size > 1) or "one device"
    lines = [
        f"{result['system']}, {result['what']}, on {pod['name']} ({pod['chips']} chips, {pod['topology']}): {axes}; "
        f"{batch['step']:,} examples, {batch['device']:,} a device",
        "",
        *_memory(result),
        "",
        *_collectives(result),
        "",
        *_time(result, seconds),
        *_scaling(result.get("scaling", [])),
        *([f"see {', '.join(result['files'])}"] if result.get("files") else []),
    ]
    return "\n".join(lines)


def _memory(result: Mapping[str, Any]) -> list[str]:
    memory, usable = result["memory"], result["usable"]
    peak = memory["peak"]
    rows = [[NAMES.get(name, name), f"{size / GIB:.3f}"] for name, size in memory.items() if size is not None]
    verdict = (
        f"fits: {(usable - peak) / GIB:.2f} GiB to spare"
        if peak <= usable
        else (f"does not fit: {(peak - usable) / GIB:.2f} GiB too much")
    )
    unknown = "" if memory.get("activations", 0.0) is not None else "; activations are not known without the compiler"
    warning = []
    if again := result["computed_twice"]:
        warning.append(f"! it fits only because the compiler computes {again} instructions twice: a smaller batch")
    return [
        f"GiB of a device ({result['how']}; the compiler may use {usable / GIB:.2f})",
        tables.table(["", "GiB"], rows),
        f"{verdict}{unknown}; {result['unsharded']:.1%} of the larger arrays' bytes are whole on every device",
        *warning,
    ]


def _collectives(result: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            one["kind"],
            " x ".join(one["axes"]),
            f"{one['group']}",
            ", ".join(one["types"]),
            f"{one['times']:.0f}",
            f"{one['payload'] / GIB:.4f}",
            f"{one['received'] / GIB:.4f}",
            "yes" if one["beside"] else "no",
        ]
        for one in result["collectives"]
    ]
    if not rows:
        return ["nothing crosses chips"]
    header = ["a step's", "over", "chips", "of", "times", "GiB", "GiB received", "beside other work"]
    lines = [tables.table(header, rows)]
    if result["unrecognised"]:
        told = ", ".join(f"{count} x {form}" for form, count in result["unrecognised"].items())
        lines.append(f"not recognised, and not counted: {told}")
    if result["loops"]:
        told = ", ".join("unknown (counted once)" if trips is None else str(trips) for trips in result["loops"])
        lines.append(f"loops of so many trips: {told}")
    if result["strange_loops"]:
        told = ", ".join("?" if trips is None else str(trips) for trips in result["strange_loops"])
        lines.append(f"! of these, the model has none of {told} trips: what runs in them may be counted wrongly")
    return lines


def _time(result: Mapping[str, Any], seconds: Mapping[str, Any]) -> list[str]:
    known = result["examples_per_second"] is not None
    parts = [["matrix units, at their peak", seconds["matrix"]]] if known else []
    parts.append(["memory, at its peak", seconds["memory"]])
    parts += [[f"links, over {where}", took] for where, took in seconds["links"].items()]
    if seconds["network"]:
        parts.append(["network between slices", seconds["network"]])
    if seconds["computing"]:
        parts.append(["all instructions, as the compiler estimates them", seconds["computing"]])
    what = result["what"]
    lines = [
        f"milliseconds of {what} (predicted)",
        tables.table(["", "ms"], [[name, f"{1e3 * took:.2f}"] for name, took in parts]),
    ]
    if not known:
        return [*lines, f"how long {what} takes is not known: its operations are counted in compiled programs alone"]
    low, high = result["examples_per_second"]
    lines += [
        f"{what}: {1e3 * seconds['low']:.1f} ms where all overlaps, {1e3 * seconds['high']:.1f} where nothing does",
    ]
    told = f"{_number(low)} to {_number(high)} examples a second"
    lines.append(f"{told}, MFU {result['mfu'][0]:.1%} to {result['mfu'][1]:.1%}")
    if result["steps"]:
        (most, least), (more, fewer) = result["hours"], result["chip_hours"]
        lines.append(
            f"{result['steps']:,} steps: {_number(least)} to {_number(most)} hours, "
            f"{_number(fewer)} to {_number(more)} chip-hours"
        )
    return lines


def _number(value: float) -> str:
    """In three digits at the least: `0.0042`, `3.14`, `1,280`."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _scaling(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    cells = [
        [
            row["name"],
            f"{row['chips']:,}",
            f"{1e3 * row['low']:.1f} to {1e3 * row['high']:.1f}",
            f"{1e3 * row['crossing']:.1f}",
            f"{row['efficiency']['low']:.1%}",
            f"{row['efficiency']['high']:.1%}",
        ]
        for row in rows
    ]
    header = ["", "chips", "ms of a step", "of these across chips", "efficiency, all overlapped", "nothing overlapped"]
    return ["", f"weak scaling, {rows[0]['batch'] // rows[0]['chips']:,} examples a chip", tables.table(header, cells)]
