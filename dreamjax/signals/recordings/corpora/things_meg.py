"""THINGS-MEG (Hebart et al. 2023, OpenNeuro ds004212): four people, 12 sessions of 10 runs, 22,448 images of THINGS.

    sub-BIGMEG1/ses-01/meg/sub-BIGMEG1_ses-01_task-main_run-01_meg.ds    a CTF recording at 1200 Hz (or a .fif of one)
    sourcedata/sample_attributes_P1.csv                                  a row for each image that was shown

A row has trial_type (exp, test, catch), session_nr, run_nr, image_path and, where the table is complete, category_nr
(the concept's number) and image_on (s). 200 test images were shown twelve times each, all others once. Every image was
marked by 64 on the trigger channel UPPT001. The onsets in `events.tsv` were corrected by an optical sensor; readers of
the raw triggers report them as about 150 ms late.
"""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from jaxtyping import Float

from dreamjax.errors import UserError
from dreamjax.signals.recordings.events import ABSENT, read_table

Onset = Literal["trigger", "events"]
SUBJECT, TABLES = re.compile(r"sub-BIGMEG(\d+)"), "sourcedata"
RUN = re.compile(r"sub-BIGMEG(\d+)_ses-(\d+)_task-main_run-(\d+)_meg\.(ds|fif)")
IMAGE_FILE = re.compile(r"(.+)_\d+[a-z]*\.(jpg|jpeg|png)", re.IGNORECASE)  # aardvark_01b.jpg: the concept and a number
KINDS = ("exp", "test", "catch")
COLUMNS = ("trial_type", "session_nr", "run_nr", "image_path")
TRIGGERS = ("64", "UPPT001/64")  # codes of an image; the second where there are several trigger channels
MISMATCHES = 20  # trials of a run that triggers and table do not share, up to which the released code goes on
NEAR_S = 0.05  # a trigger and a row this near are one trial; images are 1.3 to 1.7 s apart, at random
COMPARED = 25  # trials at a run's begin among which the first common one is looked for
TRAIN, TEST, REMOVED = "train", "test", "removed"
SPLITS = (TRAIN, TEST, REMOVED)
SPLITTING = {
    "by": "published test images",
    TEST: "the published test images, every showing",
    REMOVED: "images that are shown for training, of concepts that a test image has",
    TRAIN: "all other images: no concept of a test image",
    "training_sets": {"adapted": [TRAIN], "published": [TRAIN, REMOVED]},
    "test_sets": {"small": [TEST], "large": [REMOVED]},
}


@dataclass(frozen=True)
class Shown:
    """An image that was shown: a row of a person's table. Of a catch trial the split is ""."""

    label: str  # 00001_aardvark
    stimulus: str  # 00001_aardvark/aardvark_01b.jpg
    split: str
    on: float | None = None  # s, on the clock of the table


Runs = Mapping[tuple[int, int, int], tuple[Shown, ...]]  # (person, session, run) → what was shown, in order


# ------------------------------------------------------------------------------------------------------------- layout
def is_tree(path: object) -> bool:
    """Return whether a path is the BIDS folder of THINGS-MEG, whole or in part."""
    folder = Path(str(path))
    return folder.is_dir() and any(SUBJECT.fullmatch(entry.name) for entry in folder.iterdir() if entry.is_dir())


def people_in(root: Path, wanted: Collection[int] = ()) -> list[int]:
    """Return the numbers of the people with a folder. Raise UserError where one of `wanted` has none."""
    there = sorted(
        int(match[1]) for entry in root.iterdir() if entry.is_dir() and (match := SUBJECT.fullmatch(entry.name))
    )
    if lost := sorted(set(wanted) - set(there)):
        raise UserError(
            f"{root}: the folder sub-BIGMEG{lost[0]} is missing; it has people {', '.join(map(str, there))}"
        )
    return sorted(wanted) or there


def table_file(root: Path, person: int) -> Path:
    """Return the table of a person. Raise UserError where it is missing."""
    path = root / TABLES / f"sample_attributes_P{person}.csv"
    if not path.is_file():
        raise UserError(
            f"{root}: {TABLES}/{path.name} is missing, the table with a row for each image that person {person} saw "
            f"({', '.join(COLUMNS)}, …); fetch it with the data set, OpenNeuro ds004212"
        )
    return path


def run_files(root: Path, person: int, runs: Collection[tuple[int, int]]) -> dict[tuple[int, int], Path]:
    """Return (session, run) → recording. Raise UserError that names what is missing of `runs`."""
    there: dict[tuple[int, int], Path] = {}
    for path in sorted((root / f"sub-BIGMEG{person}").glob("ses-*/meg/*_meg.*")):
        if match := RUN.fullmatch(path.name):
            there.setdefault((int(match[2]), int(match[3])), path)
    if lost := sorted(set(runs) - set(there)):
        session, run = lost[0]
        name = (
            f"sub-BIGMEG{person}/ses-{session:02d}/meg/sub-BIGMEG{person}_ses-{session:02d}_task-main_run-{run:02d}_meg"
        )
        raise UserError(
            f"{root}: {len(lost)} of {len(set(runs))} runs of person {person} are missing, such as {name}.ds, a CTF "
            "folder at 1200 Hz; fetch them, or choose other people with --subject"
        )
    return {key: there[key] for key in sorted(runs)}


# ------------------------------------------------------------------------------------------------------------- tables
def read_runs(tables: Mapping[int, Path]) -> Runs:
    """Return what was shown in every run of the people of the tables, with splits over all of them.

    Raise UserError for a table that lacks a column, a value that cannot be, and a concept with two numbers.
    """
    rows = {person: _rows(path) for person, path in tables.items()}
    numbers = _numbers([(tables[person], row) for person, mine in rows.items() for row in mine])
    tested = {concept_of(row["image_path"]) for mine in rows.values() for row in mine if row["trial_type"] == "test"}
    if not tested:
        raise UserError(f"{next(iter(tables.values()))}: no row has the trial_type test; fetch the whole table")
    runs: dict[tuple[int, int, int], list[Shown]] = defaultdict(list)
    for person, mine in rows.items():
        for line, row in enumerate(mine, start=2):
            runs[person, *_place(row, tables[person], line)].append(_shown(row, numbers, tested))
    return {key: tuple(shown) for key, shown in runs.items()}


def shown_in(path: Path, rows: Sequence[Mapping[str, str]]) -> list[Shown]:
    """Return what the rows of one table show, with splits over them alone. Raise UserError as `read_runs`."""
    _check(path, rows)
    numbers = _numbers([(path, row) for row in rows])
    tested = {concept_of(row["image_path"]) for row in rows if row["trial_type"] == "test"}
    if not tested:
        raise UserError(f"{path}: no trial is of a test image; fetch the whole file")
    return [_shown(row, numbers, tested) for row in rows]


def _rows(path: Path) -> list[dict[str, str]]:
    rows = read_table(path)
    if not rows or (lost := [name for name in COLUMNS if name not in rows[0]]):
        what = f"the columns {', '.join(lost)} are missing" if rows else "it has no rows"
        raise UserError(f"{path}: {what}; a sample_attributes table has {', '.join(COLUMNS)}: fetch it again")
    _check(path, rows)
    return rows


def _check(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    for line, row in enumerate(rows, start=2):
        if row["trial_type"] not in KINDS:
            raise UserError(f"{path}: row {line} has trial_type {row['trial_type'][:20]!r}, not {', '.join(KINDS)}")
        if row["trial_type"] != "catch" and not concept_of(row["image_path"]):
            raise UserError(f"{path}: row {line} has no image of THINGS: {row['image_path'][:60]!r}; fetch it again")


def concept_of(image: str) -> str:
    """Return the concept in the name of an image's file; "" for another name.

    >>> concept_of("images_meg/coat_rack/coat_rack_03s.jpg")
    'coat_rack'
    """
    match = IMAGE_FILE.fullmatch(PurePosixPath(image.replace("\\", "/")).name)
    return match[1] if match else ""


def _numbers(rows: Sequence[tuple[Path, Mapping[str, str]]]) -> dict[str, int]:
    """Return concept → its number (category_nr), from all rows that state one."""
    numbers: dict[str, int] = {}
    for path, row in rows:
        number, concept = _number(row.get("category_nr", "")), concept_of(row["image_path"])
        if row["trial_type"] == "catch" or not number or not concept:
            continue
        if numbers.setdefault(concept, number) != number:
            raise UserError(f"{path}: {concept} has the category_nr {number} and {numbers[concept]}; fetch it again")
    return numbers


def _number(cell: str) -> int | None:
    try:
        return None if cell.lower() in ABSENT else round(float(cell))
    except (ValueError, OverflowError):
        return None


def _place(row: Mapping[str, str], path: Path, line: int) -> tuple[int, int]:
    session, run = _number(row["session_nr"]), _number(row["run_nr"])
    if session is None or run is None:
        raise UserError(f"{path}: row {line} has no session_nr and run_nr; fetch it again")
    return session, run


def _shown(row: Mapping[str, str], numbers: Mapping[str, int], tested: Collection[str]) -> Shown:
    try:
        on = float(row.get("image_on", ""))
    except ValueError:
        on = float("nan")
    when = on if np.isfinite(on) else None
    if row["trial_type"] == "catch":
        return Shown("", "", "", when)
    label, stimulus = named(row["image_path"], numbers.get(concept_of(row["image_path"])))
    test = TEST if row["trial_type"] == "test" else REMOVED if concept_of(row["image_path"]) in tested else TRAIN
    return Shown(label, stimulus, test, when)


def named(image: str, number: int | None) -> tuple[str, str]:
    """Return (label, stimulus) of an image: `00001_aardvark` and `00001_aardvark/aardvark_01b.jpg`."""
    concept = concept_of(image)
    label = concept if number is None else f"{number:05d}_{concept}"
    return label, f"{label}/{PurePosixPath(image.replace(chr(92), '/')).name}"


def description(images: Mapping[str, Collection[str]], onset: str = "") -> dict[str, object]:
    """Return how the trials are split, for dataset.json; `images`: split → its images."""
    counts = {f"{split}_images": len(set(images.get(split, ()))) for split in SPLITS}
    return {**SPLITTING, **counts, **({"onset": onset} if onset else {})}


# -------------------------------------------------------------------------------------------- triggers and the table
def paired(
    onsets: Float[np.ndarray, "triggers"], shown: Sequence[Shown], where: str
) -> tuple[list[tuple[int, int]], int]:
    """Return the pairs (trigger, row) that are one trial, and how many of either are without a partner.

    Both are compared by time where the rows state one, up to a constant; else by their order. A catch trial without a
    trigger does not count. Raise UserError for more than `MISMATCHES` without a partner.
    """
    images = [i for i, image in enumerate(shown) if image.split]
    pairs = next(
        (list(enumerate(rows)) for rows in (range(len(shown)), images) if len(rows) == len(onsets)),
        list[tuple[int, int]](),
    )
    times = [image.on for image in shown]
    if len(onsets) and times and all(time is not None for time in times):
        by_time = _by_time(onsets, np.array(times, float))
        if not pairs or 2 * len(by_time) >= len(pairs):  # else the column is on another clock
            pairs = by_time
    lost = max(len(onsets) - len(pairs), len({*images} - {row for _, row in pairs}))
    if lost > MISMATCHES or not pairs:
        raise UserError(
            f"{where}: {len(onsets)} triggers and {len(shown)} rows of the table have {len(pairs)} trials in common, "
            f"but at most {MISMATCHES} may differ; fetch the run and its table again"
        )
    return pairs, lost


def _by_time(onsets: Float[np.ndarray, "m"], times: Float[np.ndarray, "n"]) -> list[tuple[int, int]]:
    """Return the pairs that are within `NEAR_S` at the shift at which most are, and of several at the best one."""
    best, key = list[tuple[int, int]](), (0, 0.0)
    for first in onsets[:COMPARED]:
        for row in times[:COMPARED]:
            pairs, error = _near(onsets, times + (first - row))
            if (len(pairs), -error) > key:
                best, key = pairs, (len(pairs), -error)
    return best


def _near(onsets: Float[np.ndarray, "m"], times: Float[np.ndarray, "n"]) -> tuple[list[tuple[int, int]], float]:
    """Return the pairs within `NEAR_S`, and their median distance in s."""
    later = np.clip(np.searchsorted(times, onsets), 1, max(len(times) - 1, 1)) % len(times)
    nearest = np.where(np.abs(onsets - times[later - 1]) < np.abs(onsets - times[later]), later - 1, later)
    distance = np.abs(onsets - times[nearest])
    pairs: dict[int, int] = {}
    for i in np.flatnonzero(distance <= NEAR_S).tolist():
        pairs.setdefault(int(nearest[i]) % len(times), i)
    return [(trigger, row) for row, trigger in sorted(pairs.items())], float(np.median(distance))


def repeats(runs: Runs) -> dict[int, int]:
    """Return how often the test images were shown to a person: times → images."""
    seen = Counter((key[0], image.stimulus) for key, shown in runs.items() for image in shown if image.split == TEST)
    return dict(sorted(Counter(seen.values()).items()))


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write a table of attributes: of a simulated data set."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
