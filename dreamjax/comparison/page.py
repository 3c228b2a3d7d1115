"""The page of a comparison: accuracy of every system and person, accuracy over time, nearest images, the tables."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from dreamjax.comparison import run_folder
from dreamjax.comparison.jobs import Job, Request
from dreamjax.comparison.result import CHANCE, Comparison
from dreamjax.metrics import retrieval
from dreamjax.reports import figures, nearest, palette
from dreamjax.reports.nearest import NearestImages
from dreamjax.reports.pages import Page, Section
from dreamjax.targets import banks
from dreamjax.targets.catalogue import catalogue
from dreamjax.typing import JsonDict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = {
    "sliding": "windows of 100 ms, each at its middle",
    "growing": "windows from the first sample on, each at its end",
}


def page(result: Comparison, workdir: epath.PathLike, request: Request, jobs: Sequence[Job]) -> Page:
    """Return the page of a comparison whose jobs are done."""
    sections = [Section("Accuracy", png=figures.png(accuracy(result)), notes=[_dots(result)])]
    if result.over_time:
        sections.append(Section("Accuracy over time", png=figures.png(over_time(result)), notes=[OVER_TIME_NOTE]))
    shown = nearest_images(workdir, request, jobs) if result.systems else []
    return Page(result.title, [*sections, *result.sections(), *shown], result.notes)


# -------------------------------------------------------------------------------------------------------------- figures
OVER_TIME_NOTE = "a model for each window, with 95 % intervals over people and images; dashed: chance"


def _dots(result: Comparison) -> str:
    people = "; small dots: people" if result.persons > 1 else ""
    return f"top-{result.headline} accuracy with its 95 % interval over people and images{people}"


def accuracy(result: Comparison) -> "Figure":
    """Draw the accuracy of every system with its interval and people, and of the controls."""
    key = f"top{result.headline}"
    rows: list[tuple[str, Mapping[str, Any], list[float], str]] = []
    for name, one in result.systems.items():
        people = [100 * x for x in one["by_person"].values() if x is not None] if result.persons > 1 else []
        rows.append((name, one["checkpoints"][one["counted"]][key], people, palette.MODEL))
    controls = [(name, one["values"][key]) for name, one in result.controls.items() if one["values"]]
    rows += [(name, value, [], palette.WEAK) for name, value in controls]
    figure, axis = figures.single(8, 0.9 + 0.42 * len(rows))
    for y, (_, value, people, colour) in enumerate(rows):
        axis.plot(people, [y + 0.2] * len(people), ".", color=colour, alpha=0.5, ms=6, mew=0)
        _interval(axis, value, y, colour)
    chance = 100 * retrieval.chance(result.headline, max(result.gallery, 1))
    axis.axvline(chance, color=palette.GRID, lw=1, ls=(0, (4, 2)), zorder=0, label=f"{CHANCE}: {chance:.2g} %")
    axis.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axis.set_ylim(len(rows) - 0.5, -0.6)
    axis.set_xlim(left=0)
    axis.set_xlabel(f"top-{result.headline} accuracy (%)")
    figures.legend(axis, loc="lower right")
    return figure


def _interval(axis: "Axes", value: Mapping[str, Any], y: float, colour: str) -> None:
    if value["low"] is not None:
        axis.plot([100 * value["low"], 100 * value["high"]], [y, y], color=colour, lw=1.8)
    if value["estimate"] is not None:
        axis.plot(100 * value["estimate"], y, "o", color=colour, ms=7)


def over_time(result: Comparison) -> "Figure":
    """Draw the accuracy of sliding windows at their middle and of growing ones at their end, a line for each system."""
    kinds = [kind for kind in KINDS if any(kind in windows for windows in result.over_time.values())]
    figure, axes = figures.grid(8, 0.6 + 2.4 * len(kinds), len(kinds), 1, sharex=True, sharey=True)
    chance = 100 * retrieval.chance(result.headline, max(result.gallery, 1))
    colours = dict(zip(result.over_time, palette.areas(len(result.over_time)), strict=True))
    for axis, kind in zip(axes[:, 0], kinds, strict=True):
        for system, windows in result.over_time.items():
            if kind in windows:
                _line(axis, windows[kind], kind == "sliding", system, colours[system])
        axis.axhline(chance, color=palette.GRID, lw=1, ls=(0, (4, 2)))
        axis.axvline(0, color=palette.GRID, lw=0.8)
        axis.set_title(KINDS[kind], fontsize=9, loc="left")
        axis.set_ylabel(f"top-{result.headline} accuracy (%)")
        figures.legend(axis, loc="upper left")
    axes[0, 0].set_ylim(bottom=0)
    axes[-1, 0].set_xlabel("time after the image's onset (s)")
    return figure


def _line(axis: "Axes", windows: Sequence[JsonDict], at_middle: bool, system: str, colour: str) -> None:
    at = [(one["from"] + one["to"]) / 2 if at_middle else one["to"] for one in windows]
    rows = [[one["score"][name] for name in ("estimate", "low", "high")] for one in windows]
    middle, low, high = 100 * np.array(rows, float).T
    axis.plot(at, middle, color=colour, lw=1.6, label=system)
    axis.fill_between(at, low, high, color=colour, alpha=0.13, lw=0)


# ------------------------------------------------------------------------------------------------------- nearest images
def nearest_images(workdir: epath.PathLike, request: Request, jobs: Sequence[Job]) -> list[Section]:
    """Return the nearest images of the best, middle and worst trials of the first system, by its first seed."""
    system = jobs[0].system
    parts = []
    for job in jobs:
        if job.system == system and (stored := run_folder.result_of(workdir, job)) is not None:
            ranks, arrays = run_folder.ranks_of(workdir, job)
            if "nearest" in arrays:
                rank = ranks[stored["counted"]][0].rank()
                parts.append([rank, *(arrays[name] for name in ("similarity", "image", "person", "nearest"))])
    if not parts:
        return []
    rank, similarity, image, person, near = (np.concatenate(each) for each in zip(*parts, strict=True))
    known = catalogue(request.data.path)

    def trial(i: int) -> NearestImages:
        label = f"person {person[i] + 1}"
        return NearestImages(label, known.images[image[i]], float(rank[i]), [known.images[j] for j in near[i]])

    groups = {name: [trial(int(i)) for i in rows] for name, rows in nearest.by_rule(rank, similarity).items()}
    title = f"Nearest images: {system}, first seed"
    return [nearest.section(title, groups, banks.png_reader(request.target, nearest.names(groups)), [nearest.RULE])]
