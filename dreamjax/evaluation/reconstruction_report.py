"""Scores of masked reconstruction as people read them: JSON, tables, a figure."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamjax.evaluation.reconstruction_scores import BASELINES, MaskScore
from dreamjax.metrics import bootstrap
from dreamjax.metrics.bootstrap import Interval
from dreamjax.reports import figures, palette
from dreamjax.reports.pages import Section
from dreamjax.reports.tables import Table, cell
from dreamjax.typing import JsonDict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORDER = ("model", "conditional mean", "linear interpolation", "channel mean", "zero")
COLOURS = {
    "model": palette.MODEL,
    "conditional mean": palette.REFERENCE,
    "linear interpolation": palette.SECOND,
    "channel mean": palette.WEAK,
    "zero": palette.WEAKEST,
}
METHOD = (
    "Bootstrap over subjects (percentiles of {draws} draws), or Student's t with the jackknife's error where that is "
    "wider, as it is for few subjects."
)


# ----------------------------------------------------------------------------------------------------------------- JSON
def reconstruction_json(scores: Sequence[MaskScore], show_model: bool) -> list[JsonDict]:
    """Return every mask's scores and paired differences; `show_model`: whether it earned a score (`why_unscored`)."""
    out = []
    for s in scores:
        methods = [m for m in ORDER if m in s.sums and (m != "model" or show_model)]
        entry: dict[str, Any] = {
            "mask": s.task.name,
            "hidden_share": round(s.hidden_share, 4),
            "windows": s.windows,
            "windows_too_short": s.skipped,
            "r2": {m: s.r2(m).as_json() for m in methods},
            "correlation": {m: s.correlation(m).as_json() for m in methods},
            "r2_by_subject": {
                m: dict(zip(s.subjects, np.round(s.sums[m].r2(), 5).tolist(), strict=True)) for m in methods
            },
            "conditional_mean": s.choice_json(),
        }
        if "model" in methods:
            entry["model_minus"] = {
                other: _difference(s.difference("model", other), other) for other in methods if other in BASELINES
            }
        out.append(entry)
    return out


def _difference(d: Interval, than: str) -> JsonDict:
    return d.as_json() | {
        "resolved": d.excludes(0),
        "detectable": bootstrap.finite(d.detectable()),
        "says": bootstrap.verdict(d, "the model", than),
    }


def why_unscored(scores: Sequence[MaskScore], step: int) -> str:
    """Return why a model gets no score, as a sentence; "" where it gets one.

    It gets one as soon as training took a step and, under some mask, its pooled R² is above the zero predictor's.
    """
    if step == 0:
        return "untrained (step 0): no score is shown for it"
    if not any(s.difference("model", "zero").estimate > 0 for s in scores if "model" in s.sums):
        return f"at step {step} it does not beat the zero predictor under any mask: no score is shown for it"
    return ""


def reconstruction_tables(entries: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Return the share explained, differences where there is a model, and the correlation."""
    methods = [m for m in ORDER if any(m in e["r2"] for e in entries)]
    sections = []
    for key, title in (("r2", "Share of variance explained on hidden samples"), ("correlation", "Correlation")):
        rows = [[e["mask"], *(cell(e[key].get(m)) for m in methods)] for e in entries]
        sections.append(Section(title, Table(["hidden", *methods], rows)))
    if "model" in methods:
        rows = [
            [e["mask"], other, cell(d, signed=True), d["says"]]
            for e in entries
            for other, d in e.get("model_minus", {}).items()
        ]
        table = Table(["hidden", "baseline", "difference", "result"], rows)
        sections.insert(1, Section("Model minus baseline, paired", table))
    return sections


def tables(result: Mapping[str, Any]) -> list[Section]:
    """Return the tables of a result, for the scores that it has."""
    sections = reconstruction_tables(result["reconstruction"]) if result.get("reconstruction") else []
    probed = result.get("probe", {}).get("tables", [])
    return sections + [Section(one["title"], Table(one["header"], one["rows"])) for one in probed]


def reconstruction_figure(entries: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw the share explained by mask and method, with intervals and every subject as a dot."""
    methods = [m for m in ORDER if any(m in e["r2"] for e in entries)]
    figure, axis = figures.single(9, 4.2)
    for i, method in enumerate(methods):
        at = np.arange(len(entries)) + (i - (len(methods) - 1) / 2) * 0.15
        values = [e["r2"][method] for e in entries]
        for x, e, value in zip(at, entries, values, strict=True):
            each = list(e["r2_by_subject"][method].values())
            axis.plot([x] * len(each), each, ".", color=COLOURS[method], alpha=0.35, ms=5, mew=0)
            if value["low"] is not None:
                axis.plot([x, x], [value["low"], value["high"]], color=COLOURS[method], lw=1.6)
        axis.plot(at, [v["estimate"] for v in values], "o", ms=6, color=COLOURS[method], label=method)
    axis.axhline(0, color=palette.GRID, lw=0.8, zorder=0)
    lowest = min(v["estimate"] for e in entries for v in e["r2"].values())
    axis.set_ylim(max(-1.0, min(-0.15, lowest - 0.15)), 1.05)
    axis.set_xticks(range(len(entries)), [e["mask"] for e in entries])
    axis.set_ylabel("share of variance explained\non hidden samples")
    figures.legend(axis, fontsize=9, ncols=len(methods), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure
