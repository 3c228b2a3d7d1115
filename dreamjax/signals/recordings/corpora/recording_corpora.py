"""The public corpora of recordings. The first whose path matches holds for a file."""

from dreamjax.signals.recordings.corpora.corpus import Corpus

RECORDING_CORPORA = (
    # EEG During Mental Arithmetic Tasks, PhysioNet v1.0.0 (Zyma et al. 2019, Data 4:14): `_1` rest, `_2` arithmetic
    Corpus(
        name="eegmat",
        path=r"eegmat.*/Subject\d\d_[12]\.edf$",
        licence="ODC-By-1.0",
        source="https://doi.org/10.13026/C2JQ1P",
        subject=r"(Subject\d\d)_[12]\.edf$",
        session=r"Subject\d\d_([12])\.edf$",
        conditions={r"_1\.edf$": "rest", r"_2\.edf$": "arithmetic"},
        reference="linked ears",  # "interconnected ear reference electrodes"
        line_freq=50.0,  # recorded in Kyiv; the published files are notched
    ),
    # EEG Motor Movement/Imagery Dataset, PhysioNet v1.0.0 (Schalk et al. 2004): 109 subjects, 14 runs each
    Corpus(
        name="eegmmidb",
        path=r"/S\d{3}R\d\d\.edf$",
        licence="ODC-By-1.0",
        source="https://doi.org/10.13026/C28G6P",
        subject=r"/(S\d{3})R\d\d\.edf$",
        session=r"/S\d{3}(R\d\d)\.edf$",
        line_freq=60.0,
    ),
    # UCI EEG Database (Begleiter 1999; Zhang et al. 1995): Snodgrass-Vanderwart images; `a` alcoholic, `c` control
    Corpus(
        name="uci-visual",
        path=r"co\d[ac]\d{7}\.rd\.\d+(\.gz)?$",
        licence="CC-BY-4.0",
        source="https://doi.org/10.24432/C5TS3D",
        subject=r"(co\d[ac]\d{7})\.rd\.",
        line_freq=60.0,
    ),
    # Sample recordings of muse-lsl (Muse 2016 headset): N170 with houses and faces, SSVEP with two flicker rates
    Corpus(
        name="muse-n170",
        path=r"N170/subject\d+/session\d+/data_[^/]*\.csv$",
        licence="BSD-3-Clause",
        source="https://github.com/alexandrebarachant/muse-lsl",
        codes={"1": "house", "2": "face"},
    ),
    Corpus(
        name="muse-ssvep",
        path=r"SSVEP/subject\d+/session\d+/data_[^/]*\.csv$",
        licence="BSD-3-Clause",
        source="https://github.com/alexandrebarachant/muse-lsl",
    ),
    # SSVEP with an exoskeleton (Kalunga et al. 2016): g.MOBIlab+ through OpenViBE, 13, 17 and 21 Hz
    Corpus(
        name="ssvep-exo",
        path=r"ssvep-exo.*/record-\[\d{4}\.\d\d\.\d\d-\d\d\.\d\d\.\d\d\](_raw)?\.(gdf|fif)$",
        licence="CC0-1.0",
        source="https://github.com/sylvchev/dataset-ssvep-exoskeleton",
        subject=r"record-\[(\d{4}\.\d\d\.\d\d)-",  # one recording day a subject; the files carry no other id
        session=r"record-\[\d{4}\.\d\d\.\d\d-(\d\d\.\d\d\.\d\d)\]",
        codes={"33024": "rest", "33025": "13Hz", "33026": "21Hz", "33027": "17Hz"},
        unit_scale={"gdf": 1e3, "fif": 1e-3},
        evidence=(
            "The same session is stored in both formats: GDF says µV, FIF says V, with the same numbers. Neither "
            "can be: 1-40 Hz standard deviations would be 0.0055 µV and 5465 µV. The smallest step between values "
            "is 1.5e-5; read as mV it is 0.015 µV, the g.MOBIlab+'s 16 bits over ±500 µV (0.0153 µV), and the "
            "standard deviation 5.5 µV."
        ),
        line_freq=50.0,
    ),
    # Sample data of EEGLAB (visual attention with squares, Makeig et al. 1999) and its small files in many formats
    Corpus(
        name="eeglab-sample",
        path=r"eeglab[^/]*/(sample_data/)?(eeglab_data\.set|test_data/[^/]+)$",
        licence="BSD-2-Clause",
        source="https://github.com/sccn/eeglab",
    ),
    # EEG Eye State (Rösler 2013, UCI): Emotiv EPOC, one person, eyes open (0) and closed (1)
    Corpus(
        name="emotiv-eye-state",
        path=r"EEG Eye State\.arff$",
        licence="CC-BY-4.0",
        source="https://doi.org/10.24432/C57G7J",
        subject=r"(EEG Eye State)",
        codes={"eyeDetection/0": "eyes-open", "eyeDetection/1": "eyes-closed"},
    ),
    # Brain-Download: Emotiv Insight, one person; the baseline set has eyes open and closed in the file names
    Corpus(
        name="emotiv-insight",
        path=r"(Closed|Open)_20sx1_\d+-\d+\.csv$",
        licence="MIT",
        source="https://github.com/LKbrilliant/Brain-Download-Datasets",
        subject=r"(20sx1)",  # all recordings are of one person
        session=r"_(\d{6}-\d{6})\.csv$",
        conditions={r"Closed_": "eyes-closed", r"Open_": "eyes-open"},
    ),
    # Sample recording of the OpenBCI GUI: Cyton, blinks, jaw clenches, alpha
    Corpus(
        name="openbci-sample",
        path=r"EEG_Sample_Data/OpenBCI_GUI-[^/]*\.txt$",
        licence="MIT",
        source="https://github.com/OpenBCI/OpenBCI_GUI",
    ),
    # Test recordings of MNE-Python: many devices, seconds each; amplitudes are often not those of a head
    Corpus(
        name="mne-testing-data",
        path=r"mne-testing-data[^/]*/",
        licence="BSD-3-Clause",
        source="https://github.com/mne-tools/mne-testing-data",
    ),
    Corpus(
        name="mne-python",
        path=r"mne/io/\w+/tests/data/[^/]+$",
        licence="BSD-3-Clause",
        source="https://github.com/mne-tools/mne-python",
    ),
)
