"""Scores of made pictures (JSON of `dreamjax evaluate`) in words and tables: for a terminal, a page, a model card."""

from collections.abc import Mapping, Sequence
from typing import Any

from dreamjax.evaluation import confusion, report, sets
from dreamjax.evaluation.decoding import MODEL

BRACKETS = (
    "in brackets: 95 % intervals, over pictures and people; n.r.: not resolved, with the least that would have been"
)
COLUMNS = 4  # metrics in a row of tables
PARTS = {False: "Scores", True: "Model minus each, paired (n.r. ≥ X: not resolved; this design could detect ≥ X)"}
CENTRAL = ("top-1", "two-way within class")  # metrics whose outcome is said in a sentence

Table = tuple[str, list[str], list[list[str]]]  # title, header, rows


def about(result: Mapping[str, Any]) -> list[str]:
    """What the tables are of, for a page that shows other pictures beside them."""
    made = result["made"]
    how = f"made with {made['sampler']}, {made['steps']} steps, guidance {made['guidance']:g}"
    return [f"Of {result['title']}, {how}; not of the pictures below", BRACKETS, *findings(result), *result["notes"]]


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
            found.append((title if first == 0 else "", ["pictures of", *(e["metric"] for e in some)], kept))
    found += [
        (title, header, rows)
        for title, (header, rows) in (
            ("As sets of pictures, whoever saw them", sets.rows(result.get("sets", []), result["sources"])),
            ("Pictures of another class", confusion.rows(result.get("confusion", {}), result["sources"])),
        )
        if rows
    ]
    for title, header, said in (
        ("Not possible", ["control", "why"], result["not_possible"]),
        ("Whose pictures these are", ["pictures of", "what they are"], result["of_sources"]),
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
