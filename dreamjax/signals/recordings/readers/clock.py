"""Uneven time stamps of wireless headsets → an even clock and the real gaps.

Packets arrive in bursts, so stamps step by anything from −27 to +33 ms although the headset samples evenly. What is
even is the sample number; what is real is a lasting jump of the stamps against it: samples that were lost.
"""

import numpy as np
from jaxtyping import Float

WINDOW = 64  # samples on either side of a suspected gap; averages the bursts out (packets have about 12 samples)
JUMP_S = 0.020  # s; bursts average to 7 ms at most on the Muse files, a lost packet of 12 samples leaves 47 ms
SURE_S = 0.5  # s; no burst holds data back this long
NOMINAL_TOLERANCE = 0.005  # a measured rate this near to the device's stated rate is the stated rate


def dejitter(
    stamps: Float[np.ndarray, "time"], nominal: float | None = None
) -> tuple[float, list[tuple[int, int]], list[str]]:
    """(sfreq, contiguous spans in samples, notes) from one time stamp in seconds a sample.

    The rate is the least-squares slope within spans. Spans end where the stamps jump for good.

    Raises:
      ValueError: fewer than two stamps, stamps that do not run forwards, or that are not numbers.
    """
    stamps = np.asarray(stamps, float)
    n = len(stamps)
    if n < 2 or not np.isfinite(stamps).all() or stamps[-1] <= stamps[0]:
        raise ValueError("the time stamps do not run forwards")
    cuts = gaps(stamps)
    spans = list(zip([0, *cuts], [*cuts, n], strict=True))
    measured = pooled_rate(stamps, spans)
    known = nominal is not None and abs(measured / nominal - 1) < NOMINAL_TOLERANCE
    sfreq = float(nominal) if known and nominal else float(round(measured, 3))
    steps = np.diff(stamps) * 1e3
    notes = []
    if np.abs(steps - 1e3 / sfreq).max() > 1e3 / sfreq:
        notes.append(
            f"clock dejittered: stamps step {steps.min():.0f} to {steps.max():.0f} ms at {sfreq:g} Hz "
            f"(measured {measured:.3f} Hz)"
        )
    if cuts:
        notes.append(f"{len(cuts)} gaps in the time stamps")
    return sfreq, spans, notes


def gaps(stamps: Float[np.ndarray, "time"]) -> list[int]:
    """First samples after a lasting jump of the stamps against the sample number."""
    n = len(stamps)
    steps = np.diff(stamps)
    sure = {int(i) + 1 for i in np.flatnonzero(np.abs(steps) > SURE_S)}
    width = min(WINDOW, n // 4)
    if width >= 8:
        stride = min(4 * width, n - 1)
        slope = np.median((stamps[stride:] - stamps[:-stride]) / stride)  # a few gaps do not move a median
        residual = stamps - slope * np.arange(n)
        total = np.concatenate(([0.0], np.cumsum(residual)))
        means = (total[width:] - total[:-width]) / width  # means[i]: residuals i … i + width - 1
        jump = means[width:] - means[:-width]  # at sample i + width: mean after minus mean before
        loud = np.abs(jump) > max(JUMP_S, 2 * slope)
        for start, stop in runs(loud):
            peak = start + int(np.argmax(np.abs(jump[start:stop]))) + width
            low, high = max(peak - width // 2, 1), min(peak + width // 2, n - 1)
            sure.add(low + int(np.argmax(np.abs(steps[low - 1 : high]))))
    return merge(sorted(sure), width)


def runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """[start, stop) of every run of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def merge(cuts: list[int], width: int) -> list[int]:
    """Cuts nearer than a quarter of `width` to each other are one gap seen twice: the first stays."""
    kept: list[int] = []
    for cut in cuts:
        if not kept or cut - kept[-1] > width // 4:
            kept.append(cut)
    return kept


def pooled_rate(stamps: Float[np.ndarray, "time"], spans: list[tuple[int, int]]) -> float:
    """Least-squares samples per second, one slope for all spans, each with its own offset."""
    cross = square = 0.0
    for start, stop in spans:
        index = np.arange(stop - start) - (stop - start - 1) / 2
        cross += float(index @ (stamps[start:stop] - stamps[start:stop].mean()))
        square += float(index @ index)
    if cross <= 0:
        raise ValueError("the time stamps do not run forwards")
    return square / cross


def counter_spans(counter: Float[np.ndarray, "time"]) -> list[tuple[int, int]]:
    """Contiguous spans by a packet counter that wraps: cut where it does not step as it usually does.

    >>> counter_spans(np.array([253, 254, 255, 0, 1, 4, 5.0]))
    [(0, 5), (5, 7)]
    """
    n = len(counter)
    if n < 3:
        return [(0, n)]
    steps = np.diff(counter)
    usual = float(np.median(steps))
    wrap = steps < 0
    top, bottom = counter.max(), counter.min()
    regular = (steps == usual) | (wrap & (counter[:-1] >= top - usual + 1) & (counter[1:] <= bottom + usual - 1))
    cuts = (np.flatnonzero(~regular) + 1).tolist()
    return list(zip([0, *cuts], [*cuts, n], strict=True))
