"""The parts of a record that training reads, as views of the record's bytes: nothing is scaled or copied."""

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Union

import numpy as np
from jaxtyping import Float32, Int16

from dreamjax.signals.datasets import records, tf_example

_DOUBLE = struct.Struct("<d")
_FIELDS = ("signal/value", "step", "offset", "xyz", "channel_ok", "valid", "sfreq", "scale", "start", "reference",
           "label", "recording")  # fmt: skip
_APART = records.APART.encode()


class StoredWindow(NamedTuple):
    """The parts of a record that training reads, not yet scaled; the arrays are views of the record's bytes."""

    counts: Int16[np.ndarray, "channels time"]
    step: Float32[np.ndarray, "channels"]
    offset: Float32[np.ndarray, "channels"]
    names: tuple[bytes, ...]
    xyz: bytes  # float32[channels, 3]
    channel_ok: bytes  # bool[channels]
    valid: bytes  # bool[time]
    sfreq: float
    scale: float
    average: bool  # average reference
    label: bytes
    recording: bytes
    start: float  # s
    apart: bool  # see `records.APART`
    texts: Mapping[str, tuple[bytes, ...]]  # of the fields that were asked for
    following: Union["StoredWindow", None] = None  # the next one of the recording, where a crop may extend into it
    lag: int = 0  # samples from this window's start to that one's


def unpack(record: bytes, also: Sequence[str] = ()) -> StoredWindow:
    """Return the parts of a record that training needs, and the text fields `also` (see `records.texts`)."""
    feature = tf_example.parse(record)
    one = {name: feature[name].bytes_list.value[0] for name in _FIELDS}
    return StoredWindow(
        np.frombuffer(one["signal/value"], np.int16).reshape(feature["signal/shape"].int64_list.value),
        np.frombuffer(one["step"], np.float32),
        np.frombuffer(one["offset"], np.float32),
        tuple(feature["ch_names"].bytes_list.value),
        one["xyz"],
        one["channel_ok"],
        one["valid"],
        _DOUBLE.unpack(one["sfreq"])[0],
        _DOUBLE.unpack(one["scale"])[0],
        one["reference"] == b"average",
        one["label"],
        one["recording"],
        _DOUBLE.unpack(one["start"])[0],
        _APART in feature["flags"].bytes_list.value,
        {name: records.texts(feature, name) for name in also} if also else {},
    )


def follow(first: StoredWindow, second: StoredWindow) -> StoredWindow:
    """Return `first` with `second` as `following` if that continues it: same recording, channels, label; all valid."""
    lag = round((second.start - first.start) * first.sfreq)
    same = all(getattr(first, f) == getattr(second, f) for f in ("recording", "names", "channel_ok", "label", "sfreq"))
    if not same or second.apart or not 0 < lag <= first.counts.shape[1] or 0 in first.valid or 0 in second.valid:
        return first
    return first._replace(following=second, lag=lag)
