"""Open any EEG recording → `Recording`: µV, names, types, positions, contiguous spans, events; no personal data.

    sources = find_sources(["study/"])          # files, folders, BIDS roots
    with_names = open_recording(sources[0])     # the signal stays on disk
    signal = with_names.read(0, 512)            # float64, µV

A reader in C may crash the whole process on a hostile file: `prepare` opens every recording in a child process.
"""

import os
from pathlib import Path

from dreamjax.errors import UserError
from dreamjax.signals.corpora import unit_scale_of
from dreamjax.signals.readers.base import Contents, Event, Recording, Source, assemble
from dreamjax.signals.readers.find import Ignored, find_sources, source_of, survey
from dreamjax.signals.readers.mne_reader import recording_from_raw

__all__ = [
    "Event",
    "Ignored",
    "Recording",
    "Source",
    "find_sources",
    "open_recording",
    "recording_from_raw",
    "source_of",
    "survey",
]


def open_recording(
    source: Source | str | os.PathLike[str], *, unit_scale: float | None = None, strict: bool = False
) -> Recording:
    """Open one recording. Its signal is read later, span by span.

    Args:
      source: what `find_sources` found, or a path.
      unit_scale: the signal is multiplied by it; for headers whose unit is wrong. Default: the corpus's, else 1.
      strict: refuse a file that ends before its header says so, instead of keeping what is there.

    Raises:
      UserError: one sentence: which file, what is wrong with it, what to do.
    """
    if not isinstance(source, Source):
        source = source_of(source)
    if not Path(source.path).exists():
        raise UserError(f"{source.path}: no such file; check the path")
    try:
        contents = read_contents(source, strict)
        scale = unit_scale if unit_scale is not None else unit_scale_of(source)
        recording = assemble(source, contents, scale)
    except UserError:
        raise
    except PermissionError as e:
        raise UserError(f"{source.name}: no permission to read it; check its owner and mode") from e
    except Exception as e:  # a damaged file can surprise any reader anywhere; the sentence names it
        raise UserError(f"{source.name}: cannot be read as {source.reader} ({type(e).__name__}: {e})") from e
    if not recording.ch_names or recording.n_samples == 0:
        raise UserError(f"{source.name}: holds no signal; remove it from the input")
    return recording


def read_contents(source: Source, strict: bool = False) -> Contents:
    """What the reader that fits the source's format finds. Readers are imported when their format is met."""
    if source.reader == "edf":
        from dreamjax.signals.readers.edf import open_edf

        return open_edf(source.path, strict)
    from dreamjax.signals.readers.mne_reader import open_with_mne

    return open_with_mne(source.path, source.reader)
