"""The quality report of a dataset: one page, as HTML (tables and drawings in one file) and as an image.

It shows pseudonyms, counts and curves only. Nothing of a file's name or header enters it but corpus names, channel
names and event codes.
"""

import base64
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from dreamjax.signals.preparation.convert import CLASSES
from dreamjax.signals.preparation.windows import Settings
from dreamjax.signals.recordings.identity import SPLITS
from dreamjax.storage import atomic

COLOURS = (
    "#2f6db3", "#e08a2e", "#3f9a63", "#b5483f", "#7a62ab", "#8a6b52", "#c56aa5", "#6f7680", "#a3a23a", "#35a3b0",
    "#123a63", "#f2c08a", "#1c5a35", "#e39a92", "#c3b4e0",
)  # fmt: skip
SPLIT_COLOURS = {"train": "#2f6db3", "val": "#8fb6dd", "test": "#e08a2e"}
FAULTS = ("flat", "held", "clipped", "amplitude", "line")
SHOWN_CHANNELS = ("Oz", "O1", "PO8", "Pz", "P8", "TP10", "Cz", "Fz", "AF7")  # of the averages, the first two present
INK, GREY = "#22272e", "#6f7680"


@dataclass(frozen=True, eq=False)
class Part:
    """One recording's summary (`convert.convert_recording`) and where its averages lie."""

    summary: dict[str, Any]
    folder: Path


def write(
    folder: Path, name: str, dataset: dict[str, Any], parts: Sequence[tuple[dict[str, Any], Path]], settings: Settings
) -> None:
    """Write report.html and report.png into a dataset folder."""
    import jinja2

    page = [Part(summary, where) for summary, where in parts]
    drawings = drawn(dataset, page, settings)
    images = [_panel(d) for d in drawings]
    template = jinja2.Template((Path(__file__).parent / "quality_report.html.j2").read_text(), autoescape=True)
    html = template.render(
        name=name,
        dataset=dataset,
        totals=dataset["totals"],
        tiles=tiles(dataset),
        corpora=corpus_rows(dataset, page),
        recordings=recording_rows(dataset, page),
        rejects=reject_reasons(page).most_common(12),
        classes=class_counts(page).most_common(50),
        steps=steps(settings, page),
        drawings=[(d.title, d.note, base64.b64encode(_png(p)).decode()) for d, p in zip(drawings, images, strict=True)],
        warnings=[(entry["recording"], entry["warning"]) for entry in dataset["inputs"] if entry["warning"]],
    )
    atomic.write_text(folder / "report.html", html)
    atomic.write_bytes(folder / "report.png", _png(_page(_heading(name, tiles(dataset)), images)))


# -------------------------------------------------------------------------------------------------------------- tables
def tiles(dataset: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures at the head of the page."""
    totals = dataset["totals"]
    judged = totals["windows"] + totals["windows_rejected"]
    return [
        (f"{totals['hours']:.2f} h", "in windows"),
        (str(totals["subjects"]), "subjects"),
        (str(totals["recordings"]), "recordings"),
        (f"{totals['windows']:,}", "windows"),
        (f"{100 * totals['windows_rejected'] / max(judged, 1):.1f} %", "of windows rejected"),
        (str(totals["recordings_left_out"]), "recordings left out"),
    ]


def corpus_rows(dataset: dict[str, Any], page: Sequence[Part]) -> list[dict[str, Any]]:
    """One row per corpus."""
    rows = []
    for corpus, entry in dataset["corpora"].items():
        mine = [p.summary for p in page if p.summary["dataset"] == corpus]
        rows.append(
            {
                "corpus": corpus,
                "recordings": entry["recordings"],
                "subjects": entry["subjects"],
                "hours": f"{entry['hours']:.2f}",
                "channels": _range(entry["channels"]),
                "rates": _range(sorted({s["sfreq"] for s in mine})),
                "reference": ", ".join(sorted({s["plan"]["reference"] for s in mine})),
                "band": ", ".join(sorted({_band(s["plan"]["band"]) for s in mine})),
                "line": ", ".join(sorted({_line(s["plan"]) for s in mine})),
                "sd": f"{np.median([s['plan']['median_sd_uv'] or np.nan for s in mine]):.1f}",
                "licences": ", ".join(entry["licences"]),
            }
        )
    return rows


def recording_rows(dataset: dict[str, Any], page: Sequence[Part]) -> list[dict[str, Any]]:
    """One row per recording, by pseudonym."""
    rows = []
    for entry, part in zip(dataset["inputs"], page, strict=True):
        s = part.summary
        faults: Counter[str] = Counter()
        for fault, count in s["faults"].items():
            faults[fault.split(":", 1)[0]] += count
        cells = max(s["judged"] * len(s["ch_names"]), 1)
        rows.append(
            {
                "recording": entry["recording"],
                "corpus": s["dataset"],
                "split": entry["split"],
                "minutes": f"{s['seconds'] / 60:.1f}",
                "kept": f"{s['windows']}/{s['judged']}",
                "sd": s["plan"]["median_sd_uv"],
                "flagged": ", ".join(f"{k} {100 * n / cells:.1f} %" for k, n in faults.most_common(3)),
                "notes": "; ".join([*s["notes"], *([s["warning"]] if s["warning"] else [])]),
            }
        )
    return rows


def reject_reasons(page: Sequence[Part]) -> Counter[str]:
    """Reason → windows, over all recordings; numbers in the reasons left out."""
    reasons: Counter[str] = Counter()
    for part in page:
        for stretch in part.summary["rejects"]:
            reason = stretch["reason"]
            if "(mostly " in reason:
                reason = "too few good channels " + reason[reason.index("(") :]
            reasons[reason] += stretch["windows"]
    return reasons


def class_counts(page: Sequence[Part]) -> Counter[str]:
    """Label → windows; empty where nothing is labelled."""
    counts: Counter[str] = Counter()
    for part in page:
        counts.update(part.summary["labels"])
    counts.pop("", None)
    return counts


def steps(settings: Settings, page: Sequence[Part]) -> list[tuple[str, str]]:
    """What was done, in words."""
    stride = settings.stride or settings.samples
    found: list[tuple[str, str]] = [
        ("band", f"{_band([settings.low, settings.high])}, {'minimum' if settings.causal else 'zero'} phase FIR"),
        ("notch", f"{settings.notch}; " + ", ".join(sorted({_line(p.summary["plan"]) for p in page}))),
        ("sampling rate", f"{settings.sfreq:g} Hz (rational polyphase)"),
        ("reference", f"{settings.reference}; {_counted(p.summary['plan']['reference'] for p in page)}"),
        ("windows", f"{settings.samples} samples = {settings.samples / settings.sfreq:g} s, every {stride} samples"),
        ("quality", ", ".join(f"{k} {v}" for k, v in vars(settings.limits).items())),
    ]
    if settings.events.source:
        found.append(("events", ", ".join(f"{k} {v}" for k, v in vars(settings.events).items() if k != "source")))
    return found


def _counted(words: Any) -> str:
    return ", ".join(f"{word} ({n})" for word, n in Counter(words).most_common(6))


def _range(values: Sequence[float]) -> str:
    return ", ".join(f"{v:g}" for v in values) if len(values) <= 4 else f"{min(values):g}-{max(values):g}"


def _band(band: Sequence[float | None]) -> str:
    low, high = band
    return f"{0 if low is None else low:g}-{'Nyquist' if high is None else f'{high:g}'} Hz"


def _line(plan: dict[str, Any]) -> str:
    return f"{plan['line']:g} Hz ({plan['line_source']})" if plan["line"] else "no line"


# ------------------------------------------------------------------------------------------------------------ drawings
@dataclass(frozen=True, eq=False)
class Drawing:
    title: str
    note: str
    draw: Callable[[Any], None]  # onto matplotlib axes
    left: float = 0.13  # margin, as a share of the panel


def drawn(dataset: dict[str, Any], page: Sequence[Part], settings: Settings) -> list[Drawing]:
    """The panels that this dataset has something to show for."""
    corpora = list(dataset["corpora"])
    colour = {corpus: COLOURS[i % len(COLOURS)] for i, corpus in enumerate(corpora)}
    panels = [
        Drawing(
            "Hours by corpus and split", "No subject is in two splits.", lambda ax: _hours(ax, dataset, page), 0.25
        ),
        Drawing(
            "Amplitude of each recording",
            "Median over channels and stretches of the band-passed SD; outside the band it is no EEG in µV.",
            lambda ax: _amplitudes(ax, page, colour, settings),
        ),
        Drawing(
            "Spectra",
            "Median over channels; thin lines are recordings, thick ones corpora, in the colours of the amplitudes.",
            lambda ax: _spectra(ax, page, colour),
        ),
        Drawing(
            "Flagged channels",
            "Share of channel-windows that quality control flagged; kept with the flag unless most channels are bad.",
            lambda ax: _flags(ax, page, corpora),
        ),
    ]
    panels += [
        Drawing(
            f"Average response at {channel} ({corpus})",
            "Mean over windows per class; n in the legend.",
            lambda ax, c=corpus, k=channel: _averages(ax, page, c, [k], settings),  # type: ignore[misc]
        )
        for corpus, channels in _averaged(page)
        for channel in channels
    ]
    return panels


def _hours(ax: Any, dataset: dict[str, Any], page: Sequence[Part]) -> None:
    hours: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(SPLITS, 0.0))
    for entry, part in zip(dataset["inputs"], page, strict=True):
        hours[part.summary["dataset"]][entry["split"]] += part.summary["seconds"] / 3600
    names = sorted(hours, key=lambda c: sum(hours[c].values()))[-14:]
    left = np.zeros(len(names))
    ax.set_ylim(-0.7, len(names) - 0.3 + max(0.25 * len(names), 0.6))  # room for the legend
    for split in SPLITS:
        width = np.array([hours[c][split] for c in names])
        ax.barh(
            names, width, 0.7, left=left, color=SPLIT_COLOURS[split], label=f"{split} ({dataset['subjects'][split]})"
        )
        left += width
    ax.set_xlabel("hours")
    ax.legend(title="split (subjects)", loc="upper right", ncols=3, frameon=False, fontsize=8, title_fontsize=8)


def _amplitudes(ax: Any, page: Sequence[Part], colour: dict[str, str], settings: Settings) -> None:
    low, high = settings.limits.plausible_low_uv, settings.limits.plausible_high_uv
    ax.axvspan(low, high, color="#e8f1e9", zorder=0)
    sds = {c: [p.summary["plan"]["median_sd_uv"] for p in page if p.summary["dataset"] == c] for c in colour}
    known = [s for values in sds.values() for s in values if s]
    edges = np.geomspace(min([low, *known]) / 1.3, max([high, *known]) * 1.3, 33)
    values = [[s for s in sds[c] if s] for c in colour]
    ax.hist(values, bins=edges, stacked=True, color=list(colour.values()), label=list(colour))
    ax.set_xscale("log")
    ax.set_xlabel("median SD (µV)")
    ax.set_ylabel("recordings")
    _legend(ax, len(colour))


def _spectra(ax: Any, page: Sequence[Part], colour: dict[str, str]) -> None:
    for corpus, c in colour.items():
        mine = [p.summary for p in page if p.summary["dataset"] == corpus and p.summary["spectrum"]]
        curves = [np.asarray(s["spectrum"]) for s in mine]
        f = np.arange(len(curves[0])) / 2 if curves else np.empty(0)
        for curve in curves[:40]:
            ax.loglog(f[1:], np.maximum(curve[1:], 1e-6), color=c, lw=0.4, alpha=0.35)
        if curves:
            ax.loglog(f[1:], np.maximum(np.median(curves, axis=0)[1:], 1e-6), color=c, lw=1.8, label=corpus)
    ax.set_ylim(bottom=1e-4)
    ax.set_xlabel("Hz")
    ax.set_ylabel("µV²/Hz")


def _legend(ax: Any, entries: int) -> None:
    if entries <= len(COLOURS) and ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=6.5 if entries > 6 else 8, ncols=1 + entries // 12, handlelength=1.2)


def _flags(ax: Any, page: Sequence[Part], corpora: Sequence[str]) -> None:
    share = np.zeros((len(FAULTS), len(corpora)))
    for j, corpus in enumerate(corpora):
        mine = [p.summary for p in page if p.summary["dataset"] == corpus]
        cells = sum(s["judged"] * len(s["ch_names"]) for s in mine)
        for s in mine:
            for fault, count in s["faults"].items():
                share[FAULTS.index(fault.split(":", 1)[0]), j] += count / max(cells, 1)
    image = ax.imshow(100 * share, cmap="YlOrRd", vmin=0, vmax=max(5.0, 100 * share.max()), aspect="auto")
    ax.set_xticks(range(len(corpora)), corpora, rotation=30, ha="right", fontsize=7)
    ax.set_yticks(range(len(FAULTS)), FAULTS)
    dark = image.norm.vmax / 2
    for (i, j), value in np.ndenumerate(100 * share):
        ax.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=7, color="white" if value > dark else INK)
    ax.set_xlabel("% of channel-windows")


def _averaged(page: Sequence[Part]) -> list[tuple[str, list[str]]]:
    """Corpora with event-locked windows, and the channels to show."""
    out = []
    for corpus in dict.fromkeys(p.summary["dataset"] for p in page):
        mine = [p for p in page if p.summary["dataset"] == corpus and (p.folder / "averages.npz").exists()]
        if mine:
            names = mine[0].summary["ch_names"]
            out.append((corpus, [c for c in SHOWN_CHANNELS if c in names][:2] or names[:1]))
    return out[:3]


def average_response(
    page: Sequence[Part], corpus: str, channels: Sequence[str]
) -> dict[str, tuple[int, Float[np.ndarray, "time"]]]:
    """Label → (windows, mean over windows, recordings and `channels`), µV."""
    sums: dict[str, Any] = {}
    counts: Counter[str] = Counter()
    for part in page:
        path = part.folder / "averages.npz"
        if part.summary["dataset"] != corpus or not path.exists():
            continue
        rows = [part.summary["ch_names"].index(c) for c in channels if c in part.summary["ch_names"]]
        with np.load(path) as stored:
            for key in stored.files if rows else ():
                label = part.summary["averaged"][int(key.removeprefix("arr_"))]
                sums[label] = sums.get(label, 0) + stored[key][rows].mean(axis=0)
                counts[label] += part.summary["labels"][label]
    return {label: (counts[label], total / counts[label]) for label, total in sums.items()}


def _averages(ax: Any, page: Sequence[Part], corpus: str, channels: Sequence[str], settings: Settings) -> None:
    curves = average_response(page, corpus, channels)
    shown = sorted(curves, key=lambda label: -curves[label][0])[:CLASSES]
    for i, label in enumerate(sorted(shown)):
        n, curve = curves[label]
        curve = curve[: settings.event_samples]
        t = (settings.event_first + np.arange(len(curve))) / settings.sfreq
        ax.plot(1e3 * t, curve, color=COLOURS[i % len(COLOURS)], lw=1.3, label=f"{label} (n = {n})")
    ax.axvline(0, color=GREY, lw=0.8, ls=":")
    ax.axhline(0, color=GREY, lw=0.5)
    ax.set_xlabel("ms after the event")
    ax.set_ylabel("µV")
    ax.legend(frameon=False, fontsize=7)


# --------------------------------------------------------------------------------------------------------------- pixels
Pixels = UInt8[np.ndarray, "height width 4"]
PANEL_INCHES, DPI = (6.4, 3.6), 110


def _pixels(width: float, height: float, draw: Callable[[Any], None]) -> Pixels:
    """RGBA of a figure of so many inches; `draw` gets the figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    draw(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()


def _panel(drawing: Drawing) -> Pixels:
    def draw(figure: Any) -> None:
        ax = figure.add_axes((drawing.left, 0.19, 0.97 - drawing.left, 0.70))
        ax.set_title(drawing.title, fontsize=11, loc="left", color=INK, weight="bold")
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8, colors=INK)
        drawing.draw(ax)

    return _pixels(*PANEL_INCHES, draw)


def _heading(name: str, figures: Sequence[tuple[str, str]]) -> Pixels:
    def draw(figure: Any) -> None:
        figure.text(0.03, 0.76, f"{name}: quality of the prepared recordings", fontsize=15, weight="bold", color=INK)
        for i, (value, what) in enumerate(figures):
            figure.text(0.03 + i * 0.16, 0.34, value, fontsize=15, color=COLOURS[0], weight="bold")
            figure.text(0.03 + i * 0.16, 0.12, what, fontsize=9, color=GREY)

    return _pixels(2 * PANEL_INCHES[0], 1.25, draw)


def _page(heading: Pixels, panels: Sequence[Pixels]) -> Pixels:
    """The heading above the panels, two abreast."""
    blank = np.full_like(panels[0], 255)
    padded = [*panels, blank] if len(panels) % 2 else list(panels)
    rows = [np.concatenate(padded[i : i + 2], axis=1) for i in range(0, len(padded), 2)]
    return np.concatenate([heading, *rows])


def _png(pixels: Pixels) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels[..., :3]).save(stream, "PNG", compress_level=4)
    return stream.getvalue()
