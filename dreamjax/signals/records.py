"""The record on disk: one window of one recording."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True)
class Window:
    """A window of a recording after preprocessing, in µV; what a record holds.

    `subject`, `session` and `recording` are salted hashes, `start` counts from the recording's first sample: nothing
    here tells who was recorded or when.
    """

    signal: Float[np.ndarray, "channels time"]  # µV
    ch_names: tuple[str, ...]  # normalised 10-05 names where known
    xyz: Float[np.ndarray, "channels 3"]  # head coordinates in metres; NaN where unknown
    sfreq: float  # Hz
    reference: str  # "average", or as recorded: "A2", "unknown", …
    montage_rank: int  # rank of the scalp signal: channels - 1 after an average reference
    dataset: str
    subject: str
    session: str
    recording: str
    start: float  # s since the recording's first sample
    valid: Bool[np.ndarray, "time"]  # False where a shorter trial was padded
    channel_ok: Bool[np.ndarray, "channels"]  # False where quality control flagged the channel
    scale: float  # µV: robust scale of the whole recording (median over channels of 1.4826 · MAD)
    label: str  # trial type, "" without one
    stimulus: str  # stimulus file, "" without one
    licence: str  # SPDX id, or "unknown"
    flags: tuple[str, ...]  # what quality control noticed and kept
