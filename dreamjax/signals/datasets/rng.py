"""Random numbers keyed by (seed, purpose, global example index): the same in every batch and process.

A counter-based generator (SplitMix64's finaliser over the key: Steele, Lea and Flood, OOPSLA 2014), vectorised over a
batch; making a NumPy Generator per example would cost more than reading the example.
"""

import hashlib

import numpy as np
from jaxtyping import Float64, UInt64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * _MIX1
    z = (z ^ (z >> np.uint64(27))) * _MIX2
    return z ^ (z >> np.uint64(31))


def fold(seed: int, purpose: str) -> int:
    """Return a 64-bit key for one purpose."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{purpose}".encode()).digest()[:8], "little")


def uniform(seed: int, purpose: str, index: UInt64[np.ndarray, "batch"], n: int) -> Float64[np.ndarray, "batch n"]:
    """Return n numbers in [0, 1) for each example index, independent across seeds, purposes and indices."""
    index = np.asarray(index, np.uint64)
    with np.errstate(over="ignore"):
        stream = _mix(_mix(index * _GOLDEN + np.uint64(fold(seed, purpose))) ^ np.uint64(fold(seed, purpose + "'")))
        counter = np.arange(1, n + 1, dtype=np.uint64) * _GOLDEN
        bits = _mix(stream[:, None] + counter[None, :])
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
