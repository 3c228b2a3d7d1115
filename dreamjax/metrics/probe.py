"""A frozen linear probe: can a logistic regression on an encoder's features separate two conditions in unseen people?

Cross-fitted: the features of a fold's subjects come from an encoder whose pretraining saw none of that fold. Within a
fold each subject is left out in turn: the regression is fitted on the others, its penalty chosen by leaving out each of
*those* in turn, and scored on that subject. So neither encoder nor regression has seen the scored subject.

Features are standardised within each subject, without labels. The score of a subject is its balanced accuracy (chance
is 1/2 whatever the classes' sizes), and subjects are what intervals resample. The features that every EEG encoder has
to beat are log band powers.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from dreamjax.errors import UserError, missing_package
from dreamjax.metrics import bootstrap
from dreamjax.metrics.bootstrap import Interval
from dreamjax.metrics.classification import balanced_accuracy
from dreamjax.metrics.leakage import Dataset, People

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C of the logistic regression: larger is weaker
CHANCE = 0.5
FEWEST = 3  # subjects of a fold: one scored, two to fit and choose on
BANDS = {"delta": (1.0, 4.0), "theta": (4.0, 8.0), "alpha": (8.0, 13.0), "beta": (13.0, 30.0), "gamma": (30.0, 45.0)}
FLOOR_UV2 = 1e-6  # µV², so that a flat channel has a logarithm


# ---------------------------------------------------------------------------------------------------------------- folds
def split_subjects(subjects: Sequence[str], folds: int) -> list[tuple[str, ...]]:
    """Return the subjects in `folds` groups of nearly equal size; the same whatever their order."""
    people = sorted(set(subjects))
    if len(people) < folds * FEWEST:
        raise UserError(
            f"a probe over {folds} folds takes at least {folds * FEWEST} subjects with both labels, these data have "
            f"{len(people)}"
        )
    return [tuple(people[i::folds]) for i in range(folds)]


def verify_fold(training: Sequence[People] | None, data: Dataset, probed: Sequence[str], run: str) -> None:
    """Raise UserError where an encoder was trained on a subject that its fold probes, or where that is unknown."""
    if both := [who for part in verifiable(training, data, probed, run) for who in part.shared(data.of(probed))]:
        raise UserError(
            f"{run} was trained on {both[0]}, which its fold probes; train a fold's encoder without its subjects"
        )


def verifiable(training: Sequence[People] | None, data: Dataset, probed: Sequence[str], run: str) -> Sequence[People]:
    """Return who an encoder was trained on. Raise UserError where a probed subject could not be recognised there."""
    if training is None:
        raise UserError(
            f"{run}: what it was trained on is not here, so it is unknown whether it saw a probed subject; "
            "put its shards back, or let --probe train the folds"
        )
    if not all(data.comparable(part, probed) for part in training):
        raise UserError(
            f"{run}: it is unknown whether it saw a probed subject, as its data have pseudonyms of another salt and "
            "file hashes are not known; prepare both with dreamjax prepare, which keeps the hashes"
        )
    return training


def assign(
    training: Mapping[str, Sequence[People]], data: Dataset, subjects: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Return run → the subjects that it may be probed on: each goes to a run that was not trained on it, evenly.

    Raise UserError where every run was trained on some subject, or a run is left with too few.
    """
    assigned: dict[str, list[str]] = {run: [] for run in training}
    possible = {
        s: [run for run, parts in training.items() if not any(part.shared(data.of([s])) for part in parts)]
        for s in set(subjects)
    }
    for subject in sorted(possible, key=lambda s: (len(possible[s]), s)):
        if not possible[subject]:
            raise UserError(
                f"all of {', '.join(training)} were trained on subject {subject}; a probe needs, for every subject, an "
                "encoder that never saw it"
            )
        assigned[min(possible[subject], key=lambda run: len(assigned[run]))].append(subject)
    for run, group in assigned.items():
        if len(group) < FEWEST:
            raise UserError(
                f"{run} leaves {len(group)} subjects to probe, and a fold takes at least {FEWEST}; "
                "leave out other subjects in each fold's pretraining"
            )
    return {run: tuple(group) for run, group in assigned.items()}


# ---------------------------------------------------------------------------------------------------------------- probe
def within_subject(
    features: Float[np.ndarray, "B D"], subjects: Sequence[str] | np.ndarray
) -> Float[np.ndarray, "B D"]:
    """Return every feature with mean 0 and standard deviation 1 in each subject; a constant one becomes 0."""
    out = np.empty(features.shape, np.float64)
    who = np.asarray(subjects)
    for subject in np.unique(who):
        x = features[who == subject].astype(np.float64)
        spread = x.std(0)
        out[who == subject] = (x - x.mean(0)) / np.where(spread > 1e-12, spread, np.inf)
    return out


def with_both(
    labels: Int[np.ndarray, "B"], subjects: Sequence[str] | np.ndarray
) -> tuple[Bool[np.ndarray, "B"], tuple[str, ...]]:
    """Return the labelled windows (labels 0 and 1) of subjects who have both classes, and who does not."""
    who = np.asarray(subjects)
    lacking = tuple(str(s) for s in np.unique(who) if len(np.unique(labels[(who == s) & (labels >= 0)])) < 2)
    return (labels >= 0) & ~np.isin(who, lacking), lacking


def of_both_classes(
    labels: Int[np.ndarray, "B"], subjects: Sequence[str] | np.ndarray, question: str
) -> tuple[Bool[np.ndarray, "B"], tuple[str, ...]]:
    """Return the same as `with_both`. Raise UserError, naming the `question`, if fewer than FEWEST subjects remain."""
    keep, lacking = with_both(labels, subjects)
    remaining = len(np.unique(np.asarray(subjects))) - len(lacking)
    if remaining < FEWEST:
        raise UserError(
            f"{question}: {remaining} of a fold's {remaining + len(lacking)} subjects have windows of both classes, "
            f"and a probe takes at least {FEWEST}; use fewer --folds, longer recordings or other --probe-labels"
        )
    return keep, lacking


def leave_subject_out(
    features: Float[np.ndarray, "B D"], labels: Int[np.ndarray, "B"], subjects: Sequence[str] | np.ndarray
) -> dict[str, float]:
    """Return subject → balanced accuracy of a probe fitted, and chosen, on the other subjects of the fold."""
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut
    except ImportError as e:
        raise missing_package("scikit-learn", "data", "the linear probe") from e
    if broken := int((~np.isfinite(features).all(axis=1)).sum()):
        raise UserError(f"{broken} of {len(features)} windows have features that are not finite; nothing can be probed")
    x, who, scores = within_subject(features, subjects), np.asarray(subjects), {}
    regression = LogisticRegression(class_weight="balanced", max_iter=300, tol=1e-3)
    cv, scoring = LeaveOneGroupOut(), "balanced_accuracy"
    probe = GridSearchCV(regression, {"C": PENALTIES}, scoring=scoring, cv=cv, error_score="raise")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for subject in np.unique(who):
            others = who != subject
            probe.fit(x[others], labels[others], groups=who[others])
            scores[str(subject)] = balanced_accuracy(probe.predict(x[~others]), labels[~others], 2)
    return scores


def band_power(signal: Float[np.ndarray, "B C T"], sfreq: float) -> Float[np.ndarray, "B features"]:
    """Return ln of the power in µV² of each of BANDS: B rows of C · 5 features, the bands of a channel together.

    From the one-sided spectrum of the Hann-windowed, demeaned signal, normalised so that white noise of variance σ²
    has σ² · (band width) / (sfreq / 2) in a band (Welch's estimate with one segment).
    """
    T = signal.shape[-1]
    taper = np.hanning(T + 1)[:T]
    spectrum = np.abs(np.fft.rfft((signal - signal.mean(-1, keepdims=True)) * taper, axis=-1)) ** 2
    spectrum *= 2 / (T * (taper**2).sum())  # µV² per bin
    frequency = np.fft.rfftfreq(T, 1 / sfreq)
    powers = [spectrum[..., (frequency >= a) & (frequency < b)].sum(-1) for a, b in BANDS.values()]
    return np.log(np.stack(powers, axis=-1) + FLOOR_UV2).reshape(len(signal), -1)


# -------------------------------------------------------------------------------------------------------------- results
@dataclass(frozen=True)
class ProbeScore:
    """Balanced accuracy by subject, all folds together."""

    name: str
    by_subject: Mapping[str, float]
    control: bool = False  # a row that other rows are compared with; an untrained encoder is never more than that
    left_out: tuple[str, ...] = ()  # subjects without windows of both classes
    seed: int = 0
    level: float = bootstrap.LEVEL

    @property
    def label(self) -> str:
        """Return the name as it is shown."""
        return self.name + (" (control)" if self.control else "")

    def accuracy(self) -> Interval:
        return self._interval(self.by_subject).within(0, 1)

    def minus_chance(self) -> Interval:
        """Return the paired difference to chance, subject by subject."""
        return self._interval({s: value - CHANCE for s, value in self.by_subject.items()})

    def minus(self, other: "ProbeScore") -> Interval:
        """Return the paired difference to another probe on the same subjects."""
        common = set(self.by_subject) & set(other.by_subject)
        return self._interval({s: self.by_subject[s] - other.by_subject[s] for s in common})

    def _interval(self, by_subject: Mapping[str, float]) -> Interval:
        values = np.array([by_subject[s] for s in sorted(by_subject)])
        return bootstrap.interval(values, seed=self.seed, level=self.level)


def claim(difference: Interval) -> str:
    """Return the claim that a probe's difference from chance supports: none where the interval includes zero."""
    if difference.excludes(0):
        return "above chance" if difference.low > 0 else "below chance"
    return bootstrap.unresolved(difference, ".3f", " above chance")


def drift_labels(starts: Float[np.ndarray, "B"], seconds: float, window: float) -> Int[np.ndarray, "B"]:
    """Return 0 for windows within the first `seconds` of one recording, 1 for the last, -1 between; they never overlap.

    `starts`: s of each window since the recording's beginning; `window`: its length in s.
    """
    end = starts.max() + window
    reach = min(seconds, end / 2)
    out = np.full(len(starts), -1)
    out[starts + window <= reach + 1e-6] = 0
    out[starts >= end - reach - 1e-6] = 1
    return out
