"""Which reader a file needs, from its first bytes where these tell, else from its name."""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Format:
    reader: str


@dataclass(frozen=True)
class NoRecording:
    reason: str
    companion: bool = False


BY_SUFFIX = {
    ".edf": "edf", ".bdf": "edf", ".rec": "edf", ".gdf": "gdf", ".vhdr": "brainvision", ".ahdr": "brainvision",
    ".set": "eeglab", ".fif": "fif", ".mff": "egi", ".nxe": "eximia",
}  # fmt: skip
COMPANIONS = {
    ".eeg": "signal of a BrainVision header", ".avg": "signal of a BrainVision header",
    ".seg": "signal of a BrainVision header", ".dat": "signal of a BrainVision header",
    ".vmrk": "markers of a BrainVision header", ".amrk": "markers of a BrainVision header",
    ".fdt": "signal of an EEGLAB .set", ".tsv": "table", ".json": "sidecar", ".xml": "sidecar", ".md": "documentation",
    ".rst": "documentation", ".html": "documentation", ".pdf": "documentation", ".log": "log", ".yaml": "sidecar",
    ".yml": "sidecar", ".py": "code", ".m": "code", ".locs": "electrode positions", ".loc": "electrode positions",
    ".ced": "electrode positions", ".elc": "electrode positions", ".elp": "electrode positions",
    ".sfp": "electrode positions", ".hpts": "electrode positions", ".bvef": "electrode positions",
    ".lay": "electrode positions", ".png": "picture", ".jpg": "picture", ".jpeg": "picture", ".gif": "picture",
    ".event": "annotations", ".sha256": "checksums", ".md5": "checksums",
    ".11d": "companion of a Nihon Kohden .EEG", ".21e": "companion of a Nihon Kohden .EEG",
    ".cmt": "companion of a Nihon Kohden .EEG", ".cn2": "companion of a Nihon Kohden .EEG",
    ".pnt": "companion of a Nihon Kohden .EEG",
}  # fmt: skip
DOCUMENTS = re.compile(r"^(.*readme.*|licen[cs]e.*|copying.*|changes.*|changelog.*|notice.*|authors.*)$", re.IGNORECASE)


def format_of(path: Path) -> Format | NoRecording:
    """The format of a file or folder, or why it is no recording."""
    name, suffix = path.name, path.suffix.lower()
    if DOCUMENTS.match(name):
        return NoRecording("documentation", companion=True)
    if re.search(r"-(eve|ave|cov|fwd|inv|epo|trans|ica|proj)\.fif(\.gz)?$", name):
        return NoRecording("a FIF file without a raw recording", companion=True)
    if suffix == ".eeg" and head(path, 16).startswith(b"EEG-"):
        return Format("nihon")
    if suffix == ".cnt":
        return cnt_format(path)
    if name.lower().endswith(".fif.gz"):
        return Format("fif")
    if suffix in BY_SUFFIX:
        return Format(BY_SUFFIX[suffix])
    if suffix in COMPANIONS:
        return NoRecording(COMPANIONS[suffix], companion=True)
    return NoRecording(f"the format of {suffix or 'a file without a suffix'} is not known")


def cnt_format(path: Path) -> Format | NoRecording:
    """Neuroscan or ANT: one suffix, two formats, and ANT's reader crashes the process on a Neuroscan file."""
    start = head(path, 16)
    if start.startswith(b"Version 3"):
        return Format("cnt")
    if start.startswith((b"RIFF", b"RF64")):
        return Format("ant")
    return NoRecording("neither a Neuroscan nor an ANT .cnt by its first bytes")


def head(path: Path, n: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(n)
    except OSError:
        return b""
