"""Sample recording of the OpenBCI GUI: Cyton, blinks, jaw clenches, alpha."""

from dreamjax.signals.recordings.corpora.corpus import Corpus

OPENBCI_SAMPLE = Corpus(
    name="openbci-sample",
    path=r"EEG_Sample_Data/OpenBCI_GUI-[^/]*\.txt$",
    licence="MIT",
    source="https://github.com/OpenBCI/OpenBCI_GUI",
)
