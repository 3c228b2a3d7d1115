"""Modalities: which of a recording's sensors are read, and files of modalities that are recognised and not read."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from dreamjax.console import counted
from dreamjax.signals.recordings.readers.meg_sensors import MEG

Modality = Literal["auto", "eeg", "meg"]
KINDS = {"eeg": ("eeg",), "meg": MEG}  # modality → its kinds of sensor
UNITS = {"eeg": "µV", "meg": "fT"}
NAMES = {"eeg": "EEG", "meg": "MEG"}
READ = "this version reads EEG and MEG only"
SENSORS = {  # kind of sensor, as MNE calls it → what it measures
    **dict.fromkeys(MEG, "MEG"),
    "ref_meg": "MEG references",
    **dict.fromkeys(("seeg", "ecog", "dbs"), "intracranial EEG"),
    **dict.fromkeys(("hbo", "hbr", "fnirs_cw_amplitude", "fnirs_fd_ac_amplitude", "fnirs_fd_phase", "fnirs_od",
                     "fnirs_td_gated_amplitude", "fnirs_td_moments_amplitude"), "fNIRS"),
}  # fmt: skip
FILES = {
    suffix: what
    for what, suffixes in {
        "an MEG recording (KIT) in a format that MNE does not read": ".kdf",
        "an fMRI or MRI volume (NIfTI)": ".nii",
        "an fMRI or MRI volume (Analyze)": ".hdr .img",
        "an fMRI or MRI volume (FreeSurfer)": ".mgz .mgh",
        "an MRI image (DICOM)": ".dcm .ima",
        "a surface or its data (GIFTI, CIFTI)": ".gii",
        "an intracranial recording (MEF3)": ".mefd .mef .tdat .timd",
        "an intracranial recording (Neuralynx)": ".ncs .nev .nse .ntt",
        "an intracranial recording (Blackrock)": ".ns1 .ns2 .ns3 .ns4 .ns5 .ns6",
        "an intracranial or other recording (Plexon)": ".plx .pl2",
        "an intracranial or other recording (NWB)": ".nwb",
        "an fNIRS recording (SNIRF)": ".snirf .nirs",
    }.items()
    for suffix in suffixes.split()
}
BTI = re.compile(r"c,rf[A-Za-z0-9.,]*|(e,)?rfhp[A-Za-z0-9.,]*")  # names of signals in a 4D Neuroimaging folder
OF_BTI = ("config", "hs_file")  # next to them
MARKERS = re.compile(r".*[-_](mrk|markers?)\.(sqd|con|mrk)|.*\.mrk", re.IGNORECASE)  # of a KIT recording


def modality_of(kinds: Sequence[str], wanted: Modality = "auto") -> Literal["eeg", "meg"]:
    """Return the modality that a recording is read as: the wanted one, or the one with more sensors."""
    if wanted != "auto":
        return wanted
    return "meg" if sum(kind in MEG for kind in kinds) > sum(kind == "eeg" for kind in kinds) else "eeg"


def left_out(kinds: Sequence[str], modality: str) -> list[str]:
    """Return notes on sensors that are not read: of the other modality, references, those of no modality read."""
    notes = []
    for other, mine in KINDS.items():
        if other != modality and (count := sum(kind in mine for kind in kinds)):
            notes.append(f"{counted(count, f'{NAMES[other]} channel')} left out; --modality {other} reads them instead")
    if references := sum(kind == "ref_meg" for kind in kinds):
        notes.append(f"{counted(references, 'MEG reference sensor')} left out")
    if others := other_sensors(kinds):
        notes.append(f"its sensors of other modalities are not used: {others}")
    return notes


def other_sensors(kinds: Sequence[str]) -> str:
    """Return how many sensors are of modalities that are not read, such as "4 of intracranial EEG"; "" for none."""
    counts = Counter(SENSORS[kind] for kind in kinds if kind in SENSORS and kind not in (*MEG, "ref_meg"))
    return " and ".join(f"{count} of {name}" for name, count in counts.items())


def no_sensors(kinds: Sequence[str], modality: str) -> str:
    """Return why a recording has nothing of a modality, and what it has instead."""
    for other, mine in KINDS.items():
        if other != modality and (count := sum(kind in mine for kind in kinds)):
            return f"no {NAMES[modality]} channel, but {count} of {NAMES[other]}: read them with --modality {other}"
    others = other_sensors(kinds)
    return f"no {NAMES.get(modality, modality)} channel" + (f", only other sensors, {others}: {READ}" if others else "")


def other_modality(path: Path) -> str:
    """Return what a file or folder of a modality that is not read is, by its name; "" for others."""
    return FILES.get(Path(path.name.removesuffix(".gz")).suffix.lower(), "")
