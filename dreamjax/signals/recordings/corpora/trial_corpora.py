"""Corpora that are published as trials, already cut and filtered: what `prepare` needs of each, and its splits.

official   a published file of indices. `_all`: they count the whole list, for any person. `_single`: they count the
           list of one person. Confusing the two gives a split that looks right and is wrong.
subject    one person is tested, another one is used to choose the step, the others train; images are disjoint as well,
           since everybody saw the same ones.
image      images are disjoint, people are not.
class      classes are disjoint: for systems that do not predict classes. A class is a block, so blocks are disjoint.
block      blocks are disjoint: impossible within a person for a decoder of classes, so people are disjoint.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Int

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.signals.recordings.corpora import (
    eeg_imagenet,
    responses,
    things_eeg2,
    things_meg,
    things_meg_epochs,
    things_raw,
)
from dreamjax.signals.recordings.corpora.eeg_imagenet import PublishedTrials
from dreamjax.signals.recordings.corpora.recording_corpora import A_BLOCK_IS_A_CLASS
from dreamjax.signals.recordings.corpora.things_eeg2 import ThingsTrials
from dreamjax.signals.recordings.corpora.trial_set import TrialSet
from dreamjax.signals.recordings.identity import SPLITS, SplitRequest
from dreamjax.typing import JsonDict

UNUSED = ""  # split of a trial that is in none
WAYS = (
    "--split-file FILE (a published one), --split-by subject --hold-out N (another person, other images), --split-by "
    "image, or --split-by class"
)


@dataclass(frozen=True)
class AssignedSplits:
    """The split of each trial, UNUSED where it is in none, and the description of the splits for dataset.json."""

    split: np.ndarray  # of str
    description: JsonDict
    dropped: Mapping[str, int]  # reason → trials


@dataclass(frozen=True)
class TrialCorpus:
    """A corpus of trials: how its files are recognised, opened and split."""

    handles: Callable[[str], bool]  # whether a path may be a file or folder of this corpus
    open: Callable[[str, str], TrialSet]  # of the path and --stimuli
    assign: Callable[[Any, SplitRequest], AssignedSplits]  # of what `open` returns
    takes: tuple[str, ...] = ()  # the options that only some corpora take


def assign(trials: PublishedTrials, request: SplitRequest) -> AssignedSplits:
    """Assign the splits of EEG-ImageNet. Raise UserError for missing, conflicting or impossible options."""
    request = _with_shares(trials, request)
    if min(request.fractions.values()) <= 0:
        raise UserError(
            f"splits of trials are three shares above 0 that sum to 1, not {list(request.fractions.values())}"
        )
    _check_people(trials, request.subjects, "--subject")
    by = request.by or ("official" if request.file else None)
    if by is None:
        raise UserError(f"{trials.source}: say how its trials are split: {WAYS}")
    if request.file and by != "official":
        raise UserError(f"--split-by {by} takes no --split-file; leave one out")
    if by == "official" and not request.file:
        raise UserError(
            "--split-by official wants --split-file block_splits_by_image_all.pth, or …_single.pth with --subject"
        )
    if request.hold_out and by not in ("subject", "block"):
        raise UserError(f"--hold-out names people, and --split-by {by} holds out no person; use --split-by subject")
    people = request.subjects or trials.subjects
    if by == "official":
        return _official(trials, request)
    if by == "block" and len(people) < len(SPLITS):
        raise UserError(
            f"--split-by block cannot hold out blocks of {_persons(people)}: {A_BLOCK_IS_A_CLASS}; hold out people "
            "over everybody's trials (--split-by subject --hold-out N), or whole classes for a system that names none "
            "(--split-by class)"
        )
    if by in ("subject", "block"):
        return _by_subject(trials, people, request)
    return _by_image(trials, people, request, classes=by == "class")


def assign_by_image(trials: TrialSet, request: SplitRequest) -> AssignedSplits:
    """Assign every image with its trials to one split. Raise UserError for shares that leave none to train or test."""
    request = _with_shares(trials, request)
    if request.by not in (None, "image"):
        raise UserError(f"{trials.source}: its trials are split by image, not by {request.by}; leave out --split-by")
    if idle := [name for name, value in (("--split-file", request.file), ("--hold-out", request.hold_out),
                                         ("--subject", request.subjects)) if value]:  # fmt: skip
        raise UserError(f"{idle[0]} has no effect on {trials.source}, whose trials are split by image; leave it out")
    split = _images(trials, request)[trials.image].astype(object)
    description = {"by": "image", "fractions": dict(request.fractions), "seed": request.seed}
    return AssignedSplits(split, description | _shared_images(trials, split), {})


def assign_published(trials: ThingsTrials, request: SplitRequest) -> AssignedSplits:
    """Assign the splits that the files state, of everybody or of --subject. Raise UserError for other requests."""
    if request.by not in (None, "official") or request.file or request.hold_out or request.fractions:
        raise UserError(
            f"{trials.source}: its trials keep the splits train and test that they are published with; leave out "
            "--split-by, --split-file, --hold-out and --splits"
        )
    _check_people(trials, request.subjects, "--subject")
    split = np.where(np.isin(trials.subject, request.subjects or trials.subjects), trials.split, UNUSED).astype(object)
    return AssignedSplits(split, {"by": "official"} | _shared_images(trials, split), {})


def assign_things_meg(trials: things_meg_epochs.EpochTrials, request: SplitRequest) -> AssignedSplits:
    """Assign the published splits of THINGS-MEG, of all people or of those that are asked for."""
    _check_people(trials, request.subjects, "--subject")
    split = np.array(trials.published, object)
    split[~np.isin(trials.subject, request.subjects or trials.subjects)] = UNUSED
    images = {name: {trials.stimulus(int(i)) for i in np.flatnonzero(split == name)} for name in things_meg.SPLITS}
    return AssignedSplits(split, things_meg.description(images), {"a catch trial": trials.catch})


def _with_shares(trials: TrialSet, request: SplitRequest) -> SplitRequest:
    """Return the request with the usual shares of these trials, where it has none."""
    return replace(request, fractions=dict(request.fractions or trials.shares))


def _check_people(trials: TrialSet, asked: Sequence[int], option: str) -> None:
    if unknown := [number for number in asked if number not in trials.subjects]:
        raise UserError(f"{option} {unknown[0]}: {trials.source} has no such person; it has {_named(trials.subjects)}")


def _persons(people: Sequence[int]) -> str:
    return f"person {people[0]}" if len(people) == 1 else f"{len(people)} people"


def _named(people: Sequence[int]) -> str:
    return ", ".join(map(str, people))


def _shared_images(trials: TrialSet, split: np.ndarray) -> dict[str, int]:
    """Return how many images are in more than one split, with a warning if there are any."""
    train, val, test = (set(trials.image[split == name].tolist()) for name in SPLITS)
    trained = len(train & test)
    if both := len((train & val) | (val & test) | (train & test)):
        log.warning("%d images are in two splits, of them %d in train and test: such scores are not held out", both,
                    trained)  # fmt: skip
    return {"images_in_two_splits": both, "images_in_train_and_test": trained}


# ---------------------------------------------------------------------------------------------------- published splits
def _official(trials: PublishedTrials, request: SplitRequest) -> AssignedSplits:
    file, splits, people = request.file, eeg_imagenet.open_splits(request.file), request.subjects
    if not 0 <= request.number < len(splits):
        raise UserError(f"--split-number {request.number}: {file} has the splits 0 to {len(splits) - 1}")
    parts = splits[request.number]
    last = max((int(indices.max()) for indices in parts.values() if len(indices)), default=-1)
    counts_whole = _counts_whole_list(trials, file, last)
    if not counts_whole and len(people) != 1:
        raise UserError(
            f"{file}: its indices end at {last}, so they count the trials of one person, as in "
            "block_splits_by_image_single.pth; name that person with --subject (published: 4), or give "
            "block_splits_by_image_all.pth"
        )
    counted = np.arange(len(trials)) if counts_whole else np.flatnonzero(trials.subject == people[0])
    if last >= len(counted):
        raise UserError(
            f"{file}: index {last} is beyond the {len(counted)} trials of {trials.source}; the two files do not belong "
            "together"
        )
    split = np.full(len(trials), UNUSED, object)
    for name, indices in parts.items():
        taken = split[counted[indices]] != UNUSED
        if taken.any():
            first = indices[taken][0]
            raise UserError(
                f"{file}: trial {first} is in {split[counted[first]]} and in {name}; a trial that is trained on and "
                "tested on measures nothing; fetch the file again"
            )
        split[counted[indices]] = name
    outside = ~np.isin(trials.subject, people or trials.subjects)
    dropped = {"in no split of the file": int(((split == UNUSED) & ~outside).sum())}
    split[outside] = UNUSED  # first index, then filter: the other order gives another, wrong split
    meaning = "the whole list" if counts_whole else f"the trials of person {people[0]} alone"
    log.info("%s: its indices count %s", file, meaning)
    log.info("%d of %d trials %s are in its split %d", (split != UNUSED).sum(), (~outside).sum(),
             f"of {_persons(people)}" if people else "", request.number)  # fmt: skip
    name = PurePosixPath(file).name
    description = {"by": "official", "file": name, "number": request.number, "indices": meaning}
    return AssignedSplits(split, description | _shared_images(trials, split), dropped)


def _counts_whole_list(trials: PublishedTrials, file: str, last: int) -> bool:
    """Return whether indices count the whole list or one person's, by whether they exceed every person's list.

    Raise UserError where the file's name contradicts this.
    """
    longest = max(int((trials.subject == person).sum()) for person in trials.subjects)
    whole = len(trials.subjects) == 1 or last >= longest
    stem = PurePosixPath(file).stem
    by_name = True if stem.endswith("_all") else False if stem.endswith("_single") else whole
    if by_name != whole and len(trials.subjects) > 1:
        raise UserError(
            f"{file}: by its name its indices count {'everybody' if by_name else 'one person'}, but they end at {last},"
            f" and the longest list of one person has {longest} trials; it does not belong to this file of trials"
        )
    return whole


# ------------------------------------------------------------------------------- people, images or classes held out
def _by_subject(trials: PublishedTrials, people: Sequence[int], request: SplitRequest) -> AssignedSplits:
    """Return splits with one person in test, one in val, the others in train, each with the images of its split."""
    if len(people) < len(SPLITS):
        raise UserError(
            f"--split-by {request.by} needs three people (train, val, test), but there "
            f"{'is one' if len(people) == 1 else 'are two'}; leave out --subject, or use --split-by image"
        )
    if not request.hold_out:
        raise UserError(f"--split-by {request.by} wants --hold-out N, the person to test on: {_named(people)}")
    _check_people(trials, request.hold_out, "--hold-out")
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
    return AssignedSplits(split, description | {"seed": request.seed} | _shared_images(trials, split), dropped)


def _by_image(
    trials: PublishedTrials, people: Sequence[int], request: SplitRequest, *, classes: bool
) -> AssignedSplits:
    if classes:
        if len(trials.labels) < len(SPLITS):
            raise UserError(f"--split-by class needs three classes, but {trials.source} has {len(trials.labels)}")
        of = _ranked(trials.labels, trials.corpus, request)[trials.label]
        log.info("no class is in two splits: for systems that name no class; a classifier cannot be scored on these")
    else:
        of = _images(trials, request)[trials.image]
        log.warning("people and blocks are in every split: whatever drifts tells the class; see --split-by subject")
    split = np.where(np.isin(trials.subject, people), of, UNUSED).astype(object)
    description = {"by": "class" if classes else "image", "fractions": dict(request.fractions), "seed": request.seed}
    return AssignedSplits(split, description | _shared_images(trials, split), {})


def _ranked(names: Sequence[str], corpus: str, request: SplitRequest) -> np.ndarray:
    """Return a split for each of three or more names: ordered by a hash, the last are test, those before them val."""
    n = len(names)
    if n < len(SPLITS):
        return np.full(n, "train", object)
    order = sorted(range(n), key=lambda i: hashlib.sha256(f"{corpus} {request.seed}\x1f{names[i]}".encode()).digest())
    shares = request.fractions
    test, val = (max(1, round(n * shares[name])) if shares[name] else 0 for name in ("test", "val"))
    if test + val >= n:
        raise UserError(f"--splits leave none of {n} images or classes to train on; make the shares smaller")
    split = np.full(n, "train", object)
    split[order[n - test :]] = "test"
    split[order[n - test - val : n - test]] = "val"
    return split


def _images(trials: TrialSet, request: SplitRequest) -> Int[np.ndarray, "images"]:
    """Return the split of each image: the requested shares of every class, by a hash of the name."""
    split = np.full(len(trials.images), "train", object)
    of_class: dict[str, list[int]] = {}
    for i in range(len(trials.images)):
        of_class.setdefault(trials.class_of(i), []).append(i)
    for members in of_class.values():
        split[members] = _ranked([trials.images[i] for i in members], trials.corpus, request)
    return split


# -------------------------------------------------------------------------------------------------- table of corpora
TRIAL_CORPORA = (
    TrialCorpus(
        handles=things_raw.is_raw,
        open=things_raw.open_raw,
        assign=assign_published,
        takes=("--subject", "--sfreq", "--tmin", "--tmax", "--baseline", "--mvnn", "--channel-set"),
    ),
    TrialCorpus(
        handles=things_eeg2.is_preprocessed,
        open=things_eeg2.open_preprocessed,
        assign=assign_published,
        takes=("--subject", "--sfreq", "--samples", "--high", "--channel-set"),
    ),
    TrialCorpus(
        handles=lambda path: path.lower().endswith((".pth", ".pt")),
        open=lambda path, images: eeg_imagenet.open_trials(path),
        assign=assign,
        takes=(
            "--sfreq",
            "--samples",
            "--high",
            "--reading",
            "--subject",
            "--split-file",
            "--split-number",
            "--split-by",
            "--hold-out",
        ),
    ),
    TrialCorpus(
        handles=things_meg_epochs.is_epochs,
        open=things_meg_epochs.open_trials,
        assign=assign_things_meg,
        takes=("--sfreq", "--samples", "--high", "--subject"),
    ),
    TrialCorpus(
        handles=responses.is_responses, open=responses.open_trials, assign=assign_by_image, takes=("--split-by",)
    ),
)


def trial_corpus_of(paths: Sequence[object]) -> TrialCorpus | None:
    """Return the corpus that one of the paths is a file of; None where all may be recordings."""
    texts = [os.fspath(path) for path in paths if isinstance(path, str | os.PathLike)]
    return next((corpus for corpus in TRIAL_CORPORA if any(map(corpus.handles, texts))), None)


def refuse_parent(paths: Sequence[object]) -> None:
    """Raise UserError for a folder that holds the folder of a corpus of trials next to others, such as its images."""
    for path in paths:
        if not isinstance(path, str | os.PathLike) or not os.path.isdir(path):
            continue
        try:
            folders = sorted(entry.path for entry in os.scandir(os.fspath(path)) if entry.is_dir())
            within = next((one for one in folders if trial_corpus_of([one]) is not None), None)
        except OSError:  # the search for recordings names it
            continue
        if within:
            raise UserError(f"{os.fspath(path)}: the trials are in {within}; give that folder, and --stimuli FOLDER")
