"""Turn stored records into the rows of a batch: crop, hide, reference, map, scale; NumPy, many rows at once.

Rows that share channels, length and reference are processed together. Every random choice is keyed by the global
example index (see `rng`), so a row does not depend on the other rows of its batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from dreamjax.errors import UserError
from dreamjax.signals.datasets import mapping, rng
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.signals.datasets.record_view import StoredWindow

FLOOR_UV = 1e-3  # a recording or channel flatter than this is not scaled up


@dataclass(frozen=True)
class TargetChannels:
    """The channels that the model reads: names, and directions from the head's centre. Empty names: `tile`."""

    names: tuple[str, ...]
    directions: Float[np.ndarray, "channels 3"]  # NaN where unknown


def assemble(
    config: DataConfig,
    target: TargetChannels,
    stored: Sequence[StoredWindow],
    index: UInt64[np.ndarray, "batch"],
    *,
    seed: int,
    training: bool,
    sources: bool = False,
) -> dict[str, np.ndarray]:
    """Return the rows of a batch from its records, whose global example indices are `index`.

    With `sources`, `source` is there too: the channel of the record that each of the model's is, or -1 (interpolated).
    """
    groups: dict[tuple, list[int]] = {}
    for row, record in enumerate(stored):
        names = _names(record.names)
        xyz = record.xyz if mapping.positions_matter(names) else b""  # else each digitised head would be its own group
        key = (names, xyz, record.channel_ok, record.counts.shape[1], record.average)
        groups.setdefault(key, []).append(row)
    if len(groups) == 1:
        return _group(config, target, stored, index, seed, training, sources)
    out: dict[str, np.ndarray] = {}
    for rows in groups.values():
        group = _group(config, target, [stored[r] for r in rows], index[rows], seed, training, sources)
        for name, values in group.items():
            out.setdefault(name, np.empty((len(stored), *values.shape[1:]), values.dtype))[rows] = values
    return out


@lru_cache(maxsize=256)
def _names(stored: tuple[bytes, ...]) -> tuple[str, ...]:
    return tuple(name.decode() for name in stored)


def _group(
    config: DataConfig,
    target: TargetChannels,
    stored: Sequence[StoredWindow],
    index: UInt64[np.ndarray, "batch"],
    seed: int,
    training: bool,
    sources: bool,
) -> dict[str, np.ndarray]:
    """Return rows that share channels, length and reference."""
    names = _names(stored[0].names)
    xyz = np.frombuffer(stored[0].xyz, np.float32).reshape(-1, 3)
    ok = np.frombuffer(stored[0].channel_ok, bool)
    unit = recording_gain(np.array([r.scale for r in stored]), config.scaling, config.divide)
    scaled, valid = _crop(config, stored, 1 / unit, index, seed, training)
    room = max(len(names) - config.tile_channels, 0)
    block = np.full(len(stored), room // 2)  # where the block of `tile_channels` channels starts in each row
    if training and room:
        block = (rng.uniform(seed, "channel block", index, 1)[:, 0] * (room + 1)).astype(int)
    chart = mapping.channel_map(names, xyz, target.names, target.directions) if config.mapping != "tile" else None

    def tiled(values: np.ndarray) -> np.ndarray:
        return tile(values, config.tile_channels, block)

    def mapped(signal: np.ndarray, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return interpolate(signal, chart, usable) if chart else (tiled(signal), tiled(usable))

    usable = np.broadcast_to(ok, (len(stored), len(ok)))
    out: dict[str, np.ndarray] = {}
    if config.mask_channels:
        scaled, hidden = hide_channels(scaled, ok, stored[0].average, config.mask_channels, index, seed)
        out["target"], real = mapped(scaled, usable)
        out["signal"] = mapped(np.where(hidden[:, :, None], 0, scaled), usable & ~hidden)[0]
        hidden = hidden[:, chart.same] & (chart.same >= 0) if chart else tiled(hidden)
        out["channel_mask"] = hidden.astype(np.float32)
    else:
        out["signal"], real = mapped(scaled, usable)

    signals = [out[name] for name in ("signal", "target") if name in out]
    shape = out["signal"].shape[:2]
    gain, offset = np.repeat(unit[:, None], shape[1], axis=1), np.zeros(shape, np.float32)
    if config.scaling == "zscore":  # of the visible channels only: statistics of a hidden channel would reveal it
        gain, offset = window_statistics(out["signal"], valid)
        for signal in signals:
            signal -= offset[:, :, None]
            signal /= gain[:, :, None]
    if config.clip:
        for signal in signals:
            np.clip(signal, -config.clip, config.clip, out=signal)
    out |= {"gain": gain, "offset": offset, "channel_ok": real.astype(np.float32)}
    if sources:
        channels = np.broadcast_to(np.arange(len(names)), usable.shape)
        out["source"] = np.tile(chart.same, (len(stored), 1)) if chart else tiled(channels)
    if training:
        _augment(config, out, valid, index, seed)
    valid &= np.any(out["signal"], axis=(1, 2), keepdims=True)[:, :, 0]  # no electrode has a position: as padding
    if not valid.all():
        for signal in signals:
            signal *= valid[:, None, :]
    out["valid"] = valid.astype(np.float32)
    return out


def _crop(
    config: DataConfig, stored: Sequence[StoredWindow], factor: np.ndarray, index: np.ndarray, seed: int, training: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return (µV · factor, valid) of `samples`: longer windows cropped (in training anywhere), shorter ones padded."""
    channels, time = stored[0].counts.shape
    length = min(time, config.samples)
    draw = rng.uniform(seed, "crop", index, 1)[:, 0] if training else np.full(len(stored), 0.5)
    signal = np.empty((len(stored), channels, length), np.float32)
    valid = np.empty((len(stored), length), bool)
    for i, record in enumerate(stored):
        starts = record.lag or time - length + 1  # how many; with a following window, up to its first sample
        start = int(draw[i] * starts) if training else (time - length) // 2
        here = min(length, time - start)
        _copy(record, start, factor[i], signal[i, :, :here])
        valid[i, :here] = np.frombuffer(record.valid, bool)[start : start + here]
        if here < length and record.following is not None:
            _copy(record.following, time - record.lag, factor[i], signal[i, :, here:])
            valid[i, here:] = True
    samples = config.samples
    if length < samples and config.stretch:
        return mapping.stretch(signal, samples), np.ones((len(stored), samples), bool)
    if length < samples:
        pad = samples - length
        signal, valid = np.pad(signal, ((0, 0), (0, 0), (0, pad))), np.pad(valid, ((0, 0), (0, pad)))
    return signal, valid


def _copy(record: StoredWindow, start: int, factor: np.float32, out: np.ndarray) -> None:
    """Write µV · factor. Cast first, then in place while the row is cached: faster than int16 · float32 at once."""
    out[...] = record.counts[:, start : start + out.shape[1]]
    out *= (record.step * factor)[:, None]
    out += (record.offset * factor)[:, None]


def hide_channels(
    signal: Float[np.ndarray, "batch channels time"],
    ok: Bool[np.ndarray, "channels"],
    average: bool,
    share: float,
    index: UInt64[np.ndarray, "batch"],
    seed: int,
) -> tuple[Float[np.ndarray, "batch channels time"], Bool[np.ndarray, "batch channels"]]:
    """Choose real channels to hide and re-reference to the others; return (signal, hidden).

    An average reference contains every channel: x_hidden = -Σ x_visible reveals one hidden channel exactly. Recordings
    that have one are therefore referenced again to the mean of the visible channels: these then contain nothing of the
    hidden ones, and input and target have the same zero. At least one channel stays visible.
    """
    usable = np.flatnonzero(ok)
    count = min(max(round(share * len(usable)), 1), len(usable) - 1)
    hidden = np.zeros(signal.shape[:2], bool)
    if count < 1:
        return signal, hidden
    drawn = np.argsort(rng.uniform(seed, "hidden channels", index, len(usable)), axis=1, kind="stable")[:, :count]
    np.put_along_axis(hidden, usable[drawn], True, axis=1)
    if average:
        visible = (ok[None] & ~hidden).astype(np.float32)
        visible /= visible.sum(axis=1, keepdims=True)
        signal = signal - np.matmul(visible[:, None, :], signal)
    return signal, hidden


def tile(signal: np.ndarray, wanted: int, block: Int[np.ndarray, "batch"]) -> np.ndarray:
    """Repeat the channels to `wanted`, or cut each row's block of them (see `mapping.tile_rows`)."""
    if signal.shape[1] <= wanted:
        return np.take(signal, mapping.tile_rows(signal.shape[1], wanted), axis=1)
    return np.stack([row[start : start + wanted] for row, start in zip(signal, block, strict=True)])


def interpolate(signal: np.ndarray, chart: mapping.ChannelMap, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (signal of the template's channels, which of them are electrodes), given each row's usable channels."""
    if (usable == usable[0]).all():
        matrix, real = mapping.matrix_of(chart, usable[0].tobytes())
        real = np.repeat(real[None], len(signal), 0)
        if real.all():
            return (signal if chart.names == chart.ch_names else np.take(signal, chart.same, axis=1)), real
        return np.matmul(matrix, signal), real
    matrices, real = chart.matrices(usable)
    return np.matmul(matrices, signal), real


def _augment(config: DataConfig, out: dict[str, np.ndarray], valid: np.ndarray, index: np.ndarray, seed: int) -> None:
    """Change amplitude, polarity and direction of time, and drop channels, in place, as the config asks.

    `gain` changes with the amplitude, so that µV = signal · gain + offset stays true.
    """
    signals = [out[name] for name in ("signal", "target") if name in out]
    n, channels = signals[0].shape[:2]
    factor = np.ones(n, np.float32)
    if config.amplitude_jitter:
        draw = rng.uniform(seed, "amplitude", index, 1)[:, 0]
        factor *= np.exp(config.amplitude_jitter * (2 * draw - 1)).astype(np.float32)
    if config.flip_polarity:
        factor[rng.uniform(seed, "polarity", index, 1)[:, 0] < config.flip_polarity] *= -1
    if config.amplitude_jitter or config.flip_polarity:
        for signal in signals:
            signal *= factor[:, None, None]
        out["gain"] = out["gain"] / factor[:, None]
    if config.reverse_time:
        reversed_ = rng.uniform(seed, "time", index, 1)[:, 0] < config.reverse_time
        for values in (*signals, valid):
            values[reversed_] = values[reversed_][..., ::-1]
    if config.drop_channels:
        lost = rng.uniform(seed, "lost channels", index, channels) < config.drop_channels
        out["signal"][lost] = 0
        out["channel_ok"][lost] = 0


def check_rate(config: DataConfig, sfreq: float, path: str) -> None:
    """Raise UserError where a dataset's sampling rate is not the model's."""
    if not config.stretch and abs(sfreq - config.sfreq) > 1e-3 * config.sfreq:
        raise UserError(
            f"{path} holds windows at {sfreq:g} Hz but data.sfreq is {config.sfreq:g}; "
            f"prepare it at {config.sfreq:g} Hz, or set data.sfreq={sfreq:g}"
        )


# ------------------------------------------------------------------------------------------------------------- scaling
def recording_gain(
    recording_scale: Float[np.ndarray, "batch"], scaling: str, divide: float
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
    scaling: str,
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
