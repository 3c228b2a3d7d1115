"""Arrays in MATLAB files (`.mat`) with a JSON sidecar of the same name, as for `numpy_array`.

`"variable": "data"` names the array; it may be left out where the file holds one array of numbers with two or three
axes. Files of MATLAB 7.3 are HDF5. What a file claims to hold is compared with its size before anything is read.
"""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from dreamjax.errors import UserError, require
from dreamjax.signals.recordings.readers.numpy_array import sidecar, with_sidecar
from dreamjax.signals.recordings.readers.recording import Contents, Source
from dreamjax.signals.recordings.scrub import error_text

HDF5 = b"\x89HDF\r\n\x1a\n"
NUMBERS = ("double", "single", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
MOST_PACKED = 64  # values per byte of a compressed file; a signal has about one, a constant about a hundred
NAMED = 8  # variables that an error lists


def open_matlab(source: Source, strict: bool) -> Contents:
    """Open the array that the sidecar names, in memory."""
    path = source.path
    facts = sidecar(Path(path), more=("variable",))
    wanted = str(facts.get("variable", ""))
    try:
        with open(path, "rb") as file:
            head = file.read(520)
        array = _from_hdf5(path, wanted) if HDF5 in (head[:8], head[512:520]) else _from_mat5(path, wanted)
    except UserError:
        raise
    except Exception as e:
        raise UserError(f"{path}: not a readable MATLAB file ({error_text(e)}); save it again with save -v7") from e
    return with_sidecar(array, facts, path, "matlab")


def _from_mat5(path: str, wanted: str) -> np.ndarray:
    from scipy import io

    arrays = {name: shape for name, shape, kind in io.whosmat(path, appendmat=False) if kind in NUMBERS}
    name = _chosen(path, arrays, wanted)
    return np.asarray(io.loadmat(path, appendmat=False, variable_names=[name], struct_as_record=True)[name])


def _from_hdf5(path: str, wanted: str) -> np.ndarray:
    require("h5py", "reading MATLAB 7.3 files")
    import h5py

    with h5py.File(path, "r") as file:
        inside = [name for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)]
        sets = {name: file[name] for name in inside if isinstance(file[name], h5py.Dataset)}
        sets = {name: entry for name, entry in sets.items() if not entry.external and not entry.is_virtual}
        arrays = {name: entry.shape[::-1] for name, entry in sets.items() if entry.dtype.kind in "fiu"}
        return np.asarray(sets[_chosen(path, arrays, wanted)][()]).T  # HDF5 has the axes of MATLAB the other way round


def _chosen(path: str, arrays: dict[str, Any], wanted: str) -> str:
    """Return the name of the array to read. Raise UserError for none, several, or more values than the file holds."""
    fitting = [name for name, shape in arrays.items() if len(shape) in (2, 3) and min(shape) > 0 and max(shape) > 1]
    present = ", ".join(f"{name} {tuple(arrays[name])}" for name in fitting[:NAMED]) or "none"
    if wanted and wanted not in arrays:
        raise UserError(f"{path}: has no array of numbers {wanted!r}; its arrays are: {present}")
    if not wanted and len(fitting) != 1:
        raise UserError(f'{path}: which array is the signal? Name it as "variable" in the sidecar; present: {present}')
    name = wanted or fitting[0]
    if math.prod(arrays[name]) > MOST_PACKED * os.path.getsize(path):
        raise UserError(f"{path}: {name} claims {math.prod(arrays[name])} values, more than the file holds; restore it")
    return name
