"""From µV to the numbers that a network sees, and back: µV = scaled · gain + offset."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

Scaling = Literal["divide", "robust", "zscore"]
FLOOR_UV = 1e-3  # a recording or channel flatter than this is not blown up


def gain_and_offset(
    microvolts: Float[np.ndarray, "batch channels time"],
    valid: Bool[np.ndarray, "batch time"],
    recording_scale: Float[np.ndarray, "batch"],
    scaling: Scaling,
    divide: float,
) -> tuple[Float[np.ndarray, "batch channels"], Float[np.ndarray, "batch channels"]]:
    """(gain, offset) in µV per example and channel.

    `divide`: a fixed number of µV. `robust`: the recording's scale (see `Window.scale`), so that amplitude differences
    between channels and between moments stay. `zscore`: mean and standard deviation of this window, by channel.
    """
    shape = microvolts.shape[:2]
    offset = np.zeros(shape, np.float32)
    if scaling == "divide":
        return np.full(shape, divide, np.float32), offset
    if scaling == "robust":
        scale = np.where(np.isfinite(recording_scale) & (recording_scale > FLOOR_UV), recording_scale, 1.0)
        return np.broadcast_to(scale[:, None], shape).astype(np.float32), offset
    if valid.all():
        offset, gain = microvolts.mean(axis=2), microvolts.std(axis=2)
    else:
        weight = valid[:, None, :].astype(np.float32)
        count = np.maximum(weight.sum(axis=2), 1)
        offset = (microvolts * weight).sum(axis=2) / count
        gain = np.sqrt((weight * (microvolts - offset[:, :, None]) ** 2).sum(axis=2) / count)
    return np.where(gain > FLOOR_UV, gain, 1.0).astype(np.float32), offset.astype(np.float32)


def apply(
    microvolts: Float[np.ndarray, "batch channels time"],
    gain: Float[np.ndarray, "batch channels"],
    offset: Float[np.ndarray, "batch channels"],
    clip: float,
) -> Float[np.ndarray, "batch channels time"]:
    """(µV - offset) / gain, in place, limited to ± clip where clip is not 0."""
    if offset.any():
        microvolts -= offset[:, :, None]
    microvolts *= (1 / gain)[:, :, None]
    if clip:
        np.clip(microvolts, -clip, clip, out=microvolts)
    return microvolts
