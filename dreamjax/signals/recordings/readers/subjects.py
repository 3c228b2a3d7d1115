"""Determine whose recording a file is: from its path, `participants.tsv` or its header; unknown where nothing says so.

Taking one person for two could put that person into both train and test, while the scores claim otherwise. So a file's
name does not make a person (unless it occurs in several folders of conditions: rest/anna, task/anna), nor does a folder
named after a task, a session, a group or a format. Where several sibling folders have other names, each is taken for
a person, and the log states that.
"""

import os
import re
import struct
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.signals.recordings.events import read_table
from dreamjax.signals.recordings.identity import UNKNOWN
from dreamjax.signals.recordings.readers.recording import Source

WORDS = "subject|participant|patient|proband|volunteer|subj|sub"
NUMBERED = re.compile(
    rf"(?:{WORDS}|sbj|sj|vpn|vp)(?:[-_ ]([A-Z]*\d[A-Z0-9]*|[A-Z]+\d[A-Z0-9]*)|((?-i:[A-Z])?\d[A-Z0-9]*))", re.IGNORECASE
)  # sub-01, Subject00, VP7, sub-NDARAA117
NAMED = re.compile(
    rf"(?:{WORDS})(?:[-_ ]([A-Z]+)|((?-i:[A-Z]{{1,2}})))(?![A-Z0-9])", re.IGNORECASE
)  # sub-anna, subjectB
PLURAL = re.compile(
    r"(?<![A-Za-z])(?:subject|subj|sub|participant|patient|volunteer)(?-i:s)(?![A-Za-z])", re.IGNORECASE
)
AFTER_NUMBER = re.compile(
    r"(?<=\d)(?:ses|run|task|day|block|trial|rec|rest|raw|pre|post|eeg|eyes|open|closed|cond|baseline)[A-Z0-9]*$", re.I
)  # sub01ses02 is 01 as well
NO_IDS = (  # words after `sub-` that are not ids
    "all anat average by data dataset file files folder folders id ids in info level list map mean name names number "
    "of root specific studies study template wise"
)
NO_PERSONS = (  # words in names of folders of tasks, sessions, groups, formats and places
    "subject subjects subj subjs sub subs participant participants patient patients volunteers control controls "
    "healthy group groups grp site sites lab cohort batch part parts session sessions sess ses day days week weeks "
    "month visit visits run runs block blocks trial trials condition conditions cond task tasks rest resting state "
    "baseline eyes eye open opened closed eo ec pre post before after morning evening night train training val valid "
    "validation test testing tests calibration online offline raw data dataset datasets eeg meg ieeg ecog emg "
    "recording recordings record records signal signals file files export exports edf bdf gdf cnt fif set mff vhdr "
    "brainvision eeglab csv txt npy old new current latest backup copy archive tmp temp misc other others all studies "
    "study experiment experiments exp project main first second third last clean cleaned filtered preprocessed "
    "processed derivatives sourcedata erp erps ssvep ssaep ssep vep aep lpp mmn ern ssr cnv visual auditory tactile "
    "audio video image images imagery motor movement movements hand hands left right feet foot tongue mi me face "
    "faces house houses object objects word words sentence sentences language speech reading listening music sound "
    "sounds tone tones oddball stroop flanker nback back gonogo go nogo stop sternberg memory working attention "
    "arithmetic mental math maths calculation workload stress relax relaxation meditation sleep nap wake awake "
    "drowsiness fatigue driving emotion emotions happy sad fear neutral game gaming cycling walking standing sitting "
    "breathing blink blinks jaw clench alpha beta speller matrix bci p3 n2pc p3a p3b checkerboard flicker stimulus "
    "stimuli stimulation sham active passive target targets nontarget standard deviant congruent incongruent easy "
    "hard low high animal animals tools scenes seizure seizures normal abnormal interictal ictal preictal muse emotiv "
    "openbci biosemi neuroscan egi headset device"
)
NOT_AN_ID, NOT_PERSONS = frozenset(NO_IDS.split()), frozenset(NO_PERSONS.split())
COMPONENT = re.compile(r"[NP]\d{3}", re.IGNORECASE)  # N170, P300
DATE = re.compile(r"\d{4}[-_.]?\d\d[-_.]?\d\d.*")
PLACEHOLDER = re.compile(
    r"[\W_0]*|(?:x[\W_]*)+|n/?a|nan|none|null|unknown|anon\w*|(?:un|not ?)specified|no[ _-]?name|"
    r"(?:patient|subject|participant|test|name|default|id)[\W_]*",
    re.IGNORECASE,
)  # of a header's field
NO_NAME = re.compile(r"(?:fe)?male.*|[mf]|.*\d+ ?y(?:r|ears?)?", re.IGNORECASE)  # X F X Female_33yr
FIELDS = {"edf": (8, 80), "gdf": (8, 66), "cnt": (21, 20)}  # reader → offset and length of the patient's field, bytes
HIS_ID, DATA_BUFFER, MOST_TAGS = 410, 300, 4096  # of a FIF file


# --------------------------------------------------------------------------------------------------- ids in one path
def worded(parts: Iterable[str], anywhere: bool = True) -> str:
    """Return the first id that follows a word such as `sub-` in a path's parts, else "".

    `anywhere`: also within a part (`rest_subject3.edf`), and not only at its beginning.
    """
    for part in parts:
        part = PLURAL.sub("", part)
        for start in re.finditer(r"(?<![A-Za-z])(?=[A-Za-z])", part) if anywhere else re.finditer("^", part):
            if match := NUMBERED.match(part, start.start()):
                name = AFTER_NUMBER.sub("", match.group(1) or match.group(2))
                if not not_a_person(name):  # subject_run1.edf
                    return name
        if match := NAMED.match(part):
            name = match.group(1) or match.group(2)
            if name.lower() not in NOT_AN_ID and not not_a_person(name):
                return name
    return ""


def not_a_person(folder: str) -> bool:
    """Return whether a folder's name is made of words for tasks, sessions, groups and formats, or is a date."""
    if COMPONENT.fullmatch(folder) or DATE.fullmatch(folder):
        return True
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", COMPONENT.sub("erp", folder))
    known = [word for word in words if word.lower() in NOT_PERSONS or folder.lower() in NOT_PERSONS]
    return bool(known) and all(word in known or len(word) == 1 for word in words)


def in_path(path: Path, base: Path, member: str = "") -> str:
    """Return the id that a word in a path names, else "".

    Below `base`, the given folder, the first; else the deepest of the folders above, but only at the beginning of its
    name: other words there need not be about this recording.
    """
    inside = (*path.relative_to(base).parts, *Path(member).parts)
    above = Path(os.path.abspath(base)).parts[1:]
    return worded(inside) or worded(reversed(above), anywhere=False)


def by_pattern(path: Path, pattern: str) -> str:
    """Return group 1 of the user's pattern in the path as typed; where it is not there, in the absolute path."""
    try:
        match = re.search(pattern, path.as_posix()) or re.search(pattern, os.path.abspath(path))
    except re.error as e:
        raise UserError(f"the subject pattern {pattern!r} is not a regular expression ({e}); repair it") from e
    if not match or not match.groups() or not match.group(1):
        raise UserError(f"{path}: the subject pattern {pattern!r} finds no group in {path.as_posix()!r}; adapt it")
    return match.group(1)


def participant(path: Path) -> str:
    """Return the participant in the nearest participants.tsv whose id a folder or the file is named after, else ""."""
    folders = Path(os.path.abspath(path)).parents
    table = next((folder / "participants.tsv" for folder in folders if _has_participants(folder)), None)
    if table is None:
        return ""
    below = Path(os.path.abspath(path)).relative_to(table.parent).parts
    pattern, names = _participants(table)
    matches = (re.match(pattern, part, re.IGNORECASE) for part in below)  # the outermost folder first
    return next((names[match[1].lower()] for match in matches if match), "")


@lru_cache(maxsize=4096)
def _has_participants(folder: Path) -> bool:
    try:
        return (folder / "participants.tsv").is_file()
    except OSError:
        return False


@lru_cache(maxsize=64)
def _participants(table: Path) -> tuple[str, dict[str, str]]:
    """Return a pattern whose group 1 is an id of a participants.tsv, and id in lower case → id."""
    try:
        names = {row.get("participant_id", "").strip().removeprefix("sub-") for row in read_table(table)}
    except (OSError, UserError) as problem:
        log.warning("%s: not used, it cannot be read (%s)", table, type(problem).__name__)
        return r"(?!)", {}
    longest = sorted(filter(None, names), key=lambda name: (-len(name), name))
    any_of = "|".join(map(re.escape, longest)) or r"(?!)"
    return rf"(?:sub-)?({any_of})(?![A-Za-z0-9])", {name.lower(): name for name in longest}


def in_header(source: Source) -> str:
    """Return the patient's code in the header of an EDF, BDF, GDF, Neuroscan or FIF file; "" without a real one."""
    path, text = Path(source.path), ""
    with suppress(OSError):
        if path.stat().st_size == 0:  # as files of /proc are, whose reading may wait for ever
            return ""
        if path.is_file() and source.reader == "fif" and not path.name.endswith(".gz"):
            text = _his_id(path)
        elif path.is_file() and source.reader in FIELDS:
            offset, length = FIELDS[source.reader]
            with open(path, "rb") as file:
                start = file.read(256)
            text = start[offset : offset + length].split(b"\0")[0].decode("latin-1").strip()
            if source.reader != "cnt" and len(words := text.split()) >= 4 and words[1] in "MFX":  # code sex birth name
                text = next((w for w in (words[0], words[3]) if not PLACEHOLDER.fullmatch(w)), "")
                text = "" if NO_NAME.fullmatch(text) else text
            elif source.reader == "gdf":
                text = text.split(" ")[0]
    return stated(text)


def stated(text: str) -> str:
    """Return the code that a header states, "" for a placeholder such as `X`, `anonymous` or `0`."""
    return "" if PLACEHOLDER.fullmatch(text.strip()) else " ".join(text.split())


def _his_id(path: Path) -> str:
    """Return the subject's code of a FIF file, from the tags before its data."""
    with open(path, "rb") as file:
        for _ in range(MOST_TAGS):
            tag = file.read(16)
            if len(tag) < 16:
                break
            kind, _, size, following = struct.unpack(">iIii", tag)
            if kind == HIS_ID and 0 < size <= 256:
                return file.read(size).decode("latin-1").strip("\0 ")
            if kind == DATA_BUFFER or size < 0 or (following and following <= file.tell()):
                break
            file.seek(following or file.tell() + size)
    return ""


# -------------------------------------------------------------------------------------- ids that take a comparison
def compared(recordings: Sequence[tuple[Source, Path]], headers: bool) -> list[tuple[str, str]]:
    """Return (subject, what named it) for each (recording, given path) whose own path names nobody; the log states how.

    Recordings are compared with those below the folder that holds what was given, so that `anna/ ben/` are persons. The
    codes in `headers` go before the folders where every recording has one and not all have the same.
    """
    codes = {i: in_header(source) if headers else "" for i, (source, _) in enumerate(recordings)}
    subjects = {i: (code, "header") if code else (UNKNOWN, "") for i, code in codes.items()}
    groups: dict[Path, list[int]] = {}
    unclear: list[int] = []
    for i, (source, root) in enumerate(recordings):
        if not source.subject:  # a known corpus without ids (`UNKNOWN`) has no folders of persons
            top = root if root.is_dir() and str(root) != source.path else root.parent
            groups.setdefault(Path(os.path.abspath(top)).parent, []).append(i)
    for anchor, members in groups.items():
        if all(codes[i] for i in members) and len({codes[i] for i in members}) > 1:
            continue
        folders = {i: Path(os.path.abspath(recordings[i][0].path)).relative_to(anchor).parts[:-1] for i in members}
        given = any(recordings[i][1].is_dir() for i in members)
        level = _level_of_persons([(_stem(recordings[i][0]), folders[i]) for i in members], given)
        if level is None:
            continue
        for i in members:
            if level < len(folders[i]) and not not_a_person(folders[i][level]):
                subjects[i] = folders[i][level], "folder"
        unclear += [i for i in members if subjects[i][0] == UNKNOWN]
    in_folders: dict[str, set[str]] = {}
    for i in unclear:
        in_folders.setdefault(os.path.dirname(os.path.abspath(recordings[i][0].path)), set()).add(
            _stem(recordings[i][0])
        )
    if any(map(may_be_name, _shared(in_folders))):
        names = {i: _stem(recordings[i][0]) for i in unclear}
        subjects |= {i: (name, "file name") for i, name in names.items() if may_be_name(name)}
    _log([source for source, _ in recordings], list(subjects.values()))
    return list(subjects.values())


def _stem(source: Source) -> str:
    return (Path(source.member).name or Path(source.path).name).split(".")[0]


def _level_of_persons(recordings: Sequence[tuple[str, Sequence[str]]], given: bool) -> int | None:
    """Return the first level at which sibling folders of (file's name, folders) may be persons; else the depth.

    Folders that were `given` one by one may as well be studies, so there a file name must occur in two of them. What
    lies in folders of persons is named after something else: where a name that may be a person's occurs in several
    of them (juggling/anna, knitting/anna), it is not clear which level is that of persons: None.
    """
    depth = max(len(folders) for _, folders in recordings)
    for level in range(depth):
        below: dict[str, set[str]] = {}  # folder of this level → what is in it
        for name, folders in recordings:
            if level < len(folders) and not not_a_person(folders[level]):
                below.setdefault(folders[level], set()).add((*folders[level + 1 :], name)[0])
        if len(below) < 2:
            continue
        if level == 0 and given and not _shared(_names(recordings, level, below)):
            continue
        return None if any(map(may_be_name, _shared(below))) else level
    return depth


def _names(recordings: Sequence[tuple[str, Sequence[str]]], level: int, chosen: Collection[str]) -> dict[str, set[str]]:
    """Return folder → the names of the files below it, for each of the chosen folders of this level."""
    names: dict[str, set[str]] = {folder: set() for folder in chosen}
    for name, folders in recordings:
        if level < len(folders) and folders[level] in names:
            names[folders[level]].add(name)
    return names


def _shared(below: Mapping[str, set[str]]) -> set[str]:
    """Return the names that occur in two folders."""
    return {name for name, n in Counter(name for names in below.values() for name in names).items() if n > 1}


def may_be_name(text: str) -> bool:
    """Return whether a name of a file or folder could be a person's: three letters or more, or an id such as S01."""
    return re.fullmatch(r"[^\W\d_]{3,}|(?:s|p|vp|sub|subj|pp|id)[-_]?\d{2,}", text, re.IGNORECASE) is not None and (
        not not_a_person(text)
    )


def _log(sources: Sequence[Source], subjects: Sequence[tuple[str, str]]) -> None:
    ways = {"folder": "the name of its folder", "file name": "the file's name", "header": "the code in its header"}
    for kind, what in ways.items():
        if chosen := [i for i, (_, by) in enumerate(subjects) if by == kind]:
            log.info(
                "%d recordings below %s have no subject in their path: %s is taken as the subject (%d subjects); "
                "--subject-pattern overrides it",
                len(chosen),
                os.path.commonpath([os.path.dirname(os.path.abspath(sources[i].path)) for i in chosen]),
                what,
                len({subjects[i][0] for i in chosen}),
            )
    unknown = [source for source, (_, by) in zip(sources, subjects, strict=True) if not by]
    if len(unknown) > 1:
        log.warning(
            "the subjects of %d recordings below %s are unknown: they are split by recording, so that one person may "
            "be in two splits; name the subjects with --subject-pattern",
            len(unknown),
            os.path.commonpath([os.path.dirname(os.path.abspath(source.path)) for source in unknown]),
        )
