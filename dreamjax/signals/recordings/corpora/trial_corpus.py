"""Corpora that are published as trials, already cut and filtered: what `prepare` needs of each. One entry a corpus."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float32, Int

from dreamjax.signals.recordings.corpora.corpus import Corpus

UNUSED = ""  # split of a trial that is in none


@dataclass(frozen=True)
class PublishedTrials:
    """An open file of trials. Arrays have one entry a trial, in the order of the file; the signals stay in it."""

    corpus: str  # its name
    source: str  # the file
    length: Int[np.ndarray, "trials"]  # samples
    image: Int[np.ndarray, "trials"]  # place in `images`
    label: Int[np.ndarray, "trials"]  # place in `labels`
    subject: Int[np.ndarray, "trials"]
    labels: tuple[str, ...]
    images: tuple[str, ...]
    ch_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.label)

    @property
    def subjects(self) -> tuple[int, ...]:
        """Who is in the file, as it numbers them."""
        return tuple(int(s) for s in np.unique(self.subject))

    @property
    def band(self) -> tuple[float, float] | None:
        """The pass band in Hz that the trials were published with, where it is known."""
        return None

    @property
    def values(self) -> str:
        """What was made of the stored numbers, for dataset.json."""
        return "as in the file"

    def class_of(self, image: int) -> str:
        """Return the class of an image, whether a trial shows it or not."""
        raise NotImplementedError

    def signal(self, trial: int) -> Float32[np.ndarray, "channels time"]:
        """Read one trial."""
        raise NotImplementedError

    def stimulus(self, trial: int) -> str:
        """Return the image's file, relative to the folder of images."""
        raise NotImplementedError


@dataclass(frozen=True)
class AssignedSplits:
    """The split of each trial, UNUSED where it is in none, and what dataset.json says about the splitting."""

    split: np.ndarray  # of str
    description: dict[str, Any]
    dropped: Mapping[str, int]  # reason → trials


@dataclass(frozen=True)
class TrialCorpus:
    """How the files of one corpus are recognised, opened and split, and what they do not say themselves."""

    facts: Corpus
    handles: Callable[[str], bool]  # whether a path may be a file of this corpus
    open: Callable[[epath.PathLike], PublishedTrials]
    assign: Callable[..., AssignedSplits]  # of (trials, SplitRequest)
    format: str  # as dataset.json calls it
    example: str  # name of a file
    sfreq: float  # Hz
    seconds: float  # that an image was shown
    lengths: tuple[int, int]  # samples: shorter and longer trials are left out
    unit: str  # in words
    record_unit: str  # as records call it
    modality: str = "eeg"
    flags: tuple[str, ...] = ()  # of every record
    span: tuple[int, int] | None = None  # the samples that --reading dreamdiffusion takes
    stretched: int | None = None  # … and to how many its configs stretch them
