"""Protocols of retrieval: who is trained on, what is held out, which checkpoint is scored, what is averaged.

Published numbers of retrieval from brain signals differ more by these than by the systems. A protocol is therefore
named under every table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dreamjax.errors import UserError, nearest

People = Literal["in_subject", "joint", "leave_one_out"]
Checkpoint = Literal["held_out", "last", "test"]
IN_WORDS = {"last": "last epoch", "test": "selected on test: not a result"}
HELD_OUT_IN_WORDS = {  # by data.validation
    "concepts": "best on held-out concepts",
    "images": "best on held-out images of trained concepts",
    "timeline": "best on the end of each session",
}
PEOPLE_IN_WORDS = {
    "in_subject": "one model a person",
    "joint": "one model for all people",
    "leave_one_out": "each person is tested by a model of the others",
}


@dataclass(frozen=True)
class Protocol:
    """A way of training and scoring, the same for every system of a table."""

    name: str
    summary: str  # one sentence, for the table
    people: People
    data: Mapping[str, Any] = field(default_factory=dict)  # fields of the config group `data`
    checkpoints: tuple[Checkpoint, ...] = ("held_out", "last")  # the first one ranks the systems; see `published`
    headline: int = 1  # k of the top-k accuracy by which systems are compared
    published: bool = False  # each system is trained and chosen as its publication did


PROTOCOLS = {
    one.name: one
    for one in (
        Protocol(
            "honest",
            "The checkpoint is chosen on held-out concepts, the last epoch stands next to it, and the test set is "
            "read once. The gallery holds the clean stimuli. Repetitions are averaged.",
            "in_subject",
            {"validation": "concepts", "test_repeats": "average", "concepts_apart": True},
        ),
        Protocol(
            "paper",
            "Every system as its publication trained and chose it; where that was by the test set, the column says so.",
            "in_subject",
            {"test_repeats": "average"},
            published=True,
        ),
        Protocol(
            "neuralbench",
            "One model for all people, who are not told apart. The end of every session is held out for validation, "
            "single trials are trained on, and the test trials of an image are averaged within a person.",
            "joint",
            {"validation": "timeline", "repeats": "single", "test_repeats": "average", "identified": False},
            headline=5,
        ),
        Protocol(
            "single_trial",
            "Single trials are trained on and tested: what a live decoder has.",
            "in_subject",
            {"validation": "concepts", "repeats": "single", "test_repeats": "single"},
        ),
    )
}


def in_words(checkpoint: str, validation: str, closed_form: bool = False) -> str:
    """Return how a checkpoint was chosen; `validation`: what was held out (`data.validation`)."""
    if closed_form:
        return "closed form"
    return HELD_OUT_IN_WORDS[validation] if checkpoint == "held_out" else IN_WORDS[checkpoint]


def counted(checkpoints: Sequence[str]) -> str:
    """Return the first checkpoint that is a result, by which systems are ranked: not one chosen on the test set."""
    return next((name for name in checkpoints if name != "test"), "")


def find(name: str) -> Protocol:
    """Return a protocol by name. Raise UserError for an unknown one."""
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    guess = nearest(name, list(PROTOCOLS))
    raise UserError(
        f"unknown protocol {name!r}; " + (f"did you mean {guess}?" if guess else f"choose from {', '.join(PROTOCOLS)}")
    )
