"""Draw the charts of a sweep: score against the main axis, learning curves, score against cost; PNG and interactive."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from dreamjax.errors import missing_package
from dreamjax.reports import figures, palette
from dreamjax.storage import presence
from dreamjax.sweeps import ranking
from dreamjax.sweeps.power_law import SweepLaw, number
from dreamjax.sweeps.summary import RankedPoint, SweepSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# styles of the first eight lines, the next eight, …: matplotlib's names and plotly's
STYLES, MARKERS = ("-", "--", ":", "-."), ("o", "s", "^", "D")
PLOTLY_STYLES, PLOTLY_MARKERS = ("solid", "dash", "dot", "dashdot"), ("circle", "square", "triangle-up", "diamond")


@dataclass(frozen=True)
class Series:
    """One line of a chart: x (numbers or labels), y, and names of its dots.

    `errors`: distances from y to its lower and upper bounds, 0 where a dot has none; None where no dot has any.
    """

    name: str
    x: Sequence[float] | Sequence[str]
    y: Sequence[float]
    errors: tuple[list[float], list[float]] | None = None
    names: Sequence[str] = ()


@dataclass(frozen=True)
class Chart:
    title: str
    x: str
    y: str
    series: list[Series]
    log_x: bool = False
    log_y: bool = False
    lines: bool = True

    @property
    def labels(self) -> list[str]:
        """Return the labels of x; none where x are numbers."""
        return [x for x in self.series[0].x if isinstance(x, str)]


def charts(result: SweepSummary) -> dict[str, Chart]:
    """Return name → chart."""
    made: dict[str, Chart] = {}
    for name, leg in result.legs.items():
        if not leg.ranking:
            continue
        axis = main_axis(leg.ranking)
        made[f"score_{name}"] = Chart(f"Score {leg.what}", axis or "point", leg.metric, against(leg.ranking, axis))
        for i, law in enumerate(leg.laws):
            made[f"scaling_{name}" + (f"_{i}" if i else "")] = _law(law, leg.what)
        if known := [point for point in leg.ranking if point.flop]:
            title, dots = f"Score against cost, {leg.what}", by_cost(known, axis)
            made[f"cost_{name}"] = Chart(title, "TFLOP of a run", leg.metric, dots, log_x=True, lines=False)
    if curves := learning(result.workdir):
        title = "Training, each point at its own masks (not comparable between mask ratios)"
        made["curves"] = Chart(title, "examples", "share explained", curves)
    return made


def _law(law: SweepLaw, what: str) -> Chart:
    """Return errors against size with the fitted line, both in logarithms."""
    b = law.law.exponent.estimate
    fitted = [law.law.factor * size**-b for size in law.sizes]
    lines = [Series("measured", law.sizes, law.errors), Series(f"size^{-b:.3f}", law.sizes, fitted)]
    title = f"Power law {', '.join(filter(None, (what, law.where)))}"
    return Chart(title, law.axis, "1 - share explained", lines, log_x=True, log_y=True)


def main_axis(points: Sequence[RankedPoint]) -> str | None:
    """Return the axis with the most numbers; None where all are names."""
    axes = dict.fromkeys(axis for point in points for axis in point.values)
    labels = {axis: {str(point.values[axis]) for point in points if axis in point.values} for axis in axes}
    numeric = {axis: len(values) for axis, values in labels.items() if all(number(v) is not None for v in values)}
    return max(numeric, key=lambda axis: numeric[axis]) if numeric and max(numeric.values()) > 1 else None


def against(points: Sequence[RankedPoint], axis: str | None) -> list[Series]:
    """Return scores along an axis, a line for each combination of the others."""
    if axis is None:
        return [_series("", [point.name for point in points], points)]
    lines = _lines(points, axis)
    return [_series(name, [float(one.values[axis]) for one in line], line) for name, line in lines]


def by_cost(points: Sequence[RankedPoint], axis: str | None) -> list[Series]:
    """Return scores by operations, a series for each combination of the other axes; `axis` names the dots."""
    lines = _lines(points, axis)
    if others := [point for point in points if axis not in point.values]:
        lines.append(("", others))
    series = []
    for name, line in lines:
        names = [str(one.values.get(axis or "", one.name)) for one in line]
        series.append(_series(name, [(one.flop or 0) / 1e12 for one in line], line, names))
    return series


def _lines(points: Sequence[RankedPoint], axis: str | None) -> list[tuple[str, list[RankedPoint]]]:
    """Return (the other axes' values, points along `axis`), of the points that have it."""
    lines: dict[str, list[RankedPoint]] = {}
    for point in points:
        if axis in point.values:
            others = ", ".join(f"{name}={value}" for name, value in point.values.items() if name != axis)
            lines.setdefault(others, []).append(point)
    return [(name, sorted(line, key=lambda one: float(one.values[axis or ""]))) for name, line in sorted(lines.items())]


def _series(name: str, x: Any, points: Sequence[RankedPoint], names: Sequence[str] = ()) -> Series:
    scores = [point.score for point in points]
    low = [score.estimate - score.low if score.known else 0.0 for score in scores]
    high = [score.high - score.estimate if score.known else 0.0 for score in scores]
    errors = (low, high) if any(score.known for score in scores) else None
    return Series(name, x, [score.estimate for score in scores], errors, names)


def learning(workdir: str) -> list[Series]:
    """Return the share explained of the training windows at a run's own masks, by examples seen; means over seeds."""
    _, groups = ranking.read(workdir)
    series = []
    for group in groups:
        runs = {epath.Path(workdir) / "points" / point["name"]: point["batch_size"] for point, _ in group.runs.values()}
        logs = {path / "run" / "metrics.jsonl": batch_size for path, batch_size in runs.items()}
        curves = [_curve(path, batch_size) for path, batch_size in logs.items() if presence.exists(path)]
        common = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
        if common:
            series.append(Series(group.name, common, [float(np.mean([one[x] for one in curves])) for x in common]))
    return series


def _curve(path: epath.Path, batch_size: int) -> dict[float, float]:
    """Return examples → share explained of the training windows."""
    curve = {}
    for text in path.read_text().splitlines():
        with contextlib.suppress(ValueError):  # a line that is cut
            line = json.loads(text)
            if line.get("split") == "train" and line.get("explained") is not None:
                curve[line["step"] * batch_size] = line["explained"]
    return curve


# ------------------------------------------------------------------------------------------------------------- drawing
def draw(chart: Chart) -> "Figure":
    """Return a chart as a matplotlib figure."""
    many = len(chart.series) > len(palette.SERIES)
    if chart.labels:
        fig, axis = figures.single(7.2, max(2.4, 0.34 * len(chart.labels) + 1.2))
        _draw_labelled(axis, chart)
        return fig
    fig, axis = figures.single(9.6 if many else 7.2, 4.2)
    for i, series in enumerate(chart.series):
        colour, nth = _look(i)
        marker, style = MARKERS[nth] if len(series.x) <= 20 else "", STYLES[nth] if chart.lines else ""
        axis.plot(series.x, series.y, marker=marker, ls=style, color=colour, ms=5, label=series.name or None)
        if series.errors:
            axis.errorbar(series.x, series.y, series.errors, fmt="none", ecolor=colour, elinewidth=1.2, alpha=0.7)
        for x, y, name in zip(series.x, series.y, series.names, strict=False):
            axis.annotate(name, (x, y), (5, 4), textcoords="offset points", fontsize=8, color=colour)
    axis.set(xlabel=chart.x, ylabel=chart.y)
    axis.set_xscale("log" if chart.log_x else "linear")
    axis.set_yscale("log" if chart.log_y else "linear")
    if many:
        fig.legend(frameon=False, fontsize=8, loc="outside right upper")
    else:
        figures.legend(axis)
    return fig


def _draw_labelled(axis: "Axes", chart: Chart) -> None:
    """Draw labels down the side, the first one on top, with their scores to the right."""
    at = np.arange(len(chart.labels))[::-1]
    for i, series in enumerate(chart.series):
        axis.errorbar(series.y, at, xerr=series.errors, fmt="o", ms=6, elinewidth=1.6, color=_look(i)[0])
    axis.set_yticks(at, chart.labels)
    axis.set_xlabel(chart.y)


def _look(i: int) -> tuple[str, int]:
    """Return a line's colour, and the index of style and marker, which changes once all colours are used."""
    return palette.SERIES[i % len(palette.SERIES)], i // len(palette.SERIES) % len(STYLES)


def interactive(made: Mapping[str, Chart]) -> dict[str, str]:
    """Return title → HTML; the first one contains the script that all use."""
    try:
        import plotly.graph_objects as go
        import plotly.io
    except ImportError as e:
        raise missing_package("plotly", "sweep", "the page of a sweep") from e
    html: dict[str, str] = {}
    for chart in made.values():
        figure = go.Figure()
        for i, series in enumerate(chart.series):
            colour, nth = _look(i)
            error = None
            if series.errors:
                low, high = series.errors
                error = {"type": "data", "symmetric": False, "array": high, "arrayminus": low, "thickness": 1.2}
            look = {"line": {"color": colour, "dash": PLOTLY_STYLES[nth]}, "marker": {"symbol": PLOTLY_MARKERS[nth]}}
            mode = "lines+markers" if chart.lines and not chart.labels else "markers+text"
            names = {"name": series.name or chart.y, "text": list(series.names) or None, "textposition": "top right"}
            figure.add_scatter(x=list(series.x), y=list(series.y), mode=mode, error_y=error, **names, **look)
        figure.update_layout(
            template="plotly_white",
            height=420,
            margin={"l": 60, "r": 20, "t": 20, "b": 50},
            xaxis={"title": chart.x, "type": "log" if chart.log_x else None},
            yaxis={"title": chart.y, "type": "log" if chart.log_y else None},
            showlegend=len(chart.series) > 1,
        )
        options = {"full_html": False, "include_plotlyjs": not html, "config": {"responsive": True}}
        html[chart.title] = plotly.io.to_html(figure, **options)
    return html
