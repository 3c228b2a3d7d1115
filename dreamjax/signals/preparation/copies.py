"""Recognise a recording that is given twice: the same bytes, or the same signal re-exported, resampled or cut.

A signal is known by the times of the peaks of its spatial variance, which do not depend on unit, reference, order of
channels or sampling rate. Six neighbouring intervals, in steps of 20 ms, are one pattern. Of the patterns that occur
once in a recording, a sample by hash is kept with their times; the sample of a part is contained in that of the whole
(bottom-k sketch, Broder 1997; landmarks at one offset, Wang 2003). Two recordings hold the same signal where MATCHES of
their patterns or more occur at one offset. Pairs of 62-s recordings of eegmat share one at most; a copy of 15 s of one
shares 18 or more, one at 128 Hz over 200.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt64
from scipy.ndimage import maximum_filter1d

from dreamjax.signals.datasets.records import Window

WIDTH_S = 0.04  # of the two neighbouring averages whose difference is taken: about 5 to 15 Hz
RADIUS_S = 0.05  # a peak is the largest value within it
INTERVALS, STEP_S = 6, 0.02  # of a pattern
KEPT = 256  # patterns of a recording, at least, where it has that many
SHARE = 2**32 // 16  # hashes below this are always kept, so that a minute of a long recording is recognised
SAME_S = 0.05  # difference of two offsets that are the same
BEFORE_S = 1.0  # of the window before, so that patterns across the border are seen
AT_ONCE = 16  # windows
RATE_HZ = 100.0  # signals are averaged down to this or a little more
MATCHES = 6
COMMON = 100  # recordings; a pattern in more than these is ignored
COMPARED = 1 << 16  # patterns per block, which bounds the memory


class Sketch:
    """The patterns of one recording, from its windows in order."""

    def __init__(self) -> None:
        self.times: dict[int, float | None] = {}  # hash → s; None: occurs more than once
        self.limit = 2**32  # hashes from here on are no longer kept

    def watched(self, windows: Iterable[Window]) -> Iterator[Window]:
        """Yield the windows as they are, and learn their patterns, including those across the border of two."""
        held: list[np.ndarray] = []  # contiguous, with one set of channels; many windows at once are faster
        start = end = 0.0
        for window in windows:
            signal = _usable(window)
            apart = abs(end - window.start) > 0.5 / window.sfreq
            if held and (apart or len(held) >= AT_ONCE or len(held[-1]) != len(signal)):
                together = np.concatenate(held, axis=1)
                self.add(together, window.sfreq, start)
                before = together[:, -round(BEFORE_S * window.sfreq) :]
                held = [] if apart or len(before) != len(signal) else [before]
                start = window.start - before.shape[1] / window.sfreq
            start = start if held else window.start
            held.append(signal)
            end, sfreq = window.start + window.signal.shape[1] / window.sfreq, window.sfreq
            yield window
        if held:
            self.add(np.concatenate(held, axis=1), sfreq, start)

    def add(self, signal_CxT: Float[np.ndarray, "channels time"], sfreq: float, start: float) -> None:
        """Learn the patterns of a contiguous signal that begins at `start`, s."""
        at = peaks(signal_CxT, sfreq)
        for code, time in zip(_hashes(at).tolist(), (start + at).tolist(), strict=False):
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
    signal = np.asarray(window.signal, np.float32)
    if not window.channel_ok.all():
        signal = signal[ok]
    return signal if window.valid.all() else signal[:, window.valid]


def _hashes(at: Float[np.ndarray, "peaks"]) -> UInt64[np.ndarray, "patterns"]:
    """Return a hash below 2³² of the intervals that begin at each peak (the finaliser of MurmurHash3, Appleby 2011)."""
    steps = np.rint(np.diff(at) / STEP_S).astype(np.uint64)
    code = np.zeros(max(0, len(steps) - INTERVALS + 1), np.uint64)
    for i in range(INTERVALS):
        code = (code ^ steps[i : i + len(code)]) * np.uint64(0xFF51AFD7ED558CCD)
        code ^= code >> np.uint64(33)
    return (code * np.uint64(0xC4CEB9FE1A85EC53)) >> np.uint64(32)


def peaks(signal_CxT: Float[np.ndarray, "channels time"], sfreq: float) -> Float[np.ndarray, "peaks"]:
    """Return the times, s, at which neighbouring averages of the signal differ most over channels."""
    several = max(1, int(sfreq / RATE_HZ))
    length = signal_CxT.shape[1] // several
    stop, sfreq = length * several, sfreq / several
    slower_CxT = sum(signal_CxT[:, first:stop:several] for first in range(several))  # fast for a few
    width, radius = max(1, round(WIDTH_S * sfreq)), max(1, round(RADIUS_S * sfreq))
    if length < 2 * (width + radius) + 3:
        return np.empty(0)
    total = np.cumsum(slower_CxT, axis=1)
    change = total[:, 2 * width :] - 2 * total[:, width:-width] + total[:, : -2 * width]
    if len(change) > 1:
        change -= change.mean(axis=0)
    size = np.sqrt(np.einsum("ct,ct->t", change, change) / len(change))
    inner = slice(radius, len(size) - radius)
    at = np.flatnonzero((size == maximum_filter1d(size, 2 * radius + 1))[inner] & (size[inner] > 0)) + radius
    before, top, after = size[at - 1], size[at], size[at + 1]
    bend = before - 2 * top + after
    return (at + np.where(bend < 0, 0.5 * (before - after) / np.where(bend < 0, bend, 1), 0.0)) / sfreq


def alike(sketches: Sequence[Sequence[tuple[int, int]]]) -> list[tuple[int, int]]:
    """Return the pairs of recordings whose sketches share MATCHES patterns at one offset.

    The time grows with the pairs of equal patterns of two recordings, at most COMMON / 2 for each pattern of a sketch.
    """
    if not any(sketches):
        return []
    sizes = [len(sketch) for sketch in sketches]
    owners = np.repeat(np.arange(len(sketches)), sizes)
    entries = np.array([entry for sketch in sketches for entry in sketch], np.int64).reshape(-1, 2)
    _, which, counts = np.unique(entries[:, 0], return_inverse=True, return_counts=True)
    order = np.argsort(which, kind="stable")  # equal patterns are neighbours, by recording
    order = order[(counts[which[order]] > 1) & (counts[which[order]] <= COMMON)]
    shared = _Shared(np.append(which[order], -1), entries[order, 1], owners[order])
    together = (np.cumsum(sizes) // COMPARED)[shared.owners]  # the first recordings that are compared at once
    by_block = np.argsort(together, kind="stable")
    blocks = np.split(by_block, np.flatnonzero(np.diff(together[by_block])) + 1)
    return [pair for block in blocks for pair in shared.alike(block, len(sketches))]


class _Shared(NamedTuple):
    """Patterns that several recordings have; equal ones are neighbours, in the order of their recordings."""

    patterns: Int[np.ndarray, "n+1"]  # and -1 after the last
    times: Int[np.ndarray, "n"]  # ms
    owners: Int[np.ndarray, "n"]

    def alike(self, first: Int[np.ndarray, "k"], count: int) -> list[tuple[int, int]]:
        """Return the pairs whose first recording has the entries `first`, of all that it has; `count` recordings."""
        pairs, offsets = [np.empty(0, int)], [np.empty(0, int)]
        later = first + 1
        while len(first):
            same = self.patterns[later] == self.patterns[first]
            first, later = first[same], later[same]
            pairs.append(self.owners[first] * count + self.owners[later])
            offsets.append(self.times[later] - self.times[first])
            later = later + 1
        pair, offset = np.concatenate(pairs), np.concatenate(offsets)
        if not len(pair):
            return []
        lowest, reach = pair.min(), round(1e3 * SAME_S)
        span = np.ptp(offset) + reach + 1  # pairs do not reach each other
        at = np.sort((pair - lowest) * span + offset - offset.min())
        near = np.searchsorted(at, at + reach, "right") - np.searchsorted(at, at - reach)
        return [divmod(one, count) for one in (lowest + np.unique(at[near >= MATCHES] // span)).tolist()]


def repeated(contents: Sequence[str]) -> dict[int, int]:
    """Return, for each recording whose content (SHA-256) an earlier one has, recording → the first with it."""
    first: dict[str, int] = {}
    seen = {i: first.setdefault(content, i) for i, content in enumerate(contents)}
    return {i: earlier for i, earlier in seen.items() if i != earlier}
