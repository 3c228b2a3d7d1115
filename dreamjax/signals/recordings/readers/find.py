"""From what a user names (files, folders, BIDS roots) to the recordings in it, and the reasons for what is left out."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.signals.recordings.corpora import corpus_of
from dreamjax.signals.recordings.readers.bids import bids_root, licence_of
from dreamjax.signals.recordings.readers.formats import Format, format_of
from dreamjax.signals.recordings.readers.recording import Source
from dreamjax.signals.recordings.readers.subjects import file_name, unworded, worded
from dreamjax.signals.recordings.readers.uci import trials_of

SESSION = re.compile(r"(?:^|[^A-Za-z])(?:session|sess|ses)[-_ ]?([A-Za-z0-9]+)", re.IGNORECASE)

NOT_RECORDINGS = ("derivatives", "sourcedata", "code", "stimuli")  # folders of a BIDS root


@dataclass(frozen=True)
class Ignored:
    """A file that is not a recording of its own. `companion`: it belongs to one (or is its documentation): no error."""

    path: str
    reason: str
    companion: bool


def find_sources(
    paths: Sequence[str | os.PathLike[str]],
    *,
    dataset: str | None = None,
    licence: str | None = None,
    subject_pattern: str | None = None,
) -> list[Source]:
    """Every recording under `paths`, in the order of their names; what is left out is logged.

    Args:
      paths: files, folders (searched through) or BIDS roots.
      dataset, licence: override what the corpus table, BIDS or the folder's name say.
      subject_pattern: a regular expression over the path whose first group is the subject's id.

    Raises:
      UserError: a path does not exist, or nothing under `paths` can be read.
    """
    sources, ignored = survey(paths, dataset=dataset, licence=licence, subject_pattern=subject_pattern)
    for item in ignored:
        if not item.companion:
            log.info("%s: left out, %s", item.path, item.reason)
    companions = sum(item.companion for item in ignored)
    if companions:
        log.info("%d companion and documentation files are not recordings of their own", companions)
    if not sources:
        raise UserError(
            f"no recording found in {', '.join(map(str, paths))}; see docs/reference/recordings.md for the formats"
        )
    return sources


def survey(
    paths: Sequence[str | os.PathLike[str]],
    *,
    dataset: str | None = None,
    licence: str | None = None,
    subject_pattern: str | None = None,
) -> tuple[list[Source], list[Ignored]]:
    """(recordings, everything else with the reason); see `find_sources`."""
    matches: list[tuple[Source, Path]] = []
    ignored, seen = [], set()
    for given in paths:
        root = Path(given)
        if not root.exists():
            raise UserError(f"{root}: no such file or folder; check the path")
        for path in candidates(root):
            verdict = format_of(path)
            recording = first_trial(path) if isinstance(verdict, Format) and verdict.reader == "uci" else path
            if recording in seen:
                continue
            seen.add(recording)
            if isinstance(verdict, Format):
                base = root if root.is_dir() and root != path else path.parent
                sources = describe(recording, verdict, base, dataset, licence, subject_pattern)
                matches += [(source, root) for source in sources]
            else:
                ignored.append(Ignored(str(path), verdict.reason, verdict.companion))
    return _with_subjects(matches), ignored


def _with_subjects(matches: Sequence[tuple[Source, Path]]) -> list[Source]:
    """The sources, those without a subject with what can be inferred from all of them together."""
    nameless = [i for i, (source, _) in enumerate(matches) if not source.subject]
    inferred = dict(zip(nameless, unworded([matches[i] for i in nameless]), strict=True))
    return [replace(source, subject=inferred.get(i, source.subject)) for i, (source, _) in enumerate(matches)]


def source_of(path: str | os.PathLike[str]) -> Source:
    """The source for one path, its ids taken from the path alone."""
    sources, ignored = survey([path])
    if not sources:
        reason = ignored[0].reason if ignored else "it holds no recording"
        raise UserError(f"{path}: not a recording ({reason}); see docs/reference/recordings.md for the formats")
    return sources[0]


def candidates(root: Path) -> Iterator[Path]:
    """Files below `root` in the order of their names; a folder that is one recording (.mff) counts as one."""
    if root.is_file() or root.suffix.lower() == ".mff":
        yield root
        return
    for entry in sorted(root.iterdir(), key=lambda p: p.name):
        if entry.name.startswith(".") or (entry.is_symlink() and entry.is_dir() and entry.resolve() in root.parents):
            continue
        if entry.is_dir():
            if entry.name in NOT_RECORDINGS and (root / "dataset_description.json").exists():
                continue
            yield from candidates(entry)
        elif entry.is_file() or entry.is_symlink():
            yield entry


def first_trial(path: Path) -> Path:
    """The file that stands for all trials of a subject of the UCI EEG Database; they are one recording."""
    return trials_of(path)[0]


def describe(
    path: Path, format_: Format, base: Path, dataset: str | None, licence: str | None, subject_pattern: str | None
) -> list[Source]:
    """The source (of an archive: the sources) at `path`, with its dataset, subject, session and licence.

    Each from the first that knows it: the caller, the corpus table, BIDS, the names of folders and file. The subject is
    "" where none does.
    """
    inside = path.relative_to(base).as_posix()
    folder = inside.split("/")[0] if "/" in inside else base.resolve().name
    bids = bids_root(path)
    sources = []
    for member, reader in format_.members or (("", format_.reader),):
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
