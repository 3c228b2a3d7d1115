"""EEG During Mental Arithmetic Tasks, PhysioNet v1.0.0 (Zyma et al. 2019, Data 4:14): `_1` rest, `_2` arithmetic."""

from dreamjax.signals.recordings.corpora.corpus import Corpus

EEGMAT = Corpus(
    name="eegmat",
    path=r"eegmat.*/Subject\d\d_[12]\.edf$",
    licence="ODC-By-1.0",
    source="https://doi.org/10.13026/C2JQ1P",
    subject=r"(Subject\d\d)_[12]\.edf$",
    session=r"Subject\d\d_([12])\.edf$",
    conditions={r"_1\.edf$": "rest", r"_2\.edf$": "arithmetic"},
    reference="linked ears",  # "interconnected ear reference electrodes"
    line_freq=50.0,  # recorded in Kyiv; the published files are notched
)
