"""From µV to the numbers that a network reads, and back: µV = scaled · gain + offset."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

Scaling = Literal["divide", "robust", "zscore"]
FLOOR_UV = 1e-3  # a recording or channel flatter than this is not blown up


def recording_gain(
    recording_scale: Float[np.ndarray, "batch"], scaling: Scaling, divide: float
) -> Float[np.ndarray, "batch"]:
    """Return µV per unit, as far as it is known before a window is read.

    `divide`: a fixed number. `robust`: the recording's scale (see `Window.scale`), so that differences in amplitude
    between channels and between moments stay. `zscore`: 1; `window_statistics` follows.
    """
    if scaling == "robust":
        usable = np.isfinite(recording_scale) & (recording_scale > FLOOR_UV)
        return np.where(usable, recording_scale, 1.0).astype(np.float32)
    return np.full(len(recording_scale), divide if scaling == "divide" else 1.0, np.float32)


def window_statistics(
    microvolts: Float[np.ndarray, "batch channels time"], valid: Bool[np.ndarray, "batch time"]
) -> tuple[Float[np.ndarray, "batch channels"], Float[np.ndarray, "batch channels"]]:
    """Return (standard deviation, mean) of each channel in µV, without padding: the gain and offset of `zscore`."""
    if valid.all():
        gain, offset = microvolts.std(axis=2), microvolts.mean(axis=2)
    else:
        weight = valid[:, None, :].astype(np.float32)
        count = np.maximum(weight.sum(axis=2), 1)
        offset = (microvolts * weight).sum(axis=2) / count
        gain = np.sqrt((weight * (microvolts - offset[:, :, None]) ** 2).sum(axis=2) / count)
    return np.where(gain > FLOOR_UV, gain, 1.0).astype(np.float32), offset.astype(np.float32)


def in_units(
    microvolts: Float[np.ndarray, "batch channels time"],
    recording_scale: Float[np.ndarray, "batch"],
    valid: Bool[np.ndarray, "batch time"],
    scaling: Scaling,
    divide: float,
    clip: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (signal as the network sees it, gain, offset) of windows of all channels, none of them interpolated."""
    gain = np.repeat(recording_gain(recording_scale, scaling, divide)[:, None], microvolts.shape[1], 1)
    offset = np.zeros_like(gain)
    if scaling == "zscore":
        gain, offset = window_statistics(microvolts, valid)
    signal = (microvolts - offset[:, :, None]) / gain[:, :, None]
    return (np.clip(signal, -clip, clip) if clip else signal), gain, offset
