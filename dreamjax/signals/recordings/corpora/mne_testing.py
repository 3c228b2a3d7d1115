"""Test recordings of MNE-Python: many devices, seconds each; amplitudes are often not those of a head."""

from dreamjax.signals.recordings.corpora.corpus import Corpus

MNE_TESTING = Corpus(
    name="mne-testing-data",
    path=r"mne-testing-data[^/]*/",
    licence="BSD-3-Clause",
    source="https://github.com/mne-tools/mne-testing-data",
)
MNE_PYTHON = Corpus(
    name="mne-python",
    path=r"mne/io/\w+/tests/data/[^/]+$",
    licence="BSD-3-Clause",
    source="https://github.com/mne-tools/mne-python",
)
