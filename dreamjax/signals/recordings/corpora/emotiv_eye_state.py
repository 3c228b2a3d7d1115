"""EEG Eye State (Rösler 2013, UCI): Emotiv EPOC, one person, eyes open (0) and closed (1)."""

from dreamjax.signals.recordings.corpora.corpus import Corpus

EMOTIV_EYE_STATE = Corpus(
    name="emotiv-eye-state",
    path=r"EEG Eye State\.arff$",
    licence="CC-BY-4.0",
    source="https://doi.org/10.24432/C57G7J",
    subject=r"(EEG Eye State)",
    codes={"eyeDetection/0": "eyes-open", "eyeDetection/1": "eyes-closed"},
)
