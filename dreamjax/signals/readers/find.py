"""From what a user names (files, folders, BIDS roots) to the recordings in it, and the reasons for what is left out."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.signals.readers.base import Source
from dreamjax.signals.readers.formats import Format, format_of

SUBJECT = re.compile(r"(?:^|[^A-Za-z])(?:subject|subj|sub|participant|patient)[-_ ]?([A-Za-z0-9]+)", re.IGNORECASE)
SESSION = re.compile(r"(?:^|[^A-Za-z])(?:session|sess|ses)[-_ ]?([A-Za-z0-9]+)", re.IGNORECASE)


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
            f"no recording found in {', '.join(map(str, paths))}; see docs/guides/prepare.md for the formats"
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
    sources, ignored, seen = [], [], set()
    for given in paths:
        root = Path(given)
        if not root.exists():
            raise UserError(f"{root}: no such file or folder; check the path")
        for path in candidates(root):
            if path in seen:
                continue
            seen.add(path)
            verdict = format_of(path)
            if isinstance(verdict, Format):
                base = root if root.is_dir() and root != path else path.parent
                sources += describe(path, verdict, base, dataset, licence, subject_pattern)
            else:
                ignored.append(Ignored(str(path), verdict.reason, verdict.companion))
    return sources, ignored


def source_of(path: str | os.PathLike[str]) -> Source:
    """The source for one path, its ids taken from the path alone."""
    found, ignored = survey([path])
    if not found:
        reason = ignored[0].reason if ignored else "it holds no recording"
        raise UserError(f"{path}: not a recording ({reason}); see docs/guides/prepare.md for the formats")
    return found[0]


def candidates(root: Path) -> Iterator[Path]:
    """Files below `root` in the order of their names; a folder that is one recording (.mff) counts as one."""
    if root.is_file() or root.suffix.lower() == ".mff":
        yield root
        return
    for entry in sorted(root.iterdir(), key=lambda p: p.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from candidates(entry)
        elif entry.is_file():
            yield entry


def describe(
    path: Path, format_: Format, base: Path, dataset: str | None, licence: str | None, subject_pattern: str | None
) -> list[Source]:
    """The source (an archive: the sources) at `path`: its dataset, subject, session and licence."""
    inside = path.relative_to(base).as_posix()
    folder = inside.split("/")[0] if "/" in inside else base.resolve().name
    subject = _subject(inside, path, subject_pattern)
    session = SESSION.search(inside)
    return [
        Source(
            path=str(path),
            reader=format_.reader,
            dataset=dataset or folder,
            subject=subject,
            session=session.group(1) if session else "",
            licence=licence or "unknown",
        )
    ]


def _subject(inside: str, path: Path, pattern: str | None) -> str:
    """The id in the path: by the user's pattern, by a word such as `sub-01`, else the file's own name."""
    if pattern:
        match = re.search(pattern, inside)
        if not match or not match.groups():
            raise UserError(f"{path}: the subject pattern {pattern!r} finds no group in {inside!r}; adapt it")
        return match.group(1)
    found = SUBJECT.search(inside)
    return found.group(1) if found else path.name.split(".")[0]
