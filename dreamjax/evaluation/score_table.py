"""Tabulate scores of several sources of answers on the same examples: rows are sources, columns are metrics.

Every source answers the same examples, so that differences are paired. Examples are clustered (by subjects, by images
seen more than once): intervals resample clusters, and of several clusterings the wider interval is given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from jaxtyping import Float

from dreamjax import __version__
from dreamjax.errors import UserError
from dreamjax.metrics import bootstrap
from dreamjax.metrics.bootstrap import Direction, Interval
from dreamjax.reports import image_report, pages
from dreamjax.reports.image_report import MODEL
from dreamjax.reports.pages import Section
from dreamjax.systems import opening
from dreamjax.systems.base import Run

METHOD = (
    f"Bootstrap over clusters (percentiles of {bootstrap.DRAWS} draws), or Student's t with the jackknife's error "
    "where that is wider."
)


@dataclass(frozen=True)
class ExampleSettings:
    """The settings of a score: which held-out examples, of which step."""

    split: str = "test"
    step: int | None = None
    best: bool = False
    seed: int = 0  # of controls and of all random draws
    out: str | None = None  # None: RUN/evaluation

    def folder(self, workdir: str) -> str:
        """Return where the result is written."""
        return self.out or f"{workdir}/evaluation"


def refuse_training_split(split: str) -> None:
    """Raise UserError for the split that runs are trained on."""
    if split == "train":
        raise UserError("split train is what the run learned from; score it on --split test (or val)")


def open_trained(workdir: str, step: int | None = None, best: bool = False) -> Run:
    """Open a run. Raise UserError for an untrained one."""
    run = opening.open_run(workdir, step, best)
    if run.step == 0:
        raise UserError(f"{workdir} is untrained (step 0): no score is shown for it; train it first")
    return run


@dataclass(frozen=True)
class Column:
    """A metric's value for each example of each source, and its chance level."""

    name: str
    values: Mapping[str, Float[np.ndarray, "n"]]
    chance: float | None = None
    better: Direction = "higher"

    def score(self, source: str, clusters: Sequence[np.ndarray]) -> Interval:
        """Return the mean over examples with its interval, which for a share is limited to 0 to 1."""
        score = interval(self.values[source], clusters)
        return score.within(0, 1) if self.chance is not None and 0 < self.chance < 1 else score

    def as_json(self, clusters: Sequence[np.ndarray], model: str = MODEL) -> dict[str, object]:
        """Return each source's score with its interval, and the model's paired difference from every other.

        A difference keeps its sign; its verdict `says` depends on which values of the metric are better.
        """
        differences = {}
        for source, values in self.values.items():
            if source != model and model in self.values:
                d = interval(self.values[model] - values, clusters)
                says = bootstrap.verdict(d, model, source, better=self.better)
                resolved = {} if d.excludes(0) else {"detectable": bootstrap.finite(d.detectable())}
                differences[source] = d.as_json() | resolved | {"says": says}
        return {
            "metric": self.name,
            "chance": self.chance,
            "better": self.better,
            "scores": {source: self.score(source, clusters).as_json() for source in self.values},
            "model_minus": differences,
        }


def interval(values_n: Float[np.ndarray, "n"], clusters: Sequence[np.ndarray]) -> Interval:
    """Return the mean over examples, NaN left out; of several clusterings of them the one with the wider interval."""
    intervals = [bootstrap.clustered(values_n, cluster) for cluster in clusters]
    return max(intervals, key=lambda one: one.high - one.low if one.known else -1.0)


@dataclass(frozen=True)
class ScoreTable:
    """The scores of a run on one split, for printing, a page and storing."""

    title: str
    run: str
    system: str
    step: int
    split: str
    seed: int
    scores: Sequence[Mapping[str, object]]  # `Column.as_json`
    sources: Sequence[str]
    of_sources: Mapping[str, str]  # what each source is
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    not_possible: Mapping[str, str] = field(default_factory=dict)  # source → why it is missing
    details: Mapping[str, object] = field(default_factory=dict)  # further entries of the JSON
    files: Sequence[str] = ()
    version: str = __version__

    def as_json(self) -> dict[str, object]:
        entries = {name: value for name, value in asdict(self).items() if name not in ("details", "files")}
        return entries | dict(self.details) | ({"files": list(self.files)} if self.files else {})

    def text(self) -> str:
        """Return the tables for a terminal."""
        return image_report.text(self.as_json())

    def write(self, out: str, name: str, sections: Sequence[Section] = ()) -> list[str]:
        """Write NAME-SPLIT.json and NAME-SPLIT.html into `out`, with further `sections` of the page; return paths."""
        result = self.as_json()
        page = result | {"statements": list(self.warnings), "captions": {}, "method": METHOD}
        return pages.write(page, [*image_report.tables(result), *sections], {}, out, f"{name}-{self.split}")
