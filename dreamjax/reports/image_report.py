"""Scores of made images (JSON of `dreamjax evaluate`) in words and tables: for a terminal, a page, a model card."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from dreamjax.reports import tables as report
from dreamjax.reports.tables import Table
from dreamjax.storage import sniffing

MODEL = "model"  # the source whose scores are compared with every other source
RESULT = "images-{split}.json"  # in the folder of an evaluation
OLD_RESULT = "pictures-{split}.json"  # of runs evaluated before 0.2

BRACKETS = (
    "in brackets: 95 % intervals, over images and people; n.r.: not resolved, with the least that would have been"
)
COLUMNS = 4  # metrics in a row of tables
PARTS = {False: "Scores", True: "Model minus each, paired (n.r. ≥ X: not resolved; this design could detect ≥ X)"}
CENTRAL = ("top-1", "two-way within class")  # metrics whose outcome is said in a sentence


def about(result: Mapping[str, Any]) -> list[str]:
    """What the tables are of, for a page that shows other images beside them."""
    made = result["made"]
    how = f"made with {made['sampler']}, {made['steps']} steps, guidance {made['guidance']:g}"
    return [f"Of {result['title']}, {how}; not of the images below", BRACKETS, *findings(result), *result["notes"]]


def findings(result: Mapping[str, Any]) -> list[str]:
    """For each central metric a sentence: above which other sources the model is, by an interval without zero."""
    return [_finding(entry) for entry in result["scores"] if any(name in entry["metric"] for name in CENTRAL)]


def _finding(entry: Mapping[str, Any]) -> str:
    groups: dict[str, list[str]] = {"above": [], "below": [], "not resolved from": []}
    for source, d in entry["model_minus"].items():
        if d["estimate"] is not None:
            resolved = d["low"] is not None and not d["low"] <= 0 <= d["high"]
            groups[("above" if d["estimate"] > 0 else "below") if resolved else "not resolved from"].append(source)
    chance = "" if entry["chance"] is None else f" (chance {entry['chance']:.3g})"
    told = [f"{where} {', '.join(sources)}" for where, sources in groups.items() if sources]
    standing = "; ".join(told) or "nothing to compare it with"
    return f"{entry['metric']}: model {report.cell(entry['scores'].get(MODEL))}{chance}, {standing}"


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Every source's scores, the model's differences from each other source, and what each source is."""
    found: list[Table] = []
    entries: Sequence[Mapping[str, Any]] = result["scores"]
    for minus, title in PARTS.items():
        own = [e for e in entries if not minus or e["model_minus"]]
        sources = [s for s in result["sources"] if not minus or s != MODEL]
        for first in range(0, len(own), COLUMNS):
            some = own[first : first + COLUMNS]
            rows = [[source, *(_cell(e, source, minus) for e in some)] for source in sources]
            if not minus:
                rows.append(["chance", *("–" if e["chance"] is None else f"{e['chance']:.3f}" for e in some)])
            kept = [row for row in rows if set(row[1:]) != {"–"}]
            found.append((title if first == 0 else "", ["images of", *(e["metric"] for e in some)], kept))
    found += [
        (title, header, rows)
        for title, (header, rows) in (
            ("As sets of images, whoever saw them", set_rows(result.get("sets", []), result["sources"])),
            ("Images of another class", confusion_rows(result.get("confusion", {}), result["sources"])),
        )
        if rows
    ]
    for title, header, said in (
        ("Not possible", ["control", "why"], result["not_possible"]),
        ("Whose images these are", ["images of", "what they are"], result["of_sources"]),
    ):
        if said:
            found.append((title, header, [[name, told] for name, told in said.items()]))
    return found


def _cell(entry: Mapping[str, Any], source: str, minus: bool) -> str:
    value = entry["model_minus" if minus else "scores"].get(source)
    told = report.cell(value, signed=minus)
    return f"{told} n.r. ≥ {value['detectable']:.2g}" if minus and value and value.get("detectable") else told


def text(result: Mapping[str, Any]) -> str:
    """A result for a terminal."""
    lines = [result["title"]]
    for title, header, rows in tables(result):
        lines += ["", *([title] if title else []), report.table(header, rows)]
    lines += ["", *(f"- {line}" for line in (*findings(result), *result["notes"]))]
    lines += [f"! {warning}" for warning in result["warnings"]]
    return "\n".join(lines).rstrip()


def saved(workdir: epath.PathLike, step: int) -> dict[str, Any] | None:
    """The scores of this step of a run, where it has been evaluated: on split test, else on val."""
    found = (saved_in(epath.Path(workdir) / "evaluation", step, split) for split in ("test", "val"))
    return next((result for result in found if result), None)


def saved_in(folder: epath.Path, step: int, split: str) -> dict[str, Any] | None:
    """The scores of this step in the folder of an evaluation; None where there are none."""
    names = (folder / name.format(split=split) for name in (RESULT, OLD_RESULT))
    path = next((path for path in names if path.exists()), None)
    result = sniffing.read_json(path) if path is not None else None
    return result if result and result.get("step") == step and "warnings" in result else None


def set_rows(entries: Sequence[Mapping[str, Any]], sources: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """(header, rows), a source a row; no rows where no judge has such scores."""
    if not entries:
        return [], []
    found = [[source, *(_set_cell(entry["scores"].get(source)) for entry in entries)] for source in sources]
    return ["", *(entry["metric"] for entry in entries)], found


def _set_cell(score: Mapping[str, Any] | None) -> str:
    """`12.3 (n 1,200; biased below 10,000)`, `0.0123 [0.0110, 0.0135] (n 1,200)`."""
    if score is None or score["estimate"] is None:
        return "–"
    number = f"{score['estimate']:.4g}"
    if score["low"] is not None:
        number += f" [{score['low']:.4g}, {score['high']:.4g}]"
    counted = "n " + " to ".join(f"{score[k]:,}" for k in ("n", "m") if k in score)
    return f"{number} ({'; '.join(filter(None, (counted, score['note'])))})"


def confusion_rows(result: Mapping[str, Any], sources: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """(header, rows): how near the failures of each source are; no rows where there is nothing to tell."""
    if not result:
        return [], []
    chance = result["chance"]
    found = []
    for source in sources:
        failures = result["sources"][source]["failures"]
        cells = [_confusion_cell(failures[by], what) for what in ("rank", "nearest") for by in ("colour", "shape")]
        found.append([source, f"{failures['n']:,} of {failures['of']:,}", *cells])
    known = [f"{chance[what]:.3f}" for what in ("rank", "nearest") for _ in range(2)]
    header = [f"wrong among {len(result['classes'])} classes", "", "rank by colour", "by shape"]
    return [*header, "nearest by colour", "by shape"], [*found, ["chance", "", *known]]


def _confusion_cell(found: Mapping[str, Any], what: str) -> str:
    """`3.2 [2.9, 3.5] (dealt 4.1)`."""
    dealt = found["dealt"][what]
    return report.cell(found[what]) + ("" if dealt is None or found[what] is None else f" (dealt {dealt:.3f})")
