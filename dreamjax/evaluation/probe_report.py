"""Scores of a probe as people read them: tables, sentences, a figure."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamjax.metrics import bootstrap
from dreamjax.metrics.probe import CHANCE, ProbeScore, claim
from dreamjax.reports import figures, palette
from dreamjax.reports.tables import cell, number
from dreamjax.typing import JsonDict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {
    "pretrained encoder": palette.MODEL,
    "band power": palette.REFERENCE,
    "untrained encoder": palette.WEAK,
}


def summary(
    scores: Mapping[str, ProbeScore], encoder: str, bands: str, untrained: str, labels: tuple[str, str]
) -> JsonDict:
    """Return scores, their paired differences and what may be claimed; `scores` also holds `drift: NAME` controls."""
    comparisons = {
        f"{encoder} minus {bands}": scores[encoder].minus(scores[bands]),
        f"{encoder} minus {untrained}": scores[encoder].minus(scores[untrained]),
        f"{encoder}: {labels[1]} minus drift": scores[encoder].minus(scores[f"drift: {encoder}"]),
        f"{bands}: {labels[1]} minus drift": scores[bands].minus(scores[f"drift: {bands}"]),
    }
    differences = {
        name: d.as_json() | {"detectable": bootstrap.finite(d.detectable()), "resolved": d.excludes(0), "says": says(d)}
        for name, d in comparisons.items()
    }
    rows = {
        name: {
            "balanced_accuracy": s.accuracy().as_json(),
            "minus_chance": s.minus_chance().as_json()
            | {"detectable": bootstrap.finite(s.minus_chance().detectable()), "says": claim(s)},
            "by_subject": {k: round(v, 5) for k, v in s.by_subject.items()},
            "control": s.control,
        }
        for name, s in scores.items()
    }
    return {
        "subjects": len(scores[encoder].by_subject),
        "chance": CHANCE,
        "scores": rows,
        "differences": differences,
        "tables": _tables(rows, differences),
        "statements": _statements(scores, rows, differences, encoder, untrained, labels),
    }


def says(d: bootstrap.Interval) -> str:
    """Return which is higher, or which difference could have been seen."""
    if d.excludes(0):
        return "higher" if d.estimate > 0 else "lower"
    return f"not resolved; this design could detect ≥ {d.detectable():.3f}"


def _tables(rows: Mapping[str, Any], differences: Mapping[str, Any]) -> list[JsonDict]:
    first = [
        [
            name + (" (control)" if row["control"] else ""),
            cell(row["balanced_accuracy"]),
            cell(row["minus_chance"], signed=True),
            number(row["minus_chance"]["detectable"]),
            row["minus_chance"]["says"],
        ]
        for name, row in rows.items()
    ]
    second = [[name, cell(d, signed=True), number(d["detectable"]), d["says"]] for name, d in differences.items()]
    return [
        {
            "title": "Balanced accuracy on left-out subjects",
            "header": ["features", "balanced accuracy", "minus chance", "detectable", ""],
            "rows": first,
        },
        {"title": "Paired differences", "header": ["", "difference", "detectable", ""], "rows": second},
    ]


def _statements(
    scores: Mapping[str, ProbeScore],
    rows: Mapping[str, Any],
    differences: Mapping[str, Any],
    encoder: str,
    untrained: str,
    labels: tuple[str, str],
) -> list[str]:
    """Return sentences about the encoder, each of them no stronger than its interval."""
    sentences = [f"{labels[1]} against {labels[0]} from the encoder: {claim(scores[encoder])}"]
    if claim(scores[encoder]) == "above chance":
        gain = differences[f"{encoder} minus {untrained}"]
        sentences.append(
            "pretraining helps: the encoder is above the same network untrained"
            if gain["resolved"] and gain["estimate"] > 0
            else f"that pretraining is the cause is {_as_cause(gain)}"
        )
    drift = scores[f"drift: {encoder}"]
    if claim(drift) == "above chance":
        beyond = differences[f"{encoder}: {labels[1]} minus drift"]
        sentences.append(
            "first and last minute of rest are told apart too, so part of the score may be time passing"
            + ("; the conditions differ by more than that" if beyond["resolved"] and beyond["estimate"] > 0 else "")
        )
    sentences.append(
        f"the two conditions are two recordings: whatever differs between recordings counts as {labels[1]}"
    )
    return sentences


def _as_cause(gain: Mapping[str, Any]) -> str:
    if gain["resolved"]:
        return "contradicted: the untrained network scores higher"
    return f"not resolved (encoder minus untrained {cell(gain, signed=True)})"


def figure(scores: Sequence[ProbeScore]) -> "Figure":
    """Draw balanced accuracy with intervals, a row for each kind of features and question; every subject a dot."""
    fig, axis = figures.single(8, 0.55 * len(scores) + 1.1)
    rng = np.random.default_rng(0)
    for row, score in enumerate(scores):
        colour = COLOURS.get(score.name.removeprefix("drift: "), palette.QUIET)
        value, each = score.accuracy(), np.array(list(score.by_subject.values()))
        axis.plot(each, row + rng.uniform(-0.18, 0.18, len(each)), ".", color=colour, alpha=0.4, ms=6, mew=0)
        if value.known:
            axis.plot([value.low, value.high], [row, row], color=colour, lw=2)
        axis.plot(value.estimate, row, "o", color=colour, ms=7, mfc=colour if not score.control else "white")
    axis.axvline(CHANCE, color=palette.QUIET, lw=0.9, ls="--", zorder=0)
    axis.set_yticks(range(len(scores)), [s.name + (" (control)" if s.control else "") for s in scores])
    axis.invert_yaxis()
    axis.set_xlim(-0.02, 1.02)
    axis.set_xlabel("balanced accuracy on left-out subjects")
    return fig
