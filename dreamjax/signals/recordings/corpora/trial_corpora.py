"""The corpora of published trials that `prepare` reads."""

import os
from collections.abc import Sequence

from dreamjax.signals.recordings.corpora import eeg_imagenet, eeg_imagenet_splits
from dreamjax.signals.recordings.corpora.trial_corpus import TrialCorpus

TRIAL_CORPORA = (
    TrialCorpus(
        facts=eeg_imagenet.EEG_IMAGENET,
        handles=eeg_imagenet.is_torch_file,
        open=eeg_imagenet.open_trials,
        assign=eeg_imagenet_splits.assign,
        format="eeg-imagenet",
        example="eeg_5_95_std.pth",
        sfreq=eeg_imagenet.SFREQ,
        seconds=0.5,
        lengths=eeg_imagenet.LENGTHS,
        unit=eeg_imagenet.UNIT,
        record_unit="SD",
        flags=("no unit",),
        span=(20, 460),
        stretched=512,
    ),
)


def trial_corpus_of(paths: Sequence[object]) -> TrialCorpus | None:
    """Return the corpus that one of the paths is a file of; None where all may be recordings."""
    texts = [os.fspath(path) for path in paths if isinstance(path, str | os.PathLike)]
    return next((corpus for corpus in TRIAL_CORPORA if any(map(corpus.handles, texts))), None)
