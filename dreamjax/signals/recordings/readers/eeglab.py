"""EEGLAB `.set`: continuous through MNE's Raw, epoched through its Epochs (pre-cut trials, labelled by their event)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dreamjax.errors import UserError
from dreamjax.signals.recordings.event_codes import code_of
from dreamjax.signals.recordings.readers.mne_reader import contents_of_raw, open_with_mne, quiet, require_mne
from dreamjax.signals.recordings.readers.recording import Contents, Event, Source
from dreamjax.signals.recordings.scrub import error_text


def open_source(source: Source, strict: bool = False) -> Contents:
    """Continuous data stay on disk; epoched data (which MNE loads at once) stay in memory as float32."""
    check(Path(source.path))
    try:
        return open_with_mne(source.path, "eeglab")
    except UserError as e:
        if "number of trials" not in str(e):
            raise
    return open_epochs(source)


def check(path: Path) -> None:
    """The first bytes of a .set are MATLAB's.

    Raises:
      UserError: they are not.
    """
    with open(path, "rb") as file:
        start = file.read(128)
    if not start:
        raise UserError(f"{path}: the file is empty; remove it or restore it from its source")
    if not start.startswith((b"MATLAB 5.0", b"MATLAB 7.3", b"\x89HDF")):
        raise UserError(f"{path}: not a MATLAB file under the name .set; restore it from its source")


def open_epochs(source: Source) -> Contents:
    mne = require_mne()
    try:
        with quiet():
            epochs = mne.io.read_epochs_eeglab(source.path)
            signal = np.asarray(epochs.get_data(copy=False) * 1e6, np.float32)  # trials x channels x time
    except Exception as e:
        raise UserError(f"{source.path}: MNE cannot read its epochs ({error_text(e)})") from e
    n_trials, _, length = signal.shape
    names = {code: name for name, code in epochs.event_id.items()}
    texts = [str(names.get(code, code)) for code in epochs.events[:, 2]]
    codes = [code_of(text, texts.count(text)) or "" for text in texts]
    rows = np.concatenate(list(signal), axis=1)
    with quiet():
        facts = contents_of_raw(mne.io.RawArray(rows[:, :length] * 1e-6, epochs.info), "eeglab")
    starts = range(0, n_trials * length, length)
    onset = int(-epochs.tmin * epochs.info["sfreq"] + 0.5)  # the event's sample in a trial

    def read(start: int, stop: int, picks: Sequence[int]) -> Float[np.ndarray, "channels time"]:
        return rows[list(picks), start:stop].astype(np.float64)

    facts.n_samples, facts.reader, facts.precut = n_trials * length, read, True
    facts.segments = [(start, start + length) for start in starts]
    facts.segment_labels = codes
    facts.events = [Event(s + onset, 0.0, c) for s, c in zip(starts, codes, strict=True) if c and 0 <= onset < length]
    return facts
