"""Formats that MNE reads after checks of what MNE takes on trust: BrainVision, EEGLAB, Neuroscan, Nexstim eximia."""

import math
import os
import re
import struct
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np

from dreamjax.console import counted
from dreamjax.errors import UserError
from dreamjax.signals.recordings.readers.matlab_headers import TooLong, in_hdf5, in_mat5
from dreamjax.signals.recordings.readers.mne_reader import (
    COMPRESSED_FLOOD,
    contents_of_epochs,
    open_with_mne,
    quiet,
    reading,
    require_mne,
)
from dreamjax.signals.recordings.readers.recording import Contents, Source, listed, rescale
from dreamjax.signals.recordings.units import microvolts

MAX_HEADER = 1 << 24
MNE_UNITS = ("", "µV", "uV", "mV", "nV", "V")  # of BrainVision channels, as MNE knows them
BYTES = {"INT_16": 2, "UINT_16": 2, "INT_32": 4, "IEEE_FLOAT_32": 4}  # BrainVision's BinaryFormat
GDF_CODES, GDF_VOLT = 1.9, 4256  # first version with codes of units; that of V, whose low five bits are a prefix
GDF_PREFIXES = {0: "", 3: "k", 16: "d", 17: "c", 18: "m", 19: "u", 20: "n", 21: "p"}
SETUP_BYTES, ELECTRODE_BYTES = 900, 75  # Neuroscan
PROBE_SAMPLES = 4000
MATLAB_5 = b"MATLAB 5.0"  # the first bytes of a .set that is not HDF5
COUNTS = ("nbchan", "pnts", "trials")  # fields of EEGLAB
FDT_BYTES = 4  # a value of EEGLAB's signal files
EXIMIA_BYTES = 64 * 2  # one sample of all channels


def open_eximia(source: Source, strict: bool) -> Contents:
    """Open Nexstim eximia: 64 channels of 16 bits without a header, so only the size can be checked."""
    size = os.path.getsize(source.path)
    if size % EXIMIA_BYTES:
        raise UserError(f"{source.path}: {size} bytes are not a whole number of samples of eximia's 64 channels")
    return open_with_mne(source.path, "eximia")


def open_eeglab(source: Source, strict: bool) -> Contents:
    """Open EEGLAB `.set`: continuous data stay on disk; epoched data, which MNE loads whole, are float32 in memory."""
    with open(source.path, "rb") as file:
        if not file.read(128).startswith((b"MATLAB 5.0", b"MATLAB 7.3", b"\x89HDF")):
            raise UserError(f"{source.path}: not a MATLAB file under the name .set; restore it from its source")
    path = Path(source.path)
    samples = check_set(path)
    try:
        contents = open_with_mne(source.path, "eeglab")
    except UserError as e:
        if "number of trials" not in str(e):
            raise
    else:
        _note_length(contents, samples, path, strict)
        return contents
    with reading(source.path, "its epochs"):
        return contents_of_epochs(require_mne().io.read_epochs_eeglab(source.path), "eeglab")


def _note_length(contents: Contents, samples: int | None, path: Path, strict: bool) -> None:
    """End the contents where the signal file ends; note one of another length than stated, or refuse it if strict."""
    stated = contents.n_samples
    if samples is None or samples == stated:
        return
    if strict:
        raise UserError(
            f"{path}: its header states {stated} samples and its signal file has {samples}; restore it, or leave out "
            "--strict to keep what is there"
        )
    if samples > stated:
        contents.notes.append(f"the signal file has {samples - stated} samples more than the header states: left out")
        return
    contents.notes.append(f"the signal file was cut short: {samples} of {stated} samples")
    contents.n_samples = samples
    contents.segments = [(start, min(stop, samples)) for start, stop in contents.segments if start < samples]


def check_set(path: Path) -> int | None:
    """Return the number of samples in the signal file of a `.set`; None where the signal is in the `.set`.

    MNE makes lists of the promised lengths first. Only headers are read. Raise UserError for a signal in another
    folder, or counts that the files cannot hold.
    """
    size, wanted = path.stat().st_size, (*COUNTS, "data")
    with open(path, "rb") as file:
        old = file.read(len(MATLAB_5)) == MATLAB_5
    with reading(str(path), "it as eeglab"):
        try:
            fields = in_mat5(path, "EEG", wanted) if old else in_hdf5(path, "EEG", wanted, COMPRESSED_FLOOD * size)
        except TooLong as e:
            raise UserError(f"{path}: its headers promise more than its {size} bytes hold; restore it") from e
    data = fields.get("data")
    name = data.value if data and isinstance(data.value, str) else ""
    if os.path.basename(name) != name and (path.parent / name).exists():
        raise UserError(f"{path}: names a signal file in another folder; copy that file next to it")
    counts = [n for n in (fields[key].value for key in COUNTS if key in fields) if isinstance(n, float)]
    signals = {path, path.parent / (name or path.name), path.with_suffix(".fdt")}
    held = sum(p.stat().st_size for p in signals if p.is_file())
    stated = " x ".join(f"{n:.15g}" for n in counts)
    if not 1 <= math.prod(counts) <= COMPRESSED_FLOOD * held or min(counts, default=1) < 1:  # NaN is neither
        raise UserError(f"{path}: its header promises {stated} values, which its {held} bytes do not hold; restore it")
    if data and data.size > 1 and not name and len(counts) == len(COUNTS) and data.size != math.prod(counts):
        shape = " x ".join(map(str, data.shape))
        raise UserError(f"{path}: its header promises {stated} values, but its signal has {shape}; restore it")
    signal = next((p for p in (path.parent / name, path.with_suffix(".fdt")) if name and p.is_file()), None)
    if signal is None or len(counts) != len(COUNTS):
        return None
    channels, samples, trials = counts
    there = int(signal.stat().st_size // (FDT_BYTES * channels))
    if trials > 1 and there < samples * trials:
        raise UserError(
            f"{path}: its header states {trials:.15g} trials of {samples:.15g} samples, but its signal file has "
            f"{there} samples in all; restore it from its source"
        )
    return there


def open_fif(source: Source, strict: bool) -> Contents:
    """Open a FIF file by what it holds: a raw recording, which stays on disk, or Epochs, float32 in memory."""
    try:
        return open_with_mne(source.path, "fif")
    except UserError as e:
        if "No raw data" not in str(e):
            raise
    try:
        with reading(source.path, "its epochs"):
            epochs = require_mne().read_epochs(source.path, preload=False)
            contents = contents_of_epochs(epochs, "fif epochs")
    except UserError as e:
        if _is_averages(source.path):
            raise UserError(f"{source.path}: a FIF file with averages (evoked responses), not a recording") from e
        if "Could not find epochs" not in str(e):
            raise
        raise UserError(
            f"{source.path}: a FIF file with neither a raw recording nor Epochs; save the recording with raw.save"
        ) from e
    if epochs.metadata is not None:
        contents.notes.append(f"the table of metadata of the trials ({len(epochs.metadata.columns)} columns) left out")
    return contents


def _is_averages(path: str) -> bool:
    try:
        with quiet():
            return bool(require_mne().read_evokeds(path, proj=False))
    except Exception:  # whatever else it is
        return False


# ---------------------------------------------------------------------------------------------------------------- GDF
def open_gdf(source: Source, strict: bool) -> Contents:
    """Open GDF; units of voltage that MNE does not know and takes for volts are corrected, and absent ones are noted.

    Its header may not state more channels than there are bytes: MNE makes lists of that length.
    """
    with open(source.path, "rb") as file:
        fixed = file.read(256)
    if len(fixed) == 256 and fixed.startswith(b"GDF"):
        channels = int.from_bytes(fixed[252 : 256 if fixed.startswith(b"GDF 1") else 254], "little")
        if 256 * (channels + 1) > (size := os.path.getsize(source.path)):
            raise UserError(f"{source.path}: its header promises {channels} channels in {size} bytes; restore it")
    contents = open_with_mne(source.path, "gdf")
    units, by_mne = gdf_units(source.path)
    if len(units) != len(contents.labels):
        return contents
    if other := [label for label, unit in zip(contents.labels, units, strict=True) if microvolts(unit) is None]:
        contents.notes.append(f"{counted(len(other), 'channel')} without a unit of voltage, read as V: {listed(other)}")
    rescale(contents, [1.0 if unit in by_mne else (microvolts(unit) or 1e6) / 1e6 for unit in units])
    return contents


def gdf_units(path: str) -> tuple[list[str], tuple[str, ...]]:
    """Return the units of the channels, and those that MNE knows: text until version 1.8, then codes (4256 is V)."""
    with open(path, "rb") as file:
        fixed = file.read(256)
        old = float(fixed[4:8].decode("ascii", "replace").strip(" \x00") or 0) < GDF_CODES
        count = struct.unpack_from("<I" if old else "<H", fixed, 252)[0]
        file.seek(256 + 96 * count if old else 256 + 102 * count)
        cells = file.read((8 if old else 2) * count)
    if old:
        texts = (cells[i : i + 8].split(b"\x00")[0].decode("latin-1").strip() for i in range(0, len(cells), 8))
        return ["uV" if text.startswith("uV") else text for text in texts], ("uV",)
    codes = np.frombuffer(cells[: len(cells) // 2 * 2], "<u2").tolist()
    units = [f"{GDF_PREFIXES.get(code & 31, '?')}V" if code & 0xFFE0 == GDF_VOLT else "" for code in codes]
    return units, ("uV", "mV")


# -------------------------------------------------------------------------------------------------------- BrainVision
def open_brainvision(source: Source, strict: bool) -> Contents:
    """Open BrainVision: check the text header by field, then use MNE; `New Segment` markers are discontinuities."""
    header = sections(Path(source.path))
    data = check(source.path, header)
    contents = open_with_mne(source.path, "brainvision")
    common = header["common infos"]
    width = int(common["numberofchannels"]) * BYTES.get(header.get("binary infos", {}).get("binaryformat", ""), 0)
    if width and (loose := data.stat().st_size % width):
        left = f"{loose} bytes after the last whole sample"
        if strict:
            raise UserError(f"{data}: {left}; restore the file, or leave out --strict to keep what is there")
        contents.notes.append(f"the signal file was cut short: {left} ignored")
    _understand_units(contents, header.get("channel infos", {}))
    cuts = new_segments(Path(source.path), common.get("markerfile", ""), contents.n_samples)
    if cuts := cuts - {start for start, _ in contents.segments}:
        contents.notes.append(f"{len(cuts)} discontinuities in the file")
        edges = [sorted({a, b, *(cut for cut in cuts if a < cut < b)}) for a, b in contents.segments]
        contents.segments = [span for inner in edges for span in pairwise(inner)]
    return contents


def _understand_units(contents: Contents, infos: dict[str, str]) -> None:
    """Correct channels in a unit of voltage that MNE takes for another one (`μV` with a Greek mu, `UV`); note others.

    MNE reads such a channel in volts and types it misc.
    """
    units = [[*value.split(","), "", "", ""][3].strip() for value in infos.values()]
    contents.units = units if len(units) == len(contents.labels) else ()
    factors = [1.0 if unit in MNE_UNITS or "\ufffd" in unit else (microvolts(unit) or 0.0) / 1e6 for unit in units]
    if unknown := sorted({unit for unit, factor in zip(units, factors, strict=True) if not factor}):
        contents.notes.append(f"channels in {', '.join(map(repr, unknown))} hold no voltage")
    if len(factors) == len(contents.labels):
        contents.types = ["eeg" if f not in (0, 1) else kind for f, kind in zip(factors, contents.types, strict=True)]
        rescale(contents, [factor or 1.0 for factor in factors])


def sections(path: Path) -> dict[str, dict[str, str]]:
    """Return {section: {key: value}} of a BrainVision text file, in lower case. Raise UserError for any other file."""
    size = path.stat().st_size
    if size > MAX_HEADER:
        raise UserError(f"{path}: {size} bytes, too long for a BrainVision header; restore it from its source")
    text = path.read_bytes().decode("utf-8-sig", "replace")
    if not re.match(r"\s*brain ?vision", text, re.IGNORECASE):
        raise UserError(f"{path}: does not begin like a BrainVision file; restore it from its source")
    header: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in text.splitlines():
        if match := re.match(r"\s*\[(.+?)\]\s*$", line):
            if match.group(1).lower() == "comment":
                break
            current = header.setdefault(match.group(1).lower(), {})
        elif "=" in line and not line.lstrip().startswith(";"):
            key, value = line.split("=", 1)
            current[key.strip().lower()] = value.strip()
    return header


def check(path: str, header: dict[str, dict[str, str]]) -> Path:
    """Return the signal file. Raise UserError where the header's numbers are impossible or contradict its size."""
    common = header.get("common infos", {})
    count = common.get("numberofchannels", "")
    if not re.fullmatch(r"\d{1,9}", count) or not 1 <= int(count) <= 4096:
        raise UserError(f"{path}: numberofchannels is not a whole number from 1 to 4096; restore the header")
    interval = common.get("samplinginterval", "").replace(",", ".")
    if not re.fullmatch(r"\d+(\.\d*)?([eE][+-]?\d{1,2})?", interval) or not 1 <= float(interval) <= 1e7:
        raise UserError(f"{path}: SamplingInterval is not a number of µs; restore the header")
    name = common.get("datafile", "").replace("$b", Path(path).stem)
    if not name or os.path.basename(name) != name or name in (".", ".."):
        raise UserError(f"{path}: DataFile does not name a file in the same folder; restore the header")
    data = Path(path).parent / name
    if not data.is_file():
        raise UserError(f"{path}: the signal file that its DataFile names is not in the same folder; copy it there")
    if os.path.basename(markers := common.get("markerfile", "")) != markers:
        raise UserError(f"{path}: MarkerFile does not name a file in the same folder; restore the header")
    marker_file = Path(path).parent / markers.replace("$b", Path(path).stem)
    if markers and marker_file.exists() and not marker_file.is_file():
        raise UserError(f"{path}: its MarkerFile is not a regular file; restore it")
    if common.get("datatype", "TIMEDOMAIN").upper() != "TIMEDOMAIN":
        raise UserError(f"{path}: DataType is not TIMEDOMAIN; export the signal in the time domain")
    labels = header.get("channel infos", {})
    listed = sum(1 for key in labels if re.fullmatch(r"ch\d+", key))
    if listed != int(count):
        raise UserError(f"{path}: {int(count)} channels but {listed} in its channel list; restore the header")
    names = Counter(value.split(",")[0] for value in labels.values())
    if doubled := [name for name, times in names.items() if times > 1]:
        raise UserError(
            f"{path}: several channels are named {', '.join(doubled)}; give each another name in the header"
        )
    for number, value in enumerate(labels.values(), start=1):  # name,reference,resolution,unit
        resolution = [*value.split(","), "", ""][2].strip()
        if resolution and not re.fullmatch(r"\d*\.?\d+([eE][+-]?\d{1,2})?|\d+\.", resolution):
            raise UserError(f"{path}: the resolution of channel {number} is not a number; restore the header")
    if common.get("dataformat", "BINARY").upper() == "BINARY":
        kind = header.get("binary infos", {}).get("binaryformat", "")
        if kind not in BYTES:
            raise UserError(f"{path}: unsupported BinaryFormat; it can be {', '.join(BYTES)}")
        if data.stat().st_size < int(count) * BYTES[kind]:
            raise UserError(f"{data}: holds not one whole sample; restore it from its source")
    return data


def new_segments(path: Path, marker_file: str, n_samples: int) -> set[int]:
    """Return the samples at which a `New Segment` starts inside the recording; none without a marker file."""
    name = marker_file.replace("$b", path.stem)
    markers = path.parent / os.path.basename(name)
    if not name or not markers.is_file() or markers.stat().st_size > MAX_HEADER:
        return set()
    lines = markers.read_bytes().decode("utf-8", "replace").splitlines()
    matches = (re.match(r"Mk\d+=New Segment,[^,]*,(\d{1,12}),", line) for line in lines)
    return {start for match in matches if match and 0 < (start := int(match.group(1)) - 1) < n_samples}


# ---------------------------------------------------------------------------------------------------------- Neuroscan
def open_cnt(source: Source, strict: bool) -> Contents:
    """Open Neuroscan `.cnt`: 16 or 32 bits a sample, which the format does not state; inferred from the samples.

    Layout: SETUP of 900 bytes, 75 bytes an electrode, samples multiplexed, then an event table whose position stands at
    byte 886. A file cut short by its publisher ends before that table.
    """
    n_channels, data_bytes = checked_header(source.path)
    bits = sample_bits(source.path, n_channels, data_bytes)
    contents = open_with_mne(source.path, "cnt", data_format=f"int{bits}")
    held = data_bytes // (n_channels * bits // 8)
    if held < contents.n_samples:
        contents.notes.append(f"the header promises {contents.n_samples} samples but the file holds {held}")
        contents.n_samples = held
        contents.segments = [(a, min(b, held)) for a, b in contents.segments if a < held]
    contents.notes.append(f"{bits}-bit samples, judged from the data")
    contents.positions = None  # they are places on a drawing of the head, not on the head
    return contents


def checked_header(path: str) -> tuple[int, int]:
    """Return (channels, bytes of samples). Raise UserError for a file shorter than its header states."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(SETUP_BYTES)
    if len(head) < SETUP_BYTES:
        raise UserError(f"{path}: only {size} bytes, too short for a Neuroscan header; restore it")
    (n_channels,), (rate,) = struct.unpack_from("<H", head, 370), struct.unpack_from("<H", head, 376)
    (table,) = struct.unpack_from("<I", head, 886)
    start = SETUP_BYTES + ELECTRODE_BYTES * n_channels
    if not 1 <= n_channels <= 1024 or rate == 0 or size <= start:
        raise UserError(f"{path}: its header gives {n_channels} channels at {rate} Hz in {size} bytes; restore it")
    return n_channels, (table if start < table <= size else size) - start


def sample_bits(path: str, n_channels: int, data_bytes: int) -> int:
    """Return 16 or 32: the reading in which channels change less between samples, relative to their spread."""
    count = min(PROBE_SAMPLES * n_channels * 4, data_bytes // (4 * n_channels) * 4 * n_channels)
    with open(path, "rb") as file:
        file.seek(SETUP_BYTES + ELECTRODE_BYTES * n_channels)
        raw = file.read(count)
    if len(raw) < 8 * n_channels:
        return 16
    roughness = {}
    for bits, kind in ((16, "<i2"), (32, "<i4")):
        values = np.frombuffer(raw, kind)
        values = values[: len(values) // n_channels * n_channels].reshape(-1, n_channels).astype(np.float64)
        spread, steps = values.std(axis=0), np.diff(values, axis=0).std(axis=0)
        moving = spread > 0
        roughness[bits] = float(np.median(steps[moving] / spread[moving])) if moving.any() else np.inf
    return 32 if roughness[32] < roughness[16] else 16
