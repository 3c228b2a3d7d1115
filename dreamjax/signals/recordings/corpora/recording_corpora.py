"""The public corpora: facts that their files lack or state wrongly. The first corpus whose path matches is used."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

MUSE_LSL = "https://github.com/alexandrebarachant/muse-lsl"
EEGLAB, MNE_TOOLS = "https://github.com/sccn/eeglab", "https://github.com/mne-tools"
UNIT = "standard deviations of a channel; the files give no physical unit"  # of EEG-ImageNet
A_BLOCK_IS_A_CLASS = (
    "a block is a class: all images of a class were shown to a person in one stretch, so whatever drifts tells the "
    "class, and all trials of a class by one person are in one block"
)


@dataclass(frozen=True)
class Corpus:
    """Facts about one corpus, applied to the files whose path matches `path`.

    Only the unit override changes a signal, so it is stored with its evidence, and a file that merely resembles the
    corpus must not match: `path` names the corpus's own folder and file names.
    """

    name: str
    path: str  # regular expression, searched in the POSIX path
    licence: str  # SPDX id
    source: str  # where it is published, and the paper
    subject: str | None = None  # regular expression over the path; group 1 is the subject's id
    session: str | None = None
    population: str = ""  # name shared with other corpora that have the same people
    conditions: Mapping[str, str] = field(default_factory=dict)  # path regex → condition
    codes: Mapping[str, str] = field(default_factory=dict)  # event code → its meaning
    unit_scale: Mapping[str, float] = field(default_factory=dict)  # reader → factor
    evidence: str = ""  # why the header's unit is wrong
    reference: str | None = None
    line_freq: float | None = None  # Hz
    design: Mapping[str, str] = field(default_factory=dict)  # what of the experiment matters
    impossible: Mapping[str, str] = field(default_factory=dict)  # control → why it is impossible

    def condition(self, path: str) -> str | None:
        """Return the condition of a whole recording, where the corpus states it in the file's name."""
        return next((label for pattern, label in self.conditions.items() if re.search(pattern, path)), None)


EEG_IMAGENET = Corpus(
    name="eeg-imagenet",
    path=r"(^|/)(eeg_\d+_\d+_std|eeg_signals_raw_with_mean_std)\.pth$",
    licence="unknown",  # none is stated with the files
    source="https://github.com/perceivelab/eeg_visual_classification",
    reference="unknown",
    design={
        "blocks": "all 50 images of a class in one stretch, 0.5 s each; 10 s of black between classes",
        "pre_stimulus": "none: a trial begins with its image, and the trial before ends there",
        "images": "every person saw the same images, once",
        "channels": "128, without names or positions",
        "unit": UNIT,
    },
    impossible={
        "block": A_BLOCK_IS_A_CLASS,
        "pre_stimulus": "the published trials begin with their image: nothing was kept from before it",
        "time": "the files do not say when in a recording a trial was",
    },
)
THINGS_MEG = Corpus(
    name="things-meg",
    path=r"sub-BIGMEG\d+_ses-\d+_task-main_run-\d+_meg\.(ds|fif)$",
    licence="CC0-1.0",
    source="https://doi.org/10.18112/openneuro.ds004212",  # Hebart et al. 2023, eLife 12:e82580
    subject=r"sub-BIGMEG(\d+)_",
    session=r"_ses-(\d+)_",
    line_freq=60.0,  # recorded in Bethesda
)
CORPORA = (
    THINGS_MEG,
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
        path=r"N170[^/]*/(muse\d+/)?subject\d+/(session\d+/)?(data|recording)_[^/]*\.csv(\.gz)?$",
        licence="BSD-3-Clause",
        source=MUSE_LSL,
        population="muse-lsl",
        codes={"1": "house", "2": "face"},
    ),
    Corpus(
        name="muse-ssvep",
        path=r"SSVEP/subject\d+/session\d+/data_[^/]*\.csv$",
        licence="BSD-3-Clause",
        source=MUSE_LSL,
        population="muse-lsl",
    ),
    # Temple University Hospital EEG Corpus and its subsets (Obeid & Picone 2016): PATIENT_sSESSION_tTOKEN.edf
    Corpus(
        name="tuh-eeg",
        path=r"/[a-z0-9]{8}_s\d{3}_t\d{3}\.edf$",
        licence="unknown",
        source="https://isip.piconepress.com/projects/nedc/html/tuh_eeg",
        subject=r"/([a-z0-9]{8})_s\d{3}_t\d{3}\.edf$",
        session=r"/[a-z0-9]{8}_s(\d{3})_t\d{3}\.edf$",
        line_freq=60.0,
    ),
    # SSVEP with an exoskeleton (Kalunga et al. 2016): g.MOBIlab+ through OpenViBE, 13, 17 and 21 Hz
    Corpus(
        name="ssvep-exo",
        path=r"ssvep-exo.*/record-\[\d{4}\.\d\d\.\d\d-\d\d\.\d\d\.\d\d\](_raw)?\.(gdf|fif)$",
        licence="CC0-1.0",
        source="https://github.com/sylvchev/dataset-ssvep-exoskeleton",
        session=r"record-\[\d{4}\.\d\d\.\d\d-(\d\d\.\d\d\.\d\d)\]",
        codes={"33024": "rest", "33025": "13Hz", "33026": "21Hz", "33027": "17Hz"},
        unit_scale={"gdf": 1e3, "fif": 1e-3},
        evidence=(
            "The same session is stored in both formats: GDF states µV, FIF states V, with the same numbers. Neither "
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
        source=EEGLAB,
        codes={"square": "square", "rt": "rt"},
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
        "openbci-sample", r"EEG_Sample_Data/OpenBCI_GUI-[^/]*\.txt$", "MIT", "https://github.com/OpenBCI/OpenBCI_GUI"
    ),
    # Test recordings of MNE-Python: many devices, seconds each; amplitudes are often not those of a head
    Corpus("mne-testing-data", r"mne-testing-data[^/]*/", "BSD-3-Clause", f"{MNE_TOOLS}/mne-testing-data"),
    Corpus("mne-python", r"mne/io/\w+/tests/data/[^/]+$", "BSD-3-Clause", f"{MNE_TOOLS}/mne-python"),
    EEG_IMAGENET,
)


def corpus_of(path: str) -> Corpus | None:
    """Return the corpus that a file belongs to by its POSIX path, or None."""
    return next((corpus for corpus in CORPORA if re.search(corpus.path, path)), None)
