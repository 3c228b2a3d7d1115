"""The recordings that datasets hold twice, for everything that separates people: folds, left-out subjects, baselines.

`dreamjax prepare` lists them as `copies` in dataset.json; a file that is in two of the dataset folders is recognised by
its hash. A copy is never used, and subjects who share a recording count as one, since they may be one person. A file
that was prepared into two folders under one name and salt is one recording, whose windows count twice.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from dreamjax.console import counted
from dreamjax.signals.datasets import records
from dreamjax.signals.recordings import identity
from dreamjax.typing import JsonDict


@dataclass(frozen=True)
class Copied:
    """The recordings that repeat others, and unit (`identity.unit`) → the first of those that share a recording."""

    recordings: frozenset[str] = frozenset()
    leader: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, paths: Sequence[str]) -> "Copied":
        """Return what the dataset folders `paths`, together, hold twice."""
        units: dict[str, str] = {}  # recording → unit
        repeats: list[tuple[str, str]] = []  # recording, of
        first: dict[str, str] = {}  # SHA-256 → recording
        held: set[str | None] = set()
        for path in paths:
            dataset = records.load_dataset(path)
            held |= {entry.get("recording") for entry in dataset.get("inputs", ())}
            for entry in (*dataset.get("inputs", ()), *dataset.get("copies", ())):
                if "recording" in entry and "subject" in entry:
                    units[entry["recording"]] = identity.unit(entry["subject"], entry["recording"])
            repeats += [(entry["recording"], entry["of"]) for entry in dataset.get("copies", ())]
            for content, recording in _of_one_recording(dataset.get("inputs", ())).items():
                if first.setdefault(content, recording) != recording:
                    repeats.append((recording, first[content]))
        together = [(units[one], units[other]) for one, other in repeats if one in units and other in units]
        leader = identity.leaders({unit for pair in together for unit in pair}, together)
        return cls(frozenset(one for one, _ in repeats if one in held), leader)  # `prepare` left the others out

    def unit(self, subject: str, recording: str) -> str:
        """Return `identity.unit`; of units that share a recording, the first."""
        unit = identity.unit(subject, recording)
        return self.leader.get(unit, unit)

    def sharing(self) -> dict[str, frozenset[str]]:
        """Return unit → all that share a recording with it, directly or through others."""
        members: dict[str, set[str]] = defaultdict(set)
        for unit, leader in self.leader.items():
            members[leader].add(unit)
        return {unit: frozenset(members[leader]) for unit, leader in self.leader.items()}


def notes(left_out: Collection[str]) -> list[str]:
    """Return the notes on recordings left out as copies of others; none where nothing was left out."""
    count = counted(len(left_out), "recording")
    return [f"{count} left out: copies of others (`copies` in dataset.json)"] if left_out else []


def _of_one_recording(inputs: Sequence[JsonDict]) -> dict[str, str]:
    """Return SHA-256 → recording for the files that hold one recording; published trials of many people share one."""
    owners: dict[str, set[str]] = defaultdict(set)
    for entry in inputs:
        if entry.get("sha256") and entry.get("recording"):
            owners[entry["sha256"]].add(entry["recording"])
    return {content: next(iter(of)) for content, of in owners.items() if len(of) == 1}
