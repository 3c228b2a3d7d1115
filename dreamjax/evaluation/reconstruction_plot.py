"""Draw one held-out window, chosen at random: the hidden samples and each method's prediction, µV over seconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from dreamjax.evaluation import reconstruction_scores
from dreamjax.evaluation.reconstruction_scores import Masking, MaskTask, Predict
from dreamjax.evaluation.window_set import WindowSet
from dreamjax.metrics.conditional_mean import Gaussian
from dreamjax.reports import figures, palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES: dict[str, dict[str, Any]] = {
    "model": {"color": palette.MODEL, "lw": 1.5, "zorder": 4},
    "conditional mean": {"color": palette.REFERENCE, "lw": 1.2, "zorder": 3},
    "linear interpolation": {"color": palette.SECOND, "lw": 1.0, "ls": (0, (4, 1.5)), "zorder": 2},
}
CHANNELS = ("Fz", "C3", "Pz", "O1")  # shown if a recording has them, else the same number of others
CAPTION = "a held-out subject's window, drawn at random; R² over the hidden samples of all its channels"


@dataclass(frozen=True)
class MaskedWindow:
    """One window under one mask. `guesses` are whole windows (C, T); only their hidden samples are shown."""

    title: str
    truth: Float[np.ndarray, "C T"]  # µV
    hidden: Bool[np.ndarray, "T"]
    guesses: Mapping[str, Float[np.ndarray, "C T"]]
    real: Bool[np.ndarray, "C"]
    ch_names: tuple[str, ...]
    sfreq: float

    def r2(self, method: str) -> float:
        """Return the share of variance explained on the hidden samples of all real channels of this window."""
        truth, guess = self.truth[self.real][:, self.hidden], self.guesses[method][self.real][:, self.hidden]
        return float(1 - ((truth - guess) ** 2).sum() / ((truth - truth.mean(1, keepdims=True)) ** 2).sum())


def masked_window(
    windows: WindowSet,
    row: int,
    task: MaskTask,
    patch: int,
    predict: Predict,
    fitted: Gaussian | None = None,
    seed: int = 0,
) -> MaskedWindow:
    """Return the window `row` under the same mask with which it is scored."""
    one = windows.take(np.array([row]))
    masking = Masking.of(one, task, patch, seed)
    visible, hidden = reconstruction_scores.samples_of(masking.hidden[0], one.valid[0], patch)
    truth, seen = one.microvolts()[0], one.seen_microvolts()
    made = {"linear interpolation": reconstruction_scores.linear_interpolation(seen, visible, hidden)[0]}
    if fitted is not None:
        made["conditional mean"] = fitted.adapted_mean(seen, visible, hidden)[0]
    made["model"] = reconstruction_scores.predict_all(predict, one, masking.hidden)[0][:, hidden]
    guesses = {name: truth.copy() for name in made}
    for name, values in made.items():
        guesses[name][:, hidden] = values
    return MaskedWindow(task.name, truth, hidden, guesses, one.real[0], one.ch_names, one.sfreq)


def draw_row(windows: WindowSet, seed: int = 0) -> int:
    """Return the row of a random window: uniformly among those without padding."""
    whole = np.flatnonzero(windows.whole)
    pool = whole if len(whole) else np.arange(len(windows))
    return int(np.random.default_rng([seed, 2022]).choice(pool))


def _channels(window: MaskedWindow) -> list[int]:
    """Return midline and lateral channels, front to back, where named so; else spread over the real channels."""
    real = np.flatnonzero(window.real)
    count = min(len(CHANNELS), len(real))
    there = [window.ch_names.index(name) for name in CHANNELS if name in window.ch_names]
    named = [channel for channel in there if window.real[channel]]
    return named if len(named) >= count else real[np.linspace(0, len(real) - 1, count).astype(int)].tolist()


def _shown(values: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Return a guess on hidden samples and one sample to either side, so that lines meet the signal; else NaN."""
    near = hidden.copy()
    near[1:] |= hidden[:-1]
    near[:-1] |= hidden[1:]
    return np.where(near, values, np.nan)


def figure(windows: Sequence[MaskedWindow]) -> "Figure":
    """Draw a column for each masked window, a row for each channel; hidden time is shaded."""
    rows = _channels(windows[0])
    size = (6.2 * len(windows), 1.25 * len(rows) + 1.35)
    fig, axes = figures.grid(*size, len(rows), len(windows), sharex="col", sharey="row")
    for column, window in enumerate(windows):
        seconds = np.arange(window.truth.shape[1]) / window.sfreq
        for axis, channel in zip(axes[:, column], rows, strict=True):
            _trace(axis, window, channel, seconds)
            if column == 0:
                axis.set_ylabel(f"{window.ch_names[channel]}\nµV", rotation=0, ha="right", va="center", fontsize=9)
        axes[-1, column].set_xlabel("time (s)", fontsize=9)
        axes[-1, column].set_xlim(*_view(window))
        figures.legend(
            axes[0, column],
            title=f"hidden: {window.title}",
            title_fontproperties={"size": 9, "weight": "bold"},
            loc="lower center",
            bbox_to_anchor=(0.5, 1.02),
            ncols=3,
            handlelength=1.6,
            columnspacing=1.2,
        )
    fig.align_ylabels(axes[:, 0])
    fig.supxlabel(CAPTION, fontsize=8, color=palette.QUIET)
    return fig


def _view(window: MaskedWindow) -> tuple[float, float]:
    """Return the displayed span: the window, or around a single gap twice the gap to either side."""
    end = (window.truth.shape[1] - 1) / window.sfreq
    where = np.flatnonzero(window.hidden) / window.sfreq
    length = where[-1] - where[0] + 1 / window.sfreq
    if len(where) < length * window.sfreq - 0.5 or 3 * length > end:
        return 0.0, end
    return max(0.0, float(where[0] - 2 * length)), min(end, float(where[-1] + 2 * length))


def _trace(axis: "Axes", window: MaskedWindow, channel: int, seconds: np.ndarray) -> None:
    half = 0.5 / window.sfreq
    edges = np.flatnonzero(np.diff(np.concatenate([[0], window.hidden.astype(int), [0]])))
    axis.plot(seconds, window.truth[channel], color=palette.SIGNAL, lw=0.9, zorder=2.5, label="recorded")
    for i, (start, stop) in enumerate(edges.reshape(-1, 2)):
        label = "" if i else "hidden"
        axis.axvspan(seconds[start] - half, seconds[stop - 1] + half, color=palette.SHADE, lw=0, zorder=0, label=label)
    for name, style in STYLES.items():
        if name in window.guesses:
            guess, label = _shown(window.guesses[name][channel], window.hidden), f"{name}, R² {window.r2(name):.2f}"
            axis.plot(seconds, guess, label=label, **style)
    axis.tick_params(labelsize=8, length=2.5)
    shown = [window.guesses[name][channel] for name in STYLES if name in window.guesses]
    reach = np.abs([window.truth[channel], *shown]).max() * 1.15 or 1.0
    axis.set_ylim(-reach, reach)
