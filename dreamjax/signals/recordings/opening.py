"""Open any EEG or MEG recording → `Recording`: names, types, positions, contiguous spans, events; no personal data.

    sources = find_sources(["study/"])          # files, folders, BIDS roots
    with_names = open_recording(sources[0])     # the signal stays on disk
    signal = with_names.read(0, 512)            # float64, µV or fT

A reader in C may crash the whole process on a hostile file: `prepare` opens every recording in a child process.
"""

import os
from dataclasses import replace
from pathlib import Path

from dreamjax.errors import UserError
from dreamjax.signals.recordings.corpora.recording_corpora import corpus_of
from dreamjax.signals.recordings.electrodes import Electrodes, place_by_companion
from dreamjax.signals.recordings.events import add_stim_events
from dreamjax.signals.recordings.readers import (
    companions,
    delimited,
    edf,
    matlab_array,
    meg,
    mne_formats,
    mne_reader,
    numpy_array,
    tables,
    uci,
    xdf,
)
from dreamjax.signals.recordings.readers.bids import apply_sidecars
from dreamjax.signals.recordings.readers.find import NOT_REGULAR, find_sources, source_of, survey
from dreamjax.signals.recordings.readers.mne_reader import recording_from_raw
from dreamjax.signals.recordings.readers.modalities import Modality
from dreamjax.signals.recordings.readers.recording import Recording, Source, assemble
from dreamjax.signals.recordings.scrub import error_text

__all__ = ["find_sources", "open_recording", "recording_from_raw", "source_of", "survey"]

READERS = {
    "gdf": mne_formats.open_gdf, "fif": mne_formats.open_fif,
    **dict.fromkeys(("ant", "egi", "nihon"), mne_reader.open_source),
    "brainvision": mne_formats.open_brainvision, "eeglab": mne_formats.open_eeglab,
    "cnt": mne_formats.open_cnt, "eximia": mne_formats.open_eximia,
    "muse": tables.open_muse, "mind_monitor": tables.open_mind_monitor, "openbci": tables.open_openbci,
    "emotiv": tables.open_emotiv, "arff": tables.open_arff,
    "edf": edf.open_edf, "uci": uci.open_uci, "numpy": numpy_array.open_numpy, "matlab": matlab_array.open_matlab,
    "ctf": meg.open_ctf, "kit": meg.open_kit, "bti": meg.open_bti,
    "csv": delimited.open_delimited, "xdf": xdf.open_xdf,
}  # fmt: skip


def open_recording(
    source: Source | str | os.PathLike[str],
    *,
    unit_scale: float | None = None,
    strict: bool = False,
    electrodes: Electrodes | None = None,
    modality: Modality = "auto",
    triggers: bool = False,
) -> Recording:
    """Open one recording. Its signal is read later, span by span.

    The contents given by the format's reader are completed by BIDS sidecars and the table of corpora.

    Args:
      source: what `find_sources` found, or a path.
      unit_scale: the signal is multiplied by it; for headers whose unit is wrong. Default: the corpus's, else 1.
      strict: refuse a file that is shorter than its header states, instead of keeping its complete records.
      electrodes: names and positions that take precedence over those of the file.
      modality: which sensors are read of a recording that has both, EEG or MEG; "auto": those of which there are more.
      triggers: events are those of the stimulus channels, whatever the file and its sidecars list.

    Raises:
      UserError: one sentence: which file, what is wrong with it, what to do.
    """
    if not isinstance(source, Source):
        source = source_of(source)
    path = Path(source.path)
    if not path.exists():
        raise UserError(f"{path}: no such file; check the path")
    if not (path.is_file() or path.is_dir()):
        raise UserError(f"{path}: {NOT_REGULAR}; remove it from the input")
    corpus = corpus_of(Path(path, source.member).absolute().as_posix())
    try:
        if (
            path.is_file() and path.stat().st_size == 0 and source.reader not in ("numpy", "matlab")
        ):  # its sidecar comes first
            raise UserError(f"{path}: the file is empty; remove it or restore it from its source")
        contents = READERS[source.reader](source, strict)
        if not source.member:
            contents = apply_sidecars(path, contents)
            place_by_companion(path, contents)
            contents.notes += companions.missing(source)
        if triggers:
            contents.events, contents.free_text = (), ()
        add_stim_events(contents)
        if corpus:
            contents.reference = contents.reference or corpus.reference
            contents.line_freq = contents.line_freq or corpus.line_freq
            contents.events = [replace(e, code=corpus.codes.get(e.code, e.code)) for e in contents.events]
            declared = [replace(e, code=corpus.codes[e.code]) for e in contents.free_text if e.code in corpus.codes]
            contents.events = sorted((*contents.events, *declared), key=lambda e: e.sample)
            contents.free_text = [e for e in contents.free_text if e.code not in corpus.codes]
            if condition := corpus.condition(source.name):
                contents.segment_labels = [condition] * len(contents.segments)
            if unit_scale is None:
                unit_scale = corpus.unit_scale.get(source.reader)
        if electrodes:
            electrodes.apply(contents)
        recording = assemble(source, contents, unit_scale, modality)
    except (UserError, MemoryError):
        raise
    except PermissionError as e:
        raise UserError(f"{source.name}: no permission to read it; check its owner and mode") from e
    except Exception as e:  # a damaged file can surprise any reader anywhere; the sentence names it
        raise UserError(f"{source.name}: cannot be read as {source.reader} ({error_text(e)})") from e
    if not recording.ch_names or recording.n_samples <= 0:
        raise UserError(f"{source.name}: holds no signal; remove it from the input")
    return recording
