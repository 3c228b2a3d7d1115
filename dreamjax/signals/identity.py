"""Who is in which split, under which pseudonym.

A pseudonym is a salted SHA-256: the same person gets the same one in every recording of a data set, and without the
salt nobody can go from a guess at the name to the pseudonym. With the default salt (made from the data set's name, so
that two sites get the same ids) anybody can try guesses: give a secret one for anything but public data.
"""

import hashlib
from collections.abc import Iterable, Mapping

SPLITS = ("train", "val", "test")
DIGITS = 16


def pseudonym(salt: str | None, dataset: str, *parts: str) -> str:
    """16 hexadecimal digits for a subject, a session or a recording of a data set."""
    key = salt if salt is not None else f"dreamjax default salt of {dataset}"
    return hashlib.sha256("\x1f".join((key, dataset, *parts)).encode()).hexdigest()[:DIGITS]


def _place(seed: int, dataset: str, subject: str) -> float:
    """Where in [0, 1) a subject falls; independent of the salt, so that splits agree between pseudonymisations."""
    digest = hashlib.sha256(f"split {seed}\x1f{dataset}\x1f{subject}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def assign_splits(
    people: Iterable[tuple[str, str]], fractions: Mapping[str, float], seed: int = 0
) -> dict[tuple[str, str], str]:
    """(data set, subject) → train, val or test.

    A subject's place in [0, 1) is a hash of data set and subject; the `fractions` cut that interval, so a subject stays
    where it is when others join. Only where that leaves val or test without anyone, although the whole collection has
    three subjects or more and the split's fraction is not 0, the nearest subjects of the fullest split are moved there:
    from the top end for test, next below for val.
    """
    people = sorted(set(people))
    places = {person: _place(seed, *person) for person in people}
    edges = fractions["train"], fractions["train"] + fractions["val"]
    split = {p: SPLITS[sum(places[p] >= edge - 1e-12 for edge in edges)] for p in people}
    if len(people) >= len(SPLITS):
        for wanted in ("test", "val", "train"):
            members = {s: [p for p in people if split[p] == s] for s in SPLITS}
            if fractions[wanted] > 0 and not members[wanted]:
                fullest = max(SPLITS, key=lambda s: len(members[s]))
                moved = max if wanted == "test" or fullest == "train" else min
                split[moved(members[fullest], key=lambda p: places[p])] = wanted
    return split
