"""Sample data of EEGLAB (visual attention with squares, Makeig et al. 1999) and its small files in many formats."""

from dreamjax.signals.recordings.corpora.corpus import Corpus

EEGLAB_SAMPLE = Corpus(
    name="eeglab-sample",
    path=r"eeglab[^/]*/(sample_data/)?(eeglab_data\.set|test_data/[^/]+)$",
    licence="BSD-2-Clause",
    source="https://github.com/sccn/eeglab",
)
