"""Scores of made images (JSON of `dreamjax evaluate`) in words and tables: for a terminal, a page, a model card."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from dreamjax.reports.pages import Page, Section
from dreamjax.reports.tables import NOTHING, Table, cell, number
from dreamjax.storage import sniffing
from dreamjax.typing import JsonDict

MODEL = "model"  # the source whose scores are compared with every other source
RESULT = "images-{split}.json"  # in the folder of an evaluation
OLD_RESULT = "pictures-{split}.json"  # of runs evaluated before 0.2

BRACKETS = (
    "in brackets: 95 % intervals, over images and people; n.r.: not resolved, with the least that would have been"
)
COLUMNS = 4  # metrics in a row of tables
CENTRAL = ("top-1", "two-way within class")  # metrics whose outcome is put into a sentence


def about(result: Mapping[str, Any]) -> list[str]:
    """Return what the tables are of, for a page that shows other images beside them."""
    made = result["made"]
    how = f"made with {made['sampler']}, {made['steps']} steps, guidance {made['guidance']:g}"
    return [f"Of {result['title']}, {how}; not of the images below", BRACKETS, *findings(result), *result["notes"]]


def findings(result: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each central metric: above which other sources the model is, by an interval without 0."""
    return [_finding(entry) for entry in result["scores"] if any(name in entry["metric"] for name in CENTRAL)]


def _finding(entry: Mapping[str, Any]) -> str:
    groups: dict[str, list[str]] = {"above": [], "below": [], "not resolved from": []}
    for source, d in entry["model_minus"].items():
        if d["estimate"] is not None:
            resolved = d["low"] is not None and not d["low"] <= 0 <= d["high"]
            groups[("above" if d["estimate"] > 0 else "below") if resolved else "not resolved from"].append(source)
    chance = "" if entry["chance"] is None else f" (chance {entry['chance']:.3g})"
    results = [f"{where} {', '.join(sources)}" for where, sources in groups.items() if sources]
    comparison = "; ".join(results) or "nothing to compare it with"
    return f"{entry['metric']}: model {cell(entry['scores'].get(MODEL))}{chance}, {comparison}"


def tables(result: Mapping[str, Any]) -> list[Section]:
    """Return every source's scores, the model's differences from each other source, and what each source is."""
    entries, sources, label = result["scores"], result["sources"], result.get("label", "images of")
    compared, others = [e for e in entries if e["model_minus"]], [s for s in sources if s != MODEL]
    sections = _scores("Scores", label, entries, sources, _score_cell, chance=True)
    difference = "Model minus each, paired (n.r. ≥ X: not resolved; this design could detect ≥ X)"
    sections += _scores(difference, label, compared, others, _difference_cell, chance=False)
    more = {
        "As sets of images, whatever trial they are of": set_table(result.get("sets", []), sources),
        "Images of another class": confusion_table(result.get("confusion", {}), sources),
        "Not possible": Table(["control", "why"], list(result["not_possible"].items())),
        f"What these {label.partition(' ')[0]} are": Table(
            [label, "what they are"], list(result["of_sources"].items())
        ),
    }
    return sections + [Section(title, table) for title, table in more.items() if table.rows]


def _scores(
    title: str, label: str, entries: Sequence[Mapping[str, Any]], sources: Sequence[str], cell_of: Any, chance: bool
) -> list[Section]:
    """A source a row, `COLUMNS` metrics a table; sources without any score are left out."""
    sections = []
    for first in range(0, len(entries), COLUMNS):
        some = entries[first : first + COLUMNS]
        rows = [[source, *(cell_of(entry, source) for entry in some)] for source in sources]
        rows += [["chance", *(number(entry["chance"]) for entry in some)]] if chance else []
        scored = [row for row in rows if set(row[1:]) != {NOTHING}]
        table = Table([label, *(entry["metric"] for entry in some)], scored)
        sections.append(Section("" if first else title, table))
    return sections


def _score_cell(entry: Mapping[str, Any], source: str) -> str:
    return cell(entry["scores"].get(source))


def _difference_cell(entry: Mapping[str, Any], source: str) -> str:
    value = entry["model_minus"].get(source)
    detectable = f" n.r. ≥ {value['detectable']:.2g}" if value and value.get("detectable") else ""
    return cell(value, signed=True) + detectable


def text(result: Mapping[str, Any]) -> str:
    """Return a result for a terminal."""
    closing = Section(notes=[f"- {line}" for line in (*findings(result), *result["notes"])])
    return Page(result["title"], [*tables(result), closing], statements=result["warnings"]).text()


def saved(workdir: epath.PathLike, step: int) -> JsonDict | None:
    """Return the scores of this step of a run, where it has been evaluated: on split test, else on val."""
    results = (saved_in(epath.Path(workdir) / "evaluation", step, split) for split in ("test", "val"))
    return next((result for result in results if result), None)


def saved_in(folder: epath.Path, step: int, split: str) -> JsonDict | None:
    """Return the scores of this step in the folder of an evaluation; None where there are none."""
    names = (folder / name.format(split=split) for name in (RESULT, OLD_RESULT))
    path = next((path for path in names if path.exists()), None)
    result = sniffing.read_json(path) if path is not None else None
    return result if result and result.get("step") == step and "warnings" in result else None


def set_table(entries: Sequence[Mapping[str, Any]], sources: Sequence[str]) -> Table:
    """Return the scores of whole sets, a source a row; no rows where no judge has such scores."""
    rows = [[source, *(_set_cell(entry["scores"].get(source)) for entry in entries)] for source in sources]
    return Table(["images of", *(entry["metric"] for entry in entries)], rows if entries else [])


def _set_cell(score: Mapping[str, Any] | None) -> str:
    """`12.3 (n 1,200; biased below 10,000)`, `0.0123 [0.0110, 0.0135] (n 1,200)`."""
    if score is None or score["estimate"] is None:
        return NOTHING
    interval = "" if score["low"] is None else f" [{score['low']:.4g}, {score['high']:.4g}]"
    counts = "n " + " to ".join(f"{score[k]:,}" for k in ("n", "m") if k in score)
    return f"{score['estimate']:.4g}{interval} ({'; '.join(filter(None, (counts, score['note'])))})"


def confusion_table(result: Mapping[str, Any], sources: Sequence[str]) -> Table:
    """Return how near the failures of each source are; no rows where nothing was classified."""
    kinds = [(what, by) for what in ("rank", "nearest") for by in ("colour", "shape")]
    classes = len(result["classes"]) if result else 0
    header = [f"wrong among {classes} classes", "failures", *(f"{what} by {by}" for what, by in kinds)]
    if not result:
        return Table(header, [])
    rows = []
    for source in sources:
        failures = result["sources"][source]["failures"]
        cells = [_confusion_cell(failures[by], what) for what, by in kinds]
        rows.append([source, f"{failures['n']:,} of {failures['of']:,}", *cells])
    return Table(header, [*rows, ["chance", "", *(f"{result['chance'][what]:.3f}" for what, _ in kinds)]])


def _confusion_cell(failures: Mapping[str, Any], what: str) -> str:
    """`3.200 [2.900, 3.500] (shuffled 4.100)`."""
    shuffled = failures["dealt"][what]
    known = shuffled is not None and failures[what] is not None
    return cell(failures[what]) + (f" (shuffled {shuffled:.3f})" if known else "")
