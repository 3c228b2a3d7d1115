"""Everything that MNE-Python opens, and any `mne.io.Raw` that a user already holds."""

import io
import os
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from dreamjax.errors import UserError, require
from dreamjax.signals.recordings.events import add_stim_events, cut_spans, keep_codes, trial_types
from dreamjax.signals.recordings.readers import meg_sensors
from dreamjax.signals.recordings.readers.modalities import SENSORS, Modality
from dreamjax.signals.recordings.readers.recording import Contents, Event, Recording, Source, assemble, end_to_end
from dreamjax.signals.recordings.scrub import error_text

if TYPE_CHECKING:
    import mne

FLOOD = 16  # values a byte: of an uncompressed file, beyond slow channels that are raised to the common rate
COMPRESSED_FLOOD = 300  # the same for a file packed by zlib, which makes at most 1032 bytes of one
_TYPES = {kind: kind for kind in ("eeg", "eog", "ecg", "emg", "stim", *SENSORS)}


def require_mne() -> Any:
    require("mne", "reading this format")
    import mne

    return mne


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings, logs and stdout, where results go and where mffpy prints."""
    mne = require_mne()
    with warnings.catch_warnings(), mne.utils.use_log_level("ERROR"), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def reading(path: str, what: str) -> Iterator[None]:
    """Raise any error of MNE as a UserError: its own first sentence is passed on, without what it quotes."""
    try:
        with quiet():
            yield
    except (UserError, MemoryError):
        raise
    except Exception as e:
        raise UserError(f"{path}: MNE cannot read {what} ({error_text(e)})") from e


def open_source(source: Source, strict: bool) -> Contents:
    """Open a format that needs nothing but MNE's own reader."""
    return open_with_mne(source.path, source.reader)


def open_with_mne(path: str, format_: str, **options: Any) -> Contents:
    """Open `path` through MNE's reader for `format_`; raise UserError where MNE cannot read it."""
    reader: Callable[..., Any] = getattr(require_mne().io, f"read_raw_{format_}")
    with reading(path, f"it as {format_}"):
        raw = reader(path, preload=False, **options)
    check_files(path, raw, format_)
    return contents_of_raw(raw, format_, header_words(Path(path), format_))


def check_files(path: str, raw: "mne.io.BaseRaw", format_: str) -> None:
    """Raise UserError where a recording's signal lies in another folder, or is far smaller than what it promises."""
    home = os.path.abspath(path if os.path.isdir(path) else os.path.dirname(os.path.abspath(path)))
    files = [os.path.abspath(name) for name in raw.filenames if name is not None]
    far = [file for file in files if os.path.commonpath([home, file]) != home]
    if far and not set(map(os.path.realpath, far)) <= {os.path.realpath(entry.path) for entry in os.scandir(home)}:
        raise UserError(
            f"{path}: names a signal file in another folder; copy that file next to it and rename both alike"
        )
    if format_ in ("cnt", "ant") or os.path.isdir(path):  # checked elsewhere; compressed; a folder with an index
        return
    held = sum(map(os.path.getsize, {path, *files}))
    packed = path.endswith(".gz") or (format_ == "eeglab" and files == [os.path.abspath(path)])
    if raw.n_times * len(raw.ch_names) > (COMPRESSED_FLOOD if packed else FLOOD) * held:
        raise UserError(f"{path}: its header promises {raw.n_times} samples, far more than the file holds; restore it")


def header_words(path: Path, format_: str) -> set[str]:
    """Return the words of the fields that state who was recorded and by whom: an annotation with one is not a code.

    MNE passes on a part of them only.
    """
    places = {
        "gdf": (path, 0, 176),  # patient, recording
        "cnt": (path, 12, 360),  # operator, doctor, hospital, patient, …
        "ant": (path, max(0, path.stat().st_size - 4096), 4096),  # the last chunk
        "nihon": (next((p for p in map(path.with_suffix, (".PNT", ".pnt")) if p.is_file()), path), 0, 1 << 16),
        "egi": (path / "subject.xml", 0, 1 << 16),
    }
    where, start, length = places.get(format_, (path, 0, 0))
    if not length or not where.is_file():
        return set()
    with open(where, "rb") as file:
        file.seek(start)
        return {word.decode("latin-1").lower() for word in re.findall(rb"[A-Za-z\xc0-\xff]{3,}", file.read(length))}


def recording_from_raw(
    raw: "mne.io.BaseRaw",
    *,
    name: str = "raw",
    dataset: str = "unknown",
    subject: str = "unknown",
    session: str = "",
    licence: str = "unknown",
    unit_scale: float | None = None,
    modality: Modality = "auto",
    change: Callable[[Contents], None] = lambda contents: None,
) -> Recording:
    """Return a `Recording` over an `mne.io.Raw`, in memory or on disk: for data that only your own code can load.

    `change` may alter names, types and positions first (`Electrodes.apply`). `modality`: of a Raw with both, EEG or
    MEG sensors; "auto": those of which there are more.
    """
    source, contents = Source(name, "raw", dataset, subject, session, licence), contents_of_raw(raw, "raw")
    add_stim_events(contents)
    change(contents)
    return assemble(source, contents, unit_scale, modality)


def recording_from_epochs(epochs: "mne.BaseEpochs", *, name: str = "epochs", modality: Modality = "auto") -> Recording:
    """Return a `Recording` over `mne.Epochs`: pre-cut trials, labelled by their events."""
    return assemble(Source(name, "epochs"), contents_of_epochs(epochs, "epochs"), modality=modality)


def contents_of_epochs(epochs: "mne.BaseEpochs", format_: str) -> Contents:
    """Return the trials of Epochs end to end, each a separate segment; an event number replaces free text."""
    factors = factors_of(epochs.info, epochs.get_channel_types())
    signal = np.asarray(epochs.get_data(copy=False) * factors, np.float32)  # trials x channels x time
    count, _, length = signal.shape
    names = {code: name for name, code in epochs.event_id.items()}
    texts = [str(names.get(code, code)) for code in epochs.events[:, 2]]
    labels = trial_types(texts, names_in(epochs.info))
    codes = [label or str(code) for label, code in zip(labels, epochs.events[:, 2], strict=True)]
    with quiet():
        contents = contents_of_raw(require_mne().io.RawArray(signal[0] / factors, epochs.info), format_)
    if "" in labels:
        contents.notes.append(f"{labels.count('')} trials have the number of their event as label, not its free text")
    onset = int(-epochs.tmin * epochs.info["sfreq"] + 0.5)  # the event's sample in a trial
    return replace(
        contents,
        **end_to_end(signal.__getitem__, count, length),
        segment_labels=codes,
        precut=True,
        events=[Event(i * length + onset, 0.0, c) for i, c in enumerate(codes) if 0 <= onset < length],
    )


def contents_of_raw(raw: "mne.io.BaseRaw", format_: str, forbidden: Collection[str] = ()) -> Contents:
    """Return names, types, positions, events and contiguous spans of a Raw; the signal is read when needed.

    Annotations with a word of `forbidden`, or of the Raw's fields about persons, are dropped.
    """
    info = raw.info
    sfreq, notes = float(info["sfreq"]), list[str]()
    mne_types = raw.get_channel_types()
    types = [meg_sensors.kind_of(ch, _TYPES.get(kind, "misc")) for ch, kind in zip(info["chs"], mne_types, strict=True)]
    onsets = raw.annotations.onset - raw.first_time  # MNE counts them from before the first sample, dated or not
    rows = zip(onsets, raw.annotations.duration, raw.annotations.description, strict=True)
    annotations = [(float(onset), float(duration), str(text)) for onset, duration, text in rows]
    free_text: list[Event] = []
    events = keep_codes(annotations, sfreq, names_in(info) | set(forbidden), notes, free_text)
    segments = cut_spans(annotations, sfreq, raw.n_times, notes)

    factors = factors_of(info, mne_types)
    compensation = meg_sensors.compensation_of(info, types)
    if compensation is not None:
        notes.append(f"gradient compensation of grade {compensation}, as recorded" if compensation else
                     "recorded without gradient compensation (grade 0)")  # fmt: skip

    def read(start: int, stop: int, picks: Sequence[int]) -> Float[np.ndarray, "channels time"]:
        with quiet():
            return raw.get_data(picks=list(picks), start=start, stop=stop) * factors[list(picks)]

    return Contents(
        format=format_,
        labels=names_in_file(raw.ch_names),
        sfreq=sfreq,
        n_samples=raw.n_times,
        reader=read,
        types=types,
        positions=positions_of(info, types, notes),
        compensation=compensation,
        reference="average" if info["custom_ref_applied"] and "average" in str(info["projs"]).lower() else None,
        highpass=float(info["highpass"]) or None,
        lowpass=float(info["lowpass"]) if 0 < info["lowpass"] < sfreq / 2 else None,
        line_freq=float(info["line_freq"]) if info["line_freq"] else None,
        segments=segments,
        events=events,
        free_text=free_text,
        bad=list(info["bads"]),
        notes=notes,
    )


def names_in(info: Any) -> set[str]:
    """Return the words, in lower case, of a measurement's fields about persons."""
    about = info.get("subject_info") or {}
    names = [str(about.get(k, "")) for k in ("first_name", "last_name", "middle_name", "his_id")]
    names.append(str(info.get("experimenter") or ""))
    return {word.lower() for name in names for word in re.split(r"[\W_]+", name) if len(word) > 1}


def names_in_file(names: Sequence[str]) -> list[str]:
    """Return the names without the `-0`, `-1`, … that MNE adds to equal ones; `assemble` renames them, with a note."""
    bases = [re.sub(r"-\d+$", "", name) for name in names]
    numbered = {base for base in bases if {f"{base}-0", f"{base}-1"} <= set(names)}
    return [base if base in numbered and base != name else name for base, name in zip(bases, names, strict=True)]


def factors_of(info: Any, types: Sequence[str]) -> Float[np.ndarray, "channels 1"]:
    """Return what MNE's values of channels of MNE's `types` are multiplied by: into µV, fT, codes."""
    meg, factors = ("mag", "grad", "ref_meg"), {"stim": 1.0}
    return np.array(
        [
            [meg_sensors.factor_of(ch) if kind in meg else factors.get(kind, 1e6)]
            for ch, kind in zip(info["chs"], types, strict=True)
        ]
    )


def positions_of(
    info: Any, types: Sequence[str] = (), notes: list[str] | None = None
) -> Float[np.ndarray, "channels 3"] | None:
    """Return positions in the head, in metres, from a measurement's info; None without any. MNE has zero for unknown.

    Of MEG sensors (by `types`) whose place in the head is unknown, those in the device, which joins `notes`.
    """
    xyz = np.array([np.asarray(ch["loc"][:3], float) for ch in info["chs"]]).reshape(-1, 3)
    xyz[~np.isfinite(xyz).all(axis=1) | (np.abs(xyz).sum(axis=1) == 0)] = np.nan
    if types:
        meg_sensors.into_head(info, xyz, types, [] if notes is None else notes)
    return xyz if np.isfinite(xyz).any() else None
