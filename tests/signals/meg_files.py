"""Tiny MEG recordings that tests build: FIF with every kind of sensor, and changed copies of real CTF folders."""

import shutil
from pathlib import Path

import numpy as np

COILS = {  # name → (MNE's type, coil type of FIFF)
    "MLC11-2908": ("mag", 5001), "MLC12-2908": ("mag", 5001), "BG1-2908": ("ref_meg", 5002),
    "MEG 0112": ("grad", 3012), "MEG 0113": ("grad", 3012), "MEG 0111": ("mag", 3024),
}  # fmt: skip


def meg_raw(
    seconds: float = 20.0, sfreq: float = 240.0, eeg: int = 0, codes: dict[int, int] | None = None, seed: int = 0
):
    """Raw of `COILS`, UPPT001 and `eeg` electrodes; `codes`: sample → code on UPPT001. Device 4 cm below the head."""
    import mne

    names = [*COILS, "UPPT001", *["Fz", "Cz", "Pz", "Oz", "F3", "F4", "C3", "C4"][:eeg]]
    types = [*[kind for kind, _ in COILS.values()], "stim", *["eeg"] * eeg]
    rng = np.random.default_rng(seed)
    with mne.utils.use_log_level("ERROR"):
        info = mne.create_info(names, sfreq, types)
        n = round(seconds * sfreq)
        data = rng.normal(size=(len(names), n)) * 1e-13
        for i, (_, coil) in enumerate(COILS.values()):
            info["chs"][i]["coil_type"] = coil
            info["chs"][i]["loc"][:3] = 0.1 * np.array([np.cos(i), np.sin(i), 0.5]) / np.hypot(1, 0.5)
        data[[3, 4]] *= 20  # T/m
        data[len(COILS) + 1 :] *= 1e8
        data[len(COILS)] = 0
        for sample, code in (codes or {}).items():
            data[len(COILS), sample : sample + 3] = code
        info["dev_head_t"] = mne.transforms.Transform("meg", "head", mne.transforms.translation(0, 0, 0.04))
        return mne.io.RawArray(data, info)


def short_ctf(real_data: Path, folder: Path, name: str = "a.ds") -> Path:
    """A copy of the real CTF folder of averages (151 sensors, two trials of 313 samples), under another name."""
    source = real_data / "meg" / "CTF" / "somMDYO-18av.ds"
    copy = folder / name
    copy.mkdir(parents=True)
    for file in source.iterdir():
        shutil.copyfile(file, copy / file.name.replace("somMDYO-18av", name.removesuffix(".ds")))
    return copy
