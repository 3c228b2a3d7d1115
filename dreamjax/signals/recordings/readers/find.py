"""Find the recordings in what a user names (files, folders, BIDS roots), and the reasons for what is left out.

The reader of a file is chosen by its first bytes where these identify the format, else by its name.
"""

import gzip
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.signals.recordings.corpora.recording_corpora import corpus_of
from dreamjax.signals.recordings.identity import UNKNOWN
from dreamjax.signals.recordings.readers import companions, delimited, subjects
from dreamjax.signals.recordings.readers.bids import bids_root, licence_of
from dreamjax.signals.recordings.readers.modalities import BTI, MARKERS, OF_BTI, READ, other_modality
from dreamjax.signals.recordings.readers.numpy_array import sidecar_of
from dreamjax.signals.recordings.readers.recording import Source
from dreamjax.signals.recordings.readers.uci import trials_of
from dreamjax.signals.recordings.scrub import error_text

Paths = Sequence[str | os.PathLike[str]]

SESSION = re.compile(r"(?:^|[^A-Za-z])(?:session|sess|ses)[-_ ]?([A-Za-z0-9]+)", re.IGNORECASE)
NOT_RECORDINGS = ("derivatives", "sourcedata", "code", "stimuli")  # folders of a BIDS root
MAX_MEMBERS = 10_000  # of an archive
NOT_REGULAR = "neither a regular file nor a folder, but a pipe, socket or device"
HEAD_BYTES = 1 << 15  # of a table, with the names of a few hundred channels
BY_SUFFIX = {
    ".edf": "edf", ".bdf": "edf", ".rec": "edf", ".gdf": "gdf", ".vhdr": "brainvision", ".ahdr": "brainvision",
    ".set": "eeglab", ".fif": "fif", ".mff": "egi", ".nxe": "eximia", ".npy": "numpy", ".arff": "arff",
    ".xdf": "xdf", ".xdfz": "xdf", ".ds": "ctf", ".sqd": "kit", ".con": "kit",
}  # fmt: skip
COMPANIONS = {
    suffix: what
    for what, suffixes in {
        "signal of a BrainVision header": ".eeg .avg .seg .dat",
        "markers of a BrainVision header": ".vmrk .amrk",
        "signal of an EEGLAB .set": ".fdt",
        "companion of a Nihon Kohden .EEG": ".11d .21e .cmt .cn2 .pnt",
        "electrode positions": ".locs .loc .eloc .ced .elc .elp .sfp .hpts .bvef .lay",
        "documentation": ".md .rst .html .pdf",
        "sidecar": ".json .xml .yaml .yml",
        "table": ".tsv",
        "log": ".log",
        "code": ".py .m",
        "image": ".png .jpg .jpeg .gif",
        "annotations": ".event",
        "part of a CTF recording, whose .ds folder is read": ".meg4 .res4 .hc",
        "head shape of a KIT recording": ".hsp",
        "checksums": ".sha256 .md5",
    }.items()
    for suffix in suffixes.split()
}
UNSUPPORTED = {
    ".mat": "a MATLAB array without a sidecar; write a .json of the same name with sfreq, ch_names and axes next to it",
    ".pth": "a PyTorch file holds no recording",
    ".zarr": "Zarr is not read",
}
FOLDERS = (".mff", ".ds", ".mefd")  # a folder that is one recording
SHOWN_ALIKE = 3  # files left out for one reason, up to which all are listed; of more, one is, and the rest are counted
DOCUMENTS = re.compile(r"^(.*readme.*|licen[cs]e.*|copying.*|changes.*|changelog.*|notice.*|authors.*)$", re.IGNORECASE)


@dataclass(frozen=True)
class Ignored:
    """A file that is not a separate recording. `companion`: it belongs to one or is documentation: not an error."""

    path: str
    reason: str
    companion: bool = False


def find_sources(
    paths: Paths, *, dataset: str | None = None, licence: str | None = None, subject_pattern: str | None = None
) -> list[Source]:
    """Return every recording under `paths`, sorted by name; what is left out is logged.

    Args:
      paths: files, folders (searched through) or BIDS roots.
      dataset, licence: override those of the corpus table, BIDS or the folder's name.
      subject_pattern: a regular expression over the path as given, whose first group is the subject's id.

    Raises:
      UserError: a path does not exist, or nothing under `paths` can be read.
    """
    companions.forget()  # files may have been filled in since
    sources, ignored = survey(paths, dataset=dataset, licence=licence, subject_pattern=subject_pattern)
    alike = Counter(item.reason for item in ignored if not item.companion)
    for item in ignored:
        count = alike.get(item.reason, 0)
        if not item.companion and count:
            log.info(
                "%s: left out, %s%s", item.path, item.reason, f"; so are {count - 1} others" * (count > SHOWN_ALIKE)
            )
            alike[item.reason] = count if count <= SHOWN_ALIKE else 0
    if accompanying := Counter(item.reason for item in ignored if item.companion):
        kinds = ", ".join(f"{count} of kind: {reason}" for reason, count in accompanying.most_common(3))
        log.info("%d companion and documentation files are not separate recordings (%s)", accompanying.total(), kinds)
    if not sources:
        why = f" ({ignored[0].reason})" if len({item.reason for item in ignored}) == 1 else ""
        raise UserError(
            f"no recording found in {', '.join(map(str, paths))}{why}; see docs/reference/recordings.md for the formats"
        )
    return sources


def survey(paths: Paths, headers: bool = True, **options: str | None) -> tuple[list[Source], list[Ignored]]:
    """Return (recordings, everything else with the reason); `options` are those of `find_sources`.

    `headers`: whether the code in a header may name the subject.
    """
    matches: list[tuple[Source, Path]] = []
    ignored: list[Ignored] = []
    seen: set[str] = set()
    for root in map(Path, paths):
        if not root.exists():
            raise UserError(f"{root}: no such file or folder; check the path")
        if not (root.is_file() or root.is_dir()):
            raise UserError(f"{root}: {NOT_REGULAR}; name a file or a folder")
        below = candidates(root)
        real_names = {os.path.realpath(path) for path in below if not path.is_symlink()}
        for path in below:
            try:
                readers = readers_of(path)
            except (OSError, ValueError) as e:
                readers = Ignored(str(path), f"cannot be accessed ({error_text(e)})")
            if not isinstance(readers, Ignored) and "uci" in readers.values():
                path = trials_of(path)[0]  # it stands for all trials of a subject; they are one recording
            real = os.path.realpath(path)
            if real in seen or (path.is_symlink() and real in real_names):
                if path.is_symlink() and not isinstance(readers, Ignored):
                    ignored.append(Ignored(str(path), "a link to a file that is read under another name"))
                continue
            seen.add(real)
            if isinstance(readers, Ignored):
                ignored.append(readers)
            else:
                base = root if root.is_dir() and root != path else path.parent
                matches += [(source, root) for source in describe(path, readers, base, **options)]
    nameless = [i for i, (source, _) in enumerate(matches) if not source.subject_from]
    named = dict(zip(nameless, subjects.compared([matches[i] for i in nameless], headers), strict=True))
    sources = [source for source, _ in matches]
    for i, (subject, named_by) in named.items():
        sources[i] = replace(sources[i], subject=subject, subject_from=named_by)
    return distinct(sources), ignored


def source_of(path: str | os.PathLike[str]) -> Source:
    """Return the source for one path, its ids taken from the path alone."""
    sources, ignored = survey([path], headers=False)
    if not sources:
        reason = ignored[0].reason if ignored else "it holds no recording"
        raise UserError(f"{path}: not a recording ({reason}); see docs/reference/recordings.md for the formats")
    return sources[0]


def candidates(root: Path) -> list[Path]:
    """Return the files below `root`, sorted by name; a folder that is one recording (.mff, .ds) counts as one.

    A real folder is visited once, under its own name where it has one below `root`: links to folders come last.
    """
    files: list[Path] = []
    folders, links, visited = [root], list[Path](), set[str]()
    above = {os.path.realpath(root), *map(str, Path(os.path.realpath(root)).parents)}
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        if folder.is_file() or folder.suffix.lower() in FOLDERS:
            files.append(folder)
            continue
        if (real := os.path.realpath(folder)) in visited:
            log.info("%s: left out, a link to a folder that is read under another name", folder)
            continue
        visited.add(real)
        try:
            entries = sorted((p, p.is_dir()) for p in folder.iterdir() if not p.name.startswith("."))
        except OSError as e:  # no permission, or a path longer than the system takes
            log.warning("%s: left out with everything in it, as it cannot be listed (%s)", folder, e.strerror)
            continue
        for entry, is_folder in entries:
            if not is_folder:
                files += [entry] if entry.is_file() or entry.is_symlink() else []
            elif entry.name in NOT_RECORDINGS and (folder / "dataset_description.json").exists():
                continue
            elif not entry.is_symlink():
                folders.append(entry)
            elif os.path.realpath(entry) not in above:
                links.append(entry)
    return sorted(files, key=lambda path: path.parts)


def describe(
    path: Path,
    readers: Mapping[str, str],
    base: Path,
    dataset: str | None = None,
    licence: str | None = None,
    subject_pattern: str | None = None,
) -> list[Source]:
    """Return the source (of an archive: the sources) at `path`, with its dataset, subject, session and licence.

    Each comes from the first source that has it: the caller, the corpus table, BIDS, the names of folders and file.
    Where none has the subject, it is "", or unknown if the corpus is known: its folders are not persons.
    """
    inside = path.relative_to(base).as_posix()
    folder = inside.split("/")[0] if "/" in inside else base.resolve().name
    bids = bids_root(path)
    sources = []
    for member, reader in readers.items():
        whole = "/".join(filter(None, (path.absolute().as_posix(), member)))
        corpus = corpus_of(whole)
        known = re.search(corpus.subject, whole) if corpus and corpus.subject else None
        ways = {
            "pattern": subjects.by_pattern(path, subject_pattern) if subject_pattern else "",
            "corpus": known.group(1) if known else "",
            "participants.tsv": subjects.participant(path),
            "path": subjects.in_path(path, base, member),
        }  # what names the subject, the first that does
        named_by, subject = next(((by, name) for by, name in ways.items() if name), ("", ""))
        session = (corpus and corpus.session and re.search(corpus.session, whole)) or SESSION.search(inside)
        sources.append(
            Source(
                path=str(path),
                reader=reader,
                dataset=dataset or (corpus.name if corpus else bids.name if bids else folder),
                subject=subject or (UNKNOWN if corpus else ""),
                subject_from=named_by,
                population=corpus.population if corpus and not dataset else "",
                session=session.group(1) if session else "",
                licence=licence or (corpus.licence if corpus else licence_of(bids) if bids else "unknown"),
                member=member,
            )
        )
    return sources


def distinct(sources: Sequence[Source]) -> list[Source]:
    """Return the sources, with folders in `place` where recordings of a subject would have the same name."""
    named: dict[tuple[str, ...], list[int]] = {}
    for i, source in enumerate(sources):
        key = (source.subject, source.session, Path(source.path).name, source.member)
        named.setdefault(key, []).append(i)
    out = list(sources)
    for members in named.values():
        folders = [Path(os.path.abspath(sources[i].path)).parent.parts for i in members] if len(members) > 1 else []
        depth = next((n for n in range(1, 64) if len({f[-n:] for f in folders}) == len(folders)), 64)
        for i, folder in zip(members, folders, strict=False):
            out[i] = replace(sources[i], place="/".join(folder[-depth:]))
    return out


# ------------------------------------------------------------------------------------------------------------- formats
def readers_of(path: Path) -> dict[str, str] | Ignored:
    """Return {"": reader} of a file or folder, {member: reader} of an archive, or why it is not a recording."""
    name, suffix = path.name, path.suffix.lower()
    reader = BY_SUFFIX.get(suffix, "")
    if path.is_symlink() and not path.exists():
        return Ignored(str(path), "a link to a file that is not here; fetch it (git annex get, datalad get)")
    if not (path.is_file() or path.is_dir()):  # opening one may wait for ever
        return Ignored(str(path), NOT_REGULAR)
    if DOCUMENTS.match(name):
        return Ignored(str(path), "documentation", companion=True)
    if kind := re.search(r"[-_](eve|ave|cov|fwd|inv|trans|ica|proj|src|bem|sol)\.fif(\.gz)?$", name):
        what = "averages (evoked responses), not a recording" if kind.group(1) == "ave" else "no recording"
        return Ignored(str(path), f"a FIF file with {what}", companion=True)
    if MARKERS.fullmatch(name):
        return Ignored(str(path), "head position markers of a KIT recording", companion=True)
    if name in OF_BTI and any(BTI.fullmatch(near.name) for near in path.parent.iterdir()):
        return Ignored(str(path), "companion of a BTi (4D Neuroimaging) recording", companion=True)
    if later_part(path):
        return Ignored(str(path), "a later part of a split FIF file, read with its first part", companion=True)
    if suffix == ".eeg" and head(path, 16).startswith(b"EEG-"):
        reader = "nihon"
    elif suffix == ".cnt":  # one suffix, two formats, and ANT's reader crashes the process on a Neuroscan file
        start = head(path, 16)
        reader = "cnt" if start.startswith(b"Version 3") else "ant" if start.startswith((b"RIFF", b"RF64")) else ""
        if not reader:
            return Ignored(str(path), "neither a Neuroscan nor an ANT .cnt by its first bytes")
    elif name.lower().endswith(".fif.gz"):
        reader = "fif"
    elif re.search(r"\.rd\.\d+(\.gz)?$", name):
        reader = "uci"
    elif re.search(r"\.(csv|tsv|txt)(\.gz)?$", name.lower()):
        start = head(path, HEAD_BYTES)
        reader = table_reader(start, sidecar_of(path).is_file() and ".tsv" not in name.lower())
        if not reader and not name.lower().endswith(".tsv"):
            unknown = f"a {suffix} table whose first line does not name EEG channels, without a sidecar"
            return Ignored(str(path), unknown if start.decode("utf-8-sig", "replace").strip() else "the file is empty")
    elif suffix == ".zip":
        return archive_readers(path)
    elif name.lower().endswith(".xdf.gz"):
        reader = "xdf"
    elif suffix == ".mat" and sidecar_of(path).is_file():
        reader = "matlab"
    elif BTI.fullmatch(name):
        if not (path.parent / "config").is_file():
            return Ignored(str(path), "an MEG recording (BTi, 4D Neuroimaging) without its config next to it")
        reader = "bti"
    elif what := other_modality(path):
        return Ignored(str(path), f"{what}; {READ}")
    if reader:
        return {"": reader}
    if suffix in COMPANIONS:
        return Ignored(str(path), COMPANIONS[suffix], companion=True)
    unknown = f"the format of {suffix or 'a file without a suffix'} is not known"
    return Ignored(str(path), UNSUPPORTED.get(suffix, unknown))


def later_part(path: Path) -> bool:
    """Return whether MNE reads this file with another: `x_raw-1.fif` with `x_raw.fif`, `_split-02_` with `-01_`."""
    if split := re.search(r"_split-(\d+)_.*\.fif$", path.name):
        return int(split.group(1)) > 1
    part = re.match(r"(.+)-\d{1,3}\.fif$", path.name)
    return part is not None and (path.parent / f"{part.group(1)}.fif").exists()


def table_reader(start: bytes, has_sidecar: bool = False) -> str:
    """Return which headset's app wrote a text table, by its first line; "csv" of another signal; "" for no signal."""
    text = start.decode("utf-8-sig", "replace")
    first = text.split("\n", 1)[0].strip().lower()
    if first.startswith("%") and "openbci" in text.lower():
        return "openbci"
    if first.startswith("timestamps,"):
        return "muse"
    if first.startswith("timestamp,") and "raw_tp9" in first:
        return "mind_monitor"
    if {"counter", "af3"} <= {column.strip() for column in first.split(",")}:
        return "emotiv"
    return "csv" if delimited.looks_like_signal(text, has_sidecar) else ""


def archive_readers(path: Path) -> dict[str, str] | Ignored:
    """Return the readers of a zip archive of text tables: every table in it is a recording."""
    readers = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist()[:MAX_MEMBERS]:
                known = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others may claim memory
                if known and info.filename.lower().endswith((".csv", ".txt")) and not info.is_dir():
                    with archive.open(info) as file:
                        if reader := table_reader(file.read(HEAD_BYTES)):
                            readers[info.filename] = reader
    except Exception as e:  # a damaged archive can surprise anywhere, as by names that are not in its encoding
        return Ignored(str(path), f"a zip archive that cannot be opened ({error_text(e)})")
    return readers or Ignored(str(path), "a zip archive without a table of a known headset")


def head(path: Path, n: int) -> bytes:
    """Return the first bytes of a file, of a gzipped one after unpacking; b"" where it cannot be read."""
    try:
        if path.stat().st_size == 0:  # as files of /proc are, whose reading may wait for ever
            return b""
        with gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb") as file:
            return file.read(n)
    except (OSError, EOFError, zlib.error):
        return b""
