"""Whether a model was trained on somebody whom it is scored on.

Two traces are compared: subjects' pseudonyms, and the hashes of the recordings' files, which also find a person who
was prepared twice under different salts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from dreamjax.errors import UserError
from dreamjax.signals import origin


@dataclass(frozen=True)
class People:
    """Who is in some splits of some datasets."""

    subjects: frozenset[str] = field(default_factory=frozenset)
    files: frozenset[str] = field(default_factory=frozenset)  # SHA-256 of recordings

    def __or__(self, other: "People") -> "People":
        return People(self.subjects | other.subjects, self.files | other.files)

    def shared(self, other: "People") -> list[str]:
        """What both hold, in words a user can search for; empty where nobody is in both."""
        found = [f"subject {s}" for s in sorted(self.subjects & other.subjects)]
        return found or [f"the recording with SHA-256 {f[:12]}…" for f in sorted(self.files & other.files)]


def people(folder: str, split: str) -> People:
    """Who is in a split of a dataset folder: from its dataset.json where that lists them, else from every record."""
    return People(*origin.who(folder, split))


def trained_on(paths: Sequence[str], workdir: str | None = None) -> People | None:
    """Who was trained on: as the run in `workdir` says, else who is now in the training splits of `paths`.

    None where a path is no longer there to look, or none is known.
    """
    recorded = None if workdir is None else origin.read(workdir)
    if recorded is not None:
        people_of = [entry["train"] for entry in recorded]
        return People(
            frozenset(s for entry in people_of for s in entry["subjects"]),
            frozenset(f for entry in people_of for f in entry["files"]),
        )
    found, known = People(), list(paths)
    if not known:  # an imported run, which does not say what it was trained on
        return None
    for path in known:
        try:
            found |= people(path, "train")
        except UserError:
            return None
    return found


def refuse_overlap(training: People | None, folders: Sequence[str], split: str, run: str) -> str:
    """What could be verified, as a sentence. Raises UserError where a scored subject was trained on."""
    if training is None:
        return f"not verified that training never saw these subjects: what {run} was trained on is gone or unknown"
    scored = People()
    for folder in folders:
        scored |= people(folder, split)
    if both := training.shared(scored):
        more = f" and {len(both) - 1} more" if len(both) > 1 else ""
        raise UserError(
            f"{run} was trained on {both[0]}{more}, who {'are' if more else 'is'} in split {split} of "
            f"{', '.join(folders)}; a score there would not be held out: evaluate on subjects that training never saw"
        )
    return "training saw none of these subjects (pseudonyms and file hashes compared)"
