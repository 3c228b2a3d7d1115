"""Recognise a recording that is given twice: the same bytes, or the same signal re-exported, resampled or cut.

A signal is known by the times of the peaks of its spatial variance, which neither unit, reference, order of channels
nor sampling rate move. Five neighbouring intervals, in steps of 20 ms, are one pattern; a recording keeps the patterns
that occur once in it, with their times, as a sample by hash: those of a part of it are in the sample of the whole
(bottom-k sketch, Broder 1997; landmarks at one offset, Wang 2003). Two recordings hold the same signal where MATCHES of
their patterns or more occur at one offset. Pairs of 62-s recordings of eegmat share one at most; a copy of 15 s of one
shares nine or more, one at 128 Hz over 180.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float
from scipy.ndimage import maximum_filter1d

from dreamjax.signals.datasets.records import Window

WIDTH_S = 0.04  # of the two neighbouring averages whose difference is looked at: about 5 to 15 Hz
RADIUS_S = 0.05  # a peak is the largest value within it
INTERVALS, STEP_S = 5, 0.02  # of a pattern
KEPT = 256  # patterns of a recording, at least, where it has so many
SHARE = 2**32 // 16  # hashes below this are always kept, so that a minute of a long recording is recognised
SAME_S = 0.05  # difference of two offsets that are the same
MATCHES = 6
COMMON = 100  # recordings; a pattern in more than these tells nothing


class Sketch:
    """The patterns of one recording, from its windows in order."""

    def __init__(self) -> None:
        self.times: dict[int, float | None] = {}  # hash → s; None: occurs more than once
        self.limit = 2**32  # hashes from here on are no longer kept

    def watched(self, windows: Iterable[Window]) -> Iterator[Window]:
        """Yield the windows as they are, and learn their patterns; neighbours are looked at together."""
        last: Window | None = None
        for window in windows:
            signal, start = _usable(window), window.start
            if last is not None and abs(last.start + last.signal.shape[1] / last.sfreq - start) < 0.5 / window.sfreq:
                before = _usable(last)
                if len(before) == len(signal):
                    signal, start = np.concatenate([before, signal], axis=1), last.start
            self.add(signal, window.sfreq, start)
            last = window
            yield window

    def add(self, signal_CxT: Float[np.ndarray, "channels time"], sfreq: float, start: float) -> None:
        """Learn the patterns of a contiguous signal that begins at `start`, s."""
        at = peaks(signal_CxT, sfreq)
        steps = np.rint(np.diff(at) / STEP_S).astype(np.int16)
        for i in range(len(steps) - INTERVALS + 1):
            digest = hashlib.blake2b(steps[i : i + INTERVALS].tobytes(), digest_size=4).digest()
            code, time = int.from_bytes(digest, "big"), start + float(at[i])
            if code < self.limit:
                known = self.times.get(code, time)
                self.times[code] = known if known is not None and abs(known - time) < SAME_S else None
        if len(self.times) > 4 * KEPT and self.limit > SHARE:
            self.limit = max(SHARE, sorted(self.times)[2 * KEPT])
            self.times = {code: time for code, time in self.times.items() if code < self.limit}

    def as_json(self) -> list[tuple[int, int]]:
        """Return (hash, time in ms) of the patterns that are kept, by hash."""
        once = sorted((code, round(1e3 * time)) for code, time in self.times.items() if time is not None)
        return [entry for i, entry in enumerate(once) if i < KEPT or entry[0] < SHARE]


def _usable(window: Window) -> Float[np.ndarray, "channels time"]:
    ok = window.channel_ok if window.channel_ok.any() else slice(None)
    return np.asarray(window.signal, np.float64)[ok][:, window.valid]


def peaks(signal_CxT: Float[np.ndarray, "channels time"], sfreq: float) -> Float[np.ndarray, "peaks"]:
    """Return the times, s, at which neighbouring averages of the signal differ most over channels."""
    width, radius = max(1, round(WIDTH_S * sfreq)), max(1, round(RADIUS_S * sfreq))
    if signal_CxT.shape[1] < 2 * (width + radius) + 3:
        return np.empty(0)
    total = np.cumsum(np.pad(signal_CxT, ((0, 0), (1, 0))), axis=1)
    average = (total[:, width:] - total[:, :-width]) / width
    change = average[:, width:] - average[:, :-width]
    size = change.std(axis=0) if len(change) > 1 else np.abs(change[0])
    inner = slice(radius, len(size) - radius)
    at = np.flatnonzero((size == maximum_filter1d(size, 2 * radius + 1))[inner] & (size[inner] > 0)) + radius
    before, top, after = size[at - 1], size[at], size[at + 1]
    bend = before - 2 * top + after
    return (at + np.where(bend < 0, 0.5 * (before - after) / np.where(bend < 0, bend, 1), 0.0)) / sfreq


def alike(sketches: Sequence[Sequence[tuple[int, int]]]) -> list[tuple[int, int]]:
    """Return the pairs of recordings whose sketches share MATCHES patterns at one offset."""
    owners: dict[int, list[tuple[int, int]]] = defaultdict(list)  # hash → (recording, ms)
    for i, sketch in enumerate(sketches):
        for code, time in sketch:
            owners[code].append((i, time))
    offsets: dict[tuple[int, int], list[int]] = defaultdict(list)
    for entries in owners.values():
        for k, (one, time) in enumerate(entries if len(entries) <= COMMON else ()):
            for other, later in entries[k + 1 :]:
                offsets[one, other].append(later - time)
    return sorted(pair for pair, times in offsets.items() if _at_one_offset(times) >= MATCHES)


def _at_one_offset(offsets: Sequence[int]) -> int:
    """Return how many offsets, ms, are within SAME_S of one of them."""
    if len(offsets) < MATCHES:
        return 0
    ordered = np.sort(offsets)
    reach = round(1e3 * SAME_S)
    return int((np.searchsorted(ordered, ordered + reach, "right") - np.searchsorted(ordered, ordered - reach)).max())


def repeated(contents: Sequence[str]) -> dict[int, int]:
    """Return recording → the first one with equal content, by SHA-256, of those that are not the first."""
    first: dict[str, int] = {}
    seen = {i: first.setdefault(content, i) for i, content in enumerate(contents)}
    return {i: earlier for i, earlier in seen.items() if i != earlier}
