"""The quality report of a dataset: one page, as HTML (tables and charts in one file) and as an image.

It shows pseudonyms, counts and curves only. Nothing of a file's name or header enters it but corpus names, channel
names and event codes.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from dreamjax.reports import figures, palette
from dreamjax.reports.figures import Image
from dreamjax.reports.pages import Page, Section
from dreamjax.reports.tables import Table
from dreamjax.signals.preparation.inputs import ReportLayout
from dreamjax.signals.preparation.parts import CLASSES, PartSummary
from dreamjax.signals.preparation.quality import MegLimits, limits_for
from dreamjax.signals.preparation.window_settings import WindowSettings
from dreamjax.signals.recordings import identity
from dreamjax.signals.recordings.events import in_order
from dreamjax.signals.recordings.identity import SPLITS
from dreamjax.storage import atomic, image_files
from dreamjax.typing import JsonDict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PRIVACY = "Quality of the prepared recordings. Recordings and subjects are pseudonyms; times are relative."
REJECTS = "Every stretch and every recording that was left out, with its reason: rejects.jsonl."
FAULTS = ("missing", "railed", "flat", "held", "clipped", "amplitude", "line")
SHOWN_CHANNELS = ("Oz", "O1", "PO8", "Pz", "P8", "TP10", "Cz", "Fz", "AF7")  # of the averages, the first two present
CHART_INCHES, HEADING_INCHES, DPI = (6.4, 3.6), 1.25, 110


@dataclass(frozen=True)
class ReportContent:
    """The content of the report."""

    dataset: JsonDict  # dataset.json
    summaries: Sequence[PartSummary]
    averages: Sequence[Path]  # of each part, whether it exists or not
    layout: ReportLayout

    @cached_property
    def by_corpus(self) -> dict[str, list[PartSummary]]:
        """Return corpus → summaries of its parts."""
        return {c: [s for s in self.summaries if s["dataset"] == c] for c in self.dataset["corpora"]}

    @cached_property
    def colours(self) -> dict[str, str]:
        """Return corpus → colour."""
        return dict(zip(self.by_corpus, palette.areas(len(self.by_corpus)), strict=True))


@dataclass(frozen=True)
class QualityChart:
    title: str
    note: str
    draw: "Callable[[Axes, ReportContent], None]"


def write(folder: Path, name: str, content: ReportContent) -> None:
    """Write report.html and report.png into a dataset folder."""
    dataset = content.dataset
    shown = charts(content)
    images = [draw(chart, content) for chart in shown]
    sections = [
        Section(png=image_files.png_bytes(image), alt=chart.title, notes=[chart.note], half=True)
        for chart, image in zip(shown, images, strict=True)
    ]
    flagged = sum(bool(summary["warning"]) for summary in content.summaries)
    warning = f"recordings of implausible amplitude, kept with a flag as asked; nothing was rescaled: {flagged}"
    versions = ", ".join(f"{k} {v}" for k, v in dataset["versions"].items() if k != "dreamjax")
    numbers = tiles(dataset)
    page = Page(
        name,
        [*sections, *tables(content)],
        notes=[PRIVACY],
        statements=[warning] if flagged else [],
        tiles=numbers,
        footer=f"Made with {versions}.",
    )
    image = sheet(f"{name}: quality of the prepared recordings", numbers, images)
    atomic.write_text(folder / "report.html", page.html())
    atomic.write_bytes(folder / "report.png", image_files.png_bytes(image))


def median_sd(summary: PartSummary) -> float | None:
    """Return the SD in the unit of the signal; None where it is not finite."""
    plan = summary["plan"]
    return plan.get("median_sd_uv", plan.get("median_sd"))


# -------------------------------------------------------------------------------------------------------------- tables
def tiles(dataset: JsonDict) -> list[tuple[str, str]]:
    """Return the numbers at the head of the page, with what they count."""
    totals = dataset["totals"]
    judged = totals["windows"] + totals["windows_rejected"]
    unknown = totals.get("recordings_of_unknown_subjects", 0)
    return [
        (f"{totals['hours']:.2f} h", "in windows"),
        (str(totals["subjects"]), f"subjects, {unknown} recordings unknown" if unknown else "subjects"),
        (str(totals["recordings"]), "recordings"),
        (f"{totals['windows']:,}", "windows"),
        (f"{100 * totals['windows_rejected'] / max(judged, 1):.1f} %", "of windows rejected"),
        (str(totals.get("recordings_left_out", 0)), "recordings left out"),
    ]


def tables(content: ReportContent) -> list[Section]:
    """Return corpora, classes, rejected windows, the steps of the preparation, and every recording."""
    classes: Counter[str] = Counter()
    for summary in content.summaries:
        classes.update(summary["labels"])
    del classes[""]
    rejects = _most_common(reject_reasons(content), 12) or [("none", 0)]

    def counts(title: str, what: str, most: Sequence[tuple[str, int]], notes: Sequence[str] = ()) -> Section:
        return Section(title, Table([what, "windows"], [[name, str(count)] for name, count in most]), notes=notes)

    return [
        Section("Corpora", corpus_table(content)),
        *([counts("Classes", "label", classes.most_common(50))] if classes else []),
        counts("Rejected windows", "reason", rejects, [REJECTS]),
        Section("Steps", Table(["step", "what was done"], content.layout.steps)),
        Section("Recordings", recording_table(content)),
    ]


def _most_common(counts: Counter[str], shown: int) -> list[tuple[str, int]]:
    """Return the largest counts, with the sum of all others as the last."""
    largest = counts.most_common()
    rest = largest[shown - 1 :] if len(largest) > shown else []
    return largest[: len(largest) - len(rest)] + ([("other reasons", sum(n for _, n in rest))] if rest else [])


def corpus_table(content: ReportContent) -> Table:
    """Return a row for each corpus."""
    rows = []
    for corpus, summaries in content.by_corpus.items():
        entry, plans = content.dataset["corpora"][corpus], [s["plan"] for s in summaries]
        rows.append([
            corpus,
            str(entry["recordings"]),
            identity.counts(entry["subjects"], entry.get("recordings_of_unknown_subjects", 0)),
            f"{entry['hours']:.2f}",
            _range(entry["channels"]),
            _range(sorted({s["sfreq"] for s in summaries})),
            ", ".join(sorted({plan["reference"] for plan in plans})),
            ", ".join(sorted({_band(plan["band"]) for plan in plans})),
            ", ".join(sorted({_line(plan) for plan in plans})),
            f"{np.median([median_sd(s) or np.nan for s in summaries]):.1f}",
            ", ".join(entry["licences"]),
        ])  # fmt: skip
    header = "corpus, recordings, subjects, hours, channels, Hz, reference, band, line"
    return Table([*header.split(", "), f"median SD, {content.layout.unit}", "licence"], rows)


def recording_table(content: ReportContent) -> Table:
    """Return a row for each recording, by pseudonym."""
    rows, layout = [], content.layout
    for s, name, split in zip(content.summaries, layout.names, layout.splits, strict=True):
        faults = Counter[str]()
        for fault, count in s["faults"].items():
            faults[fault.split(":", 1)[0]] += count
        cells = max(s["judged"] * len(s["ch_names"]), 1)
        rows.append([
            name,
            s["dataset"],
            split,
            f"{s['seconds'] / 60:.1f}",
            f"{s['windows']}/{s['windows'] + sum(stretch.get('windows', 1) for stretch in s['rejects'])}",
            str(median_sd(s)),
            ", ".join(f"{k} {100 * n / cells:.1f} %" for k, n in faults.most_common(3)),
            "; ".join(filter(None, [*s["notes"], s["warning"]])),
        ])  # fmt: skip
    header = ["recording", "corpus", "split", "min", "windows kept", f"SD, {layout.unit}", "flagged", "notes"]
    return Table(header, rows)


def reject_reasons(content: ReportContent) -> Counter[str]:
    """Return reason → windows, over all recordings; numbers in the reasons left out."""
    if "rejected" in content.dataset:  # of published trials, most of which no part was asked to convert
        return Counter(content.dataset["rejected"])
    reasons: Counter[str] = Counter()
    for summary in content.summaries:
        for stretch in summary["rejects"]:
            _, mostly, fault = stretch["reason"].partition("(mostly ")
            reasons[f"too few good channels {mostly}{fault}" if mostly else stretch["reason"]] += stretch["windows"]
    return reasons


def steps(settings: WindowSettings, plans: Sequence[JsonDict]) -> list[tuple[str, str]]:
    """Return (step, what was done to recordings)."""
    stride = settings.stride or settings.samples
    references = Counter(plan["reference"] for plan in plans).most_common(6)
    rows = [
        ("band", f"{_band([settings.low, settings.high])}, {'minimum' if settings.causal else 'zero'} phase FIR"),
        ("notch", f"{settings.notch}; " + ", ".join(sorted({_line(plan) for plan in plans}))),
        ("sampling rate", f"{settings.sfreq:g} Hz (rational polyphase)"),
        ("reference", f"{settings.reference}; " + ", ".join(f"{reference} ({n})" for reference, n in references)),
        ("windows", f"{settings.samples} samples = {settings.samples / settings.sfreq:g} s, every {stride} samples"),
        ("quality", ", ".join(f"{k} {v}" for k, v in limits_of(settings, plans).items())),
    ]
    if settings.events.source:
        rows.append(("events", ", ".join(f"{k} {v}" for k, v in vars(settings.events).items() if k != "source")))
    return rows


def limits_of(settings: WindowSettings, plans: Sequence[JsonDict]) -> JsonDict:
    """Return the limits by which recordings of these plans were judged: of EEG, of MEG, or of both."""
    meg = [plan.get("unit") == MegLimits.unit for plan in plans]
    limits = dict(vars(limits_for("meg", settings.limits, settings.meg_limits))) if any(meg) else {}
    return limits if meg and all(meg) else limits | vars(settings.limits)


def _range(values: Sequence[float]) -> str:
    return ", ".join(f"{v:g}" for v in values) if len(values) <= 4 else f"{min(values):g}-{max(values):g}"


def _band(band: Sequence[float | None]) -> str:
    low, high = band
    return f"{0 if low is None else low:g}-{'Nyquist' if high is None else f'{high:g}'} Hz"


def _line(plan: JsonDict) -> str:
    return f"{plan['line']:g} Hz ({plan['line_source']})" if plan["line"] else "no line"


# -------------------------------------------------------------------------------------------------------------- charts
def charts(content: ReportContent) -> list[QualityChart]:
    """Return the charts for which this dataset has data."""
    note = "Median over channels; thin lines are recordings, thick ones corpora, in the colours of the amplitudes."
    shown = [QualityChart("Hours by corpus and split", content.layout.split_note, _hours)]
    if content.layout.plausible:
        amplitudes = (
            "Median over channels and stretches of the band-passed SD; what is outside the band is most probably not "
            f"in {content.layout.unit}."
        )
        shown.append(QualityChart("Amplitude of each recording", amplitudes, _amplitudes))
    shown.append(QualityChart("Spectra", note, _spectra))
    if content.layout.plausible:
        flags = (
            "Share of channel-windows that quality control flagged; kept with the flag unless most channels are bad."
        )
        shown.append(QualityChart("Flagged channels", flags, _flags))
    averaged = [s for s, path in zip(content.summaries, content.averages, strict=True) if path.exists()]
    names = {s["dataset"]: s["ch_names"] for s in reversed(averaged)}  # of corpora with event-locked windows
    for corpus in [c for c in dict.fromkeys(s["dataset"] for s in content.summaries) if c in names][:3]:
        for channel in [k for k in SHOWN_CHANNELS if k in names[corpus]][:2] or names[corpus][:1]:
            title, draw_average = f"Average response at {channel} ({corpus})", partial(_averages, corpus, channel)
            shown.append(QualityChart(title, "Mean over windows per class; n in the legend.", draw_average))
    return shown


def _hours(ax: "Axes", content: ReportContent) -> None:
    hours: dict[str, dict[str, float]] = {}
    for summary, split in zip(content.summaries, content.layout.splits, strict=True):
        parts = summary.get("split_windows", {split: 1})  # of a recording whose windows are in several splits
        for name, n in parts.items():
            of_corpus = hours.setdefault(summary["dataset"], {})
            share = summary["seconds"] / 3600 * n / max(sum(parts.values()), 1)
            of_corpus[name] = of_corpus.get(name, 0.0) + share
    names = sorted(hours, key=lambda c: sum(hours[c].values()))[-14:]
    left = np.zeros(len(names))
    ax.set_ylim(-0.7, len(names) - 0.3 + max(0.25 * len(names), 0.6))  # room for the legend
    others = {name for of_corpus in hours.values() for name in of_corpus} - {*SPLITS}
    for split in (*SPLITS, *sorted(others)):
        if split not in content.dataset["subjects"]:
            continue
        width = np.array([hours[c].get(split, 0.0) for c in names])
        unknown = content.dataset.get("recordings_of_unknown_subjects", {}).get(split, 0)
        label = f"{split} ({identity.counts(content.dataset['subjects'][split], unknown)})"
        ax.barh(names, width, 0.7, left=left, color=palette.SPLITS.get(split, palette.GREY), label=label)
        left += width
    ax.set_xlabel("hours")
    figures.legend(ax, title="split (subjects)", loc="upper right", ncols=3, title_fontsize=8)


def _amplitudes(ax: "Axes", content: ReportContent) -> None:
    plausible, colours = content.layout.plausible or (), content.colours
    ax.axvspan(*plausible, color=palette.SHADE, zorder=0)
    values = [[sd for s in summaries if (sd := median_sd(s))] for summaries in content.by_corpus.values()]
    known = [*plausible, *(sd for corpus in values for sd in corpus)]
    edges = np.geomspace(min(known) / 1.3, max(known) * 1.3, 33)
    ax.hist(values, bins=edges.tolist(), stacked=True, color=list(colours.values()), label=list(colours))
    ax.set_xscale("log")
    ax.set_xlabel(f"median SD ({content.layout.unit})")
    ax.set_ylabel("recordings")
    if len(colours) <= 2 * len(palette.SERIES):
        size = 6.5 if len(colours) > 6 else 8
        figures.legend(ax, fontsize=size, ncols=1 + len(colours) // 12, handlelength=1.2)


def _spectra(ax: "Axes", content: ReportContent) -> None:
    for (corpus, summaries), colour in zip(content.by_corpus.items(), content.colours.values(), strict=True):
        curves = [np.asarray(s["spectrum"]) for s in summaries if s["spectrum"]]
        f = np.arange(len(curves[0])) / 2 if curves else np.empty(0)
        for curve in curves[:40]:
            ax.loglog(f[1:], np.maximum(curve[1:], 1e-6), color=colour, lw=0.4, alpha=0.35)
        if curves:
            ax.loglog(f[1:], np.maximum(np.median(curves, axis=0)[1:], 1e-6), color=colour, lw=1.8, label=corpus)
    ax.set_ylim(bottom=1e-4)
    ax.set_xlabel("Hz")
    ax.set_ylabel("µV²/Hz" if content.layout.unit == "µV" else f"({content.layout.unit})²/Hz")


def _flags(ax: "Axes", content: ReportContent) -> None:
    share = np.zeros((len(FAULTS), len(content.by_corpus)))
    for j, summaries in enumerate(content.by_corpus.values()):
        cells = sum(s["judged"] * len(s["ch_names"]) for s in summaries)
        for s in summaries:
            for fault, count in s["faults"].items():
                share[FAULTS.index(fault.split(":", 1)[0]), j] += count / max(cells, 1)
    top = max(5.0, 100 * share.max())
    ax.imshow(100 * share, cmap="YlOrRd", vmin=0, vmax=top, aspect="auto")
    ax.set_xticks(range(len(content.by_corpus)), content.by_corpus, rotation=30, ha="right", fontsize=7)
    ax.set_yticks(range(len(FAULTS)), FAULTS)
    for (i, j), value in np.ndenumerate(100 * share):
        ink = "white" if value > top / 2 else palette.INK
        ax.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=7, color=ink)
    ax.set_xlabel("% of channel-windows")


def average_response(
    content: ReportContent, corpus: str, channel: str
) -> dict[str, tuple[int, Float[np.ndarray, "time"]]]:
    """Return label → (windows, mean over windows and recordings at a channel), in the unit of the signal."""
    sums: dict[str, np.ndarray] = {}
    counts: Counter[str] = Counter()
    for summary, averages in zip(content.summaries, content.averages, strict=True):
        if summary["dataset"] != corpus or not averages.exists() or channel not in summary["ch_names"]:
            continue
        with np.load(averages) as stored:
            for key in stored.files:
                label = summary["averaged"][int(key.removeprefix("arr_"))]
                sums[label] = sums.get(label, 0) + stored[key][summary["ch_names"].index(channel)]
                counts[label] += summary["labels"][label]
    return {label: (counts[label], total / counts[label]) for label, total in sums.items()}


def _averages(corpus: str, channel: str, ax: "Axes", content: ReportContent) -> None:
    curves, layout = average_response(content, corpus, channel), content.layout
    shown = sorted(sorted(curves, key=lambda label: -curves[label][0])[:CLASSES], key=in_order)
    for label, colour in zip(shown, palette.areas(len(shown)), strict=True):
        n, curve = curves[label]
        curve = curve[: layout.length]
        t = (layout.first + np.arange(len(curve))) / layout.sfreq
        ax.plot(1e3 * t, curve, color=colour, lw=1.3, label=f"{label} (n = {n})")
    ax.axvline(0, color=palette.GRID, lw=0.8, ls=":")
    ax.axhline(0, color=palette.GRID, lw=0.5)
    ax.set_xlabel("ms after the event")
    ax.set_ylabel(layout.unit)
    figures.legend(ax, fontsize=7)


def draw(chart: QualityChart, content: ReportContent) -> Image:
    """Return a chart as an image; all have the same size."""
    figure, axis = figures.single(*CHART_INCHES)
    if engine := figure.get_layout_engine():
        engine.set(w_pad=0.15, h_pad=0.12)  # type: ignore[call-arg]  # of the constrained layout
    axis.set_title(chart.title, fontsize=11, loc="left", weight="bold")
    axis.tick_params(labelsize=8)
    chart.draw(axis, content)
    axis.minorticks_off()  # of logarithmic axes, most of the time that drawing took
    return figures.pixels(figure, DPI)


def sheet(title: str, numbers: Sequence[tuple[str, str]], images: Sequence[Image]) -> Image:
    """Return one image: the title, numbers with what they count, and below them the charts, two in a row."""
    figure, axis = figures.single(2 * CHART_INCHES[0], HEADING_INCHES)
    axis.axis("off")
    figure.text(0.03, 0.76, title, fontsize=15, weight="bold")
    for i, (value, what) in enumerate(numbers):
        figure.text(0.03 + i * 0.16, 0.34, value, fontsize=15, weight="bold", color=palette.BLUE)
        figure.text(0.03 + i * 0.16, 0.12, what, fontsize=9, color=palette.QUIET)
    padded = [*images, *([np.full_like(images[0], 255)] if len(images) % 2 else [])]
    rows = [np.concatenate(padded[i : i + 2], axis=1) for i in range(0, len(padded), 2)]
    return np.concatenate([figures.pixels(figure, DPI), *rows])
