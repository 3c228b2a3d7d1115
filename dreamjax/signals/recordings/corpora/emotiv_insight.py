"""Brain-Download: Emotiv Insight, one person; the baseline set has eyes open and closed in the file names."""

from dreamjax.signals.recordings.corpora.corpus import Corpus

EMOTIV_INSIGHT = Corpus(
    name="emotiv-insight",
    path=r"(Closed|Open)_20sx1_\d+-\d+\.csv$",
    licence="MIT",
    source="https://github.com/LKbrilliant/Brain-Download-Datasets",
    subject=r"(20sx1)",  # all recordings are of one person
    session=r"_(\d{6}-\d{6})\.csv$",
    conditions={r"Closed_": "eyes-closed", r"Open_": "eyes-open"},
)
