"""Detect whether a model was trained on a subject that it is scored on.

Two identifiers are compared: subjects' pseudonyms, and the hashes of the recordings' files, which also identify a
person who was prepared twice under different salts. Where neither can be compared, the answer is unknown.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dreamjax.errors import UserError
from dreamjax.signals.recordings import identity


@dataclass(frozen=True)
class People:
    """The people in a part of a dataset."""

    subjects: frozenset[str] = field(default_factory=frozenset)  # for unknown ones, their recordings
    files: frozenset[str] = field(default_factory=frozenset)  # SHA-256 of recordings

    def shared(self, other: "People") -> list[str]:
        """Return the shared pseudonyms or hashes, in words a user can search for; empty without a shared subject."""
        names = [s if identity.unknown_units([s]) else f"subject {s}" for s in sorted(self.subjects & other.subjects)]
        return names or [f"the recording with SHA-256 {f[:12]}…" for f in sorted(self.files & other.files)]


@dataclass(frozen=True)
class Dataset:
    """All subjects of a dataset, whatever their split, and the recordings of each."""

    subjects: frozenset[str]
    files: Mapping[str, frozenset[str]] = field(default_factory=dict)  # subject → SHA-256 of its recordings
    sharing: Mapping[str, frozenset[str]] = field(default_factory=dict)  # subject → those who share a recording with it

    def of(self, subjects: Iterable[str]) -> People:
        """Return the people for some of the subjects, with those who share a recording with them."""
        chosen = frozenset().union(*(self.sharing.get(s, frozenset()) | {s} for s in subjects))
        return People(chosen, frozenset().union(*(self.files.get(s, frozenset()) for s in chosen)))

    def comparable(self, training: People, subjects: Iterable[str]) -> list[str]:
        """Return the traces by which one of `subjects` would be recognised among the people of a training dataset.

        Pseudonyms have the same salt where both datasets hold a common one. Empty where nothing can be compared.
        """
        hashed = bool(training.files) and all(self.files.get(s) for s in subjects)
        salted_alike = bool(training.subjects & self.subjects)
        return ["pseudonyms"] * salted_alike + ["file hashes"] * hashed


def refuse_overlap(
    training: Sequence[People] | None, held_out: Mapping[str, tuple[Dataset, People]], split: str, run: str
) -> str:
    """Return what could be verified, as a sentence. Raise UserError where a scored subject was trained on.

    `held_out`: dataset folder → all its subjects, and those in `split` of it (`runs.provenance.held_out`).
    """
    if training is None:
        return f"not verified that training never saw these subjects: what {run} was trained on is gone or unknown"
    pairs = [(part, whole, scored) for whole, scored in held_out.values() for part in training]
    compared = [whole.comparable(part, scored.subjects) for part, whole, scored in pairs]
    if both := [who for part, _, scored in pairs for who in part.shared(scored)]:
        more = f" and {len(both) - 1} more" if len(both) > 1 else ""
        raise UserError(
            f"{run} was trained on {both[0]}{more}, who {'are' if more else 'is'} in split {split} of "
            f"{', '.join(held_out)}; a score there would not be held out: evaluate on subjects that training never saw"
        )
    if not all(compared):
        return (
            f"not verified that training never saw these subjects: {run} was trained on data whose pseudonyms have "
            "another salt, and file hashes are not known"
        )
    traces = " and ".join(trace for trace in ("pseudonyms", "file hashes") if any(trace in c for c in compared))
    units = frozenset().union(*(part.subjects | scored.subjects for part, _, scored in pairs))
    if unknown := identity.caveat(units):
        return f"training saw none of these recordings ({traces} compared); {unknown}"
    return f"training saw none of these subjects ({traces} compared)"
