"""Which reader a file needs, from its first bytes where these tell, else from its name."""

import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from dreamjax.signals.recordings.scrub import error_text


@dataclass(frozen=True)
class Format:
    reader: str
    members: tuple[tuple[str, str], ...] = ()  # (file, its reader) in an archive


@dataclass(frozen=True)
class NoRecording:
    reason: str
    companion: bool = False


MAX_MEMBERS = 10_000
BY_SUFFIX = {
    ".edf": "edf", ".bdf": "edf", ".rec": "edf", ".gdf": "gdf", ".vhdr": "brainvision", ".ahdr": "brainvision",
    ".set": "eeglab", ".fif": "fif", ".mff": "egi", ".nxe": "eximia", ".npy": "numpy", ".arff": "arff",
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
    ".lay": "electrode positions", ".png": "image", ".jpg": "image", ".jpeg": "image", ".gif": "image",
    ".event": "annotations", ".sha256": "checksums", ".md5": "checksums",
    ".11d": "companion of a Nihon Kohden .EEG", ".21e": "companion of a Nihon Kohden .EEG",
    ".cmt": "companion of a Nihon Kohden .EEG", ".cn2": "companion of a Nihon Kohden .EEG",
    ".pnt": "companion of a Nihon Kohden .EEG",
}  # fmt: skip
UNSUPPORTED = {
    ".xdf": "XDF is not read; export the EEG stream to EDF or BrainVision",
    ".mat": "MATLAB arrays have no agreed layout; save them as .npy with a sidecar, or as EEGLAB .set",
    ".pth": "a PyTorch file holds no recording",
    ".zarr": "Zarr is not read",
}
DOCUMENTS = re.compile(r"^(.*readme.*|licen[cs]e.*|copying.*|changes.*|changelog.*|notice.*|authors.*)$", re.IGNORECASE)


def format_of(path: Path) -> Format | NoRecording:
    """The format of a file or folder, or why it is not a recording."""
    name, suffix = path.name, path.suffix.lower()
    if path.is_symlink() and not path.exists():
        return NoRecording("a link to a file that is not here; fetch it (git annex get, datalad get)")
    if DOCUMENTS.match(name):
        return NoRecording("documentation", companion=True)
    if re.search(r"-(eve|ave|cov|fwd|inv|epo|trans|ica|proj)\.fif(\.gz)?$", name):
        return NoRecording("a FIF file without a raw recording", companion=True)
    if later_part(path):
        return NoRecording("a later part of a split FIF file, read with its first part", companion=True)
    if suffix == ".eeg" and head(path, 16).startswith(b"EEG-"):
        return Format("nihon")
    if suffix == ".cnt":
        return cnt_format(path)
    if name.lower().endswith(".fif.gz"):
        return Format("fif")
    if re.search(r"\.rd\.\d+(\.gz)?$", name):
        return Format("uci")
    if suffix in (".csv", ".txt"):
        return table_format(head(path, 4096), suffix)
    if suffix == ".zip":
        return archive_format(path)
    if suffix in BY_SUFFIX:
        return Format(BY_SUFFIX[suffix])
    if suffix in COMPANIONS:
        return NoRecording(COMPANIONS[suffix], companion=True)
    if suffix in UNSUPPORTED:
        return NoRecording(UNSUPPORTED[suffix])
    return NoRecording(f"the format of {suffix or 'a file without a suffix'} is not known")


def later_part(path: Path) -> bool:
    """Whether MNE reads this file with another: `x_raw-1.fif` after `x_raw.fif`, `_split-02_` after `_split-01_`."""
    if split := re.search(r"_split-(\d+)_.*\.fif$", path.name):
        return int(split.group(1)) > 1
    part = re.match(r"(.+)-\d{1,3}\.fif$", path.name)
    return part is not None and (path.parent / f"{part.group(1)}.fif").exists()


def cnt_format(path: Path) -> Format | NoRecording:
    """Neuroscan or ANT: one suffix, two formats, and ANT's reader crashes the process on a Neuroscan file."""
    start = head(path, 16)
    if start.startswith(b"Version 3"):
        return Format("cnt")
    if start.startswith((b"RIFF", b"RF64")):
        return Format("ant")
    return NoRecording("neither a Neuroscan nor an ANT .cnt by its first bytes")


def table_format(start: bytes, suffix: str) -> Format | NoRecording:
    """Which headset's app wrote a text table, by its first line."""
    text = start.decode("utf-8-sig", "replace")
    first = text.split("\n", 1)[0].strip().lower()
    if first.startswith("%") and "openbci" in text.lower():
        return Format("openbci")
    if first.startswith("timestamps,"):
        return Format("muse")
    if first.startswith("timestamp,") and "raw_tp9" in first:
        return Format("mind_monitor")
    columns = {column.strip() for column in first.split(",")}
    if "counter" in columns and "af3" in columns:
        return Format("emotiv")
    if not text.strip():
        return NoRecording("the file is empty")
    return NoRecording(f"a {suffix} file that is not a table of a known headset")


def archive_format(path: Path) -> Format | NoRecording:
    """A zip archive of text tables: every table in it is a recording."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = []
            for info in archive.infolist()[:MAX_MEMBERS]:
                if info.filename.lower().endswith((".csv", ".txt")) and not info.is_dir():
                    with archive.open(info) as file:
                        kind = table_format(file.read(4096), Path(info.filename).suffix)
                    if isinstance(kind, Format):
                        members.append((info.filename, kind.reader))
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, zlib.error) as e:
        return NoRecording(f"a zip archive that cannot be opened ({error_text(e)})")
    if not members:
        return NoRecording("a zip archive without a table of a known headset")
    return Format(members[0][1], tuple(members))


def head(path: Path, n: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(n)
    except OSError:
        return b""
