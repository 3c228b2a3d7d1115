"""Cut trials out of published recordings: resampled with the context of the recording, less the mean of a baseline."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from dreamjax.errors import UserError
from dreamjax.parallel import environment
from dreamjax.signals.preparation import filters, mvnn
from dreamjax.signals.recordings.corpora.things_eeg2 import UNIT
from dreamjax.signals.recordings.corpora.things_raw import RawTrials

Whitening = Literal["train", "as_released", "off"]
NOTES = {
    "train": "whitened in every session with a covariance of its training trials (MVNN over epochs)",
    "as_released": "whitened in every session with a covariance of training and test trials (MVNN over time)",
    "off": "not whitened",
}


@dataclass(frozen=True)
class EpochSettings:
    """The settings of cutting trials out of recordings."""

    tmin: float = -0.2  # s, after the image's onset
    tmax: float = 1.0
    baseline: tuple[float, ...] = ()  # s, from and to; (): from tmin to the onset
    mvnn: Whitening = "train"

    def __post_init__(self) -> None:
        if not -10 <= self.tmin < self.tmax <= 10:
            raise ValueError(f"a trial of {self.tmin:g} to {self.tmax:g} s cannot be cut; give --tmin below --tmax")
        low, high = self.span
        if self.baseline and not self.tmin <= low < high <= self.tmax:
            raise ValueError(f"the baseline {low:g} to {high:g} s does not lie within {self.tmin:g} to {self.tmax:g} s")
        if self.mvnn not in NOTES:
            raise ValueError(f"mvnn is {self.mvnn!r}; choose from {', '.join(NOTES)}")

    @property
    def span(self) -> tuple[float, float]:
        """Return the baseline; empty where the trials begin at their onset."""
        return (self.baseline[0], self.baseline[1]) if self.baseline else (self.tmin, 0.0)


class EpochReader:
    """A reader of trials that are cut out of recordings, in µV; with `whiteners`, one a session, in SD of noise."""

    def __init__(self, trials: RawTrials, rate: float, settings: EpochSettings):
        self.rate, self.settings = rate, settings
        self.first = round(settings.tmin * trials.sfreq)
        self.width = round((settings.tmax - settings.tmin) * rate)
        if self.width < 1:
            raise UserError(f"a trial of {settings.tmin:g} to {settings.tmax:g} s has no sample at {rate:g} Hz")
        try:
            chain = filters.design(trials.sfreq, rate, None, None)
        except ValueError as problem:
            raise UserError(str(problem)) from problem
        times = settings.tmin + np.arange(self.width) / rate
        base = (times >= settings.span[0] - 1e-9) & (times <= settings.span[1] + 1e-9)
        self.low, self.high = chain.needs(0, self.width)
        self.cut = chain.run(np.eye(self.high - self.low), 0, self.width)  # samples → resampled, less the baseline
        if base.any():
            self.cut = self.cut - self.cut[:, base].mean(axis=1, keepdims=True)
        self.trials = described(trials, settings, rate, self.width)
        self.whiteners: Mapping[int, Float[np.ndarray, "channels channels"]] = {}

    def __call__(self, trial: int) -> Float[np.ndarray, "channels time"]:
        with environment.single_blas_thread():
            epoch = self.unwhitened(trial)
            return self.whiteners[self.session(trial)] @ epoch if self.settings.mvnn != "off" else epoch

    def unwhitened(self, trial: int) -> Float[np.ndarray, "channels time"]:
        return self.trials.samples(trial, self.first + self.low, self.first + self.high) @ self.cut

    def session(self, trial: int) -> int:
        """Return a number of the session of a person, which has a whitener of its own."""
        return int(self.trials.subject[trial] * 1000 + self.trials.session[trial])

    def sessions(self, trials: Sequence[int]) -> list[int]:
        """Return the sessions of trials."""
        return sorted({self.session(trial) for trial in trials})

    def whitener(self, session: int, beat: Callable[[], None]) -> Float[np.ndarray, "channels channels"]:
        """Return Σ^(-1/2) of a session, whose trials are read once, a condition at a time."""
        of_session = self.trials.subject * 1000 + self.trials.session == session
        with environment.single_blas_thread():
            return self._whitener(of_session, beat)

    def _whitener(self, of_session: np.ndarray, beat: Callable[[], None]) -> Float[np.ndarray, "channels channels"]:
        released = self.settings.mvnn == "as_released"
        covariances = []
        for split in ("train", "test") if released else ("train",):
            chosen = np.flatnonzero(of_session & (self.trials.split == split) & (self.trials.length > 0))
            if not len(chosen):
                raise UserError(f"{self.trials.source}: a session has no {split} trial to fit MVNN on; pass --mvnn off")
            covariances.append(mvnn.noise_covariance(self._conditions(chosen, beat), "time" if released else "epochs"))
        return mvnn.whitener(covariances)

    def _conditions(
        self, trials: np.ndarray, beat: Callable[[], None]
    ) -> Iterator[Float[np.ndarray, "repetitions channels samples"]]:
        images = self.trials.image[trials]
        order = trials[np.argsort(images, kind="stable")]
        starts = np.flatnonzero(np.diff(np.sort(images))) + 1
        for members in np.split(order, starts):
            beat()
            yield np.stack([self.unwhitened(int(trial)) for trial in members])


def described(trials: RawTrials, settings: EpochSettings, rate: float, width: int) -> RawTrials:
    """Return the trials as they will be cut: length 0 for those that the recording does not hold."""
    first = round(settings.tmin * trials.sfreq)
    samples = round(width * trials.sfreq / rate)
    whole = np.array([trials.reaches(i, first, first + samples) for i in range(len(trials))], bool)
    white = settings.mvnn != "off"
    return replace(
        trials,
        length=np.where(whole, samples, 0),
        seconds=width / rate,
        tmin=settings.tmin,
        unit=UNIT if white else trials.unit,
        record_unit="SD" if white else trials.record_unit,
        flags=("no unit",) if white else (),
        notes=(NOTES[settings.mvnn],),
    )
