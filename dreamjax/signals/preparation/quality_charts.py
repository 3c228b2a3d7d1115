"""Charts of the quality report: hours, amplitudes, spectra, flagged channels, average responses."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from dreamjax.reports import figures, palette
from dreamjax.reports.figures import Image
from dreamjax.signals.preparation.inputs import JSON, ReportLayout
from dreamjax.signals.preparation.parts import CLASSES, PartSummary
from dreamjax.signals.recordings.identity import SPLITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAULTS = ("flat", "held", "clipped", "amplitude", "line")
SHOWN_CHANNELS = ("Oz", "O1", "PO8", "Pz", "P8", "TP10", "Cz", "Fz", "AF7")  # of the averages, the first two present
CHART_INCHES, HEADING_INCHES, DPI = (6.4, 3.6), 1.25, 110


@dataclass(frozen=True)
class ReportPart:
    """A part of a dataset: its summary, where its averages lie, and what the report calls it."""

    summary: PartSummary
    averages: Path
    name: str
    split: str


@dataclass(frozen=True, eq=False)
class QualityChart:
    title: str
    note: str
    draw: "Callable[[Axes], None]"


def of_corpus(parts: Sequence[ReportPart], corpus: str) -> list[PartSummary]:
    """Return the summaries of a corpus."""
    return [part.summary for part in parts if part.summary["dataset"] == corpus]


def median_sd(summary: PartSummary) -> float | None:
    """Return the SD in the unit of the signal; None where it is not finite."""
    plan = summary["plan"]
    return plan.get("median_sd_uv", plan.get("median_sd"))


def charts(dataset: JSON, parts: Sequence[ReportPart], layout: ReportLayout) -> list[QualityChart]:
    """Return the charts for which this dataset has data."""
    corpora = list(dataset["corpora"])
    colour = dict(zip(corpora, palette.areas(len(corpora)), strict=True))
    shown = [
        QualityChart("Hours by corpus and split", layout.split_note, lambda ax: _hours(ax, dataset, parts)),
        QualityChart(
            "Spectra",
            "Median over channels; thin lines are recordings, thick ones corpora, in the colours of the amplitudes.",
            lambda ax: _spectra(ax, parts, colour, layout),
        ),
    ]
    if plausible := layout.plausible:
        amplitudes = QualityChart(
            "Amplitude of each recording",
            "Median over channels and stretches of the band-passed SD; what is outside the band is most probably not "
            f"in {layout.unit}.",
            lambda ax: _amplitudes(ax, parts, colour, plausible, layout.unit),
        )
        flags = QualityChart(
            "Flagged channels",
            "Share of channel-windows that quality control flagged; kept with the flag unless most channels are bad.",
            lambda ax: _flags(ax, parts, corpora),
        )
        shown = [shown[0], amplitudes, shown[1], flags]
    shown += [
        QualityChart(
            f"Average response at {channel} ({corpus})",
            "Mean over windows per class; n in the legend.",
            lambda ax, c=corpus, k=channel: _averages(ax, parts, c, [k], layout),  # type: ignore[misc]
        )
        for corpus, channels in _averaged(parts)
        for channel in channels
    ]
    return shown


def _hours(ax: "Axes", dataset: JSON, parts: Sequence[ReportPart]) -> None:
    hours: dict[str, Counter[str]] = {}
    for part in parts:
        hours.setdefault(part.summary["dataset"], Counter())[part.split] += part.summary["seconds"] / 3600  # type: ignore[assignment]
    names = sorted(hours, key=lambda c: hours[c].total())[-14:]
    left = np.zeros(len(names))
    ax.set_ylim(-0.7, len(names) - 0.3 + max(0.25 * len(names), 0.6))  # room for the legend
    for split in SPLITS:
        width = np.array([hours[c][split] for c in names])
        label = f"{split} ({dataset['subjects'][split]})"
        ax.barh(names, width, 0.7, left=left, color=palette.SPLITS[split], label=label)
        left += width
    ax.set_xlabel("hours")
    figures.legend(ax, title="split (subjects)", loc="upper right", ncols=3, title_fontsize=8)


def _amplitudes(
    ax: "Axes", parts: Sequence[ReportPart], colour: Mapping[str, str], plausible: tuple[float, float], unit: str
) -> None:
    ax.axvspan(*plausible, color=palette.SHADE, zorder=0)
    values = [[sd for s in of_corpus(parts, c) if (sd := median_sd(s))] for c in colour]
    known = [*plausible, *(sd for corpus in values for sd in corpus)]
    edges = np.geomspace(min(known) / 1.3, max(known) * 1.3, 33)
    ax.hist(values, bins=edges.tolist(), stacked=True, color=list(colour.values()), label=list(colour))
    ax.set_xscale("log")
    ax.set_xlabel(f"median SD ({unit})")
    ax.set_ylabel("recordings")
    if len(colour) <= 2 * len(palette.SERIES):
        size = 6.5 if len(colour) > 6 else 8
        figures.legend(ax, fontsize=size, ncols=1 + len(colour) // 12, handlelength=1.2)


def _spectra(ax: "Axes", parts: Sequence[ReportPart], colour: Mapping[str, str], layout: ReportLayout) -> None:
    for corpus, c in colour.items():
        curves = [np.asarray(s["spectrum"]) for s in of_corpus(parts, corpus) if s["spectrum"]]
        f = np.arange(len(curves[0])) / 2 if curves else np.empty(0)
        for curve in curves[:40]:
            ax.loglog(f[1:], np.maximum(curve[1:], 1e-6), color=c, lw=0.4, alpha=0.35)
        if curves:
            ax.loglog(f[1:], np.maximum(np.median(curves, axis=0)[1:], 1e-6), color=c, lw=1.8, label=corpus)
    ax.set_ylim(bottom=1e-4)
    ax.set_xlabel("Hz")
    ax.set_ylabel("µV²/Hz" if layout.unit == "µV" else f"({layout.unit})²/Hz")


def _flags(ax: "Axes", parts: Sequence[ReportPart], corpora: Sequence[str]) -> None:
    share = np.zeros((len(FAULTS), len(corpora)))
    for j, corpus in enumerate(corpora):
        summaries = of_corpus(parts, corpus)
        cells = sum(s["judged"] * len(s["ch_names"]) for s in summaries)
        for s in summaries:
            for fault, count in s["faults"].items():
                share[FAULTS.index(fault.split(":", 1)[0]), j] += count / max(cells, 1)
    top = max(5.0, 100 * share.max())
    ax.imshow(100 * share, cmap="YlOrRd", vmin=0, vmax=top, aspect="auto")
    ax.set_xticks(range(len(corpora)), corpora, rotation=30, ha="right", fontsize=7)
    ax.set_yticks(range(len(FAULTS)), FAULTS)
    for (i, j), value in np.ndenumerate(100 * share):
        ink = "white" if value > top / 2 else palette.INK
        ax.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=7, color=ink)
    ax.set_xlabel("% of channel-windows")


def _averaged(parts: Sequence[ReportPart]) -> list[tuple[str, list[str]]]:
    """Corpora with event-locked windows, and the channels to show."""
    names = {p.summary["dataset"]: p.summary["ch_names"] for p in reversed(parts) if p.averages.exists()}
    corpora = [c for c in dict.fromkeys(p.summary["dataset"] for p in parts) if c in names]
    return [(c, [k for k in SHOWN_CHANNELS if k in names[c]][:2] or names[c][:1]) for c in corpora[:3]]


def average_response(
    parts: Sequence[ReportPart], corpus: str, channels: Sequence[str]
) -> dict[str, tuple[int, Float[np.ndarray, "time"]]]:
    """Return label → (windows, mean over windows, recordings and `channels`), in the unit of the signal."""
    sums: dict[str, np.ndarray] = {}
    counts: Counter[str] = Counter()
    for part in parts:
        if part.summary["dataset"] != corpus or not part.averages.exists():
            continue
        rows = [part.summary["ch_names"].index(c) for c in channels if c in part.summary["ch_names"]]
        with np.load(part.averages) as stored:
            for key in stored.files if rows else ():
                label = part.summary["averaged"][int(key.removeprefix("arr_"))]
                sums[label] = sums.get(label, 0) + stored[key][rows].mean(axis=0)
                counts[label] += part.summary["labels"][label]
    return {label: (counts[label], total / counts[label]) for label, total in sums.items()}


def _averages(
    ax: "Axes", parts: Sequence[ReportPart], corpus: str, channels: Sequence[str], layout: ReportLayout
) -> None:
    curves = average_response(parts, corpus, channels)
    shown = sorted(curves, key=lambda label: -curves[label][0])[:CLASSES]
    colours = palette.areas(len(shown))
    for i, label in enumerate(sorted(shown)):
        n, curve = curves[label]
        curve = curve[: layout.length]
        t = (layout.first + np.arange(len(curve))) / layout.sfreq
        ax.plot(1e3 * t, curve, color=colours[i], lw=1.3, label=f"{label} (n = {n})")
    ax.axvline(0, color=palette.GRID, lw=0.8, ls=":")
    ax.axhline(0, color=palette.GRID, lw=0.5)
    ax.set_xlabel("ms after the event")
    ax.set_ylabel(layout.unit)
    figures.legend(ax, fontsize=7)


# -------------------------------------------------------------------------------------------------------------- images
def draw(chart: QualityChart) -> Image:
    """Return a chart as an image; all have the same size."""
    figure, axis = figures.single(*CHART_INCHES)
    if engine := figure.get_layout_engine():
        engine.set(w_pad=0.15, h_pad=0.12)  # type: ignore[call-arg]  # of the constrained layout
    axis.set_title(chart.title, fontsize=11, loc="left", weight="bold")
    axis.tick_params(labelsize=8)
    chart.draw(axis)
    return figures.pixels(figure, DPI)


def sheet(title: str, numbers: Sequence[tuple[str, str]], charts: Sequence[Image]) -> Image:
    """Return one image: the title, numbers with what they count, and below them the charts, two in a row."""
    figure, axis = figures.single(2 * CHART_INCHES[0], HEADING_INCHES)
    axis.axis("off")
    figure.text(0.03, 0.76, title, fontsize=15, weight="bold")
    for i, (value, what) in enumerate(numbers):
        figure.text(0.03 + i * 0.16, 0.34, value, fontsize=15, weight="bold", color=palette.BLUE)
        figure.text(0.03 + i * 0.16, 0.12, what, fontsize=9, color=palette.QUIET)
    padded = [*charts, *([np.full_like(charts[0], 255)] if len(charts) % 2 else [])]
    rows = [np.concatenate(padded[i : i + 2], axis=1) for i in range(0, len(padded), 2)]
    return np.concatenate([figures.pixels(figure, DPI), *rows])
