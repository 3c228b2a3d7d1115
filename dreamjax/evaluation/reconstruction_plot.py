"""One held-out window, drawn at random: what was hidden, and what each method made of it. µV over seconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from dreamjax.evaluation import reconstruction_scores
from dreamjax.evaluation.scoring_masks import MaskTask
from dreamjax.evaluation.window_set import WindowSet
from dreamjax.metrics import conditional_mean

TRUTH, SHADE = "#1a1a1a", "#e9e6dc"
STYLES: dict[str, dict[str, Any]] = {  # Okabe and Ito's colours, told apart by all eyes
    "model": {"color": "#D55E00", "lw": 1.5, "zorder": 4},
    "conditional mean": {"color": "#0072B2", "lw": 1.2, "zorder": 3},
    "linear interpolation": {"color": "#009E73", "lw": 1.0, "ls": (0, (4, 1.5)), "zorder": 2},
}
CHANNELS = ("Fz", "C3", "Pz", "O1")


@dataclass(frozen=True)
class Panel:
    """One window under one mask. `guesses` are whole windows (C, T), of which only hidden samples are shown."""

    title: str
    truth: Float[np.ndarray, "C T"]  # µV
    visible: Bool[np.ndarray, "T"]
    hidden: Bool[np.ndarray, "T"]
    guesses: Mapping[str, Float[np.ndarray, "C T"]]
    real: Bool[np.ndarray, "C"]
    ch_names: tuple[str, ...]
    sfreq: float

    def r2(self, method: str) -> float:
        """Share of variance explained on the hidden samples of all real channels of this window."""
        truth, guess = self.truth[self.real][:, self.hidden], self.guesses[method][self.real][:, self.hidden]
        return float(1 - ((truth - guess) ** 2).sum() / ((truth - truth.mean(1, keepdims=True)) ** 2).sum())


def panel(
    windows: WindowSet,
    row: int,
    task: MaskTask,
    patch: int,
    predict: reconstruction_scores.Predict | None = None,
    fitted: conditional_mean.Gaussian | None = None,
    seed: int = 0,
) -> Panel:
    """The window `row` under the same mask with which it is scored."""
    one = windows.take(np.array([row]))
    masking = reconstruction_scores.Masking.of(one, task, patch, seed)
    visible, hidden = reconstruction_scores.samples_of(masking.hidden[0], one.valid[0], patch)
    truth, seen = one.microvolts(), one.seen_microvolts()
    methods: dict[str, Any] = {"linear interpolation": reconstruction_scores.linear_interpolation}
    if fitted is not None:
        methods["conditional mean"] = fitted.conditional_mean
    guesses = {}
    for name, method in methods.items():
        guesses[name] = truth[0].copy()
        guesses[name][:, hidden] = method(seen, visible, hidden)[0]
    if predict is not None:
        guesses["model"] = truth[0].copy()
        guesses["model"][:, hidden] = reconstruction_scores.predict_all(predict, one, masking.hidden)[0][:, hidden]
    return Panel(task.name, truth[0], visible, hidden, guesses, one.real[0], one.ch_names, one.sfreq)


def draw_row(windows: WindowSet, seed: int = 0) -> int:
    """A window at random, not chosen by how it looks: uniformly among those without padding."""
    whole = np.flatnonzero(windows.whole)
    pool = whole if len(whole) else np.arange(len(windows))
    return int(np.random.default_rng([seed, 2022]).choice(pool))


def _channels(panel: Panel, count: int) -> list[int]:
    """Midline and lateral, front to back, where those names are there; else spread over the real channels."""
    real = np.flatnonzero(panel.real)
    named = [panel.ch_names.index(n) for n in CHANNELS if n in panel.ch_names and panel.real[panel.ch_names.index(n)]]
    if len(named) >= min(count, len(real)):
        return named[:count]
    return [int(c) for c in real[np.unique(np.linspace(0, len(real) - 1, min(count, len(real))).astype(int))]]


def _shown(values: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """A guess on hidden samples and one sample to either side, so that lines meet the signal; NaN elsewhere."""
    near = hidden.copy()
    near[1:] |= hidden[:-1]
    near[:-1] |= hidden[1:]
    return np.where(near, values, np.nan)


def figure(panels: Sequence[Panel], count: int = 4, caption: str = "") -> Any:
    """A matplotlib figure: a column for each panel, a row for each channel; hidden time is shaded."""
    from matplotlib.figure import Figure

    rows = _channels(panels[0], count)
    fig = Figure(figsize=(6.2 * len(panels), 1.25 * len(rows) + 1.35), layout="constrained", facecolor="white")
    axes = fig.subplots(len(rows), len(panels), sharex="col", sharey="row", squeeze=False)
    for column, part in enumerate(panels):
        seconds = np.arange(part.truth.shape[1]) / part.sfreq
        for axis, channel in zip(axes[:, column], rows, strict=True):
            _trace(axis, part, channel, seconds)
            if column == 0:
                axis.set_ylabel(f"{part.ch_names[channel]}\nµV", rotation=0, ha="right", va="center", fontsize=9)
        axes[-1, column].set_xlabel("time (s)", fontsize=9)
        axes[-1, column].set_xlim(*_view(part))
        _legend(axes[0, column], part)
    fig.align_ylabels(axes[:, 0])
    if caption:
        fig.supxlabel(caption, fontsize=8, color="0.35")
    return fig


def _view(part: Panel) -> tuple[float, float]:
    """The window; around a single gap, twice the gap to either side."""
    end = (part.truth.shape[1] - 1) / part.sfreq
    where = np.flatnonzero(part.hidden) / part.sfreq
    length = where[-1] - where[0] + 1 / part.sfreq
    if len(where) < length * part.sfreq - 0.5 or 3 * length > end:
        return 0.0, end
    return max(0.0, float(where[0] - 2 * length)), min(end, float(where[-1] + 2 * length))


def _trace(axis: Any, part: Panel, channel: int, seconds: np.ndarray) -> None:
    half = 0.5 / part.sfreq
    edges = np.flatnonzero(np.diff(np.concatenate([[0], part.hidden.astype(int), [0]])))
    for start, stop in edges.reshape(-1, 2):
        axis.axvspan(seconds[start] - half, seconds[stop - 1] + half, color=SHADE, lw=0, zorder=0)
    axis.plot(seconds, part.truth[channel], color=TRUTH, lw=0.9, zorder=2.5)
    for name, style in STYLES.items():
        if name in part.guesses:
            axis.plot(seconds, _shown(part.guesses[name][channel], part.hidden), **style)
    axis.tick_params(labelsize=8, length=2.5)
    axis.spines[["top", "right"]].set_visible(False)
    reach = np.abs(part.truth[channel]).max() * 1.15
    axis.set_ylim(-reach, reach)


def _legend(axis: Any, part: Panel) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Line2D([], [], color=TRUTH, lw=0.9, label="recorded"), Patch(color=SHADE, label="hidden")]
    for name, style in STYLES.items():
        if name in part.guesses:
            kept = {k: v for k, v in style.items() if k != "zorder"}
            handles.append(Line2D([], [], **kept, label=f"{name}, R² {part.r2(name):.2f}"))
    axis.legend(
        handles=handles,
        title=f"hidden: {part.title}",
        title_fontproperties={"size": 9, "weight": "bold"},
        loc="lower center",
        bbox_to_anchor=(0.5, 1.02),
        ncols=len(handles) if len(handles) <= 3 else 3,
        fontsize=8,
        frameon=False,
        handlelength=1.6,
        columnspacing=1.2,
    )
