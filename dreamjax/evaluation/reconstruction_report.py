"""Scores of masked reconstruction as people read them: JSON, tables, a plot."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dreamjax.evaluation.reconstruction_scores import BASELINES, MaskScore
from dreamjax.metrics import bootstrap
from dreamjax.metrics.bootstrap import Interval
from dreamjax.reports.tables import Table, cell

ORDER = ("model", "conditional mean", "linear interpolation", "channel mean", "zero")
COLOURS = {
    "model": "#D55E00",
    "conditional mean": "#0072B2",
    "linear interpolation": "#009E73",
    "channel mean": "#8c8c8c",
    "zero": "#c4c4c4",
}
METHOD = (
    "Bootstrap over subjects (percentiles of {draws} draws), or Student's t with the jackknife's error where that is "
    "wider, as it is for few subjects."
)


# ----------------------------------------------------------------------------------------------------------------- JSON
def reconstruction_json(scores: Sequence[MaskScore], show_model: bool) -> list[dict[str, Any]]:
    """Every mask's scores and paired differences. A model that earned no score (see `standing`) is left out."""
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
            "conditional_mean": s.choice,
        }
        if "model" in methods:
            entry["model_minus"] = {
                other: _difference(s.difference("model", other), other) for other in methods if other in BASELINES
            }
        out.append(entry)
    return out


def _difference(d: Interval, than: str) -> dict[str, Any]:
    return d.as_json() | {
        "resolved": d.excludes(0),
        "detectable": bootstrap.finite(d.detectable()),
        "says": bootstrap.verdict(d, "the model", than),
    }


def standing(scores: Sequence[MaskScore], step: int) -> str:
    """Why a model gets no score, as a sentence; "" where it gets one.

    It gets one as soon as training took a step and, under some mask, its pooled R² is above the zero predictor's.
    """
    if step == 0:
        return "untrained (step 0): no score is shown for it"
    if not any(s.difference("model", "zero").estimate > 0 for s in scores if "model" in s.sums):
        return f"at step {step} it does not beat the zero predictor under any mask: no score is shown for it"
    return ""


def reconstruction_tables(entries: Sequence[Mapping[str, Any]]) -> list[Table]:
    """(title, header, rows) of the tables: share explained, differences where there is a model, correlation."""
    methods = [m for m in ORDER if any(m in e["r2"] for e in entries)]
    out = []
    for key, title in (("r2", "Share of variance explained on hidden samples"), ("correlation", "Correlation")):
        rows = [[e["mask"], *(cell(e[key].get(m)) for m in methods)] for e in entries]
        out.append((title, ["hidden", *methods], rows))
    if "model" in methods:
        others = [m for m in methods if m != "model"]
        rows = [
            [e["mask"], other, cell(e["model_minus"][other], signed=True), e["model_minus"][other]["says"]]
            for e in entries
            for other in others
            if other in e["model_minus"]
        ]
        out.insert(1, ("Model minus baseline, paired", ["hidden", "baseline", "difference", ""], rows))
    return out


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The tables of a result, whichever parts it has."""
    found = []
    if result.get("reconstruction"):
        found += reconstruction_tables(result["reconstruction"])
    for part in result.get("probe", {}).get("tables", []):
        found.append((part["title"], part["header"], part["rows"]))
    return found


def reconstruction_figure(entries: Sequence[Mapping[str, Any]]) -> Any:
    """Share explained by mask and method, with intervals and every subject as a dot."""
    from matplotlib.figure import Figure

    methods = [m for m in ORDER if any(m in e["r2"] for e in entries)]
    fig = Figure(figsize=(9, 4.2), layout="constrained", facecolor="white")
    axis = fig.subplots()
    for i, method in enumerate(methods):
        at = np.arange(len(entries)) + (i - (len(methods) - 1) / 2) * 0.15
        found = [e["r2"][method] for e in entries]
        for x, e, value in zip(at, entries, found, strict=True):
            each = list(e["r2_by_subject"][method].values())
            axis.plot([x] * len(each), each, ".", color=COLOURS[method], alpha=0.35, ms=5, mew=0)
            if value["low"] is not None:
                axis.plot([x, x], [value["low"], value["high"]], color=COLOURS[method], lw=1.6)
        axis.plot(at, [v["estimate"] for v in found], "o", ms=6, color=COLOURS[method], label=method)
    axis.axhline(0, color="0.6", lw=0.8, zorder=0)
    lowest = min(v["estimate"] for e in entries for v in e["r2"].values())
    axis.set_ylim(max(-1.0, min(-0.15, lowest - 0.15)), 1.05)
    axis.set_xticks(range(len(entries)), [e["mask"] for e in entries])
    axis.set_ylabel("share of variance explained\non hidden samples")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9, ncols=len(methods), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return fig
