"""Sample recordings of muse-lsl (Muse 2016 headset): N170 with houses and faces, SSVEP with two flicker rates."""

from dreamjax.signals.recordings.corpora.corpus import Corpus

MUSE_N170 = Corpus(
    name="muse-n170",
    path=r"N170/subject\d+/session\d+/data_[^/]*\.csv$",
    licence="BSD-3-Clause",
    source="https://github.com/alexandrebarachant/muse-lsl",
    codes={"1": "house", "2": "face"},
)
MUSE_SSVEP = Corpus(
    name="muse-ssvep",
    path=r"SSVEP/subject\d+/session\d+/data_[^/]*\.csv$",
    licence="BSD-3-Clause",
    source="https://github.com/alexandrebarachant/muse-lsl",
)
