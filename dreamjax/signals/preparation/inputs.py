"""The options of `prepare`, and the descriptions that recordings and published trials share (`prepare.Inputs`)."""

import hashlib
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from dreamjax import __version__
from dreamjax.signals.preparation.parts import PartSummary
from dreamjax.signals.preparation.workers import Outcome
from dreamjax.signals.recordings.electrodes import Electrodes
from dreamjax.signals.recordings.identity import SplitRequest, published_name
from dreamjax.signals.recordings.readers.modalities import Modality
from dreamjax.storage import manifest
from dreamjax.typing import JsonDict

OPTIONS = {
    "codes": "event-codes",
    "offset_ms": "event-offset-ms",
    "source": "events",
    "implausible": "keep-implausible",
    "plausible_low_uv": "plausible-uv LOW",
    "plausible_high_uv": "plausible-uv HIGH",
    "plausible_low_ft": "plausible-ft LOW",
    "plausible_high_ft": "plausible-ft HIGH",
    "by": "split-by",
    "fractions": "splits",
    "fractions_of_images": "splits",
    "test": "hold-out (test)",
    "val": "hold-out (val)",
    "seed": "split-seed",
    "subjects": "subject",
    "number": "split-number",
}  # settings whose options have other names
PACKAGES = ("numpy", "scipy", "mne", "edfio", "array_record")


@dataclass(frozen=True)
class PrepareOptions:
    """The options of `prepare`; only `salt`, `splits`, `unit_scales`, `strict`, `licence`, `stimuli` change records."""

    name: str = ""  # of the dataset folder; from the folder's name when empty
    workers: int | None = None  # child processes; None for one per core, 0 for none
    timeout_s: float = 300.0  # a child without progress for so long is killed
    memory_gib: float = 4.0  # a recording for which a child needs more is left out; not with workers=0
    salt: str | None = None  # of the pseudonyms; None for one made from the dataset's name
    splits: SplitRequest = field(default_factory=SplitRequest)
    strict: bool = False  # refuse files shorter than their header states, and trials whose image is missing or damaged
    overwrite: bool = False
    key_file: str = ""  # where to write recording id → path; kept out of the dataset on purpose
    licence: str | None = None  # of what no corpus table and no BIDS file tells
    stimuli: str = ""  # folder of the stimulus files: of an event table, or the ImageNet folder of published trials
    verbose: bool = False
    # of recordings alone
    unit_scales: Mapping[str, float] = field(default_factory=dict)  # dataset name ("" for all) → factor
    electrodes: Electrodes = field(default_factory=Electrodes)  # their names and positions
    modality: Modality = "auto"  # which sensors are read where a recording has both; auto: EEG or MEG, by their number
    dataset: str | None = None  # as in recordings.find_sources, like the next
    subject_pattern: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers is {self.workers}, but it must be 0 or more")
        if not 0 < self.timeout_s < math.inf:
            raise ValueError(f"the timeout is {self.timeout_s:g}, but it must be a positive number of seconds")
        if not 0.5 <= self.memory_gib < math.inf:
            raise ValueError(f"the memory limit is {self.memory_gib:g} GiB, but a reader needs 0.5 GiB or more")
        for option, text in (("--licence", self.licence), ("--dataset", self.dataset)):
            if text is not None:
                published_name(option, text)
        if any(not math.isfinite(factor) or factor == 0 for factor in self.unit_scales.values()):
            raise ValueError("a unit scale is a number other than 0 that the signal is multiplied by")


@dataclass(frozen=True)
class ConvertedPart:
    """A part that became windows."""

    task: Any  # RecordingTask or TrialTask
    summary: PartSummary


Done = Sequence[ConvertedPart]
Failed = Sequence[Outcome]


@dataclass(frozen=True)
class ReportLayout:
    """The parts' layout and wording in the quality report."""

    names: Sequence[str]  # of the parts
    splits: Sequence[str]  # of the parts
    split_note: str  # what is held out
    steps: Sequence[tuple[str, str]]  # (step, what was done)
    unit: str  # of the signal
    plausible: tuple[float, float] | None  # median SD of a recording; None: amplitudes and channels are not judged
    sfreq: float  # Hz of the windows
    first: int  # sample at which an averaged window begins, counted from its event
    length: int  # samples of an averaged window


def digest(values: Sequence[object]) -> str:
    """Return 16 hexadecimal digits of a hash of values that JSON can hold."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def differences(before: JsonDict, now: JsonDict) -> list[str]:
    """Return the settings in which two descriptions differ, as options: `--line-ratio 25 (now 1)`."""
    old, new = _by_name(before), _by_name(json.loads(json.dumps(now)))
    return [
        f"--{OPTIONS.get(name, name.replace('_', '-'))} {_shown(old.get(name))} (now {_shown(new.get(name))})"
        for name in {**new, **old}
        if old.get(name) != new.get(name)
    ]


def _by_name(settings: JsonDict) -> JsonDict:
    """Return the settings of all groups by their names."""
    groups = [value for value in settings.values() if isinstance(value, dict) and "train" not in value]
    plain = {name: value for name, value in settings.items() if value not in groups}
    return {**plain, **{name: value for group in groups for name, value in group.items()}}


def _shown(value: object) -> str:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    texts = (f"{v:g}" if isinstance(v, float) else "none" if v is None else str(v) for v in values)
    return " ".join(texts) or "none"


def files_hash(files: Sequence[str]) -> str:
    """Return the SHA-256 of a file; of several, that of their hashes in order."""
    hashes = [manifest.file_hash(file) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def salt_hash(salt: str | None) -> str:
    return hashlib.sha256((salt or "").encode()).hexdigest()


def environment(salt: str | None) -> JsonDict:
    """Return the entries of dataset.json on the versions of packages and on the salt, which itself is not kept."""
    versions = {"dreamjax": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"salt": "given" if salt is not None else "default", "versions": versions}
