"""How `prepare` runs, and how what it converts is split; for recordings and for published trials."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from dreamjax.signals.recordings.identity import SplitRequest


@dataclass(frozen=True)
class PrepareOptions:
    """Of these, `salt`, `splits`, `unit_scales`, `strict`, `licence` and `stimuli` change the records."""

    name: str = ""  # of the dataset folder; from the folder's name when empty
    workers: int | None = None  # child processes; None for one per core, 0 for none
    timeout_s: float = 300.0  # a child without progress for so long is killed
    salt: str | None = None  # of the pseudonyms; None for one made from the dataset's name
    splits: SplitRequest = field(default_factory=SplitRequest)
    strict: bool = False  # refuse files shorter than their header says, and trials whose image is missing or damaged
    overwrite: bool = False
    key_file: str = ""  # where to write recording id → path; kept out of the dataset on purpose
    licence: str | None = None  # of what no corpus table and no BIDS file tells
    stimuli: str = ""  # folder of the stimulus files: of an event table, or the ImageNet folder of published trials
    verbose: bool = False
    # of recordings alone
    unit_scales: Mapping[str, float] = field(default_factory=dict)  # dataset name ("" for all) → factor
    dataset: str | None = None  # as in recordings.find_sources, like the next
    subject_pattern: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers is {self.workers}, but it must be 0 or more")
        if not 0 < self.timeout_s < math.inf:
            raise ValueError(f"the timeout is {self.timeout_s:g}, but it must be a positive number of seconds")
        if any(not math.isfinite(factor) or factor == 0 for factor in self.unit_scales.values()):
            raise ValueError("a unit scale is a number other than 0 that the signal is multiplied by")
