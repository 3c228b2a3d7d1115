"""Which trial of EEG-ImageNet is in which split, and what that means.

official   a published file of indices. `_all`: they count the whole list, for any person. `_single`: they count the
           list of one person. Read the other way round, they give a split that looks right and is wrong.
subject, image, class: see `trial_splits`. A class is a block, so classes apart are blocks apart.
block      what holds blocks apart: within a person impossible for a decoder of classes, so people apart.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath

import numpy as np

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.signals.recordings.corpora import eeg_imagenet, trial_splits
from dreamjax.signals.recordings.corpora.eeg_imagenet import EegImagenetTrials, SplitFile
from dreamjax.signals.recordings.corpora.trial_corpus import UNUSED, AssignedSplits
from dreamjax.signals.recordings.identity import SPLITS, SplitRequest

WAYS = (
    "--split-file FILE (a published one), --split-by subject --hold-out N (another person, other images), --split-by "
    "image, or --split-by class"
)


def assign(trials: EegImagenetTrials, request: SplitRequest) -> AssignedSplits:
    """The splits. Raises UserError for what is not there, what does not go together and what cannot be."""
    if min(request.fractions.values()) <= 0:
        raise UserError(
            f"splits of trials are three shares above 0 that sum to 1, not {list(request.fractions.values())}"
        )
    trial_splits.check_people(trials, request.subjects, "--subject")
    by = request.by or ("official" if request.file else None)
    if by is None:
        raise UserError(f"{trials.source}: say how its trials are split: {WAYS}")
    if (by == "official") != bool(request.file):
        raise UserError(
            f"--split-by {by} takes no --split-file; leave one out" if request.file else "--split-by official wants "
            "--split-file block_splitstrial_splits.by_image_all.pth, or …_single.pth with --subject"
        )  # fmt: skip
    if request.hold_out and by not in ("subject", "block"):
        raise UserError(f"--hold-out names people, and --split-by {by} holds out no person; use --split-by subject")
    people = request.subjects or trials.subjects
    if by == "official":
        return _official(trials, eeg_imagenet.open_splits(request.file), request)
    if by == "block" and len(people) < len(SPLITS):
        raise UserError(
            f"--split-by block cannot hold out blocks of {trial_splits.persons(people)}: "
            f"{eeg_imagenet.A_BLOCK_IS_A_CLASS}; hold out people over everybody's trials (--split-by subject "
            "--hold-out N), or whole classes for a system that names none (--split-by class)"
        )
    if by in ("subject", "block"):
        return trial_splits.by_subject(trials, people, request)
    return trial_splits.by_image(trials, people, request, classes=by == "class")


def _official(trials: EegImagenetTrials, file: SplitFile, request: SplitRequest) -> AssignedSplits:
    if not 0 <= request.number < len(file.splits):
        raise UserError(f"--split-number {request.number}: {file.source} has the splits 0 to {len(file.splits) - 1}")
    parts = file.splits[request.number]
    counts_whole = _counts_whole_list(trials, file, parts)
    if not counts_whole and len(request.subjects) != 1:
        raise UserError(
            f"{file.source}: its indices end at {_last(parts)}, so they count the trials of one person, as in "
            "block_splitstrial_splits.by_image_single.pth; name that person with --subject (published: 4), or give "
            "block_splitstrial_splits.by_image_all.pth"
        )
    counted = np.arange(len(trials)) if counts_whole else np.flatnonzero(trials.subject == request.subjects[0])
    if _last(parts) >= len(counted):
        raise UserError(
            f"{file.source}: index {_last(parts)} is beyond the {len(counted)} trials of {trials.source}; the two "
            "files do not belong together"
        )
    split = np.full(len(trials), UNUSED, object)
    for name, indices in parts.items():
        taken = split[counted[indices]] != UNUSED
        if taken.any():
            first = indices[taken][0]
            raise UserError(
                f"{file.source}: trial {first} is in {split[counted[first]]} and in {name}; a trial that is "
                "trained on and tested on measures nothing; fetch the file again"
            )
        split[counted[indices]] = name
    outside = (
        ~np.isin(trials.subject, request.subjects) if request.subjects else np.zeros(len(trials), bool)
    )  # first index, then filter: the other order gives another, wrong split
    dropped = {"in no split of the file": int(((split == UNUSED) & ~outside).sum())}
    split[outside] = UNUSED
    meaning = "the whole list" if counts_whole else f"the trials of person {request.subjects[0]} alone"
    log.info("%s: its indices count %s", file.source, meaning)
    used = int((split != UNUSED).sum())
    log.info("%d of %d trials %s are in its split %d", used, int((~outside).sum()),
             f"of {trial_splits.persons(request.subjects)}" if request.subjects else "", request.number)  # fmt: skip
    description = {
        "by": "official",
        "file": PurePosixPath(file.source).name,
        "number": request.number,
        "indices": meaning,
    }
    return AssignedSplits(split, description | trial_splits.shared_images(trials, split), dropped)


def _last(parts: Mapping[str, np.ndarray]) -> int:
    return max((int(indices.max()) for indices in parts.values() if len(indices)), default=-1)


def _counts_whole_list(trials: EegImagenetTrials, file: SplitFile, parts: Mapping[str, np.ndarray]) -> bool:
    """Whether indices count the whole list or that of one person. `_single` stays within every person's; `_all` not.

    Raises UserError where the file's name says the other.
    """
    longest = max(int((trials.subject == person).sum()) for person in trials.subjects)
    whole = len(trials.subjects) == 1 or _last(parts) >= longest
    stem = PurePosixPath(file.source).stem
    by_name = True if stem.endswith("_all") else False if stem.endswith("_single") else whole
    if by_name != whole and len(trials.subjects) > 1:
        ends = f"end at {_last(parts)}, and the longest list of one person has {longest} trials"
        raise UserError(
            f"{file.source}: by its name its indices count {'everybody' if by_name else 'one person'}, but they "
            f"{ends}; it does not belong to this file of trials"
        )
    return whole
