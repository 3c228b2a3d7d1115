"""Find the recordings in what a user names (files, folders, BIDS roots), and the reasons for what is left out.

The reader of a file is chosen by its first bytes where these identify the format, else by its name.

If the path does not contain a subject's id, the subject is inferred. Taking one person for two could put them into
both train and test; taking two persons for one only wastes data. So where several sibling folders hold recordings, each
folder is a person, however many files it has. Folders that are named after conditions, sessions, groups or formats are
not persons; without other folders, the file's own name counts.
"""

import gzip
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.signals.recordings.corpora.recording_corpora import corpus_of
from dreamjax.signals.recordings.readers import delimited
from dreamjax.signals.recordings.readers.bids import bids_root, licence_of
from dreamjax.signals.recordings.readers.modalities import other_modality
from dreamjax.signals.recordings.readers.numpy_array import sidecar_of
from dreamjax.signals.recordings.readers.recording import Source
from dreamjax.signals.recordings.readers.uci import trials_of
from dreamjax.signals.recordings.scrub import error_text

Paths = Sequence[str | os.PathLike[str]]

SUBJECT = re.compile(r"(?:^|[^A-Za-z])(?:subject|subj|sub|participant|patient)[-_ ]?([A-Za-z0-9]+)", re.IGNORECASE)
PLURAL = re.compile(r"(?<![A-Za-z])(?:subject|subj|sub|participant|patient)s(?![A-Za-z0-9])", re.IGNORECASE)  # a folder
NOT_A_PERSON = re.compile(
    r"(?:subjects?|subjs?|subs?|participants?|patients?|controls?|healthy|group|grp|site|lab|cohort|batch|part|"
    r"session|sess|ses|day|week|visit|run|block|trial|condition|cond|task|rest|resting|baseline|eyes|open|closed|pre|"
    r"post|before|after|train|training|val|valid|validation|test|testing|calibration|online|offline|raw|data|eeg|"
    r"recordings?|signals?|files?|export|edf|bdf|gdf|cnt|fif|set|mff|vhdr|brainvision|eeglab|csv|txt|npy|old|new|"
    r"\d{4}[-_.]?\d\d[-_.]?\d\d)(?:[-_ ]?[a-z0-9]{1,3})?(?:[-_ ](?:open|closed|data|eeg|raw))?",
    re.IGNORECASE,
)  # names of folders that are not persons
SESSION = re.compile(r"(?:^|[^A-Za-z])(?:session|sess|ses)[-_ ]?([A-Za-z0-9]+)", re.IGNORECASE)
NOT_RECORDINGS = ("derivatives", "sourcedata", "code", "stimuli")  # folders of a BIDS root
MAX_MEMBERS = 10_000  # of an archive
NOT_REGULAR = "neither a regular file nor a folder, but a pipe, socket or device"
HEAD_BYTES = 1 << 15  # of a table, with the names of a few hundred channels
BY_SUFFIX = {
    ".edf": "edf", ".bdf": "edf", ".rec": "edf", ".gdf": "gdf", ".vhdr": "brainvision", ".ahdr": "brainvision",
    ".set": "eeglab", ".fif": "fif", ".mff": "egi", ".nxe": "eximia", ".npy": "numpy", ".arff": "arff",
    ".xdf": "xdf", ".xdfz": "xdf",
}  # fmt: skip
COMPANIONS = {
    suffix: what
    for what, suffixes in {
        "signal of a BrainVision header": ".eeg .avg .seg .dat",
        "markers of a BrainVision header": ".vmrk .amrk",
        "signal of an EEGLAB .set": ".fdt",
        "companion of a Nihon Kohden .EEG": ".11d .21e .cmt .cn2 .pnt",
        "electrode positions": ".locs .loc .ced .elc .elp .sfp .hpts .bvef .lay",
        "documentation": ".md .rst .html .pdf",
        "sidecar": ".json .xml .yaml .yml",
        "table": ".tsv",
        "log": ".log",
        "code": ".py .m",
        "image": ".png .jpg .jpeg .gif",
        "annotations": ".event",
        "checksums": ".sha256 .md5",
    }.items()
    for suffix in suffixes.split()
}
UNSUPPORTED = {
    ".mat": "a MATLAB array without a sidecar; write a .json of its name with sfreq, ch_names and axes next to it",
    ".pth": "a PyTorch file holds no recording",
    ".zarr": "Zarr is not read",
}
FOLDERS = (".mff", ".ds", ".mefd")  # a folder that is one recording
SHOWN_ALIKE = 3  # files left out for one reason that are listed; of more, one is and the rest are counted
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
      subject_pattern: a regular expression over the path whose first group is the subject's id.

    Raises:
      UserError: a path does not exist, or nothing under `paths` can be read.
    """
    sources, ignored = survey(paths, dataset=dataset, licence=licence, subject_pattern=subject_pattern)
    alike = Counter(item.reason for item in ignored if not item.companion)
    for item in ignored:
        count = alike.get(item.reason, 0)
        if not item.companion and count:
            log.info(
                "%s: left out, %s%s", item.path, item.reason, f"; so are {count - 1} others" * (count > SHOWN_ALIKE)
            )
            alike[item.reason] = count if count <= SHOWN_ALIKE else 0
    if companions := Counter(item.reason for item in ignored if item.companion):
        kinds = ", ".join(f"{count} of kind: {reason}" for reason, count in companions.most_common(3))
        log.info("%d companion and documentation files are not separate recordings (%s)", companions.total(), kinds)
    if not sources:
        why = f" ({ignored[0].reason})" if len({item.reason for item in ignored}) == 1 else ""
        raise UserError(
            f"no recording found in {', '.join(map(str, paths))}{why}; see docs/reference/recordings.md for the formats"
        )
    return sources


def survey(paths: Paths, **options: str | None) -> tuple[list[Source], list[Ignored]]:
    """Return (recordings, everything else with the reason); `options` are those of `find_sources`."""
    matches: list[tuple[Source, Path]] = []
    ignored, seen = [], set()
    for root in map(Path, paths):
        if not root.exists():
            raise UserError(f"{root}: no such file or folder; check the path")
        if not (root.is_file() or root.is_dir()):
            raise UserError(f"{root}: {NOT_REGULAR}; name a file or a folder")
        for path in candidates(root):
            try:
                readers = readers_of(path)
            except (OSError, ValueError) as e:
                readers = Ignored(str(path), f"cannot be looked at ({error_text(e)})")
            if not isinstance(readers, Ignored) and "uci" in readers.values():
                path = trials_of(path)[0]  # it stands for all trials of a subject; they are one recording
            if path in seen:
                continue
            seen.add(path)
            if isinstance(readers, Ignored):
                ignored.append(readers)
            else:
                base = root if root.is_dir() and root != path else path.parent
                matches += [(source, root) for source in describe(path, readers, base, **options)]
    nameless = [i for i, (source, _) in enumerate(matches) if not source.subject]
    subjects = dict(zip(nameless, unworded([matches[i] for i in nameless]), strict=True))
    return [replace(source, subject=subjects.get(i, source.subject)) for i, (source, _) in enumerate(matches)], ignored


def source_of(path: str | os.PathLike[str]) -> Source:
    """Return the source for one path, its ids taken from the path alone."""
    sources, ignored = survey([path])
    if not sources:
        reason = ignored[0].reason if ignored else "it holds no recording"
        raise UserError(f"{path}: not a recording ({reason}); see docs/reference/recordings.md for the formats")
    return sources[0]


def candidates(root: Path) -> Iterator[Path]:
    """Yield the files below `root`, sorted by name; a folder that is one recording (.mff, .ds) counts as one."""
    if root.is_file() or root.suffix.lower() in FOLDERS:
        yield root
        return
    for entry in sorted(root.iterdir(), key=lambda p: p.name):
        if entry.name.startswith(".") or (entry.is_symlink() and entry.is_dir() and entry.resolve() in root.parents):
            continue
        if entry.is_dir():
            if entry.name not in NOT_RECORDINGS or not (root / "dataset_description.json").exists():
                yield from candidates(entry)
        elif entry.is_file() or entry.is_symlink():
            yield entry


def describe(
    path: Path,
    readers: Mapping[str, str],
    base: Path,
    dataset: str | None = None,
    licence: str | None = None,
    subject_pattern: str | None = None,
) -> list[Source]:
    """Return the source (of an archive: the sources) at `path`, with its dataset, subject, session and licence.

    Each comes from the first source that has it: the caller, the corpus table, BIDS, the names of folders and file. The
    subject is "" where none has it.
    """
    inside = path.relative_to(base).as_posix()
    folder = inside.split("/")[0] if "/" in inside else base.resolve().name
    bids = bids_root(path)
    sources = []
    for member, reader in readers.items():
        whole = "/".join(filter(None, (path.absolute().as_posix(), member)))
        corpus = corpus_of(whole)
        subject = corpus and corpus.subject and re.search(corpus.subject, whole)
        session = (corpus and corpus.session and re.search(corpus.session, whole)) or SESSION.search(inside)
        sources.append(
            Source(
                path=str(path),
                reader=reader,
                dataset=dataset or (corpus.name if corpus else bids.name if bids else folder),
                subject=_by_pattern(inside, path, subject_pattern)
                or (subject.group(1) if subject else worded(inside))
                or (file_name(Source(str(path), reader, member=member)) if corpus else ""),
                session=session.group(1) if session else "",
                licence=licence or (corpus.licence if corpus else licence_of(bids) if bids else "unknown"),
                member=member,
            )
        )
    return sources


def _by_pattern(inside: str, path: Path, pattern: str | None) -> str | None:
    if not pattern:
        return None
    try:
        match = re.search(pattern, inside)
    except re.error as e:
        raise UserError(f"the subject pattern {pattern!r} is not a regular expression ({e}); repair it") from e
    if not match or not match.groups():
        raise UserError(f"{path}: the subject pattern {pattern!r} finds no group in {inside!r}; adapt it")
    return match.group(1)


# ------------------------------------------------------------------------------------------------------------ subjects
def worded(inside: str) -> str | None:
    """Return the id in a path below the given folder: what follows a word such as `sub-`."""
    match = SUBJECT.search(PLURAL.sub("", inside))
    return match.group(1) if match else None


def file_name(source: Source) -> str:
    return Path(source.member).name or Path(source.path).name.split(".")[0]


def unworded(recordings: Sequence[tuple[Source, Path]]) -> list[str]:
    """Return a subject for each (recording, given path) for which `worded` finds none; the log states how.

    Recordings are compared with those below the folder that holds what was given, so that `anna/ ben/` are persons.
    """
    subjects = [file_name(source) for source, _ in recordings]
    groups: dict[Path, list[int]] = {}
    for i, (source, root) in enumerate(recordings):
        top = root if root.is_dir() and str(root) != source.path else root.parent
        groups.setdefault(top.absolute().parent, []).append(i)
    for anchor, members in groups.items():
        folders = {i: Path(recordings[i][0].path).absolute().relative_to(anchor).parts[:-1] for i in members}
        given = any(recordings[i][1].is_dir() for i in members)
        level = _level_of_persons([(subjects[i], folders[i]) for i in members], given)
        below = [i for i in members if level < len(folders[i])]
        rest = [i for i in members if level >= len(folders[i])]
        for i in below:
            subjects[i] = folders[i][level]
        for chosen, what, fewest in ((below, "its folder", 1), (rest, "the file's own name", 2)):
            if len(chosen) >= fewest:
                log.info(
                    "%d recordings below %s name no subject: %s is taken as the subject (%d subjects); "
                    "--subject-pattern overrides it",
                    len(chosen),
                    os.path.commonpath([Path(recordings[i][0].path).parent for i in chosen]),
                    what,
                    len({subjects[i] for i in chosen}),
                )
    return subjects


def _level_of_persons(recordings: Sequence[tuple[str, Sequence[str]]], given: bool) -> int:
    """Return the first level at which sibling folders of (file's name, folders) may be persons; else the depth.

    Folders that were `given` one by one may as well be studies, so there a file name must occur in two of them.
    """
    depth = max(len(folders) for _, folders in recordings)
    for level in range(depth):
        places = {(name, folders[level]) for name, folders in recordings if level < len(folders)}
        here = {folder for _, folder in places}
        if len(here) < 2 or all(NOT_A_PERSON.fullmatch(folder) for folder in here):
            continue
        if level == 0 and given and len({name for name, _ in places}) == len(places):
            continue
        return level
    return depth


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
    elif what := other_modality(path):
        return Ignored(str(path), f"{what}; this version reads EEG only")
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
    """Return the first bytes of a file, of a gzipped one as unpacked; b"" where it cannot be read."""
    try:
        if path.stat().st_size == 0:  # as files of /proc are, whose reading may wait for ever
            return b""
        with gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb") as file:
            return file.read(n)
    except (OSError, EOFError, zlib.error):
        return b""
