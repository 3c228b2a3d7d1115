"""Images of a sweep: score against the main axis, learning curves, score against cost; as PNG and interactive."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from etils import epath

from dreamjax.errors import missing_package
from dreamjax.sweeps import ranking, summary

COLOURS = ("#3b6ea5", "#d98e04", "#2e8b57", "#b5523b", "#8e44ad", "#7f8c8d", "#c0392b", "#16a085")
STYLES, MARKERS = ("-", "--", ":", "-."), ("o", "s", "^", "D")
PLOTLY_STYLES, PLOTLY_MARKERS = ("solid", "dash", "dot", "dashdot"), ("circle", "square", "triangle-up", "diamond")


@dataclass(frozen=True)
class Series:
    """One line of a panel: x (numbers or labels), y, the bounds of y where they are known, and names of its dots."""

    name: str
    x: list[Any]
    y: list[float]
    low: list[float | None]
    high: list[float | None]
    names: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Panel:
    title: str
    x: str
    y: str
    series: list[Series]
    log: bool = False
    lines: bool = True
    log_y: bool = False


def panels(result: Mapping[str, Any]) -> dict[str, Panel]:
    """name → what is drawn."""
    what = summary.metric(result)
    found: dict[str, Panel] = {}
    for name, leg in result["legs"].items():
        if leg["ranking"]:
            axis = main_axis(leg["ranking"])
            found[f"score_{name}"] = Panel(f"Score {leg['what']}", axis or "point", what, against(leg["ranking"], axis))
            for number, law in enumerate(leg["scaling"]):
                found[f"scaling_{name}" + (f"_{number}" if number else "")] = _law(law, leg["what"])
            if flop := [row for row in leg["ranking"] if row["flop"]]:
                found[f"cost_{name}"] = Panel(
                    f"Score against cost, {leg['what']}",
                    "TFLOP of a run",
                    what,
                    by_cost(flop, axis),
                    log=True,
                    lines=False,
                )
    if curves := learning(result["workdir"]):
        found["curves"] = Panel(
            "Training, each point at its own masks (not comparable between mask ratios)",
            "examples",
            "share explained",
            curves,
        )
    return found


def _law(law: Mapping[str, Any], what: str) -> Panel:
    """Errors against size with the line that was fitted, both in logarithms."""
    sizes, b = law["sizes"], law["exponent"]["estimate"]
    nothing: list[float | None] = [None] * len(sizes)
    fitted = [law["factor"] * size**-b for size in sizes]
    lines = [Series("measured", sizes, law["errors"], nothing, nothing)]
    lines.append(Series(f"size^{-b:.3f}", sizes, fitted, nothing, nothing))
    where = ", ".join(filter(None, (what, law["where"])))
    return Panel(f"Power law {where}", law["axis"], "1 - share explained", lines, log=True, log_y=True)


def main_axis(ranking: Sequence[Mapping[str, Any]]) -> str | None:
    """The axis with the most numbers; None where all are names."""
    values: dict[str, set[str]] = {}
    for row in ranking:
        for axis, value in row["values"].items():
            values.setdefault(axis, set()).add(str(value))
    numeric = {axis: len(found) for axis, found in values.items() if all(_number(v) is not None for v in found)}
    return max(numeric, key=lambda axis: numeric[axis]) if numeric and max(numeric.values()) > 1 else None


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def against(ranking: Sequence[Mapping[str, Any]], axis: str | None) -> list[Series]:
    """Scores along an axis, a line for each combination of the others."""
    if axis is None:
        return [Series("", [row["point"] for row in ranking], *_bounds(ranking))]
    return [
        Series(name, [float(row["values"][axis]) for row in rows], *_bounds(rows))
        for name, rows in _lines(ranking, axis)
    ]


def by_cost(ranking: Sequence[Mapping[str, Any]], axis: str | None) -> list[Series]:
    """Scores by operations, coloured by all axes but the main one, whose values stand at the dots."""
    lines = [] if axis is None else _lines(ranking, axis)
    named = [[str(row["values"][axis]) for row in rows] for _, rows in lines]
    if others := [row for row in ranking if axis not in row["values"]]:
        lines, named = [*lines, ("", others)], [*named, [row["point"] for row in others]]
    return [
        Series(name, [row["flop"] / 1e12 for row in rows], *_bounds(rows), names=names)
        for (name, rows), names in zip(lines, named, strict=True)
    ]


def _lines(ranking: Sequence[Mapping[str, Any]], axis: str) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """(the other axes' values, points along `axis`), of the points that have it."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in ranking:
        if axis in row["values"]:
            rest = ", ".join(f"{name}={value}" for name, value in row["values"].items() if name != axis)
            lines.setdefault(rest, []).append(row)
    return [(name, sorted(rows, key=lambda row: float(row["values"][axis]))) for name, rows in sorted(lines.items())]


def _bounds(rows: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float | None], list[float | None]]:
    scores = [row["score"] for row in rows]
    return [s["estimate"] for s in scores], [s["low"] for s in scores], [s["high"] for s in scores]


def learning(workdir: str) -> list[Series]:
    """Share explained of the training windows at a run's own masks, by examples seen; means over seeds."""
    _, groups = ranking.read(workdir)
    out = []
    for group in groups:
        curves = []
        for about, _ in group.runs.values():
            path = epath.Path(workdir) / "points" / about["name"] / "run" / "metrics.jsonl"
            if path.exists():
                lines = [line for text in path.read_text().splitlines() if (line := _record(text))]
                own = {
                    line["step"] * about["batch_size"]: line["explained"]
                    for line in lines
                    if line.get("split") == "train" and line.get("explained") is not None
                }
                curves.append(own)
        common = sorted(set.intersection(*(set(one) for one in curves))) if curves else []
        if common:
            y = [float(np.mean([one[x] for one in curves])) for x in common]
            out.append(Series(group.name, list(common), y, [None] * len(y), [None] * len(y)))
    return out


def _record(text: str) -> dict[str, Any]:
    """A line of metrics; {} of one that is cut."""
    try:
        return json.loads(text)
    except ValueError:
        return {}


# ------------------------------------------------------------------------------------------------------------ images
def draw(result: Mapping[str, Any]) -> dict[str, Any]:
    """name → matplotlib figure."""
    return {name: _draw(panel) for name, panel in panels(result).items()}


def _draw(panel: Panel) -> Any:
    from matplotlib.figure import Figure

    named = [str(x) for x in panel.series[0].x] if isinstance(panel.series[0].x[0], str) else []
    many = len(panel.series) > len(COLOURS)
    size = (7.2, max(2.4, 0.34 * len(named) + 1.2)) if named else (9.6 if many else 7.2, 4.2)
    fig = Figure(figsize=size, layout="constrained", facecolor="white")
    axis = fig.subplots()
    for number, series in enumerate(panel.series):
        colour, nth = _look(number)
        low = [y if bound is None else bound for y, bound in zip(series.y, series.low, strict=True)]
        high = [y if bound is None else bound for y, bound in zip(series.y, series.high, strict=True)]
        if named:
            at = np.arange(len(named))[::-1]
            axis.hlines(at, low, high, color=colour, lw=1.6)
            axis.plot(series.y, at, "o", color=colour, ms=6)
            continue
        dots = len(series.x) <= 20
        axis.plot(
            series.x,
            series.y,
            marker=MARKERS[nth] if dots else "",
            ls=STYLES[nth] if panel.lines else "",
            color=colour,
            ms=5,
            label=series.name,
        )
        if any(bound is not None for bound in series.low):
            axis.vlines(series.x, low, high, color=colour, lw=1.2, alpha=0.7)
        for x, y, name in zip(series.x, series.y, series.names, strict=False):
            axis.annotate(name, (x, y), (5, 4), textcoords="offset points", fontsize=8, color=colour)
    if named:
        axis.set_yticks(np.arange(len(named))[::-1], named)
        axis.set_xlabel(panel.y)
    else:
        axis.set_xlabel(panel.x)
        axis.set_ylabel(panel.y)
        axis.set_xscale("log" if panel.log else "linear")
        axis.set_yscale("log" if panel.log_y else "linear")
        if any(series.name for series in panel.series):
            if many:
                fig.legend(frameon=False, fontsize=8, loc="outside right upper")
            else:
                axis.legend(frameon=False, fontsize=8, loc="best")
    axis.spines[["top", "right"]].set_visible(False)
    return fig


def _look(number: int) -> tuple[str, int]:
    """A line's colour, and which style and marker: the next where all colours are used."""
    return COLOURS[number % len(COLOURS)], number // len(COLOURS) % len(STYLES)


def interactive(result: Mapping[str, Any]) -> dict[str, str]:
    """title → HTML; the first one brings the script that all use."""
    try:
        import plotly.graph_objects as go
        import plotly.io
    except ImportError as e:
        raise missing_package("plotly", "sweep", "the page of a sweep") from e
    out: dict[str, str] = {}
    for panel in panels(result).values():
        figure = go.Figure()
        for number, series in enumerate(panel.series):
            bounds = [(y, low, high) for y, low, high in zip(series.y, series.low, series.high, strict=True)]
            known = any(low is not None for _, low, _ in bounds)
            error = {
                "type": "data",
                "symmetric": False,
                "array": [0 if high is None else high - y for y, _, high in bounds],
                "arrayminus": [0 if low is None else y - low for y, low, _ in bounds],
                "thickness": 1.2,
            }
            colour, nth = _look(number)
            figure.add_trace(
                go.Scatter(
                    x=series.x,
                    y=series.y,
                    name=series.name or panel.y,
                    mode="lines+markers" if panel.lines and not isinstance(series.x[0], str) else "markers",
                    text=series.names or None,
                    line={"color": colour, "dash": PLOTLY_STYLES[nth]},
                    marker={"symbol": PLOTLY_MARKERS[nth]},
                    error_y=error if known else None,
                )
            )
        figure.update_layout(
            template="plotly_white",
            height=420,
            margin={"l": 60, "r": 20, "t": 20, "b": 50},
            xaxis={"title": panel.x, "type": "log" if panel.log else None},
            yaxis={"title": panel.y, "type": "log" if panel.log_y else None},
            showlegend=len(panel.series) > 1,
        )
        script = "inline" if not out else False
        out[panel.title] = plotly.io.to_html(figure, full_html=False, include_plotlyjs=script)
    return out
