"""The quality report of a dataset: one page, as HTML (tables and drawings in one file) and as an image.

It shows pseudonyms, counts and curves only. Nothing of a file's name or header enters it but corpus names, channel
names and event codes.
"""

import base64
import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from dreamjax.signals.preparation.inputs import JSON, ReportLayout
from dreamjax.signals.preparation.parts import CLASSES, PartSummary
from dreamjax.signals.preparation.window_settings import WindowSettings
from dreamjax.signals.recordings.identity import SPLITS
from dreamjax.storage import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (
    "#2f6db3", "#e08a2e", "#3f9a63", "#b5483f", "#7a62ab", "#8a6b52", "#c56aa5", "#6f7680", "#a3a23a", "#35a3b0",
    "#123a63", "#f2c08a", "#1c5a35", "#e39a92", "#c3b4e0",
)  # fmt: skip
SPLIT_COLOURS = {"train": "#2f6db3", "val": "#8fb6dd", "test": "#e08a2e"}
FAULTS = ("flat", "held", "clipped", "amplitude", "line")
SHOWN_CHANNELS = ("Oz", "O1", "PO8", "Pz", "P8", "TP10", "Cz", "Fz", "AF7")  # of the averages, the first two present
INK, GREY = "#22272e", "#6f7680"
PANEL_INCHES, HEADING_INCHES, DPI = (6.4, 3.6), 1.25, 110


@dataclass(frozen=True)
class ReportPart:
    """One part: its summary, where its averages lie, and what the report calls it."""

    summary: PartSummary
    averages: Path
    name: str
    split: str


def write(
    folder: Path,
    name: str,
    dataset: JSON,
    summaries: Sequence[PartSummary],
    averages: Sequence[Path],
    layout: ReportLayout,
) -> None:
    """Write report.html and report.png into a dataset folder; `averages`: of each part, whether it exists or not."""
    import jinja2

    page = [ReportPart(*part) for part in zip(summaries, averages, layout.names, layout.splits, strict=True)]
    panels = panels_of(dataset, page, layout)
    image = _draw_page(name, tiles(dataset), panels)
    template = jinja2.Template((Path(__file__).parent / "quality_report.html.j2").read_text(), autoescape=True)
    html = template.render(
        name=name,
        dataset=dataset,
        tiles=tiles(dataset),
        corpora=corpus_rows(dataset, page),
        recordings=recording_rows(page),
        rejects=reject_reasons(page, dataset).most_common(12),
        classes=class_counts(page).most_common(50),
        steps=layout.steps,
        unit=layout.unit,
        image=base64.b64encode(image).decode(),
        panels=panels,
        warnings=sum(bool(part.summary["warning"]) for part in page),
    )
    atomic.write_text(folder / "report.html", html)
    atomic.write_bytes(folder / "report.png", image)


# -------------------------------------------------------------------------------------------------------------- tables
def tiles(dataset: JSON) -> list[tuple[str, str]]:
    """The figures at the head of the page."""
    totals = dataset["totals"]
    judged = totals["windows"] + totals["windows_rejected"]
    return [
        (f"{totals['hours']:.2f} h", "in windows"),
        (str(totals["subjects"]), "subjects"),
        (str(totals["recordings"]), "recordings"),
        (f"{totals['windows']:,}", "windows"),
        (f"{100 * totals['windows_rejected'] / max(judged, 1):.1f} %", "of windows rejected"),
        (str(totals.get("recordings_left_out", 0)), "recordings left out"),
    ]


def corpus_rows(dataset: JSON, page: Sequence[ReportPart]) -> list[dict[str, str]]:
    """One row per corpus."""
    rows = []
    for corpus, entry in dataset["corpora"].items():
        summaries = _of_corpus(page, corpus)
        plans = [s["plan"] for s in summaries]
        rows.append(
            {
                "corpus": corpus,
                "recordings": entry["recordings"],
                "subjects": entry["subjects"],
                "hours": f"{entry['hours']:.2f}",
                "channels": _range(entry["channels"]),
                "rates": _range(sorted({s["sfreq"] for s in summaries})),
                "reference": ", ".join(sorted({plan["reference"] for plan in plans})),
                "band": ", ".join(sorted({_band(plan["band"]) for plan in plans})),
                "line": ", ".join(sorted({_line(plan) for plan in plans})),
                "sd": f"{np.median([_median_sd(s) or np.nan for s in summaries]):.1f}",
                "licences": ", ".join(entry["licences"]),
            }
        )
    return rows


def _of_corpus(page: Sequence[ReportPart], corpus: str) -> list[PartSummary]:
    return [part.summary for part in page if part.summary["dataset"] == corpus]


def _median_sd(summary: PartSummary) -> float | None:
    """SD in the unit of the signal; None where it is not finite."""
    plan = summary["plan"]
    return plan.get("median_sd_uv", plan.get("median_sd"))


def recording_rows(page: Sequence[ReportPart]) -> list[dict[str, object]]:
    """One row per recording, by pseudonym."""
    rows: list[dict[str, object]] = []
    for part in page:
        s = part.summary
        faults: Counter[str] = Counter()
        for fault, count in s["faults"].items():
            faults[fault.split(":", 1)[0]] += count
        cells = max(s["judged"] * len(s["ch_names"]), 1)
        rows.append(
            {
                "recording": part.name,
                "corpus": s["dataset"],
                "split": part.split,
                "minutes": f"{s['seconds'] / 60:.1f}",
                "kept": f"{s['windows']}/{s['judged']}",
                "sd": _median_sd(s),
                "flagged": ", ".join(f"{k} {100 * n / cells:.1f} %" for k, n in faults.most_common(3)),
                "notes": "; ".join([*s["notes"], *([s["warning"]] if s["warning"] else [])]),
            }
        )
    return rows


def reject_reasons(page: Sequence[ReportPart], dataset: JSON) -> Counter[str]:
    """Reason → windows, over all recordings; numbers in the reasons left out."""
    if "rejected" in dataset:  # of published trials, most of which no part was asked to convert
        return Counter(dataset["rejected"])
    reasons: Counter[str] = Counter()
    for part in page:
        for stretch in part.summary["rejects"]:
            reason = stretch["reason"]
            if "(mostly " in reason:
                reason = "too few good channels " + reason[reason.index("(") :]
            reasons[reason] += stretch["windows"]
    return reasons


def class_counts(page: Sequence[ReportPart]) -> Counter[str]:
    """Label → windows; empty where nothing is labelled."""
    counts: Counter[str] = Counter()
    for part in page:
        counts.update(part.summary["labels"])
    counts.pop("", None)
    return counts


def steps(settings: WindowSettings, plans: Sequence[JSON]) -> list[tuple[str, str]]:
    """What was done to recordings, in words."""
    stride = settings.stride or settings.samples
    rows = [
        ("band", f"{_band([settings.low, settings.high])}, {'minimum' if settings.causal else 'zero'} phase FIR"),
        ("notch", f"{settings.notch}; " + ", ".join(sorted({_line(plan) for plan in plans}))),
        ("sampling rate", f"{settings.sfreq:g} Hz (rational polyphase)"),
        ("reference", f"{settings.reference}; {_counted(plan['reference'] for plan in plans)}"),
        ("windows", f"{settings.samples} samples = {settings.samples / settings.sfreq:g} s, every {stride} samples"),
        ("quality", ", ".join(f"{k} {v}" for k, v in vars(settings.limits).items())),
    ]
    if settings.events.source:
        rows.append(("events", ", ".join(f"{k} {v}" for k, v in vars(settings.events).items() if k != "source")))
    return rows


def _counted(words: Iterable[str]) -> str:
    return ", ".join(f"{word} ({n})" for word, n in Counter(words).most_common(6))


def _range(values: Sequence[float]) -> str:
    return ", ".join(f"{v:g}" for v in values) if len(values) <= 4 else f"{min(values):g}-{max(values):g}"


def _band(band: Sequence[float | None]) -> str:
    low, high = band
    return f"{0 if low is None else low:g}-{'Nyquist' if high is None else f'{high:g}'} Hz"


def _line(plan: JSON) -> str:
    return f"{plan['line']:g} Hz ({plan['line_source']})" if plan["line"] else "no line"


# ------------------------------------------------------------------------------------------------------------ drawings
@dataclass(frozen=True, eq=False)
class ReportPanel:
    title: str
    note: str
    draw: "Callable[[Axes], None]"
    left: float = 0.13  # margin, as a share of the panel


def panels_of(dataset: JSON, page: Sequence[ReportPart], layout: ReportLayout) -> list[ReportPanel]:
    """The panels that this dataset has something to show for."""
    corpora = list(dataset["corpora"])
    colour = {corpus: COLOURS[i % len(COLOURS)] for i, corpus in enumerate(corpora)}
    panels = [
        ReportPanel("Hours by corpus and split", layout.split_note, lambda ax: _hours(ax, dataset, page), 0.25),
        ReportPanel(
            "Spectra",
            "Median over channels; thin lines are recordings, thick ones corpora, in the colours of the amplitudes.",
            lambda ax: _spectra(ax, page, colour, layout),
        ),
    ]
    if plausible := layout.plausible:
        amplitudes = ReportPanel(
            "Amplitude of each recording",
            "Median over channels and stretches of the band-passed SD; what is outside the band is most probably not "
            f"in {layout.unit}.",
            lambda ax: _amplitudes(ax, page, colour, plausible, layout.unit),
        )
        flags = ReportPanel(
            "Flagged channels",
            "Share of channel-windows that quality control flagged; kept with the flag unless most channels are bad.",
            lambda ax: _flags(ax, page, corpora),
        )
        panels = [panels[0], amplitudes, panels[1], flags]
    panels += [
        ReportPanel(
            f"Average response at {channel} ({corpus})",
            "Mean over windows per class; n in the legend.",
            lambda ax, c=corpus, k=channel: _averages(ax, page, c, [k], layout),  # type: ignore[misc]
        )
        for corpus, channels in _averaged(page)
        for channel in channels
    ]
    return panels


def _hours(ax: "Axes", dataset: JSON, page: Sequence[ReportPart]) -> None:
    hours: dict[str, Counter[str]] = {}
    for part in page:
        hours.setdefault(part.summary["dataset"], Counter())[part.split] += part.summary["seconds"] / 3600  # type: ignore[assignment]
    names = sorted(hours, key=lambda c: hours[c].total())[-14:]
    left = np.zeros(len(names))
    ax.set_ylim(-0.7, len(names) - 0.3 + max(0.25 * len(names), 0.6))  # room for the legend
    for split in SPLITS:
        width = np.array([hours[c][split] for c in names])
        label = f"{split} ({dataset['subjects'][split]})"
        ax.barh(names, width, 0.7, left=left, color=SPLIT_COLOURS[split], label=label)
        left += width
    ax.set_xlabel("hours")
    ax.legend(title="split (subjects)", loc="upper right", ncols=3, frameon=False, fontsize=8, title_fontsize=8)


def _amplitudes(
    ax: "Axes", page: Sequence[ReportPart], colour: dict[str, str], plausible: tuple[float, float], unit: str
) -> None:
    ax.axvspan(*plausible, color="#e8f1e9", zorder=0)
    values = [[sd for s in _of_corpus(page, c) if (sd := _median_sd(s))] for c in colour]
    known = [*plausible, *(sd for of_corpus in values for sd in of_corpus)]
    edges = np.geomspace(min(known) / 1.3, max(known) * 1.3, 33)
    ax.hist(values, bins=edges.tolist(), stacked=True, color=list(colour.values()), label=list(colour))
    ax.set_xscale("log")
    ax.set_xlabel(f"median SD ({unit})")
    ax.set_ylabel("recordings")
    if len(colour) <= len(COLOURS):
        ax.legend(frameon=False, fontsize=6.5 if len(colour) > 6 else 8, ncols=1 + len(colour) // 12, handlelength=1.2)


def _spectra(ax: "Axes", page: Sequence[ReportPart], colour: dict[str, str], layout: ReportLayout) -> None:
    for corpus, c in colour.items():
        curves = [np.asarray(s["spectrum"]) for s in _of_corpus(page, corpus) if s["spectrum"]]
        f = np.arange(len(curves[0])) / 2 if curves else np.empty(0)
        for curve in curves[:40]:
            ax.loglog(f[1:], np.maximum(curve[1:], 1e-6), color=c, lw=0.4, alpha=0.35)
        if curves:
            ax.loglog(f[1:], np.maximum(np.median(curves, axis=0)[1:], 1e-6), color=c, lw=1.8, label=corpus)
    ax.set_ylim(bottom=1e-4)
    ax.set_xlabel("Hz")
    ax.set_ylabel("µV²/Hz" if layout.unit == "µV" else f"({layout.unit})²/Hz")


def _flags(ax: "Axes", page: Sequence[ReportPart], corpora: Sequence[str]) -> None:
    share = np.zeros((len(FAULTS), len(corpora)))
    for j, corpus in enumerate(corpora):
        summaries = _of_corpus(page, corpus)
        cells = sum(s["judged"] * len(s["ch_names"]) for s in summaries)
        for s in summaries:
            for fault, count in s["faults"].items():
                share[FAULTS.index(fault.split(":", 1)[0]), j] += count / max(cells, 1)
    top = max(5.0, 100 * share.max())
    ax.imshow(100 * share, cmap="YlOrRd", vmin=0, vmax=top, aspect="auto")
    ax.set_xticks(range(len(corpora)), corpora, rotation=30, ha="right", fontsize=7)
    ax.set_yticks(range(len(FAULTS)), FAULTS)
    for (i, j), value in np.ndenumerate(100 * share):
        ax.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=7, color="white" if value > top / 2 else INK)
    ax.set_xlabel("% of channel-windows")


def _averaged(page: Sequence[ReportPart]) -> list[tuple[str, list[str]]]:
    """Corpora with event-locked windows, and the channels to show."""
    names = {p.summary["dataset"]: p.summary["ch_names"] for p in reversed(page) if p.averages.exists()}
    corpora = [c for c in dict.fromkeys(p.summary["dataset"] for p in page) if c in names]
    return [(c, [k for k in SHOWN_CHANNELS if k in names[c]][:2] or names[c][:1]) for c in corpora[:3]]


def average_response(
    page: Sequence[ReportPart], corpus: str, channels: Sequence[str]
) -> dict[str, tuple[int, Float[np.ndarray, "time"]]]:
    """Label → (windows, mean over windows, recordings and `channels`), in the unit of the signal."""
    sums: dict[str, Float[np.ndarray, time]] = {}
    counts: Counter[str] = Counter()
    for part in page:
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
    ax: "Axes", page: Sequence[ReportPart], corpus: str, channels: Sequence[str], layout: ReportLayout
) -> None:
    curves = average_response(page, corpus, channels)
    shown = sorted(curves, key=lambda label: -curves[label][0])[:CLASSES]
    for i, label in enumerate(sorted(shown)):
        n, curve = curves[label]
        curve = curve[: layout.length]
        t = (layout.first + np.arange(len(curve))) / layout.sfreq
        ax.plot(1e3 * t, curve, color=COLOURS[i % len(COLOURS)], lw=1.3, label=f"{label} (n = {n})")
    ax.axvline(0, color=GREY, lw=0.8, ls=":")
    ax.axhline(0, color=GREY, lw=0.5)
    ax.set_xlabel("ms after the event")
    ax.set_ylabel(layout.unit)
    ax.legend(frameon=False, fontsize=7)


def _draw_page(name: str, figures: Sequence[tuple[str, str]], panels: Sequence[ReportPanel]) -> bytes:
    """PNG of the heading above the panels, two abreast."""
    from matplotlib.figure import Figure

    rows = -(-len(panels) // 2)
    width, height = 2 * PANEL_INCHES[0], HEADING_INCHES + rows * PANEL_INCHES[1]
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")

    def y(share: float) -> float:
        """A share of the heading, from its bottom, as a share of the page."""
        return 1 - (1 - share) * HEADING_INCHES / height

    title = f"{name}: quality of the prepared recordings"
    figure.text(0.03, y(0.76), title, fontsize=15, weight="bold", color=INK)
    for i, (value, what) in enumerate(figures):
        figure.text(0.03 + i * 0.16, y(0.34), value, fontsize=15, color=COLOURS[0], weight="bold")
        figure.text(0.03 + i * 0.16, y(0.12), what, fontsize=9, color=GREY)
    panel_height = PANEL_INCHES[1] / height
    for i, panel in enumerate(panels):
        bottom = 1 - HEADING_INCHES / height - (i // 2 + 1) * panel_height
        box = ((i % 2 + panel.left) / 2, bottom + 0.19 * panel_height, (0.97 - panel.left) / 2, 0.70 * panel_height)
        ax = figure.add_axes(box)
        ax.set_title(panel.title, fontsize=11, loc="left", color=INK, weight="bold")
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8, colors=INK)
        panel.draw(ax)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None}, pil_kwargs={"compress_level": 4})
    return stream.getvalue()
