"""From annotations that mark gaps and bad spans to the contiguous spans that windows may be cut from."""

import re
from collections.abc import Sequence
from itertools import pairwise

from dreamjax.signals.recordings.event_codes import sample_of

CUT = re.compile(r"EDGE|boundary|New Segment", re.IGNORECASE)  # the signal jumps here
LEFT_OUT = re.compile(r"^BAD", re.IGNORECASE)  # MNE's convention: nothing in this span is to be used


def cut_spans(
    annotations: Sequence[tuple[float, float, str]], sfreq: float, n_samples: int, notes: list[str]
) -> list[tuple[int, int]]:
    """Contiguous spans [start, stop) in samples: cut at boundaries, without the spans that are marked bad.

    `annotations` are (onset s, duration s, text). A `BAD boundary` is a point; `BAD_ACQ_SKIP` and other `BAD…` are
    spans.
    """
    cuts, holes = set(), []
    for onset, duration, text in annotations:
        start = min(max(sample_of(onset, sfreq), 0), n_samples)
        stop = min(max(sample_of(onset + duration, sfreq), start), n_samples)
        if LEFT_OUT.search(text) and stop > start:
            holes.append((start, stop))
        elif CUT.search(text) or LEFT_OUT.search(text):
            cuts.add(start)
    if inner := {cut for cut in cuts if 0 < cut < n_samples}:
        notes.append(f"{len(inner)} discontinuities in the file")
    if holes:
        lost = sum(b - a for a, b in holes) / sfreq
        notes.append(f"{len(holes)} spans marked bad or skipped ({lost:.1f} s) left out")
    return spans_without(n_samples, cuts, holes)


def spans_without(n_samples: int, cuts: set[int], holes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """[0, n_samples) cut at `cuts` and without `holes`.

    >>> spans_without(10, {4}, [(6, 8)])
    [(0, 4), (4, 6), (8, 10)]
    """
    edges = sorted({0, n_samples, *cuts, *(edge for hole in holes for edge in hole)})
    spans = []
    for a, b in pairwise(edges):
        inside = any(start <= a and b <= stop for start, stop in holes)
        if not inside:
            spans.append((a, b))
    return spans
