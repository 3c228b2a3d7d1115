"""The quality report of a dataset: one page, as HTML (tables and charts in one file) and as an image.

It shows pseudonyms, counts and curves only. Nothing of a file's name or header enters it but corpus names, channel
names and event codes.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from dreamjax.reports.pages import Page, Section
from dreamjax.reports.tables import Table
from dreamjax.signals.preparation import quality_charts
from dreamjax.signals.preparation.inputs import JSON, ReportLayout
from dreamjax.signals.preparation.parts import PartSummary
from dreamjax.signals.preparation.quality_charts import ReportPart, median_sd, of_corpus
from dreamjax.signals.preparation.window_settings import WindowSettings
from dreamjax.storage import atomic, image_files

PRIVACY = "Quality of the prepared recordings. Recordings and subjects are pseudonyms; times are relative."
REJECTS = "Every stretch and every recording that was left out, with its reason: rejects.jsonl."


def write(
    folder: Path,
    name: str,
    dataset: JSON,
    summaries: Sequence[PartSummary],
    averages: Sequence[Path],
    layout: ReportLayout,
) -> None:
    """Write report.html and report.png into a dataset folder; `averages`: of each part, whether it exists or not."""
    parts = [ReportPart(*part) for part in zip(summaries, averages, layout.names, layout.splits, strict=True)]
    charts = quality_charts.charts(dataset, parts, layout)
    images = [quality_charts.draw(chart) for chart in charts]
    sections = [
        Section(png=image_files.png_bytes(image), alt=chart.title, notes=[chart.note], half=True)
        for chart, image in zip(charts, images, strict=True)
    ]
    flagged = sum(bool(part.summary["warning"]) for part in parts)
    warning = f"recordings of implausible amplitude, kept with a flag as asked; nothing was rescaled: {flagged}"
    versions = ", ".join(f"{k} {v}" for k, v in dataset["versions"].items() if k != "dreamjax")
    page = Page(
        name,
        [*sections, *tables(dataset, parts, layout)],
        notes=[PRIVACY],
        statements=[warning] if flagged else [],
        tiles=tiles(dataset),
        footer=f"Made with {versions}.",
    )
    sheet = quality_charts.sheet(f"{name}: quality of the prepared recordings", tiles(dataset), images)
    atomic.write_text(folder / "report.html", page.html())
    atomic.write_bytes(folder / "report.png", image_files.png_bytes(sheet))


def tiles(dataset: JSON) -> list[tuple[str, str]]:
    """Return the numbers at the head of the page, with what they count."""
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


def tables(dataset: JSON, parts: Sequence[ReportPart], layout: ReportLayout) -> list[Section]:
    """Return corpora, classes, rejected windows, the steps of the preparation, and every recording."""
    classes, rejects = class_counts(parts).most_common(50), reject_reasons(parts, dataset).most_common(12)
    return [
        Section("Corpora", corpus_table(dataset, parts, layout.unit)),
        *([Section("Classes", _count_table("label", classes))] if classes else []),
        Section("Rejected windows", _count_table("reason", rejects or [("none", 0)]), notes=[REJECTS]),
        Section("Steps", Table(["step", "what was done"], layout.steps)),
        Section("Recordings", recording_table(parts, layout.unit)),
    ]


def _count_table(what: str, counts: Sequence[tuple[str, int]]) -> Table:
    return Table([what, "windows"], [[name, str(count)] for name, count in counts])


def corpus_table(dataset: JSON, parts: Sequence[ReportPart], unit: str) -> Table:
    """Return a row for each corpus."""
    rows = []
    for corpus, entry in dataset["corpora"].items():
        summaries = of_corpus(parts, corpus)
        plans = [s["plan"] for s in summaries]
        rows.append(
            [
                corpus,
                str(entry["recordings"]),
                str(entry["subjects"]),
                f"{entry['hours']:.2f}",
                _range(entry["channels"]),
                _range(sorted({s["sfreq"] for s in summaries})),
                ", ".join(sorted({plan["reference"] for plan in plans})),
                ", ".join(sorted({_band(plan["band"]) for plan in plans})),
                ", ".join(sorted({_line(plan) for plan in plans})),
                f"{np.median([median_sd(s) or np.nan for s in summaries]):.1f}",
                ", ".join(entry["licences"]),
            ]
        )
    header = "corpus, recordings, subjects, hours, channels, Hz, reference, band, line"
    return Table([*header.split(", "), f"median SD, {unit}", "licence"], rows)


def recording_table(parts: Sequence[ReportPart], unit: str) -> Table:
    """Return a row for each recording, by pseudonym."""
    rows = []
    for part in parts:
        s = part.summary
        faults: Counter[str] = Counter()
        for fault, count in s["faults"].items():
            faults[fault.split(":", 1)[0]] += count
        cells = max(s["judged"] * len(s["ch_names"]), 1)
        rows.append(
            [
                part.name,
                s["dataset"],
                part.split,
                f"{s['seconds'] / 60:.1f}",
                f"{s['windows']}/{s['judged']}",
                str(median_sd(s)),
                ", ".join(f"{k} {100 * n / cells:.1f} %" for k, n in faults.most_common(3)),
                "; ".join([*s["notes"], *([s["warning"]] if s["warning"] else [])]),
            ]
        )
    header = ["recording", "corpus", "split", "min", "windows kept", f"SD, {unit}", "flagged", "notes"]
    return Table(header, rows)


def reject_reasons(parts: Sequence[ReportPart], dataset: JSON) -> Counter[str]:
    """Return reason → windows, over all recordings; numbers in the reasons left out."""
    if "rejected" in dataset:  # of published trials, most of which no part was asked to convert
        return Counter(dataset["rejected"])
    reasons: Counter[str] = Counter()
    for part in parts:
        for stretch in part.summary["rejects"]:
            reason = stretch["reason"]
            if "(mostly " in reason:
                reason = "too few good channels " + reason[reason.index("(") :]
            reasons[reason] += stretch["windows"]
    return reasons


def class_counts(parts: Sequence[ReportPart]) -> Counter[str]:
    """Return label → windows; empty where nothing is labelled."""
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part.summary["labels"])
    counts.pop("", None)
    return counts


def steps(settings: WindowSettings, plans: Sequence[JSON]) -> list[tuple[str, str]]:
    """Return (step, what was done to recordings)."""
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
