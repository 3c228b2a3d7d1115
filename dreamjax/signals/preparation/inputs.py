"""What `prepare` can convert: the protocol of recordings and of published trials, and what both describe alike."""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from dreamjax import __version__
from dreamjax.signals.preparation.parts import PartSummary

PACKAGES = ("numpy", "scipy", "mne", "edfio", "array_record")
JSON = dict[str, Any]  # an object of a JSON file


@dataclass(frozen=True)
class ConvertedPart:
    """A part that became windows: the task it comes from, and its summary."""

    task: Any  # RecordingTask or TrialTask
    summary: PartSummary


@dataclass(frozen=True)
class FailedPart:
    """A task that gave no part, and why (a phrase without personal data)."""

    task: Any
    reason: str


Done = Sequence[ConvertedPart]
Failed = Sequence[FailedPart]


@dataclass(frozen=True)
class ReportLayout:
    """How the quality report draws and words the parts."""

    names: Sequence[str]  # of the parts
    splits: Sequence[str]  # of the parts
    split_note: str  # what is held out
    steps: Sequence[tuple[str, str]]  # (step, what was done)
    unit: str  # of the signal
    plausible: tuple[float, float] | None  # median SD of a recording; None: amplitudes and channels are not judged
    sfreq: float  # Hz of the windows
    first: int  # sample at which an averaged window begins, counted from its event
    length: int  # samples of an averaged window


class Inputs(Protocol):
    """Recordings, or a file of published trials: what is converted part by part, and how it is described."""

    converter: str  # "package.module:function" of (task, beat) → PartSummary, for a child process
    grows: bool  # whether more inputs may be added to a finished dataset

    @property
    def paths(self) -> Sequence[str]:
        """Return files and folders that --overwrite must not delete."""

    def settings_hash(self) -> str:
        """Return a digest of what decides whether two runs write the same records from the same input."""

    def is_complete(self, dataset: Mapping[str, Any], out: object) -> bool:
        """Return whether the dataset in `out`, made with equal settings, holds all of these inputs.

        Raises UserError where it holds others.
        """

    def tasks(self, parts: Path, name: str) -> Sequence[object]:
        """Return the tasks of the converter, which can be pickled; `name` is the dataset's."""

    def check(self, done: Done, failed: Failed) -> None:
        """Raise UserError where what was converted makes no dataset."""

    def splits(self, done: Done) -> Sequence[str]:
        """Return the split of each part."""

    def describe(self, done: Done, failed: Failed, splits: Sequence[str]) -> JSON:
        """Return dataset.json but for the shards."""

    def rejects(self, done: Done, failed: Failed) -> Sequence[JSON]:
        """Return the lines of rejects.jsonl."""

    def key(self) -> Sequence[JSON]:
        """Return the lines of the key of the pseudonyms."""

    def report_layout(self, done: Done, splits: Sequence[str]) -> ReportLayout:
        """Return how the quality report shows the parts."""

    def result(self, dataset: Mapping[str, Any], done: Done, failed: Failed) -> JSON:
        """Return what the command reports besides the totals, the splits and the speed."""


def digest(values: Sequence[object]) -> str:
    """16 hexadecimal digits of JSON-able values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def salt_hash(salt: str | None) -> str:
    return hashlib.sha256((salt or "").encode()).hexdigest()


def environment(salt: str | None) -> JSON:
    """Return the entries of dataset.json on the versions of packages and on the salt, which itself is not kept."""
    versions = {"dreamjax": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"salt": "given" if salt is not None else "default", "versions": versions}
