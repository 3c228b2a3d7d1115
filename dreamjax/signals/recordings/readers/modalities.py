"""Modalities other than EEG: their sensors and their files are recognised and named, and not read as EEG."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

SENSORS = {  # kind of sensor, as MNE calls it → what it measures
    **dict.fromkeys(("mag", "grad", "ref_meg"), "MEG"),
    **dict.fromkeys(("seeg", "ecog", "dbs"), "intracranial EEG"),
    **dict.fromkeys(("hbo", "hbr", "fnirs_cw_amplitude", "fnirs_fd_ac_amplitude", "fnirs_fd_phase", "fnirs_od",
                     "fnirs_td_gated_amplitude", "fnirs_td_moments_amplitude"), "fNIRS"),
}  # fmt: skip
FILES = {
    suffix: what
    for what, suffixes in {
        "an MEG recording (CTF)": ".ds .meg4 .res4",
        "an MEG recording (KIT, Yokogawa)": ".sqd .con .kdf",
        "an MEG recording (BTi, 4D Neuroimaging)": ".4d",
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


def other_sensors(kinds: Sequence[str]) -> str:
    """Return how many sensors of other modalities are among the kinds, such as "306 of MEG"; "" for none."""
    counts = Counter(SENSORS[kind] for kind in kinds if kind in SENSORS)
    return " and ".join(f"{count} of {name}" for name, count in counts.items())


def other_modality(path: Path) -> str:
    """Return what a file or folder of another modality is, by its name; "" for others."""
    if BTI.fullmatch(path.name) or (path.name == "config" and (path.parent / "hs_file").exists()):
        return FILES[".4d"]
    return FILES.get(Path(path.name.removesuffix(".gz")).suffix.lower(), "")
