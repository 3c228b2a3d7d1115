"""EEGLAB `.set` files of every layout: a struct or variables, MATLAB 5 plain or packed, MATLAB 7.3."""

from pathlib import Path

import numpy as np
import pytest

NAMES = ("Fz", "Cz", "Pz", "Oz")


def fields(signal: np.ndarray, **more) -> dict:
    """The fields that EEGLAB writes, of 4 channels at 250 Hz."""
    count = signal.shape[1]
    return {
        "setname": "x", "nbchan": 4.0, "trials": 1.0, "pnts": float(count), "srate": 250.0, "xmin": 0.0,
        "xmax": (count - 1) / 250, "times": np.arange(count) * 4.0, "data": signal,
        "chanlocs": np.array([(name,) for name in NAMES], dtype=[("labels", "O")]),
        "event": np.zeros(0, dtype=[("type", "O"), ("latency", "O")]), "ref": "", "filename": "", "filepath": "",
        "epoch": np.zeros(0), **more,
    }  # fmt: skip


def mat5(path: Path, values: dict, struct: bool, packed: bool) -> Path:
    scipy_io = pytest.importorskip("scipy.io")
    scipy_io.savemat(path, {"EEG": values} if struct else values, appendmat=False, do_compression=packed)
    return path


def hdf5(path: Path, values: dict, struct: bool) -> Path:
    h5py = pytest.importorskip("h5py")

    def write(group, name: str, value, kind: str) -> None:
        data = group.create_dataset(name, data=value)
        data.attrs["MATLAB_class"] = np.bytes_(kind)

    def text(value: str) -> np.ndarray:
        return np.array([[ord(sign)] for sign in value], np.uint16)

    with h5py.File(path, "w", userblock_size=512) as file:
        group = file.create_group("EEG") if struct else file
        for name, value in values.items():
            if name == "chanlocs":
                for i, label in enumerate(NAMES):
                    write(file.require_group("#refs#"), f"l{i}", text(label), "char")
                refs = np.array([[file[f"#refs#/l{i}"].ref] for i in range(len(NAMES))], h5py.ref_dtype)
                group.create_group(name).create_dataset("labels", data=refs)
            elif (len(value) if isinstance(value, str) else np.size(value)) == 0:
                write(group, name, np.zeros(2, np.uint64), "char" if isinstance(value, str) else "double")
                group[name].attrs["MATLAB_empty"] = 1
            else:
                write(group, name, text(value) if isinstance(value, str) else np.atleast_2d(value).T, "double")
                if isinstance(value, str):
                    group[name].attrs["MATLAB_class"] = np.bytes_("char")
    content = bytearray(path.read_bytes())
    content[:128] = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    path.write_bytes(content)
    return path


LAYOUTS = {
    "struct": lambda path, values: mat5(path, values, True, False),
    "packed struct": lambda path, values: mat5(path, values, True, True),
    "variables": lambda path, values: mat5(path, values, False, False),
    "packed variables": lambda path, values: mat5(path, values, False, True),
    "group of 7.3": lambda path, values: hdf5(path, values, True),
    "variables of 7.3": lambda path, values: hdf5(path, values, False),
}
