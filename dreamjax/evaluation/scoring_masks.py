"""The masks that reconstruction is scored with: the same for every model and baseline, keyed by the window.

A mask hides whole patches of all channels. Padding is neither hidden nor visible.
"""

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool


@dataclass(frozen=True)
class MaskTask:
    """One way to hide: a share of the patches anywhere, or one gap of some seconds."""

    name: str
    kind: Literal["random", "gap"]
    amount: float  # share of the patches, or s

    def hidden(
        self, window: str, valid: Bool[np.ndarray, "N"], patch: int, sfreq: float, seed: int = 0
    ) -> Bool[np.ndarray, "N"] | None:
        """Return which patches of the window named `window` are hidden; None where it is too short for this mask.

        random: ⌊amount · n⌉ of the n valid patches (at least 1), as many as they are for any window of that length.
        gap: the ⌈seconds · sfreq / patch⌉ neighbouring patches from a uniformly drawn place.
        """
        where = np.flatnonzero(valid)
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode()), zlib.crc32(window.encode())])
        n = len(where)
        k = max(1, round(self.amount * n)) if self.kind == "random" else self.patches(patch, sfreq)
        if k >= n:
            return None
        out = np.zeros(len(valid), bool)
        if self.kind == "random":
            out[rng.permutation(where)[:k]] = True
        else:
            start = int(rng.integers(n - k + 1))
            out[where[start : start + k]] = True
        return out

    def patches(self, patch: int, sfreq: float) -> int:
        """Return the patches of a gap."""
        return max(1, int(np.ceil(self.amount * sfreq / patch - 1e-9)))


MASKS = (
    MaskTask("random 0.1", "random", 0.1),
    MaskTask("random 0.5", "random", 0.5),
    MaskTask("random 0.75", "random", 0.75),
    MaskTask("gap 250 ms", "gap", 0.25),
    MaskTask("gap 1 s", "gap", 1.0),
)


def window_id(subject: str, recording: str, start: float) -> str:
    """Return the name of a window wherever masks are drawn: independent of shards, splits and order."""
    return f"{subject}/{recording}/{start:.3f}"
