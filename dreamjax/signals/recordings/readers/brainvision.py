"""BrainVision: the text header checked field by field, then MNE; `New Segment` markers become discontinuities."""

import os
import re
from pathlib import Path

from dreamjax.errors import UserError
from dreamjax.signals.recordings.readers.mne_reader import open_with_mne
from dreamjax.signals.recordings.readers.recording import Contents, Source
from dreamjax.signals.recordings.readers.spans import spans_without

MAX_HEADER = 1 << 24
BYTES = {"INT_16": 2, "UINT_16": 2, "INT_32": 4, "IEEE_FLOAT_32": 4}


def open_source(source: Source, strict: bool = False) -> Contents:
    """MNE's reading of a header that was checked, with the segments that MNE leaves out."""
    header = sections(Path(source.path))
    data = check(source.path, header)
    contents = open_with_mne(source.path, "brainvision")
    common = header["common infos"]
    width = int(common["numberofchannels"]) * BYTES.get(header.get("binary infos", {}).get("binaryformat", ""), 0)
    if width and data.stat().st_size % width:
        loose = f"{data.stat().st_size % width} bytes after the last whole sample"
        if strict:
            raise UserError(f"{data}: {loose}; restore the file, or leave out --strict to keep what is there")
        contents.notes.append(f"the signal file was cut short: {loose} ignored")
    cuts = new_segments(Path(source.path), common.get("markerfile", ""), contents.n_samples)
    if cuts:
        contents.notes.append(f"{len(cuts)} discontinuities in the file")
        inner = [(a, b) for a, b in contents.segments or [(0, contents.n_samples)]]
        pieces = spans_without(contents.n_samples, cuts, [])
        contents.segments = [(max(a, c), min(b, d)) for a, b in inner for c, d in pieces if max(a, c) < min(b, d)]
    return contents


def sections(path: Path) -> dict[str, dict[str, str]]:
    """{section: {key: value}}, both in lower case, of a BrainVision text file.

    Raises:
      UserError: not such a file.
    """
    size = path.stat().st_size
    if size == 0:
        raise UserError(f"{path}: the file is empty; remove it or restore it from its source")
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
    """The signal file, after checking that the header's numbers can be and agree with its size.

    Raises:
      UserError: which field, and what is wrong with it.
    """
    common = header.get("common infos", {})
    n_channels = _count(path, common, "numberofchannels", 1, 4096)
    interval = common.get("samplinginterval", "").replace(",", ".")
    if not re.fullmatch(r"\d+(\.\d*)?([eE][+-]?\d{1,2})?", interval) or not 1 <= float(interval) <= 1e7:
        raise UserError(f"{path}: SamplingInterval is not a number of µs; restore the header")
    name = common.get("datafile", "").replace("$b", Path(path).stem)
    if not name or os.path.basename(name) != name or name in (".", ".."):
        raise UserError(f"{path}: DataFile is not the name of a file beside it; restore the header")
    data = Path(path).parent / name
    if not data.is_file():
        raise UserError(f"{path}: the signal file that its DataFile names is not beside it; copy it there")
    if common.get("datatype", "TIMEDOMAIN").upper() != "TIMEDOMAIN":
        raise UserError(f"{path}: DataType is not TIMEDOMAIN; export the signal in the time domain")
    labels = header.get("channel infos", {})
    listed = sum(1 for key in labels if re.fullmatch(r"ch\d+", key))
    if listed != n_channels:
        raise UserError(f"{path}: {n_channels} channels but {listed} in its channel list; restore the header")
    _resolutions(path, labels)
    if common.get("dataformat", "BINARY").upper() == "BINARY":
        kind = header.get("binary infos", {}).get("binaryformat", "")
        if kind not in BYTES:
            raise UserError(f"{path}: BinaryFormat is none that is read; it can be {', '.join(BYTES)}")
        if data.stat().st_size < n_channels * BYTES[kind]:
            raise UserError(f"{data}: holds not one whole sample; restore it from its source")
    return data


def _count(path: str, fields: dict[str, str], key: str, low: int, high: int) -> int:
    text = fields.get(key, "")
    if not re.fullmatch(r"\d{1,9}", text) or not low <= int(text) <= high:
        raise UserError(f"{path}: {key} is not a whole number from {low} to {high}; restore the header")
    return int(text)


def _resolutions(path: str, labels: dict[str, str]) -> None:
    """Every channel line is `name,reference,resolution,unit`, its resolution a number above 0 or empty."""
    for number, value in enumerate(labels.values(), start=1):
        cells = value.split(",")
        text = cells[2].strip() if len(cells) > 2 else ""
        if text and not re.fullmatch(r"\d*\.?\d+([eE][+-]?\d{1,2})?|\d+\.", text):
            raise UserError(f"{path}: the resolution of channel {number} is not a number; restore the header")


def new_segments(path: Path, marker_file: str, n_samples: int) -> set[int]:
    """Samples at which a `New Segment` starts inside the recording; none where the marker file is absent."""
    name = marker_file.replace("$b", path.stem)
    markers = path.parent / os.path.basename(name)
    if not name or not markers.is_file() or markers.stat().st_size > MAX_HEADER:
        return set()
    starts = set()
    for line in markers.read_bytes().decode("utf-8", "replace").splitlines():
        if match := re.match(r"Mk\d+=New Segment,[^,]*,(\d{1,12}),", line):
            starts.add(int(match.group(1)) - 1)
    return {start for start in starts if 0 < start < n_samples}
