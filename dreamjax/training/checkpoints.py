"""Step directories: written while training goes on, committed by a manifest, verified before they are trusted."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class CheckpointConfig:
    """When to save, and what to keep beside the newest."""

    every: int = 1000  # steps
    keep_last: int = 2
    keep_every: int = 0  # also keep each step that is a multiple of this; 0: none
    best_metric: str = "loss"  # a held-out metric; the step with the best value is kept
    best_mode: Literal["min", "max"] = "min"
