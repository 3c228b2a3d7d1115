"""Who goes into which split."""

from collections import Counter

import numpy as np
import pytest

from dreamjax.signals.recordings import identity

FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}


def test_large_corpora_split_near_their_fractions_and_stay_put():
    """2,000 subjects: each share within 4 standard errors; 500 more change nobody's place."""
    people = [("corpus", f"s{i}") for i in range(2000)]
    splits = identity.assign_splits(people, FRACTIONS)
    counts = Counter(splits.values())
    for split, share in FRACTIONS.items():
        assert abs(counts[split] / 2000 - share) < 4 * np.sqrt(share * (1 - share) / 2000)
    more = identity.assign_splits([*people, *(("corpus", f"t{i}") for i in range(500))], FRACTIONS)
    assert all(more[p] == splits[p] for p in people)


@pytest.mark.parametrize(
    ("n", "expected"), [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (1, 1, 1)), (12, (8, 2, 2)), (19, (13, 3, 3))]
)
def test_small_corpora_have_every_split_from_three_subjects_on(n, expected):
    counts = Counter(identity.assign_splits([("c", str(i)) for i in range(n)], FRACTIONS).values())
    assert tuple(counts[s] for s in ("train", "val", "test")) == expected


def test_three_corpora_of_one_subject_each_have_every_split():
    splits = identity.assign_splits([("a", "1"), ("b", "1"), ("c", "1")], FRACTIONS)
    assert set(splits.values()) == {"train", "val", "test"}


def test_splits_do_not_depend_on_order_or_salt():
    people = [("c", str(i)) for i in range(9)]
    assert identity.assign_splits(people, FRACTIONS) == identity.assign_splits(people[::-1], FRACTIONS)
    assert identity.assign_splits(people, FRACTIONS) != identity.assign_splits(people, FRACTIONS, seed=1)
