"""Report images generated from brain signals with their scores (JSON of `dreamjax evaluate`): pages, tables, sentences.

Images are never shown without the scores of the model that made them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath

from dreamjax.reports.figures import Image
from dreamjax.reports.pages import Page, Section, png_address, render
from dreamjax.reports.tables import NOTHING, Table, cell, number
from dreamjax.storage import image_files, presence, sniffing
from dreamjax.typing import JsonDict

MODEL = "model"  # the source whose scores are compared with every other source
RESULT = "images-{split}.json"  # in the folder of an evaluation
OLD_RESULT = "pictures-{split}.json"  # of runs evaluated before 0.2

BRACKETS = (
    "in brackets: 95 % intervals over images and people (a number without brackets has no interval); n.r.: not "
    "resolved, with the smallest detectable difference"
)
SETS = "Scores of whole sets of images"
TOO_FEW = (
    "too few: FID and KID of fewer than 2,048 images depend on how many there are; compare them only within this table"
)
COLUMNS = 4  # metrics in a row of tables
CENTRAL = ("top-1", "two-way within class")  # metrics whose outcome is put into a sentence
MOST = 48  # trials on a page
LEAST_SIDE, SIDE = 96, 128  # pixels of an image there
PURPOSE = (
    "What this is for: signals of people who looked at images, one at a time, in a known experiment that they agreed "
    "to. A little about the image is decoded from them; the rest of the generated image, and all of its detail, comes "
    "from the generator. It does not read thoughts. It is not for clinical, forensic or covert use, and must not be "
    "used on anyone's signals without their consent."
)
NOT_SCORED = "This checkpoint was not evaluated, so the accuracy of these images is unknown: "

Scores = Mapping[str, Any]  # one entry of a result: see `evaluation.score_table.Column.as_json`


# ----------------------------------------------------------------------------------------------------------------- page
@dataclass(frozen=True)
class TrialImages:
    """The images of a trial: the one that was seen, where it is known, and those generated from the trial."""

    label: str
    seen: Image | None
    made: Sequence[Image]


def page(
    *,
    title: str,
    notes: Sequence[str],
    trial: Callable[[int], TrialImages],
    count: int,
    seed: int,
    of: int | None = None,
    tables: Sequence[Section] = (),
    warnings: Sequence[str] = (),
    about: Sequence[str] = (),
    command: str = "",
) -> str:
    """Return the page, with everything in it: all trials, or `MOST` drawn at random with the seed; never picked.

    Args:
        trial: number → trial, of `count` that were drawn from `of` (default: as many).
        tables: the scores; without scores the page names the `command` that computes them.
        about: what was scored, where that is not the trials shown; the images come first then.
    """
    drawn = np.random.default_rng([seed, 10]).choice(count, MOST, replace=False) if count > MOST else range(count)
    trials, of = [trial(int(i)) for i in sorted(drawn)], of or count
    some = f"{len(trials)} of {of} trials, drawn at random"
    choice = some if len(trials) < of else f"all {of} trials" if of > 1 else "the only trial"
    unscored = [] if tables or about else [f"{NOT_SCORED}{command}"]
    if about and not tables:
        about = [*about, "the tables are of images made with other settings: see the evaluation folder of the run"]
    gallery = [Section("Trials", html=_gallery(trials))] if trials else []
    scores = [Section("The scores", notes=about), *tables] if about else tables
    sections = [*gallery, *scores] if about else [*scores, *gallery]
    below = ["scores of this checkpoint, with controls: below the images"] if about else []
    return Page(title, sections, [*notes, choice, *below], [PURPOSE, *warnings, *unscored]).html()


def _gallery(trials: Sequence[TrialImages]) -> str:
    def address(image: Image) -> str:
        return png_address(image_files.png_bytes(image, 2 * SIDE))

    largest = max(max(trial.made[0].shape[:2]) for trial in trials)
    shown = [
        {
            "label": trial.label,
            "seen": "" if trial.seen is None else address(trial.seen),
            "made": [address(image) for image in trial.made],
        }
        for trial in trials
    ]
    side = min(SIDE, max(largest, LEAST_SIDE))
    return render("reports/templates/trials.html.j2", trials=shown, side=side, pixelated=largest < SIDE)


# --------------------------------------------------------------------------------------------------------------- scores
def made_alike(result: Mapping[str, Any], summary: Mapping[str, Any]) -> bool:
    """Return whether the images of a result were made with the settings in `summary`, whatever the seed."""
    return all(result["made"].get(name) == summary[name] for name in ("size", "sampler", "steps", "guidance"))


def about(result: Mapping[str, Any]) -> list[str]:
    """Return what the tables describe, for a page that shows other images above them."""
    made = result["made"]
    how = f"made with {made['sampler']}, {made['steps']} steps, guidance {made['guidance']:g}"
    return [f"Of {result['title']}, {how}; not of the images above", BRACKETS, *findings(result), *result["notes"]]


def findings(result: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each central metric: the sources from which the model differs by an interval without 0."""
    return [_finding(entry) for entry in result["scores"] if any(name in entry["metric"] for name in CENTRAL)]


def _finding(entry: Scores) -> str:
    groups: dict[str, list[str]] = {"above": [], "below": [], "not resolved from": []}
    for source, d in entry["model_minus"].items():
        if d["estimate"] is not None:
            resolved = d["low"] is not None and not d["low"] <= 0 <= d["high"]
            groups[("above" if d["estimate"] > 0 else "below") if resolved else "not resolved from"].append(source)
    chance = "" if entry["chance"] is None else f" (chance {entry['chance']:.3g})"
    results = [f"{where} {', '.join(sources)}" for where, sources in groups.items() if sources]
    comparison = "; ".join(results) or "nothing to compare it with"
    return f"{entry['metric']}: model {cell(entry['scores'].get(MODEL))}{chance}, {comparison}"


def tables(result: Mapping[str, Any]) -> list[Section]:
    """Return every source's scores, the model's differences from the other sources, and a description of each."""
    entries, sources, label = result["scores"], result["sources"], result.get("label", "images of")

    def score(entry: Scores, source: str) -> str:
        return cell(entry["scores"].get(source))

    def difference(entry: Scores, source: str) -> str:
        value = entry["model_minus"].get(source)
        detectable = f" n.r. ≥ {value['detectable']:.2g}" if value and value.get("detectable") else ""
        return cell(value, signed=True) + detectable

    compared, others = [e for e in entries if e["model_minus"]], [s for s in sources if s != MODEL]
    sections = _scores("Scores", label, entries, sources, score, chance=True)
    title = "Model minus each, paired (n.r. ≥ X: not resolved; this design could detect ≥ X)"
    sections += _scores(title, label, compared, others, difference, chance=False)
    more = {
        SETS: set_table(result.get("sets", []), sources),
        "Failures: images of another class": confusion_table(result.get("confusion", {}), sources),
        "Not possible": Table(["control", "reason"], list(result["not_possible"].items())),
        f"Sources of {label.partition(' ')[0]}": Table([label, "description"], list(result["of_sources"].items())),
    }
    few = [TOO_FEW] if any("too few" in value["note"] for value in _set_scores(result)) else []
    return sections + [Section(t, table, notes=few if t == SETS else ()) for t, table in more.items() if table.rows]


def _set_scores(result: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (value for entry in result.get("sets", []) for value in entry["scores"].values())


def _scores(
    title: str,
    label: str,
    entries: Sequence[Scores],
    sources: Sequence[str],
    cell_of: Callable[[Scores, str], str],
    chance: bool,
) -> list[Section]:
    """Return tables of one row per source and `COLUMNS` metrics; sources without any score are left out."""
    sections = []
    for first in range(0, len(entries), COLUMNS):
        some = entries[first : first + COLUMNS]
        rows = [[source, *(cell_of(entry, source) for entry in some)] for source in sources]
        rows += [["chance", *(number(entry["chance"]) for entry in some)]] if chance else []
        scored = [row for row in rows if set(row[1:]) != {NOTHING}]
        table = Table([label, *(entry["metric"] for entry in some)], scored)
        sections.append(Section("" if first else title, table))
    return sections


def text(result: Mapping[str, Any]) -> str:
    """Return a result for a terminal."""
    closing = Section(notes=[f"- {line}" for line in (*findings(result), BRACKETS, *result["notes"])])
    return Page(result["title"], [*tables(result), closing], statements=result["warnings"]).text()


def saved(workdir: epath.PathLike, step: int) -> JsonDict | None:
    """Return the scores of this step of a run, where it has been evaluated: on split test, else on val."""
    results = (saved_in(epath.Path(workdir) / "evaluation", step, split) for split in ("test", "val"))
    return next((result for result in results if result), None)


def saved_in(folder: epath.Path, step: int, split: str) -> JsonDict | None:
    """Return the scores of this step in the folder of an evaluation; None without scores."""
    names = (folder / name.format(split=split) for name in (RESULT, OLD_RESULT))
    path = next((path for path in names if presence.exists(path)), None)
    result = sniffing.read_json(path) if path is not None else None
    return result if result and result.get("step") == step and "warnings" in result else None


def set_table(entries: Sequence[Scores], sources: Sequence[str]) -> Table:
    """Return the scores of whole sets, a source a row; no rows where no judge has such scores.

    Cells: `12.3 (n 1,200; biased below 10,000)`, `0.0123 [0.0110, 0.0135] (n 1,200)`.
    """

    def score(value: Mapping[str, Any] | None) -> str:
        if value is None or value["estimate"] is None:
            return NOTHING
        interval = "" if value["low"] is None else f" [{value['low']:.4g}, {value['high']:.4g}]"
        counts = "n " + " to ".join(f"{value[k]:,}" for k in ("n", "m") if k in value)
        return f"{value['estimate']:.4g}{interval} ({'; '.join(filter(None, (counts, value['note'])))})"

    rows = [[source, *(score(entry["scores"].get(source)) for entry in entries)] for source in sources]
    return Table(["images of", *(entry["metric"] for entry in entries)], rows if entries else [])


def confusion_table(result: Mapping[str, Any], sources: Sequence[str]) -> Table:
    """Return how near each source's failures are to the class shown; no rows where nothing was classified.

    Cells: `3.200 [2.900, 3.500] (shuffled 4.100)`.
    """
    if not result:
        return Table([], [])
    kinds = [(what, by) for what in ("rank", "nearest") for by in ("colour", "shape")]
    rows = []
    for source in sources:
        failures = result["sources"][source]["failures"]
        cells = []
        for what, by in kinds:
            score, shuffled = failures[by][what], failures[by]["dealt"][what]
            known = shuffled is not None and score is not None
            cells.append(cell(score) + (f" (shuffled {shuffled:.3f})" if known else ""))
        rows.append([source, f"{failures['n']:,} of {failures['of']:,}", *cells])
    rows.append(["chance", "", *(f"{result['chance'][what]:.3f}" for what, _ in kinds)])
    wrong = f"wrong among {len(result['classes'])} classes"
    names = {"rank": "mean rank", "nearest": "nearest class"}
    return Table([wrong, "failures", *(f"{names[what]} by {by}" for what, by in kinds)], rows)
