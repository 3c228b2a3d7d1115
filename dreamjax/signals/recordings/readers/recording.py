"""The result of every reader, for all formats: a `Recording`, whose signal is read span by span in µV or fT."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dreamjax.console import counted
from dreamjax.signals.recordings import montage
from dreamjax.signals.recordings.identity import UNKNOWN
from dreamjax.signals.recordings.readers import meg_sensors
from dreamjax.signals.recordings.readers.modalities import SENSORS, UNITS, Modality, left_out, modality_of
from dreamjax.typing import JsonDict

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
    """A recording that can be opened. Ids are not hashed yet; `prepare` hashes them."""

    path: str
    reader: str  # "edf", "brainvision", …
    dataset: str = "unknown"
    subject: str = UNKNOWN
    session: str = ""
    licence: str = "unknown"  # SPDX id
    member: str = ""  # file inside an archive
    corpus: str = ""  # public name of the dataset where its own name may be a person's; `dataset` when empty
    population: str = ""  # whom `subject` is one of, where datasets share people; when empty, `dataset`
    subject_from: str = ""  # what names the subject: pattern, corpus, participants.tsv, path, folder, file name, header
    place: str = ""  # folders, where the subject has another recording of the same name

    @property
    def person(self) -> tuple[str, str]:
        """Return (population, subject); for an unknown subject, the recording in its place."""
        population = self.population or self.dataset
        if self.subject != UNKNOWN:
            return population, self.subject
        return population, "\x1f".join((UNKNOWN, self.session, self.place, Path(self.path).name, self.member))

    @property
    def name(self) -> str:
        """Return the name used in messages: the path, with the member of an archive after `!`."""
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
    sensor_kind: tuple[
        str, ...
    ]  # of each channel, as MNE calls them: eeg, eog, ecg, emg, misc, ref, seeg, …, and meg_sensors.MEG
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
    free_text: tuple[Event, ...] = ()  # annotations that are not codes: used only where the user asks for them
    modality: str = "eeg"  # or meg, fmri: which sensors are used, and which quality limits hold
    unit: str = "µV"  # of its sensors: fT of MEG (fT/cm where MNE has T/m), z of fMRI
    compensation: int | None = None  # grade of the gradient compensation of MEG; None: of a system without
    reader: SpanReader = field(default=lambda start, stop, picks: np.empty((0, 0)), repr=False, compare=False)

    def read(self, start: int, stop: int, picks: Sequence[int] | None = None) -> Float[np.ndarray, "channels time"]:
        """Read samples [start, stop) of the channels `picks` (default: all), float64, and no more into memory."""
        if not 0 <= start <= stop <= self.n_samples:
            raise ValueError(f"[{start}, {stop}) is not within the {self.n_samples} samples of {self.path}")
        chosen = range(len(self.ch_names)) if picks is None else picks
        if not len(chosen) or start == stop:
            return np.empty((len(chosen), stop - start))
        return np.asarray(self.reader(start, stop, list(chosen)), np.float64)


@dataclass
class Contents:
    """The contents of a file as read, before names are normalised and types are determined."""

    format: str
    labels: Sequence[str]
    sfreq: float
    n_samples: int
    reader: SpanReader  # over the rows of `labels`
    types: Sequence[str] = ()  # where the file states them; else from the labels
    units: Sequence[str] = ()  # of the channels as the header spells them, "" where it states none
    positions: Float[np.ndarray, "channels 3"] | None = None
    compensation: int | None = None
    reference: str | None = None
    highpass: float | None = None
    lowpass: float | None = None
    line_freq: float | None = None
    segments: Sequence[tuple[int, int]] = None  # type: ignore[assignment]  # default: the whole
    segment_labels: Sequence[str] = ()
    precut: bool = False
    events: Sequence[Event] = ()
    free_text: Sequence[Event] = ()  # annotations that are not codes
    bad: Sequence[str] = ()  # labels
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.segments is None:
            self.segments = [(0, self.n_samples)]

    def place(self, positions: Float[np.ndarray, "channels 3"]) -> None:
        """Take these positions (m) of the electrodes; those of MEG sensors stay."""
        coils = np.isin(self.types, meg_sensors.MEG) if self.types else np.zeros(len(self.labels), bool)
        if self.positions is not None and coils.any():
            positions = np.where(coils[:, None], self.positions, positions)
        self.positions = positions


def end_to_end(
    trial: Callable[[int], Float[np.ndarray, "channels time"]],
    count: int,
    length: int,
    factor: float | Float[np.ndarray, "channels 1"] = 1.0,
) -> JsonDict:
    """Return the fields of `Contents` for `count` trials of `length` samples: their spans and how they are read.

    `factor`: into µV, of all channels or of each.
    """

    def read(start: int, stop: int, picks: Sequence[int]) -> Float[np.ndarray, "channels time"]:
        out = np.empty((len(picks), stop - start))
        for i in range(start // length, -(-stop // length)):
            low, high = max(start, i * length), min(stop, (i + 1) * length)
            out[:, low - start : high - start] = trial(i)[list(picks), low - i * length : high - i * length]
        return out * (factor[list(picks)] if isinstance(factor, np.ndarray) else factor)

    segments = [(i * length, (i + 1) * length) for i in range(count)]
    return {"n_samples": count * length, "reader": read, "segments": segments}


def rescale(contents: Contents, factors: Sequence[float]) -> None:
    """Multiply each channel by its factor."""
    inner, factor_C = contents.reader, np.array(factors)

    def read(start: int, stop: int, picks: Sequence[int]) -> Float[np.ndarray, "channels time"]:
        return inner(start, stop, picks) * factor_C[list(picks), None]

    if (factor_C != 1).any():
        contents.reader = read


LISTED = 8  # names in a note
TRUSTED_TYPES = ("eog", "ecg", "emg", "stim", "misc", "ref", *SENSORS)  # "eeg" may mean just "a channel"


def assemble(source: Source, contents: Contents, scale: float | None = None, modality: Modality = "auto") -> Recording:
    """Return the `Recording` of a file's contents, with final names, types, positions, segments and events.

    `scale` multiplies the signal: the corpus's or the user's answer to a header with a wrong unit. `modality`: which
    sensors are read; "auto": EEG or MEG, of which there are more.
    """
    labels = list(contents.labels)
    sites = montage.biosemi_names(labels)
    if sites is not None and contents.format == "bdf":
        contents.notes.append("BioSemi sockets A1… named after the cap's sites")
        labels = sites
    elif (banks := montage.banked_names(labels)) is not None:
        contents.notes.append("labels of amplifier sockets: their places on the head are unknown")
        labels = banks
    names, types = settle_names(labels, contents.types)
    contents.notes += name_notes(labels, names, types)
    keep = [i for i, kind in enumerate(types) if kind != "stim"]
    modality = modality_of(types, modality)
    contents.notes += left_out(types, modality)
    if outside := sum(not 0 <= e.sample < contents.n_samples for e in contents.events):
        contents.notes.append(f"{outside} events before or after the signal left out")
    names, types = [names[i] for i in keep], [types[i] for i in keep]
    inner, factor = contents.reader, 1.0 if scale is None else float(scale)
    if factor != 1.0:
        contents.notes.append(f"unit override: signal multiplied by {factor:g}")

    def read(start: int, stop: int, picks: Sequence[int]) -> Float[np.ndarray, "channels time"]:
        signal = inner(start, stop, [keep[i] for i in picks])
        return signal if factor == 1.0 else signal * factor

    xyz = _positions(names, types, contents, keep)
    contents.notes += position_notes(names, types, xyz)
    bad = set(contents.bad)
    used = [i for i, (a, b) in enumerate(contents.segments) if b > a]
    events, again = once_each(contents.events)
    contents.notes += again
    return Recording(
        path=source.name,
        format=contents.format,
        dataset=source.dataset,
        subject=source.subject,
        session=source.session,
        ch_names=tuple(names),
        sensor_kind=tuple(types),
        xyz=xyz,
        sfreq=float(contents.sfreq),
        n_samples=int(contents.n_samples),
        reference="none" if modality == "meg" else contents.reference or montage.reference_of(contents.labels),
        highpass=contents.highpass or None,
        lowpass=contents.lowpass,
        line_freq=contents.line_freq,
        segments=tuple((int(a), int(b)) for a, b in contents.segments if b > a),
        precut=contents.precut,
        segment_labels=tuple(contents.segment_labels[i] for i in used) if contents.segment_labels else (),
        events=tuple(e for e in events if 0 <= e.sample < contents.n_samples),
        free_text=tuple(e for e in once_each(contents.free_text)[0] if 0 <= e.sample < contents.n_samples),
        licence=source.licence,
        notes=tuple(dict.fromkeys(contents.notes)),
        bad_channels=tuple(n for n, i in zip(names, keep, strict=True) if contents.labels[i] in bad),
        modality=modality,
        unit=UNITS[modality],
        compensation=contents.compensation if modality == "meg" else None,
        reader=read,
    )


def once_each(events: Sequence[Event]) -> tuple[list[Event], list[str]]:
    """Return the events without those of the same sample and code as one before, and a note that counts these."""
    first = {(e.sample, e.code, e.stimulus): e for e in reversed(events)}
    kept = [e for e in events if first[e.sample, e.code, e.stimulus] is e]
    again = len(events) - len(kept)
    return kept, [f"{counted(again, 'event')} left out: listed before at the same sample"] if again else []


def settle_names(labels: Sequence[str], stated: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Return unique names and types of all channels of a file, from their labels and what the file states.

    Evidence in order: a type that the file states and that is not merely "eeg"; the label; an
    uninformative label counts as EEG where the file states so, or where no channel has a 10-05 name (a numbered cap).
    Pairs of electrodes that share the second are one electrode each, recorded against that reference. MEG sensors are
    known by the file's types alone.
    """
    coils = {i for i, kind in enumerate(stated) if kind in (*meg_sensors.MEG, "ref_meg")}
    guesses = [
        (meg_sensors.name_of(label), "") if i in coils else montage.normalise_name(label)
        for i, label in enumerate(labels)
    ]
    if shared := montage.common_reference([name for name, kind in guesses if kind == "eeg"]):
        guesses = [(name.removesuffix(f"-{shared}") if montage.is_pair(name) else name, kind) for name, kind in guesses]
    named = any(kind == "eeg" and montage.standard_name(name) for name, kind in guesses)
    names, types = [], []
    seen: Counter[str] = Counter()
    for i, (name, kind) in enumerate(guesses):
        if stated and stated[i] in TRUSTED_TYPES:
            kind = stated[i]
        elif kind == "misc" and not montage.names_other_sensor(labels[i]) and (not named or "eeg" in stated[i : i + 1]):
            kind = "eeg"
        seen[name] += 1
        while seen[name] > 1 and f"{name}_{seen[name]}" in seen:
            seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
        seen[names[-1]] = seen[names[-1]] or 1
        types.append(kind)
    return names, types


def name_notes(labels: Sequence[str], names: Sequence[str], types: Sequence[str]) -> list[str]:
    """Return a note on channels that were renamed because another has their name, and one on those typed misc."""
    doubled = [name for name in names if name not in labels and re.sub(r"_\d+$", "", name) in {*names} - {name}]
    unused = [name for name, kind in zip(names, types, strict=True) if kind == "misc"]
    notes = []
    if doubled:
        notes.append(f"{counted(len(doubled), 'channel')} renamed, as another has the same name: {listed(doubled)}")
    if unused:
        notes.append(f"{counted(len(unused), 'channel')} not used (misc): {listed(unused)}")
    return notes


def position_notes(names: Sequence[str], types: Sequence[str], xyz: Float[np.ndarray, "channels 3"]) -> list[str]:
    """Return a note on pairs of electrodes, and one on electrodes of unknown position."""
    scalp = [(name, at) for name, kind, at in zip(names, types, xyz, strict=True) if kind == "eeg"]
    pairs = [name for name, _ in scalp if montage.is_pair(re.sub(r"_\d+$", "", name))]
    unknown = [name for name, at in scalp if not np.isfinite(at).all()]
    coils = [
        name for name, kind, at in zip(names, types, xyz, strict=True) if kind in meg_sensors.MEG and np.isnan(at).any()
    ]
    notes = []
    if pairs:
        notes.append(f"{counted(len(pairs), 'bipolar channel')} placed midway between two electrodes: {listed(pairs)}")
    if unknown:
        notes.append(f"{counted(len(unknown), 'EEG channel')} without a known position: {listed(unknown)}")
    if coils:
        notes.append(f"{counted(len(coils), 'MEG channel')} without a known position: {listed(coils)}")
    return notes


def listed(names: Sequence[str]) -> str:
    """Return the first names of a list."""
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def _positions(
    names: Sequence[str], types: Sequence[str], contents: Contents, keep: Sequence[int]
) -> Float[np.ndarray, "channels 3"]:
    """Return positions from the file where plausible for the EEG channels, else from the names; MEG's as in the file.

    NaN for other types.
    """
    scalp = np.array([kind in ("eeg", "ref") for kind in types], bool).reshape(-1, 1)
    sites = [re.sub(r"_\d+$", "", name) for name in names]  # a second T7 lies where the first does
    named = montage.standard_positions(sites)
    standard = np.where(scalp, np.where(np.isfinite(named), named, montage.midpoints(sites)), np.nan)
    if contents.positions is None:
        return standard
    placed = contents.positions[list(keep)]
    coils = np.isin(types, meg_sensors.MEG)
    standard[coils] = placed[coils]
    positions = np.where(scalp, placed, np.nan)
    if not montage.plausible(positions):
        if np.isfinite(positions).any():
            contents.notes.append("electrode positions in the file are not on a head: those of the names are used")
        return standard
    return np.where(np.isfinite(positions), positions, standard)
