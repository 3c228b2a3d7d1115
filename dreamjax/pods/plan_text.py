"""A plan in words and tables, for a terminal and a page."""

from collections.abc import Mapping, Sequence
from typing import Any

from dreamjax.reports.pages import Page, Section
from dreamjax.reports.tables import Table

GIB = 2**30
NAMES = {"params": "parameters", "opt": "optimiser", "ema": "average", "frozen": "frozen", "extra": "statistics"}


def page(result: Mapping[str, Any], plots: Sequence[Section] = ()) -> Page:
    """Return what was asked for, whether it fits, what crosses chips, how long a step and the run take."""
    pod, mesh, batch = (result[key] for key in ("pod", "mesh", "batch"))
    axes = ", ".join(f"{name} {size}" for name, size in mesh.items() if size > 1) or "one device"
    title = (
        f"{result['system']}, {result['what']}, on {pod['name']} ({pod['chips']} chips, {pod['topology']}): {axes}; "
        f"{batch['step']:,} examples, {batch['device']:,} a device"
    )
    rows = result.get("scaling", [])
    sections = [*plots, _memory(result), _collectives(result), _time(result), *([_scaling(rows)] if rows else [])]
    return Page(title, sections, statements=_warnings(result))


def text(result: Mapping[str, Any]) -> str:
    """Return the plan for a terminal."""
    return page(result).text(result.get("files", ()))


def _warnings(result: Mapping[str, Any]) -> list[str]:
    warnings = []
    if count := result["computed_twice"]:
        warnings.append(f"it fits only because the compiler computes {count} instructions twice: use a smaller batch")
    if result["strange_loops"]:
        trips = ", ".join("?" if count is None else str(count) for count in result["strange_loops"])
        warnings.append(f"loops of {trips} trips are not the model's: what runs in them may be counted wrongly")
    return warnings


def _memory(result: Mapping[str, Any]) -> Section:
    memory, usable = result["memory"], result["usable"]
    spare = (usable - memory["peak"]) / GIB
    rows = [[NAMES.get(name, name), f"{size / GIB:.3f}"] for name, size in memory.items() if size is not None]
    verdict = f"fits: {spare:.2f} GiB to spare" if spare >= 0 else f"does not fit: {-spare:.2f} GiB too much"
    unknown = "" if memory.get("activations", 0.0) is not None else "; activations are not known without the compiler"
    whole = f"{result['unsharded']:.1%} of the larger arrays' bytes are whole on every device"
    title = f"GiB of a device ({result['how']}; the compiler may use {usable / GIB:.2f})"
    return Section(title, Table(["", "GiB"], rows), notes=[f"{verdict}{unknown}; {whole}"])


def _collectives(result: Mapping[str, Any]) -> Section:
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
        return Section(notes=["nothing crosses chips"])
    notes = []
    if result["unrecognised"]:
        forms = ", ".join(f"{count} x {form}" for form, count in result["unrecognised"].items())
        notes.append(f"not recognised, and not counted: {forms}")
    if result["loops"]:
        trips = ", ".join("unknown (counted once)" if count is None else str(count) for count in result["loops"])
        notes.append(f"trips of the loops: {trips}")
    header = ["collective", "over", "chips", "of", "times", "GiB", "GiB received", "beside other work"]
    return Section("What crosses chips in a step", Table(header, rows), notes=notes)


def _time(result: Mapping[str, Any]) -> Section:
    seconds, what = result["seconds"], result["what"]
    known = result["examples_per_second"] is not None
    parts = {
        "matrix units, at their peak": seconds["matrix"] if known else 0,
        "memory, at its peak": seconds["memory"],
        **{f"links, over {axis}": duration for axis, duration in seconds["links"].items()},
        "network between slices": seconds["network"],
        "all instructions, as the compiler estimates them": seconds["computing"],
    }
    always = ("memory", "links", *(["matrix"] if known else []))
    rows = [[name, f"{1e3 * took:.2f}"] for name, took in parts.items() if took or name.startswith(always)]
    notes = [f"how long {what} takes is not known: its operations are counted in compiled programs alone"]
    if known:
        (low, high), mfu = result["examples_per_second"], result["mfu"]
        notes = [
            f"{what}: {1e3 * seconds['low']:.1f} ms where all overlaps, {1e3 * seconds['high']:.1f} where nothing does",
            f"{_number(low)} to {_number(high)} examples a second, MFU {mfu[0]:.1%} to {mfu[1]:.1%}",
        ]
        if result["steps"]:
            (most, least), (more, fewer) = result["hours"], result["chip_hours"]
            notes.append(
                f"{result['steps']:,} steps: {_number(least)} to {_number(most)} hours, "
                f"{_number(fewer)} to {_number(more)} chip-hours"
            )
    return Section(f"Milliseconds of {what} (predicted)", Table(["", "ms"], rows), notes=notes)


def _number(value: float) -> str:
    """In at least three digits: `0.0042`, `3.14`, `1,280`."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _scaling(rows: Sequence[Mapping[str, Any]]) -> Section:
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
    header = [
        "pod",
        "chips",
        "ms of a step",
        "of these across chips",
        "efficiency, all overlapped",
        "nothing overlapped",
    ]
    title = f"Weak scaling, {rows[0]['batch'] // rows[0]['chips']:,} examples a chip"
    return Section(title, Table(header, cells))
