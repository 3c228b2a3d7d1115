"""EEG Motor Movement/Imagery Dataset, PhysioNet v1.0.0 (Schalk et al. 2004): 109 subjects, 14 runs each."""

from dreamjax.signals.recordings.corpora.corpus import Corpus

EEGMMIDB = Corpus(
    name="eegmmidb",
    path=r"/S\d{3}R\d\d\.edf$",
    licence="ODC-By-1.0",
    source="https://doi.org/10.13026/C28G6P",
    subject=r"/(S\d{3})R\d\d\.edf$",
    session=r"/S\d{3}(R\d\d)\.edf$",
    line_freq=60.0,
)
