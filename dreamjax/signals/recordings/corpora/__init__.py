"""Public corpora: what their files do not say, or say wrongly. One file per corpus, one table of them here."""

from pathlib import PurePath

from dreamjax.signals.recordings.corpora.corpus import Corpus
from dreamjax.signals.recordings.corpora.eeg_imagenet import EEG_IMAGENET
from dreamjax.signals.recordings.corpora.eeglab_sample import EEGLAB_SAMPLE
from dreamjax.signals.recordings.corpora.eegmat import EEGMAT
from dreamjax.signals.recordings.corpora.eegmmidb import EEGMMIDB
from dreamjax.signals.recordings.corpora.emotiv_eye_state import EMOTIV_EYE_STATE
from dreamjax.signals.recordings.corpora.emotiv_insight import EMOTIV_INSIGHT
from dreamjax.signals.recordings.corpora.mne_testing import MNE_PYTHON, MNE_TESTING
from dreamjax.signals.recordings.corpora.muse_lsl import MUSE_N170, MUSE_SSVEP
from dreamjax.signals.recordings.corpora.openbci_sample import OPENBCI_SAMPLE
from dreamjax.signals.recordings.corpora.ssvep_exo import SSVEP_EXO
from dreamjax.signals.recordings.corpora.uci_visual import UCI_VISUAL

__all__ = ["CORPORA", "Corpus", "corpus_of"]

CORPORA: tuple[Corpus, ...] = (
    EEGMAT, EEGMMIDB, UCI_VISUAL, MUSE_N170, MUSE_SSVEP, SSVEP_EXO, EEGLAB_SAMPLE, EMOTIV_EYE_STATE, EMOTIV_INSIGHT,
    OPENBCI_SAMPLE, MNE_TESTING, MNE_PYTHON, EEG_IMAGENET,
)  # fmt: skip


def corpus_of(path: str) -> Corpus | None:
    """The corpus that a file belongs to by its path, or None."""
    posix = PurePath(path).as_posix()
    return next((corpus for corpus in CORPORA if corpus.matches(posix)), None)
