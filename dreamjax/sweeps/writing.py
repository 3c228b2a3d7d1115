"""Write the report of a sweep: text, JSON, CSV, figures, one HTML page, and the best point as a config file."""

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from etils import epath

from dreamjax import config as configs
from dreamjax.console import counted
from dreamjax.reports import figures
from dreamjax.reports.pages import Page, Section
from dreamjax.reports.tables import Table, cell, csv_text, number
from dreamjax.storage import atomic
from dreamjax.sweeps import figures as charts
from dreamjax.sweeps import ranking
from dreamjax.sweeps.summary import Comparison, SweepSummary


def write(result: SweepSummary, out: str | None) -> SweepSummary:
    """Write the report into the folder `out` (default: SWEEP/report); return the summary with the files' paths."""
    made = charts.charts(result)
    page = _page(result, charts.interactive(made))  # first: where a package is missing, nothing is written
    folder = epath.Path(out or epath.Path(result.workdir) / "report")
    contents = {f"{name}.png": figures.png(charts.draw(chart)) for name, chart in made.items()}
    contents["runs.csv"] = runs_csv(result.workdir).encode()
    if best := best_config(result, str(folder / "best.py")):
        contents["best.py"] = best.encode()
    contents["report.html"] = page.html().encode()
    result = replace(result, files=tuple(str(folder / name) for name in (*contents, "report.json")))
    contents["report.json"] = json.dumps(result.as_json(), indent=1, allow_nan=False).encode()
    atomic.write_together(folder, contents)
    return result


def runs_csv(workdir: str) -> str:
    """Return comma-separated values: a row for each run and leg."""
    sweep, groups = ranking.read(workdir)
    axes = sorted({axis for group in groups for axis in group.values})
    runs = [(group, seed, score) for group in groups for seed, (_, score) in sorted(group.runs.items())]
    masks = sorted(
        {mask for *_, score in runs for mask in next(iter(score["legs"].values())).get("reconstruction", {})}
    )
    header = [*axes, "seed", "compared", "steps", "examples", "score", *masks, "own_explained", "seconds", "flop"]
    rows = []
    for group, seed, score in runs:
        labels, cost = [group.values.get(axis, "") for axis in axes], score["cost"]
        for name, leg in score["legs"].items():
            stored = leg.get("reconstruction", {})
            by_subject = [ranking.by_subject(leg, sweep["score"]["rank"])]
            by_subject += [ranking.explained(stored[mask]) if mask in stored else {} for mask in masks]
            means = [float(np.mean(list(one.values()))) if one else "" for one in by_subject]
            values = [x if x == "" else float(f"{x:.6g}") for x in (*means, leg["own"].get("explained", ""))]
            costs = [round(cost["seconds"], 2), cost["flop"]]
            rows.append([*labels, seed, name, leg["step"], leg["examples"], *values, *costs])
    return csv_text(header, rows)


def best_config(result: SweepSummary, path: str) -> str:
    """Return the config file of the highest point of the first comparison; empty where nothing is ranked."""
    leg = result.first
    if not leg.ranking:
        return ""
    best = leg.ranking[0]
    _, groups = ranking.read(result.workdir)
    group = next(group for group in groups if group.name == best.name)
    stored = group.runs[leg.seeds[0]][0]["config"]
    config = stored | {"train": stored["train"] | {"steps": best.steps}}
    title = f"The highest point of the sweep {result.name} {leg.what}: {best.name}."
    return configs.as_file(config, f"{title}\n\nIts score was chosen as the highest, and is optimistic for that.", path)


def text(result: SweepSummary) -> str:
    """Return the report for a terminal."""
    return _page(result).text(result.files)


def _page(result: SweepSummary, plots: Mapping[str, str] | None = None) -> Page:
    """Return the whole report; without `plots` (title → HTML), the version for a terminal."""
    sections = [Section(title, html=plot, half=True) for title, plot in (plots or {}).items()]
    for leg in result.legs.values():
        subjects, seeds = counted(leg.subjects, leg.unit), counted(len(leg.seeds), "seed")
        heading = f"{leg.what[0].upper()}{leg.what[1:]}, {subjects}, {seeds}"
        if not leg.ranking:
            sections.append(Section(f"{heading}: nothing is ranked"))
            continue
        sections.append(Section(heading, ranking_table(leg, result.rank)))
        if result.rank == "reconstruction":
            sections.append(Section("Under each common mask" if plots else "", mask_table(leg)))
    if plots is not None:
        rows = [[name, command] for name, command in result.commands.items()]
        sections.append(Section("Each run alone", Table(["run", "command"], rows)))
    title = f"Sweep {result.name}" if plots is not None else f"sweep {result.name}: {result.workdir}"
    method = f"Intervals: {result.first.unit}s and seeds crossed, Cornfield and Tukey 1956."
    return Page(title, sections, notes(result), result.statements(), footer=method)


def ranking_table(leg: Comparison, rank: str) -> Table:
    """Return the points of a comparison, the highest first."""
    columns = {
        "point": [point.name for point in leg.ranking],
        "steps": [f"{point.steps:,}" for point in leg.ranking],
        leg.metric: [cell(point.score) for point in leg.ranking],
    }
    if rank != "probe" and any(point.probe for point in leg.ranking):
        columns["probe"] = [cell(point.probe) for point in leg.ranking]
    if rank == "images":
        columns["accuracy"] = [cell(point.accuracy) for point in leg.ranking]
    tests = [point.test for point in leg.ranking]
    columns["minus the highest"] = [cell(test.difference, signed=True) if test else "" for test in tests]
    columns["result"] = [test.says() if test else "highest" for test in tests]
    columns["at its own masks"] = ["" if point.explained is None else f"{point.explained:.3f}" for point in leg.ranking]
    return Table(list(columns), list(zip(*columns.values(), strict=True)))


def mask_table(leg: Comparison) -> Table:
    """Return the share explained under each common mask, the baselines below."""
    masks = list(dict.fromkeys(mask for point in leg.ranking for mask in point.masks))
    rows = [[point.name, *(cell(point.masks.get(mask)) for mask in masks)] for point in leg.ranking]
    for name in dict.fromkeys(name for one in leg.baselines.values() for name in one):
        rows.append([f"({name})", *(number(leg.baselines.get(mask, {}).get(name)) for mask in masks)])
    return Table(["point", *masks], rows)


def notes(result: SweepSummary) -> list[str]:
    """Return the cost of the sweep, how it was scored, and its unfinished points."""
    cost = result.cost
    flop = "" if cost.flop is None else f", {cost.flop / 1e15:.3g} PFLOP"
    lines = [
        f"{counted(cost.runs, 'run')}: {cost.seconds / 3600:.2g} hours of training{flop}, "
        f"{cost.scoring / 60:.2g} minutes of scoring; {cost.from_cache} of {cost.programs} programs came from "
        "the compile cache"
    ]
    if cost.encoders:
        hours = cost.encoder_seconds / 3600
        lines.append(f"{counted(cost.encoders, 'encoder')} pretrained for all of them, in another {hours:.2g} hours")
    lines.append(
        f"scored on split {result.split}; intervals (95 %) over seeds and {result.first.unit}s; p values corrected by "
        "Holm"
    )
    return lines + [f"not done: {name} ({reason})" for name, reason in result.unfinished.items()]
