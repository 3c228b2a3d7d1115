"""Convert one chunk of published trials to one part, in a child process of `prepare`.

There are two ways to read a trial. `ours`: from the image's onset on, resampled to the rate of all other recordings,
each channel without its mean, and the end marked as padding where a trial is shorter. `dreamdiffusion`: an unchanged
span of samples, which its configs then stretch in time. The values keep the unit of the file.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32

from dreamjax.errors import UserError
from dreamjax.signals.datasets import records
from dreamjax.signals.datasets.records import Window
from dreamjax.signals.preparation import filters, inputs, parts
from dreamjax.signals.preparation.epochs import EpochReader, EpochSettings
from dreamjax.signals.preparation.parts import PartSummary, RejectEntry
from dreamjax.signals.recordings import montage
from dreamjax.signals.recordings.corpora.things_layouts import CHANNEL_SETS
from dreamjax.signals.recordings.corpora.things_raw import RawTrials
from dreamjax.signals.recordings.corpora.trial_corpora import trial_corpus_of
from dreamjax.signals.recordings.corpora.trial_set import TrialSet
from dreamjax.signals.recordings.identity import Identity, identity
from dreamjax.typing import JsonDict


@dataclass(frozen=True)
class TrialSettings:
    """The settings of converting trials."""

    reading: Literal["ours", "dreamdiffusion"] = "ours"
    sfreq: float | None = None  # Hz; ours alone, like the next two; None: what the corpus calls for, EEG-ImageNet 256
    high: float | None = None  # Hz: low-pass edge; None for no more than resampling needs
    samples: int = 0  # of a record; 0 for as long as the corpus's trials are, EEG-ImageNet as long as an image lasts
    channel_set: str = field(default="", repr=False)  # "63" or "17" of THINGS-EEG2; "": all channels
    epochs: EpochSettings = field(default_factory=EpochSettings, repr=False)  # of trials cut out of recordings

    def __post_init__(self) -> None:
        if self.sfreq is not None and not self.sfreq > 0:
            raise ValueError(f"sfreq is {self.sfreq:g}, but it must be above 0")
        if self.samples < 0 or self.samples == 1:
            raise ValueError(f"samples is {self.samples}, but a window has at least 2")
        if self.channel_set not in ("", *CHANNEL_SETS):
            raise ValueError(f"the channel set is {self.channel_set!r}; choose from {', '.join(CHANNEL_SETS)}")

    def later(self) -> tuple[object, ...]:
        """Return the settings that `repr` leaves out, where they differ from the defaults: older folders lack them."""
        default = TrialSettings()
        names = ("channel_set", "epochs")
        return tuple(repr(getattr(self, name)) for name in names if getattr(self, name) != getattr(default, name))


class TrialReader:
    """A reader of stored trials: (signal, which samples are real). Raise UserError for other files.

    `images`: the folder or archive of the images, for corpora whose trials are known by them.
    """

    def __init__(self, path: str, settings: TrialSettings, images: str = ""):
        corpus = trial_corpus_of([path])
        assert corpus is not None
        self.corpus, self.trials = corpus, corpus.open(path, images)
        trials = self.trials
        self.cut: EpochReader | None = None
        self.picks: list[int] | None = None
        if settings.channel_set:
            self._pick(CHANNEL_SETS[settings.channel_set])
            trials = self.trials
        self.settings = settings = replace(settings, sfreq=settings.sfreq or trials.usual_sfreq or trials.sfreq)
        self.reference = trials.facts.reference or "unknown"
        self.span: slice | None = None
        self.chain: filters.Chain | None = None
        if settings.reading == "dreamdiffusion":
            if trials.span is None:
                raise UserError(f"--reading dreamdiffusion: not defined for {trials.corpus}; leave it out")
            self.span, self.rate, self.width = slice(*trials.span), trials.sfreq, trials.span[1] - trials.span[0]
            return
        self.rate = settings.sfreq or trials.sfreq
        if self.rate > trials.sfreq:
            raise UserError(f"sfreq is {self.rate:g}, but it must be above 0 and at most {trials.sfreq:g} Hz")
        if isinstance(trials, RawTrials):
            self.cut = EpochReader(trials, self.rate, settings.epochs)
            self.trials, self.width = self.cut.trials, self.cut.width
            return
        self.width = settings.samples or max(1, round(trials.seconds * self.rate))
        if self.rate == trials.sfreq and settings.high is None:
            return
        try:
            self.chain = filters.design(trials.sfreq, self.rate, None, settings.high)
        except ValueError as problem:
            raise UserError(str(problem)) from problem

    def __call__(self, trial: int) -> tuple[Float[np.ndarray, "channels time"], Bool[np.ndarray, "time"]]:
        if self.cut is not None:
            return self.cut(trial), np.ones(self.width, bool)
        x_CxT = self.trials.signal(trial).astype(np.float64)
        x_CxT = x_CxT if self.picks is None else x_CxT[self.picks]
        if self.span is not None:
            return x_CxT[:, self.span], np.ones(self.width, bool)
        y_CxT, n = x_CxT[:, : self.width], x_CxT.shape[1]
        if self.chain is not None:
            stop = min(self.chain.length(n), self.width)
            low, high = self.chain.needs(0, stop)
            y_CxT = self.chain.run(filters.extended(lambda a, b: x_CxT[:, a:b], n, low, high), 0, stop)
        stop, out = y_CxT.shape[1], np.zeros((len(x_CxT), self.width))
        out[:, :stop] = y_CxT - (y_CxT.mean(axis=1, keepdims=True) if self.trials.centred else 0)
        return out, np.arange(self.width) < stop

    def _pick(self, names: Sequence[str]) -> None:
        """Keep the channels `names`, in this order."""
        trials = self.trials
        if missing := [name for name in names if name not in trials.ch_names]:
            raise UserError(f"{trials.source}: it has no channel {missing[0]}, which --channel-set asks for")
        rows = [trials.ch_names.index(name) for name in names]
        self.trials = replace(trials, ch_names=tuple(names))
        if isinstance(self.trials, RawTrials):
            self.trials = replace(self.trials, picks=tuple(self.trials.picks[i] for i in rows))
        else:
            self.picks = rows

    def plan(self) -> JsonDict:
        """Return what was done to the trials before they were published."""
        return {"band": list(self.trials.band or (None, None)), "line": None, "reference": self.reference}


@dataclass(frozen=True)
class TrialTask:
    """The task of a child process: a chunk of the trials of one split. Everything in it can be pickled."""

    path: str
    file_hash: str
    settings: TrialSettings
    scales: Mapping[int, float]  # person → robust scale
    salt: str | None
    licence: str
    images: str  # --stimuli
    parts: str  # folder of parts
    trials: tuple[int, ...] = ()
    split: str = ""
    whiteners: Mapping[int, Float[np.ndarray, "channels channels"]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class WhitenerTask:
    """The task of a child process: the whitener of a session."""

    path: str
    file_hash: str
    settings: TrialSettings
    images: str
    session: int


def fit_whitener(task: WhitenerTask, beat: Callable[[], None]) -> Float[np.ndarray, "channels channels"]:
    """Return the matrix that whitens a session (`mvnn.whitener`)."""
    cut = _reader(task.path, task.file_hash, task.settings, task.images).cut
    assert cut is not None
    return cut.whitener(task.session, beat)


@lru_cache(maxsize=1)
def _reader(path: str, file_hash: str, settings: TrialSettings, images: str) -> TrialReader:
    """Return the file, opened once for all chunks that a child converts."""
    return TrialReader(path, settings, images)


def convert(task: TrialTask, beat: Callable[[], None]) -> PartSummary:
    """Make the part of a chunk of trials, unless it is there. Return its summary."""
    started = parts.clocks()

    def build(part: Path) -> PartSummary:
        reader = _reader(task.path, task.file_hash, task.settings, task.images)
        trials, rejects = reader.trials, list[RejectEntry]()
        if reader.cut is not None:
            reader.cut.whiteners = task.whiteners
        counts = parts.write_windows(part, _windows(task, reader, rejects), beat, averages=trials.timed)
        return {
            "dataset": trials.corpus,
            "licence": task.licence,
            "format": trials.format,
            "sfreq": trials.sfreq,
            "seconds": float(trials.length[list(task.trials)].sum() / trials.sfreq),
            "judged": len(task.trials),
            "ch_names": list(trials.ch_names),
            "plan": reader.plan() | {"median_sd": float(f"{np.median(list(task.scales.values())):.4g}")},
            "warning": "",
            "notes": [],
            "faults": {},
            "rejects": rejects,
            **counts,
        }

    fingerprint = repr(replace(task, path="", images="", parts="", salt=inputs.salt_hash(task.salt)))
    return parts.make(task.parts, task.file_hash, [fingerprint, *map(str, task.settings.later())], started, build)


def _windows(task: TrialTask, reader: TrialReader, rejects: list[RejectEntry]) -> Iterator[Window]:
    """Yield the trials of a chunk in the order of the file; one that is not finite joins `rejects`."""
    trials = reader.trials
    channels, xyz = len(trials.ch_names), positions(trials)
    for trial in task.trials:
        signal, valid = reader(trial)
        if not np.isfinite(signal).all():
            rejects.append({"trial": trial, "reason": "samples are not finite"})
            continue
        person = int(trials.subject[trial])
        yield Window(
            signal=signal.astype(np.float32),
            ch_names=trials.ch_names,
            xyz=xyz,
            sfreq=reader.rate,
            reference=reader.reference,
            montage_rank=channels,
            dataset=trials.corpus,
            **asdict(identity_of(trials, task.salt, trial)),
            start=trials.start(trial),
            valid=valid,
            channel_ok=np.ones(channels, bool),
            scale=task.scales[person],
            label=trials.labels[trials.label[trial]],
            stimulus=trials.stimulus(trial),
            licence=task.licence,
            flags=(records.APART, f"trial:{trial}", *trials.flags),
            modality=trials.modality,
            unit=trials.record_unit,
            sensor_kind=(trials.sensor_kind,) * channels,
        )


def positions(trials: TrialSet) -> Float32[np.ndarray, "channels 3"]:
    """Return the sensors' positions in metres: those of the files, else those of electrodes of these names; NaN."""
    if trials.xyz is not None:
        return trials.xyz
    names = trials.ch_names if trials.modality == "eeg" else ("",) * len(trials.ch_names)
    return montage.standard_positions(names).astype(np.float32)


def identity_of(trials: TrialSet, salt: str | None, trial: int) -> Identity:
    """Return the pseudonyms of a trial, from the files' own names of subject and session."""
    subject = trials.subject_name(int(trials.subject[trial]))
    return identity(salt, trials.corpus, subject, trials.session_name(trial))
