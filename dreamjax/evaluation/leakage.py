"""Whether a model was trained on somebody whom it is scored on.

Two traces are compared: subjects' pseudonyms, and the hashes of the recordings' files, which also find a person who
was prepared twice under different salts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from dreamjax.errors import UserError
from dreamjax.signals import records


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
    dataset = records.load_dataset(folder)
    if split not in dataset["splits"]:
        return People()
    inputs = [entry for entry in dataset.get("inputs", []) if entry.get("split") == split]
    files = frozenset(entry["sha256"] for entry in inputs if entry.get("sha256"))
    if inputs and all("subject" in entry for entry in inputs):
        return People(frozenset(entry["subject"] for entry in inputs), files)
    return People(frozenset(window.subject for window in records.read_windows(folder, split)), files)


def trained_on(paths: Sequence[str]) -> People | None:
    """Who is in the training splits of `paths`; None where one is no longer there to look, or none is known."""
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
