"""Splits of published trials that hold for any corpus: people, images or classes held out.

subject    one person is tested, another chooses the step, the others train; the images are apart as well, since
           everybody saw the same ones.
image      the images are apart, the people are not.
class      classes are apart: for systems that name no class.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.signals.recordings.corpora.trial_corpus import UNUSED, AssignedSplits, PublishedTrials
from dreamjax.signals.recordings.identity import SPLITS, SplitRequest


def check_people(trials: PublishedTrials, asked: Sequence[int], option: str) -> None:
    if unknown := [number for number in asked if number not in trials.subjects]:
        raise UserError(
            f"{option} {unknown[0]}: {trials.source} has no such person; it has {', '.join(map(str, trials.subjects))}"
        )


def persons(people: Sequence[int]) -> str:
    return f"person {people[0]}" if len(people) == 1 else f"{len(people)} people"


def shared_images(trials: PublishedTrials, split: np.ndarray) -> dict[str, int]:
    """How many images are in more than one split, with a warning where there are any."""
    seen = {name: set(trials.image[split == name].tolist()) for name in SPLITS}
    trained = len(seen["train"] & seen["test"])
    both = len((seen["train"] & seen["val"]) | (seen["val"] & seen["test"]) | (seen["train"] & seen["test"]))
    if both:
        log.warning("%d images are in two splits, of them %d in train and test: such scores are not held out", both,
                    trained)  # fmt: skip
    return {"images_in_two_splits": both, "images_in_train_and_test": trained}


def by_subject(trials: PublishedTrials, people: Sequence[int], request: SplitRequest) -> AssignedSplits:
    """One person tests, one validates, the others train; and each only on the images of its own split."""
    if len(people) < len(SPLITS):
        raise UserError(
            f"--split-by {request.by} needs three people (train, val, test), but there "
            f"{'is one' if len(people) == 1 else 'are two'}; leave out --subject, or use --split-by image"
        )
    if not request.hold_out:
        raise UserError(f"--split-by {request.by} wants --hold-out N, the person to test on: {_named(people)}")
    check_people(trials, request.hold_out, "--hold-out")
    held = set(request.hold_out)
    if not len(held) == len(request.hold_out) <= 2 or not held <= set(people):
        raise UserError(f"--hold-out takes one or two different people of {_named(people)}")
    test, order = request.hold_out[0], sorted(people)
    val = request.hold_out[1] if len(request.hold_out) > 1 else order[(order.index(test) + 1) % len(order)]
    of_person = np.where(trials.subject == test, "test", np.where(trials.subject == val, "val", "train")).astype(object)
    of_image = _images(trials, request)[trials.image]
    asked = np.isin(trials.subject, people)
    split = np.where(asked & (of_person == of_image), of_person, UNUSED).astype(object)
    dropped = {
        f"{name}: of an image of another split": int((asked & (of_person == name) & (split == UNUSED)).sum())
        for name in SPLITS
    }
    log.info(
        "person %d is tested and person %d chooses the step; images are apart too, so that %d of %d trials are in no "
        "split", test, val, sum(dropped.values()), int(asked.sum()),
    )  # fmt: skip
    description = {"by": "subject", "test": test, "val": val, "fractions_of_images": dict(request.fractions)}
    return AssignedSplits(split, description | {"seed": request.seed} | shared_images(trials, split), dropped)


def _named(people: Sequence[int]) -> str:
    return ", ".join(map(str, people))


def by_image(trials: PublishedTrials, people: Sequence[int], request: SplitRequest, *, classes: bool) -> AssignedSplits:
    of = _classes(trials, request)[trials.label] if classes else _images(trials, request)[trials.image]
    split = np.where(np.isin(trials.subject, people), of, UNUSED).astype(object)
    description = {"by": "class" if classes else "image", "fractions": dict(request.fractions), "seed": request.seed}
    if classes:
        log.info("no class is in two splits: for systems that name no class; a classifier cannot be scored on these")
    else:
        log.warning("people and blocks are in every split: whatever drifts tells the class; see --split-by subject")
    return AssignedSplits(split, description | shared_images(trials, split), {})


def _ranked(names: Sequence[str], corpus: str, request: SplitRequest) -> np.ndarray:
    """A split for each name: ordered by a hash, the last are test, those before them val. Three names or more."""
    n = len(names)
    if n < len(SPLITS):
        return np.full(n, "train", object)
    order = sorted(range(n), key=lambda i: hashlib.sha256(f"{corpus} {request.seed}\x1f{names[i]}".encode()).digest())
    share = request.fractions
    test, val = (max(1, round(n * share[name])) for name in ("test", "val"))
    if test + val >= n:
        raise UserError(f"--splits leave none of {n} images or classes to train on; make the shares smaller")
    split = np.full(n, "train", object)
    split[order[n - test :]] = "test"
    split[order[n - test - val : n - test]] = "val"
    return split


def _images(trials: PublishedTrials, request: SplitRequest) -> Int[np.ndarray, "images"]:
    """The split of each image: the requested shares of every class, by a hash of the name, so for good."""
    split = np.full(len(trials.images), "train", object)
    of_class: dict[str, list[int]] = {}
    for i in range(len(trials.images)):
        of_class.setdefault(trials.class_of(i), []).append(i)
    for members in of_class.values():
        split[members] = _ranked([trials.images[i] for i in members], trials.corpus, request)
    return split


def _classes(trials: PublishedTrials, request: SplitRequest) -> np.ndarray:
    """The split of each class. Raises UserError where there are fewer than three."""
    if len(trials.labels) < len(SPLITS):
        raise UserError(f"--split-by class needs three classes, but {trials.source} has {len(trials.labels)}")
    return _ranked(trials.labels, trials.corpus, request)
