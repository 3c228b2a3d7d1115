"""SSVEP with an exoskeleton (Kalunga et al. 2016): g.MOBIlab+ through OpenViBE, 13, 17 and 21 Hz."""

from dreamjax.signals.recordings.corpora.corpus import Corpus

SSVEP_EXO = Corpus(
    name="ssvep-exo",
    path=r"ssvep-exo.*/record-\[\d{4}\.\d\d\.\d\d-\d\d\.\d\d\.\d\d\](_raw)?\.(gdf|fif)$",
    licence="CC0-1.0",
    source="https://github.com/sylvchev/dataset-ssvep-exoskeleton",
    subject=r"record-\[(\d{4}\.\d\d\.\d\d)-",  # one recording day a subject; the files carry no other id
    session=r"record-\[\d{4}\.\d\d\.\d\d-(\d\d\.\d\d\.\d\d)\]",
    codes={"33024": "rest", "33025": "13Hz", "33026": "21Hz", "33027": "17Hz"},
    unit_scale={"gdf": 1e3, "fif": 1e-3},
    evidence=(
        "The same session is stored in both formats: GDF says µV, FIF says V, with the same numbers. Neither can be: "
        "1-40 Hz standard deviations would be 0.0055 µV and 5465 µV. The smallest step between values is 1.5e-5; read "
        "as mV it is 0.015 µV, the g.MOBIlab+'s 16 bits over ±500 µV (0.0153 µV), and the standard deviation 5.5 µV."
    ),
    line_freq=50.0,
)
