"""Open any EEG recording → `Recording`: µV, names, types, positions, contiguous spans, events; no personal data.

    sources = find_sources(["study/"])          # files, folders, BIDS roots
    with_names = open_recording(sources[0])     # the signal stays on disk
    signal = with_names.read(0, 512)            # float64, µV

A reader in C may crash the whole process on a hostile file: `prepare` opens every recording in a child process.
"""

import importlib
import os
from dataclasses import replace
from pathlib import Path

from dreamjax.errors import UserError
from dreamjax.signals.recordings.corpora import Corpus, corpus_of
from dreamjax.signals.recordings.readers.bids import apply_sidecars
from dreamjax.signals.recordings.readers.find import Ignored, find_sources, source_of, survey
from dreamjax.signals.recordings.readers.mne_reader import recording_from_raw
from dreamjax.signals.recordings.readers.recording import Contents, Event, Recording, Source, assemble
from dreamjax.signals.recordings.scrub import error_text

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

READERS = {  # reader's name → module and function in dreamjax.signals.recordings.readers
    "edf": "edf:open_source",
    "gdf": "mne_reader:open_source",
    "brainvision": "brainvision:open_source",
    "eeglab": "eeglab:open_source",
    "fif": "mne_reader:open_source",
    "cnt": "neuroscan:open_cnt",
    "ant": "mne_reader:open_source",
    "egi": "mne_reader:open_source",
    "nihon": "mne_reader:open_source",
    "eximia": "mne_reader:open_eximia",
    "muse": "tables:open_muse",
    "mind_monitor": "tables:open_mind_monitor",
    "openbci": "tables:open_openbci",
    "emotiv": "tables:open_emotiv",
    "arff": "tables:open_arff",
    "uci": "uci:open_uci",
    "numpy": "numpy_array:open_numpy",
}


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
        corpus = corpus_of(Path(source.path, source.member).absolute().as_posix())
        if unit_scale is None and corpus:
            unit_scale = corpus.unit_scale.get(source.reader)
        recording = assemble(source, contents, unit_scale)
    except UserError:
        raise
    except PermissionError as e:
        raise UserError(f"{source.name}: no permission to read it; check its owner and mode") from e
    except Exception as e:  # a damaged file can surprise any reader anywhere; the sentence names it
        raise UserError(f"{source.name}: cannot be read as {source.reader} ({error_text(e)})") from e
    if not recording.ch_names or recording.n_samples == 0:
        raise UserError(f"{source.name}: holds no signal; remove it from the input")
    return recording


def read_contents(source: Source, strict: bool = False) -> Contents:
    """What the reader that fits the source's format finds, then what BIDS sidecars and the corpus table add.

    Readers are imported when their format is met.
    """
    if source.reader not in READERS:
        raise UserError(f"{source.name}: no reader {source.reader}; there are {', '.join(READERS)}")
    module, function = READERS[source.reader].split(":")
    opener = getattr(importlib.import_module(f"dreamjax.signals.recordings.readers.{module}"), function)
    contents: Contents = opener(source, strict)
    if not source.member:
        contents = apply_sidecars(Path(source.path), contents)
    corpus = corpus_of(Path(source.path, source.member).absolute().as_posix())
    return with_corpus(contents, corpus, source) if corpus else contents


def with_corpus(contents: Contents, corpus: Corpus, source: Source) -> Contents:
    """`contents` with what the corpus table knows and the file does not say."""
    contents.reference = contents.reference or corpus.reference
    contents.line_freq = contents.line_freq or corpus.line_freq
    contents.events = [replace(e, code=corpus.codes.get(e.code, e.code)) for e in contents.events]
    if condition := corpus.condition(source.name):
        segments = contents.segments if contents.segments is not None else [(0, contents.n_samples)]
        contents.segment_labels = [condition] * len(segments)
    return contents
