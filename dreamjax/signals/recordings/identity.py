"""Assign pseudonyms and splits to subjects.

A pseudonym is a salted SHA-256: the same person gets the same one in every recording of a dataset, and without the
salt a guessed name cannot be verified. With the default salt (made from the dataset's name, so that two sites get the
same ids) anyone can test guesses: give a secret one for anything but public data.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from dreamjax.console import counted
from dreamjax.errors import UserError

SPLITS = ("train", "val", "test")
FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}
DIGITS = 16
P = TypeVar("P", str, tuple[str, str])  # a person, whose name may be in a data set
UNKNOWN = "unknown"  # the subject of a recording where nothing names one
OF_UNKNOWN = "recording "  # prefix of the recording that takes the place of an unknown subject
MAY_SHARE = "subjects unknown: recordings may share people"
ONE_OF = {  # groups → one of them
    "subjects": "subject", "recordings": "recording",
    "subjects and recordings of unknown subjects": "subject or recording",
}  # fmt: skip
FEW = 20  # subjects of a data set, below which chance alone would unbalance the splits


PUBLISHED = re.compile(r"[\w(][\w.+():/ -]{0,63}")  # letters, digits and a few signs, on one line


def published_name(what: str, text: str) -> str:
    """Return a name that model cards and dataset.json repeat. Raise UserError where it could be read as markup."""
    if not PUBLISHED.fullmatch(text):
        raise UserError(
            f"{what} is {text!r}, but it may have up to 64 letters, digits, spaces and . + - ( ) : / on one line"
        )
    return text


def pseudonym(salt: str | None, dataset: str, *parts: str) -> str:
    """Return 16 hexadecimal digits for a subject, a session or a recording of a dataset."""
    key = salt if salt is not None else f"dreamjax default salt of {dataset}"
    return hashlib.sha256("\x1f".join((key, dataset, *parts)).encode(errors="surrogateescape")).hexdigest()[:DIGITS]


def unit(subject: str, recording: str) -> str:
    """Return what samples are grouped by: the subject, or the recording where the subject is unknown."""
    return f"{OF_UNKNOWN}{recording}" if subject in ("", UNKNOWN) else subject


def unknown_units(units: Iterable[str]) -> int:
    """Return how many of the units are recordings of unknown subjects."""
    return sum(one.startswith(OF_UNKNOWN) for one in set(units))


def in_words(units: Iterable[str], what: str = "subject", plural: str = "") -> str:
    """Return a number of units in words: "2 subjects and 3 recordings of unknown subjects"."""
    every = set(units)
    unknown = unknown_units(every)
    known = len(every) - unknown
    recordings = f"{counted(unknown, 'recording')} of unknown subjects"
    return (
        f"{counted(known, what, plural)} and {recordings}"
        if known and unknown
        else recordings
        if unknown
        else counted(known, what, plural)
    )


def counts(known: int, unknown: int) -> str:
    """Return the number of known subjects, and of recordings of unknown ones where there are any, for a table."""
    return f"{known} + {counted(unknown, 'recording')} unknown" if unknown else str(known)


def groups(units: Iterable[str]) -> str:
    """Return what intervals resample: subjects, or recordings where the subject is unknown."""
    every = set(units)
    unknown = unknown_units(every)
    return tuple(ONE_OF)[0 if not unknown else 1 if unknown == len(every) else 2]


def caveat(units: Iterable[str]) -> str:
    """Return what a claim about subjects has to add, or "" where all subjects are known."""
    return MAY_SHARE if unknown_units(units) else ""


@dataclass(frozen=True)
class SplitRequest:
    """The requested splits. Recordings are split by subject with `fractions` and `seed`; the rest is for trials."""

    by: Literal["official", "subject", "image", "class", "block"] | None = None  # None: official where there is a file
    file: str = ""
    number: int = 0  # of the split in the file; everybody uses the first
    subjects: tuple[int, ...] = ()  # empty: everybody
    hold_out: tuple[int, ...] = ()  # test, or test and val
    fractions: Mapping[str, float] = field(default_factory=dict)  # empty: FRACTIONS, or what the trials call for
    seed: int = 0

    def __post_init__(self) -> None:
        shares = list(self.fractions.values())
        if not shares:
            return
        if set(self.fractions) != set(SPLITS) or min(shares) < 0 or not abs(sum(shares) - 1) <= 1e-6:
            raise ValueError(f"splits are three shares that sum to 1, not {shares}")

    @property
    def shares(self) -> Mapping[str, float]:
        """Return the shares of recordings."""
        return self.fractions or FRACTIONS


@dataclass(frozen=True)
class Identity:
    """The origin of a record, as pseudonyms."""

    subject: str
    session: str
    recording: str


def identity(salt: str | None, dataset: str, subject: str, session: str = "", name: str = "") -> Identity:
    """Return the pseudonyms of one recording, `name`, of a subject in a session. An unknown subject stays unknown."""
    known = subject != UNKNOWN
    return Identity(
        subject=pseudonym(salt, dataset, "subject", subject) if known else UNKNOWN,
        session=pseudonym(salt, dataset, "session", subject, session, *(() if known else (name,))),
        recording=pseudonym(salt, dataset, "recording", subject, *((session, name) if name else (session,))),
    )


def assign_splits(
    people: Iterable[tuple[str, str]],
    fractions: Mapping[str, float],
    seed: int = 0,
    together: Iterable[tuple[tuple[str, str], tuple[str, str]]] = (),
) -> dict[tuple[str, str], str]:
    """Return (dataset, subject) → train, val or test. The two of each pair in `together` are in one split.

    Every subject has a place in [0, 1), a hash of data set and subject. From 20 subjects of a data set on, `fractions`
    cut that interval, so a subject stays where it is when others join. Fewer are sorted by their places, and the last
    max(1, round(n · fraction)) are test, those before them val (one or two subjects are all train). Where a collection
    of three subjects or more would still lack val or test, the subject with the highest place moves there.
    """
    by_corpus: dict[str, list[tuple[str, str]]] = {}
    places = {}
    everyone = set(people)
    leader = leaders(everyone, together)
    for dataset, subject in set(leader.values()):  # independent of the salt: splits agree between pseudonymisations
        digest = hashlib.sha256(f"split {seed}\x1f{dataset}\x1f{subject}".encode(errors="surrogateescape")).digest()
        places[dataset, subject] = int.from_bytes(digest[:8], "big") / 2**64
    for person in sorted(places, key=lambda p: places[p]):
        by_corpus.setdefault(person[0], []).append(person)
    split: dict[tuple[str, str], str] = {}
    for members in by_corpus.values():
        n = len(members)
        if n >= FEW:
            edges = fractions["train"], fractions["train"] + fractions["val"]
            split |= {p: SPLITS[sum(places[p] >= edge - 1e-12 for edge in edges)] for p in members}
        else:
            few = n < len(SPLITS)
            val, test = (0 if few or not fractions[s] else max(1, round(n * fractions[s])) for s in ("val", "test"))
            split |= {p: SPLITS[(i >= n - val - test) + (i >= n - test)] for i, p in enumerate(members)}
    if len(places) >= len(SPLITS):
        for wanted in ("test", "val"):
            if fractions[wanted] > 0 and wanted not in split.values():
                moved = [p for p in places if split[p] == "train"]
                if len(moved) > 1:
                    split[max(moved, key=lambda p: places[p])] = wanted
    return {person: split[leader[person]] for person in everyone}


def leaders(people: Iterable[P], together: Iterable[tuple[P, P]]) -> dict[P, P]:
    """Return person → the first, in order, of all who are connected to that person by pairs."""
    leader = {person: person for person in people}

    def first(person: P) -> P:
        while (above := leader[person]) != person:
            leader[person] = leader[above]  # the way is shorter next time
            person = above
        return person

    for one, other in together:
        earlier, later = sorted((first(one), first(other)))
        leader[later] = earlier
    return {person: first(person) for person in leader}
