"""Convert one chunk of published trials to one part, in a child process of `prepare`.

There are two ways to read a trial. `ours`: from the image's onset on, resampled to the rate of all other recordings,
each channel without its mean, and the end marked as padding where a trial is shorter. `dreamdiffusion`: an unchanged
span of samples, which its configs then stretch in time. The values keep the unit of the file.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from dreamjax.errors import UserError
from dreamjax.signals.datasets import records
from dreamjax.signals.datasets.records import Window
from dreamjax.signals.preparation import filters, inputs, parts
from dreamjax.signals.preparation.parts import PartSummary, RejectEntry
from dreamjax.signals.recordings.corpora.trial_corpora import TrialCorpus, trial_corpus_of
from dreamjax.signals.recordings.identity import Identity, identity
from dreamjax.typing import JsonDict


@dataclass(frozen=True)
class TrialSettings:
    """The settings of converting trials."""

    reading: Literal["ours", "dreamdiffusion"] = "ours"
    sfreq: float = 256.0  # Hz; ours alone, like the next two
    high: float | None = None  # Hz: low-pass edge; None for no more than resampling needs
    samples: int = 0  # of a record; 0 for as long as an image lasts

    def __post_init__(self) -> None:
        if not self.sfreq > 0:
            raise ValueError(f"sfreq is {self.sfreq:g}, but it must be above 0")
        if self.samples < 0 or self.samples == 1:
            raise ValueError(f"samples is {self.samples}, but a window has at least 2")


class TrialReader:
    """A reader of stored trials: (signal, which samples are real). Raise UserError for other files."""

    def __init__(self, path: str, settings: TrialSettings):
        corpus = trial_corpus_of([path])
        assert corpus is not None
        self.corpus, self.trials = corpus, corpus.open(path)
        self.reference = corpus.facts.reference or "unknown"
        self.span: slice | None = None
        if settings.reading == "dreamdiffusion":
            if corpus.span is None:
                raise UserError(f"--reading dreamdiffusion: not defined for {corpus.facts.name}; leave it out")
            self.span, self.rate, self.width = slice(*corpus.span), corpus.sfreq, corpus.span[1] - corpus.span[0]
            return
        if settings.sfreq > corpus.sfreq:
            raise UserError(f"sfreq is {settings.sfreq:g}, but it must be above 0 and at most {corpus.sfreq:g} Hz")
        self.rate, self.width = settings.sfreq, settings.samples or round(corpus.seconds * settings.sfreq)
        try:
            self.chain = filters.design(corpus.sfreq, self.rate, None, settings.high)
        except ValueError as problem:
            raise UserError(str(problem)) from problem

    def __call__(self, trial: int) -> tuple[Float[np.ndarray, "channels time"], Bool[np.ndarray, "time"]]:
        x_CxT = self.trials.signal(trial).astype(np.float64)
        if self.span is not None:
            return x_CxT[:, self.span], np.ones(self.width, bool)
        n = x_CxT.shape[1]
        stop = min(self.chain.length(n), self.width)
        low, high = self.chain.needs(0, stop)
        extended = filters.extended(lambda a, b: x_CxT[:, a:b], n, low, high)
        y_CxT = self.chain.run(extended, 0, stop)
        out = np.zeros((len(x_CxT), self.width))
        out[:, :stop] = y_CxT - y_CxT.mean(axis=1, keepdims=True)
        return out, np.arange(self.width) < stop

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
    parts: str  # folder of parts
    trials: tuple[int, ...] = ()
    split: str = ""


@lru_cache(maxsize=1)
def _reader(path: str, file_hash: str, settings: TrialSettings) -> TrialReader:
    """Return the file, opened once for all chunks that a child converts."""
    return TrialReader(path, settings)


def convert(task: TrialTask, beat: Callable[[], None]) -> PartSummary:
    """Make the part of a chunk of trials, unless it is there. Return its summary."""
    started = parts.clocks()

    def build(part: Path) -> PartSummary:
        reader = _reader(task.path, task.file_hash, task.settings)
        corpus, rejects = reader.corpus, list[RejectEntry]()
        counts = parts.write_windows(part, _windows(task, reader, rejects), beat, averages=True)
        return {
            "dataset": corpus.facts.name,
            "licence": task.licence,
            "format": corpus.format,
            "sfreq": corpus.sfreq,
            "seconds": float(reader.trials.length[list(task.trials)].sum() / corpus.sfreq),
            "judged": len(task.trials),
            "ch_names": list(reader.trials.ch_names),
            "plan": reader.plan() | {"median_sd": float(f"{np.median(list(task.scales.values())):.4g}")},
            "warning": "",
            "notes": [],
            "faults": {},
            "rejects": rejects,
            **counts,
        }

    fingerprint = repr(replace(task, path="", parts="", salt=inputs.salt_hash(task.salt)))
    return parts.make(task.parts, task.file_hash, [fingerprint], started, build)


def _windows(task: TrialTask, reader: TrialReader, rejects: list[RejectEntry]) -> Iterator[Window]:
    """Yield the trials of a chunk in the order of the file; one that is not finite joins `rejects`."""
    corpus, trials = reader.corpus, reader.trials
    channels = len(trials.ch_names)
    for trial in task.trials:
        signal, valid = reader(trial)
        if not np.isfinite(signal).all():
            rejects.append({"trial": trial, "reason": "samples are not finite"})
            continue
        person = int(trials.subject[trial])
        yield Window(
            signal=signal.astype(np.float32),
            ch_names=trials.ch_names,
            xyz=np.full((channels, 3), np.nan, np.float32),
            sfreq=reader.rate,
            reference=reader.reference,
            montage_rank=channels,
            dataset=corpus.facts.name,
            **asdict(identity_of(corpus, task.salt, person)),
            start=0.0,  # when in the recording a trial was is not published
            valid=valid,
            channel_ok=np.ones(channels, bool),
            scale=task.scales[person],
            label=trials.labels[trials.label[trial]],
            stimulus=trials.stimulus(trial),
            licence=task.licence,
            flags=(records.APART, f"trial:{trial}", *corpus.flags),
            modality=corpus.modality,
            unit=corpus.record_unit,
        )


def identity_of(corpus: TrialCorpus, salt: str | None, person: int) -> Identity:
    """Return the pseudonyms of a person, as the file numbers them."""
    return identity(salt, corpus.facts.name, str(person))
