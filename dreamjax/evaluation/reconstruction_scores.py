"""Masked reconstruction on subjects that training never saw, in µV, with four baselines.

Only hidden samples of real electrodes count, as recorded; model and baselines get the visible samples clipped as in
training (`WindowSet.seen`). For method m and subject s, with c a channel, t a hidden sample,

    err_s = Σ_c Σ_t (y_ct - ŷ_ct)²          var_s = Σ_c Σ_t (y_ct - ȳ_sc)²
    R²_s = 1 - err_s / var_s                R² = 1 - Σ_s err_s / Σ_s var_s     (pooled: the headline)

where ȳ_sc is the subject's mean of that channel over all hidden samples. The correlation of a subject is
Σ_c cov_c / sqrt(Σ_c var_c(y) Σ_c var_c(ŷ)), and the headline is its mean over subjects. Intervals resample subjects.

Baselines: `zero`; `channel mean` of the window's visible samples; `linear interpolation` between visible samples, held
at the edges; `conditional mean`, the best linear guess (`metrics.conditional_mean`).

A mask hides whole patches of all channels, keyed by the window: the same for every model and baseline. Padding is
neither hidden nor visible.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from dreamjax.console import log, progress
from dreamjax.evaluation.window_set import WindowSet
from dreamjax.metrics import bootstrap, conditional_mean
from dreamjax.metrics.bootstrap import Interval
from dreamjax.metrics.conditional_mean import Candidates, Choice, Gaussian
from dreamjax.parallel import environment

# scaled signal (B, C, T), hidden patches (B, N), valid samples (B, T) → scaled prediction (B, C, T)
Predict = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
Signal = Float[np.ndarray, "B C T"]
Samples = Bool[np.ndarray, "T"]
Guess = Callable[[Signal, Samples, Samples], Float[np.ndarray, "B C H"]]  # of hidden samples from visible ones

VALIDATION_MASKS, VALIDATION_WINDOWS = 6, 96  # masks, and windows, that choose a Gaussian
BATCH = 64  # windows per call of a model


# ---------------------------------------------------------------------------------------------------------------- masks
@dataclass(frozen=True)
class MaskTask:
    """One way to hide: a share of the patches anywhere, or one gap of some seconds."""

    name: str
    kind: Literal["random", "gap"]
    amount: float  # share of the patches, or s

    def hidden(
        self, window: str, valid: Bool[np.ndarray, "N"], patch: int, sfreq: float, seed: int = 0
    ) -> Bool[np.ndarray, "N"] | None:
        """Return which patches of the window named `window` are hidden; None where it is too short for this mask.

        random: ⌊amount · n⌉ of the n valid patches (at least 1), the same number for all windows of that length.
        gap: ⌈seconds · sfreq / patch⌉ neighbouring patches from a uniformly drawn position.
        """
        where = np.flatnonzero(valid)
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode()), zlib.crc32(window.encode())])
        n = len(where)
        k = max(
            1, round(self.amount * n) if self.kind == "random" else int(np.ceil(self.amount * sfreq / patch - 1e-9))
        )
        if k >= n:
            return None
        if self.kind == "random":
            chosen = rng.permutation(where)[:k]
        else:
            start = int(rng.integers(n - k + 1))
            chosen = where[start : start + k]
        return np.isin(np.arange(len(valid)), chosen)


MASKS = (
    MaskTask("random 0.1", "random", 0.1),
    MaskTask("random 0.5", "random", 0.5),
    MaskTask("random 0.75", "random", 0.75),
    MaskTask("gap 250 ms", "gap", 0.25),
    MaskTask("gap 1 s", "gap", 1.0),
)


@dataclass
class Masking:
    """The masks of a set of windows, windows with the same mask together."""

    hidden: Bool[np.ndarray, "B N"]
    usable: Bool[np.ndarray, "B"]
    groups: list[np.ndarray]

    @classmethod
    def of(cls, windows: WindowSet, task: MaskTask, patch: int, seed: int) -> "Masking":
        ok = np.asarray(windows.valid.reshape(len(windows), -1, patch).all(axis=2))
        drawn = [
            task.hidden(name, ok[i], patch, windows.sfreq, seed) if windows.real[i].any() else None
            for i, name in enumerate(windows.ids)
        ]
        hidden = np.stack([np.zeros(ok.shape[1], bool) if mask is None else mask for mask in drawn])
        usable = np.array([mask is not None for mask in drawn])
        together: dict[bytes, list[int]] = {}
        for i in np.flatnonzero(usable):
            together.setdefault(hidden[i].tobytes() + ok[i].tobytes(), []).append(int(i))
        return cls(hidden, usable, [np.array(rows) for rows in together.values()])


def samples_of(hidden: Bool[np.ndarray, "N"], valid: Samples, patch: int) -> tuple[Samples, Samples]:
    """Return (visible, hidden) samples of a window from its hidden patches. A patch padded in part is neither."""
    whole = np.repeat(valid.reshape(-1, patch).all(axis=1), patch)
    dark = np.repeat(hidden, patch) & whole
    return whole & ~dark, dark


# ------------------------------------------------------------------------------------------------------------ baselines
def channel_mean(signal: Signal, visible: Samples, hidden: Samples) -> Float[np.ndarray, "B C H"]:
    """Return the mean of the visible samples of the window's channel."""
    mean = signal[:, :, visible].mean(axis=2, keepdims=True)
    return np.repeat(mean, int(hidden.sum()), axis=2)


def linear_interpolation(signal: Signal, visible: Samples, hidden: Samples) -> Float[np.ndarray, "B C H"]:
    """Return the straight line between the nearest visible samples on either side; at an edge the nearest one, held."""
    v, h = np.flatnonzero(visible), np.flatnonzero(hidden)
    right = np.clip(np.searchsorted(v, h), 0, len(v) - 1)
    left = np.clip(np.searchsorted(v, h) - 1, 0, len(v) - 1)
    span = np.maximum(v[right] - v[left], 1)
    w = np.clip((h - v[left]) / span, 0, 1)
    return signal[:, :, v[left]] * (1 - w) + signal[:, :, v[right]] * w


SIMPLE: dict[str, Guess] = {"channel mean": channel_mean, "linear interpolation": linear_interpolation}


@dataclass(frozen=True)
class Baseline:
    """The subjects that the conditional mean is fitted and chosen on; None where the datasets hold none."""

    candidates: Candidates | None = None
    validation: WindowSet | None = None
    notes: tuple[str, ...] = ()
    chooser: Candidates | None = None  # fitted without `validation`, where `candidates` are fitted on it too

    def choose(self, task: MaskTask, patch: int, seed: int = 0) -> Choice | None:
        """Return the candidate that is best on validation subjects under this kind of mask; None if it is too long.

        Many windows share a few masks, so that each candidate is solved only a few times.
        """
        validation, candidates = self.validation, self.chooser or self.candidates
        if validation is None or candidates is None:
            return None
        people = sorted(set(validation.subjects))
        each = -(-VALIDATION_MASKS // len(people))  # masks of a subject
        cases = []
        for subject in people:
            rows = np.flatnonzero(np.array(validation.subjects) == subject)
            lengths = validation.valid[rows].sum(1)
            rows = rows[lengths == lengths.max()]  # one mask suits windows of one length
            count = min(len(rows), max(each, VALIDATION_WINDOWS // len(people)))
            rows = rows[np.unique(np.linspace(0, len(rows) - 1, count).round().astype(int))]
            for turn in range(min(each, len(rows))):
                part = rows[turn::each]
                valid = validation.valid[part[0]]
                name = f"validation {subject} {turn}"
                drawn = task.hidden(name, valid.reshape(-1, patch).all(1), patch, validation.sfreq, seed)
                if drawn is not None:
                    visible, hidden = samples_of(drawn, valid, patch)
                    # it guesses from what is seen of the visible samples, and is measured on the recorded hidden ones
                    signal = np.where(visible, validation.seen_microvolts(part), validation.microvolts(part))
                    cases.append(conditional_mean.Masked(signal, visible, hidden, validation.real[part]))
        return candidates.choose(cases) if cases else None

    def fitted(self, choice: Choice | None) -> Gaussian | None:
        """Return the chosen candidate; None without a choice."""
        if self.candidates is None or choice is None:
            return None
        return self.candidates.make(choice.basis, choice.covariance, choice.shrinkage)


# ----------------------------------------------------------------------------------------------------------------- sums
@dataclass
class Sums:
    """The sums for R² and correlation, per subject and channel: n, Σy, Σy², Σŷ, Σŷ², Σyŷ, Σ(y-ŷ)²."""

    values: Float[np.ndarray, "S C 7"]

    def add(self, subject: int, truth: np.ndarray, guess: np.ndarray, real: np.ndarray) -> None:
        """Add the hidden samples (C, H) of one window, channels that are not `real` left out."""
        terms = (np.ones_like(truth), truth, truth**2, guess, guess**2, truth * guess, (truth - guess) ** 2)
        self.values[subject] += np.stack([term.sum(1) for term in terms], axis=1) * real[:, None]

    def rows(self) -> Float[np.ndarray, "S 2"]:
        """Return (err, var) of every subject."""
        n, y, yy, *_, error = np.moveaxis(self.values, 2, 0)
        return np.stack([error.sum(1), (yy - y**2 / np.maximum(n, 1)).sum(1)], axis=1)

    def r2(self) -> Float[np.ndarray, "S"]:
        """Return the share explained of every subject; NaN for one whose hidden samples do not vary."""
        error, variance = self.rows().T
        return 1 - _ratio(error, variance)

    def correlation(self) -> Float[np.ndarray, "S"]:
        """Return the correlation of every subject; 0 for a constant guess."""
        n, y, yy, p, pp, yp, _ = np.moveaxis(self.values, 2, 0)
        n = np.maximum(n, 1)
        covariance = (yp - y * p / n).sum(1)
        power = (yy - y**2 / n).sum(1) * (pp - p**2 / n).sum(1)
        tiny = 1e-12 * (yy.sum(1) * pp.sum(1) + 1e-300)
        return np.where(power > tiny, covariance / np.sqrt(np.maximum(power, 1e-300)), 0.0)


def share_explained(rows: np.ndarray) -> np.ndarray:
    """Return the pooled R² of rows (…, subjects, [err, var]); NaN where nothing varies."""
    total = rows.sum(axis=-2)
    return 1 - _ratio(total[..., 0], total[..., 1])


def gained(rows: np.ndarray) -> np.ndarray:
    """Return the difference of two pooled R² of rows (…, subjects, [err of one, err of other, var])."""
    total = rows.sum(axis=-2)
    return _ratio(total[..., 1] - total[..., 0], total[..., 2])


def _ratio(error: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return error / variance; NaN where there is no variance."""
    return np.divide(error, variance, out=np.full(np.shape(error), np.nan), where=variance > 0)


# -------------------------------------------------------------------------------------------------------------- scoring
@dataclass
class MaskScore:
    """Scores of every method under one kind of mask."""

    task: MaskTask
    subjects: tuple[str, ...]
    windows: int
    skipped: int  # windows too short for this mask
    sums: dict[str, Sums]  # by method; the model, where there is one, is called "model"
    hidden_share: float
    choice: tuple[Choice | None, ...] = ()  # of the conditional mean; after `merge` of every fold
    level: float = bootstrap.LEVEL
    seed: int = 0

    def r2(self, method: str) -> Interval:
        """Return the pooled R² with its interval over subjects."""
        rows = self.sums[method].rows()
        return bootstrap.interval(rows, share_explained, link="share", seed=self.seed, level=self.level)

    def correlation(self, method: str) -> Interval:
        rows = self.sums[method].correlation()
        return bootstrap.interval(rows, link="correlation", seed=self.seed, level=self.level)

    def difference(self, method: str, other: str) -> Interval:
        """Return R² of `method` minus R² of `other` on the same hidden samples, subjects resampled in pairs."""
        one, two = self.sums[method].rows(), self.sums[other].rows()
        rows = np.stack([one[:, 0], two[:, 0], one[:, 1]], axis=1)
        return bootstrap.interval(rows, gained, seed=self.seed, level=self.level)


def merge(parts: Sequence[Sequence[MaskScore]]) -> list[MaskScore]:
    """Return the scores of folds of different subjects as one score by mask, for masks and methods of every fold."""
    out = []
    for first in parts[0]:
        matching = [s for part in parts for s in part if s.task == first.task]
        methods = [m for m in first.sums if all(m in s.sums for s in matching)]
        windows = sum(s.windows for s in matching)
        merged = replace(
            first,
            subjects=sum((s.subjects for s in matching), ()),
            windows=windows,
            skipped=sum(s.skipped for s in matching),
            sums={m: Sums(np.concatenate([s.sums[m].values for s in matching])) for m in methods},
            hidden_share=sum(s.hidden_share * s.windows for s in matching) / windows,
            choice=tuple(s.choice[0] if s.choice else None for s in matching),
        )
        out += [merged] if len(matching) == len(parts) else []
    return out


def predict_all(predict: Predict, windows: WindowSet, hidden: Bool[np.ndarray, "B N"]) -> Signal:
    """Return the model's µV for every window."""

    def microvolts(rows: np.ndarray) -> np.ndarray:
        guess = np.asarray(predict(windows.seen(rows), hidden[rows], windows.valid[rows].astype(np.float32)))
        return guess * windows.gain[rows][:, :, None] + windows.offset[rows][:, :, None]

    return windows.mapped(microvolts, min(BATCH, len(windows)))


def score(
    windows: WindowSet,
    patch: int,
    *,
    predict: Predict | None = None,
    baseline: Baseline | None = None,
    tasks: Sequence[MaskTask] = MASKS,
    simple: bool = True,
    seed: int = 0,
    level: float = bootstrap.LEVEL,
) -> list[MaskScore]:
    """Score every method under every mask; a mask that does not fit any window is left out.

    Without `predict` only the baselines are scored; without `baseline` no conditional mean. `simple`: whether mean and
    interpolation are scored too. Masks are keyed by (seed, mask, window), so they are the same for every model.
    """
    scores = []
    with environment.single_blas_thread(), progress("evaluate", len(tasks)) as bar:
        for task in tasks:
            masking = Masking.of(windows, task, patch, seed)
            if not masking.usable.any():
                log.info("%s: no window is long enough, so this mask is left out", task.name)
                continue
            guesses: dict[str, Guess] = dict(SIMPLE) if simple else {}
            choice = baseline.choose(task, patch, seed) if baseline else None
            if baseline and (fitted := baseline.fitted(choice)):
                guesses["conditional mean"] = fitted.adapted_mean
            predicted = None if predict is None else predict_all(predict, windows, masking.hidden)
            subjects = sorted({windows.subjects[i] for i in np.flatnonzero(masking.usable)})
            sums = _summed(windows, masking, patch, predicted, guesses, subjects)
            share, used = masking.hidden[masking.usable].mean(), int(masking.usable.sum())
            skipped, choices = len(windows) - used, (choice,) if choice else ()
            scores.append(MaskScore(task, tuple(subjects), used, skipped, sums, float(share), choices, level, seed))
            bar.advance(1, task.name)
    return scores


def _summed(
    windows: WindowSet,
    masking: Masking,
    patch: int,
    predicted: np.ndarray | None,
    guesses: Mapping[str, Guess],
    subjects: Sequence[str],
) -> dict[str, Sums]:
    """Return the sums of every method, the model first."""
    names = [*(["model"] if predicted is not None else []), "zero", *guesses]
    sums = {name: Sums(np.zeros((len(subjects), windows.signal.shape[1], 7))) for name in names}
    place = {subject: i for i, subject in enumerate(subjects)}
    for rows in masking.groups:
        visible, hidden = samples_of(masking.hidden[rows[0]], windows.valid[rows[0]], patch)
        seen, truth = windows.seen_microvolts(rows), windows.microvolts(rows)[:, :, hidden]
        made = {name: guess(seen, visible, hidden) for name, guess in guesses.items()}
        made["zero"] = np.zeros_like(truth)
        if predicted is not None:
            made["model"] = predicted[rows][:, :, hidden].astype(np.float64)
        for name, guess in made.items():
            for i, row in enumerate(rows):
                sums[name].add(place[windows.subjects[row]], truth[i], guess[i], windows.real[row])
    return sums
