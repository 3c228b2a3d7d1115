"""EEGLAB `.set`: continuous through MNE's Raw, epoched through its Epochs (pre-cut trials, labelled by their event)."""

from pathlib import Path

from dreamjax.errors import UserError
from dreamjax.signals.recordings.readers.mne_reader import contents_of_epochs, open_with_mne, quiet, require_mne
from dreamjax.signals.recordings.readers.recording import Contents, Source
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
            return contents_of_epochs(epochs, "eeglab")
    except UserError:
        raise
    except Exception as e:
        raise UserError(f"{source.path}: MNE cannot read its epochs ({error_text(e)})") from e
