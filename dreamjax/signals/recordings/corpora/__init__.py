"""Public corpora: what their files do not say, or say wrongly."""

from pathlib import PurePath

from dreamjax.signals.recordings.corpora.corpus import Corpus
from dreamjax.signals.recordings.corpora.eeg_imagenet import EEG_IMAGENET
from dreamjax.signals.recordings.corpora.recording_corpora import RECORDING_CORPORA

__all__ = ["CORPORA", "Corpus", "corpus_of"]

CORPORA: tuple[Corpus, ...] = (*RECORDING_CORPORA, EEG_IMAGENET)


def corpus_of(path: str) -> Corpus | None:
    """The corpus that a file belongs to by its path, or None."""
    posix = PurePath(path).as_posix()
    return next((corpus for corpus in CORPORA if corpus.matches(posix)), None)
