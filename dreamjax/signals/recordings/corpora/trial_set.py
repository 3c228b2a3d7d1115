"""Open files of published trials, whatever their layout: what every corpus tells `prepare` about each trial."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Float32, Int

from dreamjax.signals.recordings.corpora.recording_corpora import Corpus
from dreamjax.signals.recordings.identity import FRACTIONS, SPLITS

ANY_LENGTH = (1, 1 << 31)


@dataclass(frozen=True, kw_only=True)
class TrialSet:
    """Open files of trials. Arrays have one entry a trial, in the order of the files; the signals stay in the files.

    A subclass implements `signal`; the other methods have the answer of most corpora.
    """

    facts: Corpus
    source: str  # the file or folder, as messages name it
    files: tuple[str, ...]  # whose content is the trials
    format: str  # as dataset.json calls it
    length: Int[np.ndarray, "trials"]  # samples
    image: Int[np.ndarray, "trials"]  # place in `images`
    label: Int[np.ndarray, "trials"]  # place in `labels`
    subject: Int[np.ndarray, "trials"]
    labels: tuple[str, ...]
    images: tuple[str, ...]  # names, relative to the folder of the images
    ch_names: tuple[str, ...]
    sfreq: float  # Hz
    seconds: float  # of a record, unless --samples says otherwise
    unit: str  # in words
    record_unit: str  # as records call it
    modality: str = "eeg"
    sensor_kind: str = "eeg"  # MNE's channel type
    usual_sfreq: float | None = None  # Hz of records, unless --sfreq says otherwise; None: that of the files
    tmin: float = 0.0  # s, of the first sample after the image's onset
    centred: bool = False  # whether a record is without the mean of each channel
    lengths: tuple[int, int] = ANY_LENGTH  # samples: shorter and longer trials are left out
    flags: tuple[str, ...] = ()  # of every record
    span: tuple[int, int] | None = None  # the samples that --reading dreamdiffusion takes
    stretched: int | None = None  # … and to how many its configs stretch them
    shares: Mapping[str, float] = field(default_factory=lambda: dict(FRACTIONS))  # of images, unless --splits says
    split_names: tuple[str, ...] = SPLITS  # that the trials may be in
    needed: tuple[str, ...] = SPLITS  # splits that must not be empty
    xyz: Float32[np.ndarray, "channels 3"] | None = None  # m; None: unknown
    image_folder: str = ""  # where the images lie, if the files say it
    notes: tuple[str, ...] = ()  # what tables of scores on these files should state

    def __len__(self) -> int:
        return len(self.label)

    def signal(self, trial: int) -> Float32[np.ndarray, "channels time"]:
        """Return a copy of one trial, in the unit of the files."""
        raise NotImplementedError

    @property
    def timed(self) -> bool:
        """Return whether a trial has a time axis: more than one sample."""
        return int(self.length.max(initial=0)) > 1

    @property
    def corpus(self) -> str:
        return self.facts.name

    @property
    def subjects(self) -> tuple[int, ...]:
        """Return the subjects in the files, by the files' own numbers."""
        return tuple(int(s) for s in np.unique(self.subject))

    def subject_name(self, subject: int) -> str:
        """Return what a subject's pseudonym is made from."""
        return str(subject)

    def session_name(self, trial: int) -> str:
        """Return what a session's pseudonym is made from, with the subject; "" where the files state none."""
        return ""

    def place(self, trial: int) -> str:
        """Return the image's file, relative to the folder that the user names."""
        return self.stimulus(trial)

    def start(self, trial: int) -> float:
        """Return when in its recording a trial began, in s; 0 where it is not published."""
        return 0.0

    @property
    def values(self) -> str:
        """Return how the stored numbers were converted, for dataset.json."""
        return "as in the files"

    @property
    def band(self) -> tuple[float | None, float | None] | None:
        """Return the pass band in Hz, where the files state it."""
        return None

    def class_of(self, image: int) -> str:
        """Return the class of an image, whether a trial shows it or not."""
        parent = str(PurePosixPath(self.images[image]).parent)
        return "" if parent == "." else parent

    def stimulus(self, trial: int) -> str:
        """Return the image's file, relative to the folder of the images."""
        return self.images[self.image[trial]]
