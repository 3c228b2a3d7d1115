"""What every reader returns, whatever the format: a `Recording`, whose signal is read span by span in µV."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from dreamjax.signals.recordings.channel_names import (
    banked_names,
    biosemi_names,
    names_other_sensor,
    normalise_name,
    reference_of,
)
from dreamjax.signals.recordings.montage import plausible, standard_positions

SpanReader = Callable[[int, int, Sequence[int]], Float[np.ndarray, "channels time"]]  # (start, stop, channels) → signal


@dataclass(frozen=True)
class Event:
    """Something that happened at a sample. `code` is a stimulus code or a trial type, never free text."""

    sample: int
    duration: float  # s
    code: str
    stimulus: str = ""  # file that was shown, "" if unknown


@dataclass(frozen=True)
class Source:
    """A recording that was found and can be opened. Ids are as found; `prepare` hashes them."""

    path: str
    reader: str  # "edf", "brainvision", …
    dataset: str = "unknown"
    subject: str = "unknown"
    session: str = ""
    licence: str = "unknown"  # SPDX id
    member: str = ""  # file inside an archive
    corpus: str = ""  # what outputs call the dataset where its own name may be a person's; `dataset` when empty

    @property
    def name(self) -> str:
        """Path, with the member of an archive after `!`: what messages call the recording."""
        return f"{self.path}!{self.member}" if self.member else self.path


@dataclass(frozen=True)
class Recording:
    """One continuous measurement, or one set of pre-cut trials; the signal stays on disk until `read`.

    A window may lie in any of `segments` and never across two of them. Stimulus channels are gone: they are `events`.
    """

    path: str
    format: str
    dataset: str
    subject: str
    session: str
    ch_names: tuple[str, ...]
    sensor_kind: tuple[str, ...]  # of each channel, as MNE calls them: eeg, eog, ecg, emg, misc, ref, mag, grad
    xyz: Float[np.ndarray, "channels 3"]  # m, MNE's head frame; NaN where unknown
    sfreq: float
    n_samples: int
    reference: str
    highpass: float | None
    lowpass: float | None
    line_freq: float | None
    segments: tuple[tuple[int, int], ...]
    precut: bool
    segment_labels: tuple[str, ...]  # one a segment: of a pre-cut trial, or the condition of the whole recording; or ()
    events: tuple[Event, ...]
    licence: str
    notes: tuple[str, ...]
    bad_channels: tuple[str, ...] = ()  # marked bad in the file or its sidecar
    modality: str = "eeg"  # or meg, fmri: which quality limits hold
    unit: str = "µV"  # of what `read` gives: fT of MEG, z of fMRI
    reader: SpanReader = field(default=lambda start, stop, picks: np.empty((0, 0)), repr=False, compare=False)

    def read(self, start: int, stop: int, picks: Sequence[int] | None = None) -> Float[np.ndarray, "channels time"]:
        """Samples [start, stop) of the channels `picks` (all by default), µV, float64. Only that span is in memory."""
        if not 0 <= start <= stop <= self.n_samples:
            raise ValueError(f"[{start}, {stop}) is not within the {self.n_samples} samples of {self.path}")
        chosen = range(len(self.ch_names)) if picks is None else picks
        if not len(chosen) or start == stop:
            return np.empty((len(chosen), stop - start))
        return np.asarray(self.reader(start, stop, list(chosen)), np.float64)


@dataclass
class Contents:
    """What a reader found in a file, before names are normalised and types are settled."""

    format: str
    labels: Sequence[str]
    sfreq: float
    n_samples: int
    reader: SpanReader  # over the rows of `labels`
    types: Sequence[str] | None = None  # where the file states them; else from the labels
    positions: Float[np.ndarray, "channels 3"] | None = None
    reference: str | None = None
    highpass: float | None = None
    lowpass: float | None = None
    line_freq: float | None = None
    segments: Sequence[tuple[int, int]] | None = None  # default: the whole
    segment_labels: Sequence[str] = ()
    precut: bool = False
    events: Sequence[Event] = ()
    bad: Sequence[str] = ()  # labels
    notes: list[str] = field(default_factory=list)


TRUSTED_TYPES = ("eog", "ecg", "emg", "stim", "misc", "ref")  # a file that says "eeg" often means "a channel"


def assemble(source: Source, contents: Contents, scale: float | None = None) -> Recording:
    """The `Recording` of a file's contents: names, types, positions, segments and events settled.

    `scale` multiplies the signal: the corpus's or the user's answer to a header with a wrong unit.
    """
    labels = list(contents.labels)
    sites = biosemi_names(labels)
    if sites is not None and contents.format == "bdf":
        contents.notes.append("BioSemi sockets A1… named after the cap's sites")
        labels = sites
    elif (banks := banked_names(labels)) is not None:
        contents.notes.append("labels of amplifier sockets: their places on the head are unknown")
        labels = banks
    names, types = settle_names(labels, contents.types)
    keep = [i for i, kind in enumerate(types) if kind != "stim"]
    names, types = [names[i] for i in keep], [types[i] for i in keep]
    inner, factor = contents.reader, 1.0 if scale is None else float(scale)
    if factor != 1.0:
        contents.notes.append(f"unit override: signal multiplied by {factor:g}")

    def read(start: int, stop: int, picks: Sequence[int]) -> Float[np.ndarray, "channels time"]:
        signal = inner(start, stop, [keep[i] for i in picks])
        return signal if factor == 1.0 else signal * factor

    bad = set(contents.bad)
    segments = contents.segments if contents.segments is not None else [(0, contents.n_samples)]
    used = [i for i, (a, b) in enumerate(segments) if b > a]
    segment_labels = [contents.segment_labels[i] for i in used] if contents.segment_labels else []
    return Recording(
        path=source.name,
        format=contents.format,
        dataset=source.dataset,
        subject=source.subject,
        session=source.session,
        ch_names=tuple(names),
        sensor_kind=tuple(types),
        xyz=_positions(names, types, contents, keep),
        sfreq=float(contents.sfreq),
        n_samples=int(contents.n_samples),
        reference=contents.reference or reference_of(contents.labels),
        highpass=contents.highpass or None,
        lowpass=contents.lowpass,
        line_freq=contents.line_freq,
        segments=tuple((int(segments[i][0]), int(segments[i][1])) for i in used),
        precut=contents.precut,
        segment_labels=tuple(segment_labels),
        events=tuple(e for e in contents.events if 0 <= e.sample < contents.n_samples),
        licence=source.licence,
        notes=tuple(contents.notes),
        bad_channels=tuple(n for n, i in zip(names, keep, strict=True) if contents.labels[i] in bad),
        reader=read,
    )


def settle_names(labels: Sequence[str], stated: Sequence[str] | None = None) -> tuple[list[str], list[str]]:
    """Names (unique) and types of all channels of a file together, from their labels and what the file states.

    Evidence in order: a type that the file states and that is not merely "eeg"; the label; a label that says nothing
    counts as EEG only where the file states so and no other channel has a 10-05 name (a numbered cap).
    """
    guesses = [normalise_name(label) for label in labels]
    named = sum(1 for name, kind in guesses if kind == "eeg" and np.isfinite(standard_positions([name])).all())
    names, types = [], []
    for i, (name, kind) in enumerate(guesses):
        file_type = stated[i] if stated is not None else "eeg"
        if file_type in TRUSTED_TYPES:
            kind = file_type
        elif kind == "misc" and named == 0 and not names_other_sensor(labels[i]):
            kind = "eeg"
        names.append(name)
        types.append(kind)
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return unique, types


def _positions(
    names: Sequence[str], types: Sequence[str], contents: Contents, keep: Sequence[int]
) -> Float[np.ndarray, "channels 3"]:
    """From the file where it has plausible ones for the EEG channels, else from the names; NaN for the other types."""
    scalp = np.array([kind in ("eeg", "ref") for kind in types], bool).reshape(-1, 1)
    standard = np.where(scalp, standard_positions(names), np.nan)
    if contents.positions is None:
        return standard
    positions = np.where(scalp, contents.positions[list(keep)], np.nan)
    if not plausible(positions):
        if np.isfinite(positions).any():
            contents.notes.append("electrode positions in the file are not on a head: those of the names are used")
        return standard
    return np.where(np.isfinite(positions), positions, standard)
