"""UCI EEG Database (Begleiter 1999; Zhang et al. 1995): Snodgrass-Vanderwart images; `a` alcoholic, `c` control."""

from dreamjax.signals.recordings.corpora.corpus import Corpus

UCI_VISUAL = Corpus(
    name="uci-visual",
    path=r"co\d[ac]\d{7}\.rd\.\d+(\.gz)?$",
    licence="CC-BY-4.0",
    source="https://doi.org/10.24432/C5TS3D",
    subject=r"(co\d[ac]\d{7})\.rd\.",
    line_freq=60.0,
)
