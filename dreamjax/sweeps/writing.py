"""A sweep's answer on paper: text, JSON, CSV, images, one HTML page, and the best point as a config file."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from dreamjax import __version__
from dreamjax import config as configs
from dreamjax.console import counted
from dreamjax.reports import tables
from dreamjax.storage import atomic
from dreamjax.sweeps import figures, ranking, summary


def write(result: dict[str, Any], out: str | None) -> dict[str, Any]:
    """Everything below `out` (default: SWEEP/report); the result with the files' paths."""
    page = html(result)  # first: where a package is missing, nothing is written
    folder, files = epath.Path(out or epath.Path(result["workdir"]) / "report"), []
    folder.mkdir(parents=True, exist_ok=True)

    def add(name: str, data: bytes) -> None:
        atomic.write_bytes(folder / name, data)
        files.append(str(folder / name))

    drawn = figures.draw(result)
    for name, figure in drawn.items():
        add(f"{name}.png", tables.png(figure))
    add("runs.csv", summary.table(result["workdir"]).encode())
    if best := best_config(result, str(folder / "best.py")):
        add("best.py", best.encode())
    add("report.html", page.encode())
    result = result | {"files": [*files, str(folder / "report.json")]}
    atomic.write_text(folder / "report.json", json.dumps(result, indent=1, allow_nan=False))
    return result


def best_config(result: Mapping[str, Any], path: str) -> str:
    """The config file of the highest point of the first comparison; empty where nothing is ranked."""
    leg = next(iter(result["legs"].values()))
    if not leg["ranking"]:
        return ""
    best = leg["ranking"][0]
    _, groups = ranking.read(result["workdir"])
    group = next(group for group in groups if group.name == best["point"])
    about = group.runs[leg["seeds"][0]][0]
    config = about["config"] | {"train": about["config"]["train"] | {"steps": best["steps"]}}
    told = f"The highest point of the sweep {result['name']} {leg['what']}: {best['point']}."
    return configs.as_file(config, f"{told}\n\nIts score was chosen as the highest, and is optimistic for that.", path)


# ---------------------------------------------------------------------------------------------------------------- text
def ranked(leg: Mapping[str, Any], rank: str) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of a leg, the highest first."""
    what = summary.RANKS.get(rank) or leg["metric"]
    probed = rank != "probe" and any("probe" in row for row in leg["ranking"])
    named = rank == "images"
    header = [
        "point",
        "steps",
        what,
        *(["probe"] if probed else []),
        *(["accuracy"] if named else []),
        "minus the highest",
        "",
        "at its own masks",
    ]
    rows = []
    for row in leg["ranking"]:
        pair = row.get("minus_best")
        own = row["own_explained"]
        rows.append(
            [
                row["point"],
                f"{row['steps']:,}",
                tables.cell(row["score"]),
                *([tables.cell(row.get("probe"))] if probed else []),
                *([tables.cell(row["accuracy"])] if named else []),
                tables.cell(pair, signed=True) if pair else "",
                pair["says"] if pair else "highest",
                "" if own is None else f"{own:.3f}",
            ]
        )
    return header, rows


def by_mask(leg: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(header, rows): share explained under each common mask, the baselines below."""
    masks = list(dict.fromkeys(mask for row in leg["ranking"] for mask in row["masks"]))
    rows = [[row["point"], *(tables.cell(row["masks"].get(mask)) for mask in masks)] for row in leg["ranking"]]
    names = list(dict.fromkeys(name for one in leg["baselines"].values() for name in one))
    for name in names:
        values = [leg["baselines"].get(mask, {}).get(name) for mask in masks]
        rows.append([f"({name})", *("–" if value is None else f"{value:.3f}" for value in values)])
    return ["point", *masks], rows


def notes(result: Mapping[str, Any]) -> list[str]:
    cost = result["cost"]
    flop = "" if cost["flop"] is None else f", {cost['flop'] / 1e15:.3g} PFLOP"
    found = [
        f"{counted(cost['runs'], 'run')}: {cost['seconds'] / 3600:.2g} hours of training{flop}, "
        f"{cost['scoring'] / 60:.2g} minutes of scoring; {cost['from_cache']} of {cost['programs']} programs came from "
        "the compile cache",
        f"scored on split {result['split']}; intervals (95 %) over seeds and {_unit(result)}s; p values corrected by "
        "Holm",
    ]
    if "encoders" in cost:
        found.insert(
            1,
            f"{counted(cost['encoders'], 'encoder')} were pretrained for all of them, in "
            f"{cost['encoder_seconds'] / 3600:.2g} hours beside",
        )
    return found + [f"not done: {name} ({why})" for name, why in result["unfinished"].items()]


def _unit(result: Mapping[str, Any]) -> str:
    """What scores are by."""
    return next(iter(result["legs"].values()))["unit"]


def text(result: Mapping[str, Any]) -> str:
    """For a terminal."""
    lines = [f"sweep {result['name']}: {result['workdir']}", *(f"  {note}" for note in notes(result))]
    for leg in result["legs"].values():
        subjects, seeds = counted(leg["subjects"], _unit(result)), counted(len(leg["seeds"]), "seed")
        lines += ["", f"{leg['what']}, {subjects}, {seeds}" + ("" if leg["ranking"] else ": nothing is ranked")]
        if not leg["ranking"]:
            continue
        lines.append(tables.table(*ranked(leg, result["rank"])))
        if result["rank"] == "reconstruction":
            lines += ["", tables.table(*by_mask(leg))]
    lines += [""] + [f"! {line}" for line in said(result)]
    return "\n".join([*lines, "wrote " + ", ".join(result["files"])])


def said(result: Mapping[str, Any]) -> list[str]:
    """Statements of all legs, each once."""
    return list(dict.fromkeys(line for leg in result["legs"].values() for line in leg["statements"]))


# ---------------------------------------------------------------------------------------------------------------- page
def html(result: Mapping[str, Any]) -> str:
    """One page with everything in it, its plots interactive."""
    import jinja2

    loader = jinja2.ChoiceLoader(
        [jinja2.PackageLoader("dreamjax.sweeps", "."), jinja2.PackageLoader("dreamjax.reports", ".")]
    )
    template = jinja2.Environment(loader=loader, autoescape=True).get_template("sweep.html.j2")
    parts = []
    for name, leg in result["legs"].items():
        if not leg["ranking"]:
            continue
        made = [("ranking", *ranked(leg, result["rank"]))]
        made += [("under each common mask", *by_mask(leg))] if result["rank"] == "reconstruction" else []
        parts.append((name, leg, made))
    return template.render(
        result=result,
        notes=notes(result),
        said=said(result),
        parts=parts,
        unit=_unit(result),
        plots=figures.interactive(result),
        version=__version__,
    )
