"""Who a recording is of, where nothing in its path says so.

One person taken for two may be trained on and tested on; two persons taken for one cost data but no honesty. So where
several folders side by side hold recordings, a folder is a person, however many files it has. Folders that are called
after conditions, sessions, groups or formats are not persons; where there are no others, a file's own name counts.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from dreamjax.console import log
from dreamjax.signals.recordings.readers.recording import Source

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


def worded(inside: str) -> str | None:
    """The id in a path below the folder that was given: what follows a word such as `sub-`."""
    match = SUBJECT.search(PLURAL.sub("", inside))
    return match.group(1) if match else None


def file_name(source: Source) -> str:
    return Path(source.member).name or Path(source.path).name.split(".")[0]


def unworded(recordings: Sequence[tuple[Source, Path]]) -> list[str]:
    """A subject for each (recording, what was given) of which `worded` knows none; says in the log what was taken."""
    subjects = [file_name(source) for source, _ in recordings]
    for anchor, members in _side_by_side(recordings).items():
        folders = [Path(recordings[i][0].path).absolute().relative_to(anchor).parts[:-1] for i in members]
        level = _level_of_persons(
            folders, [subjects[i] for i in members], any(recordings[i][1].is_dir() for i in members)
        )
        below = (
            [] if level is None else [(i, f[level]) for i, f in zip(members, folders, strict=True) if level < len(f)]
        )
        for i, folder in below:
            subjects[i] = folder
        rest = set(members) - {i for i, _ in below}
        if below:
            _say([recordings[i][0] for i, _ in below], "its folder", {folder for _, folder in below})
        if len(rest) > 1:
            _say([recordings[i][0] for i in sorted(rest)], "the file's own name", {subjects[i] for i in rest})
    return subjects


def _say(sources: Sequence[Source], what: str, subjects: set[str]) -> None:
    log.info(
        "%d recordings below %s name no subject: %s is taken as the subject (%d subjects); "
        "--subject-pattern says otherwise",
        len(sources),
        os.path.commonpath([Path(source.path).parent for source in sources]),
        what,
        len(subjects),
    )


def _side_by_side(recordings: Sequence[tuple[Source, Path]]) -> dict[Path, list[int]]:
    """Recordings by the folder that holds what was given, so that `anna/ ben/` are compared with each other."""
    groups: dict[Path, list[int]] = {}
    for i, (source, root) in enumerate(recordings):
        top = root if root.is_dir() and str(root) != source.path else root.parent
        groups.setdefault(top.absolute().parent, []).append(i)
    return groups


def _level_of_persons(folders: Sequence[Sequence[str]], names: Sequence[str], given: bool) -> int | None:
    """The first level at which folders lie side by side that may be persons; None without one.

    Folders that were `given` one by one may as well be studies, so there a file name must occur in two of them.
    """
    for level in range(max(map(len, folders), default=0)):
        here = {f[level] for f in folders if level < len(f)}
        if len(here) < 2 or all(NOT_A_PERSON.fullmatch(folder) for folder in here):
            continue
        places = {(name, f[level]) for name, f in zip(names, folders, strict=True) if level < len(f)}
        if level == 0 and given and len({name for name, _ in places}) == len(places):
            continue
        return level
    return None
