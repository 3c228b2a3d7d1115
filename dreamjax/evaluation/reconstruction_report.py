"""Report scores of masked reconstruction and of a probe: JSON, tables, a figure, a page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from dreamjax import __version__
from dreamjax.evaluation.reconstruction_scores import MaskScore
from dreamjax.metrics import bootstrap
from dreamjax.reports import figures, pages, palette
from dreamjax.reports.pages import Section
from dreamjax.reports.tables import Table, cell
from dreamjax.typing import JsonDict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {  # of the methods, in the order in which they are shown
    "model": palette.MODEL,
    "conditional mean": palette.REFERENCE,
    "linear interpolation": palette.SECOND,
    "channel mean": palette.WEAK,
    "zero": palette.WEAKEST,
}
LINEAR = -1.5  # the share explained below which the axis is logarithmic: every point stays in view
METHOD = (
    f"Bootstrap over subjects (percentiles of {bootstrap.DRAWS} draws), or Student's t with the jackknife's error "
    "where that is wider, as it is for few subjects."
)


@dataclass(frozen=True, kw_only=True)
class PageResult:
    """The content of a result page; a subclass has the numbers."""

    title: str
    notes: Sequence[str]
    statements: Sequence[str]
    run: str
    level: float
    seed: int
    captions: Mapping[str, str]
    method: str = METHOD
    version: str = __version__
    files: Sequence[str] = ()

    def as_json(self) -> JsonDict:
        return {name: value for name, value in asdict(self).items() if value is not None}

    def text(self) -> str:
        """Return the tables for a terminal, without the statements that repeat a row of them."""
        result = self.as_json()
        rows = tuple(f"{entry['mask']}: model minus " for entry in result.get("reconstruction") or ())
        result["statements"] = [one for one in self.statements if not (rows and one.startswith(rows))]
        return pages.of_result(result, tables(result)).text(self.files)

    def written(self, figures: "Mapping[str, Figure]", out: str, stem: str) -> Self:
        """Write the page, its figures and the JSON; return the result with the names of the files."""
        result = self.as_json()
        result.pop("files")
        return replace(self, files=pages.write(result, tables(result), figures, out, stem))


def reconstruction_json(scores: Sequence[MaskScore], show_model: bool) -> list[JsonDict]:
    """Return every mask's scores and paired differences; `show_model`: whether it gets a score (`why_unscored`)."""
    out = []
    for s in scores:
        methods = [m for m in COLOURS if m in s.sums and (m != "model" or show_model)]
        choices = [choice and asdict(choice) for choice in s.choice]
        entry: dict[str, Any] = {
            "mask": s.task.name,
            "hidden_share": round(s.hidden_share, 4),
            "windows": s.windows,
            "windows_too_short": s.skipped,
            "r2": {m: s.r2(m).as_json() for m in methods},
            "correlation": {m: s.correlation(m).as_json() for m in methods},
            "r2_by_subject": {
                m: dict(zip(s.subjects, map(bootstrap.finite, np.round(s.sums[m].r2(), 5)), strict=True))
                for m in methods
            },
            "conditional_mean": {"folds": choices} if len(choices) > 1 else choices[0] if choices else None,
        }
        if "model" in methods:
            differences = {other: s.difference("model", other) for other in methods if other != "model"}
            entry["model_minus"] = {
                other: d.difference_json(bootstrap.verdict(d, "the model", other)) for other, d in differences.items()
            }
        out.append(entry)
    return out


def why_unscored(scores: Sequence[MaskScore], step: int) -> str:
    """Return why a model gets no score; "" for a trained one that is better than zero under at least one mask."""
    if step == 0:
        return "untrained (step 0): no score is shown for it"
    if not any(s.difference("model", "zero").estimate > 0 for s in scores if "model" in s.sums):
        return f"at step {step} it does not beat the zero predictor under any mask: no score is shown for it"
    return ""


def tables(result: Mapping[str, Any]) -> list[Section]:
    """Return the tables of the scores that a result has."""
    sections = _reconstruction_tables(result["reconstruction"]) if result.get("reconstruction") else []
    probed = result.get("probe", {}).get("tables", [])
    return sections + [Section(one["title"], Table(one["header"], one["rows"])) for one in probed]


def _reconstruction_tables(entries: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Return the share explained, differences where there is a model, and the correlation."""
    methods = [m for m in COLOURS if any(m in e["r2"] for e in entries)]
    explained, correlation = (
        Table(["hidden", *methods], [[e["mask"], *(cell(e[key].get(m)) for m in methods)] for e in entries])
        for key in ("r2", "correlation")
    )
    differences = [
        [e["mask"], other, cell(d, signed=True), d["says"] if d["low"] is not None else "not resolved"]
        for e in entries
        for other, d in e.get("model_minus", {}).items()
    ]
    sections = [Section("Share of variance explained on hidden samples", explained)]
    if "model" in methods:
        table = Table(["hidden", "baseline", "difference", "result"], differences)
        sections.append(Section("Model minus baseline, paired", table))
    return [*sections, Section("Correlation", correlation)]


def reconstruction_figure(entries: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw the share explained by mask and method, with intervals and every subject as a dot."""
    methods = [m for m in COLOURS if any(m in e["r2"] for e in entries)]
    figure, axis = figures.single(9, 4.2)
    for i, method in enumerate(methods):
        colour, at = COLOURS[method], np.arange(len(entries)) + (i - (len(methods) - 1) / 2) * 0.15
        values = [e["r2"][method] for e in entries]
        for x, e, value in zip(at, entries, values, strict=True):
            each = np.array(list(e["r2_by_subject"][method].values()), float)
            axis.plot([x] * len(each), each, ".", color=colour, alpha=0.35, ms=5, mew=0)
            if value["low"] is not None:
                axis.plot([x, x], [value["low"], value["high"]], color=colour, lw=1.6)
        axis.plot(at, [v["estimate"] for v in values], "o", ms=6, color=colour, label=method)
    axis.axhline(0, color=palette.GRID, lw=0.8, zorder=0)
    lowest = axis.dataLim.y0  # of all estimates, intervals and subjects
    if lowest < LINEAR:
        axis.set_yscale("symlog", linthresh=-LINEAR, linscale=2)
    axis.set_ylim(min(-0.15, lowest - 0.15 * max(1.0, -lowest)), 1.05)
    axis.set_xticks(range(len(entries)), [e["mask"] for e in entries])
    axis.set_ylabel("share of variance explained\non hidden samples")
    figures.legend(axis, fontsize=9, ncols=len(methods), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure
