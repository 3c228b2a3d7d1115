"""A trained DreamDiffusion on trials whose pictures it never saw: scores, controls and baselines in one table.

Where the pictures of the table come from is told in `picture_sources` and `controls`.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from etils import epath

from dreamjax.console import progress
from dreamjax.errors import UserError
from dreamjax.evaluation import confusion, decoding, judges, picture_page, report, sets
from dreamjax.evaluation.decoding import Column, Judge, Trials
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.storage import atomic, mistaken
from dreamjax.systems import controls, eeg_to_image, painting, picture_sources, runs
from dreamjax.systems.eeg_to_image import Dreamer, Request
from dreamjax.systems.picture_sources import MODEL, How, Sources
from dreamjax.targets import pictures, trials
from dreamjax.targets.features import VisionModel

SHOWN = {"train": "that it was trained on", "val": "held out while it trained", "test": "that training never showed"}
RESULT, PAGE = "pictures.json", "pictures.html"
BRACKETS = (
    "in brackets: 95 % intervals, over pictures and people; n.r.: not resolved, with the least that would have been"
)
READS = "test_reads.jsonl"  # in the run: each scoring of its test split
NAMED = "class, as answered"
LEAKS = (controls.TIME, controls.BEFORE, controls.BLOCKS)  # controls whose answers nothing seen can have helped
COLUMNS = 4  # metrics in a row of tables
PARTS = {False: "Scores", True: "Model minus each, paired (n.r. ≥ X: not resolved; this design could detect ≥ X)"}


@dataclass(frozen=True)
class Judging:
    """By whom the pictures are judged, folders of vision models; and what they are compared with."""

    judges: tuple[str, ...] = ()  # two-way identification by their embeddings, beside the one that was aligned with
    classifier: str = ""  # ViTForImageClassification: N-way accuracy
    ways: int | None = None
    sources: How = field(default_factory=How)


def evaluate(
    workdir: str,
    request: Request,
    judging: Judging,
    out: str | None = None,
    *,
    step: int | None = None,
    best: bool = False,
) -> dict[str, Any]:
    """Scores of a run on the trials of a split: pictures.json and pictures.html in `out` (default: RUN/evaluation)."""
    run = runs.open_run(workdir, step, best)
    if run.step == 0:
        raise UserError(f"{workdir} is untrained (step 0): no score is shown for it; train it first")
    dreamer = Dreamer.open(run)
    found = dreamer.trials(request.split, request.input)
    own = eeg_to_image.chosen(found, request)
    side = dreamer.side(request)
    asked = _seen(found, own, side)
    judged_by, classifier, notes = _judges(dreamer, judging)  # and the folders: mistakes are said before hours of work
    controls.check(judging.sources.material)
    with progress("generate", len(own) * request.samples) as bar:
        made = np.stack(list(dreamer.pictures(found, own, request, bar)))
    made = made.reshape(len(own), request.samples, *made.shape[1:])
    sources, classes = picture_sources.others(dreamer, found, own, request, made, judging.sources)
    shown = {MODEL: made} | sources.pictures
    columns = [*_named(sources, classes), *decoding.columns(asked, shown, judged_by, judging.ways)]
    people, seen = len(set(asked.person.tolist())), len(asked.true)
    result = {
        "run": workdir,
        "system": run.config.system,
        "step": run.step,
        "split": request.split,
        "trials": len(own),
        "title": (
            f"{workdir}, step {run.step}: {len(own)} trials of split {request.split}, in which {people} people saw "
            f"{seen} pictures {SHOWN[request.split]}; {request.samples} made of each"
        ),
        "notes": [*notes, *_pretrained(run.config, found, own), *_read_before(run, request)],
        "scores": decoding.scores_json(columns, asked, MODEL),
        "sets": sets.scores(asked, shown, judged_by),
        "confusion": confusion.table(classifier, asked, shown) if classifier else {},
        "sources": list(shown),
        "of_sources": sources.notes,
        "not_possible": sources.missing,
        "warnings": _leaks(sources, classes, asked),
        "made": painting.described(dreamer.model, request),
    }
    folder = epath.Path(out or f"{workdir}/evaluation")
    atomic.write_text(folder / RESULT, json.dumps(result, indent=1))
    atomic.write_text(folder / PAGE, _page(result, asked, made, request.seed))
    _remember(run, request, result)
    return result


def of_run(run: runs.Run) -> dict[str, Any] | None:
    """The scores of this step of a run, where it has been evaluated."""
    path = epath.Path(run.workdir) / "evaluation" / RESULT
    result = mistaken.read_json(path) if path.exists() else None
    return result if result and result.get("step") == run.step and "warnings" in result else None


def about(result: Mapping[str, Any]) -> list[str]:
    """What the tables are of, for a page that shows other pictures beside them."""
    made = result["made"]
    how = f"made with {made['sampler']}, {made['steps']} steps, guidance {made['guidance']:g}"
    return [f"Of {result['title']}, {how}; not of the pictures below", BRACKETS, *result["notes"]]


# -------------------------------------------------------------------------------------------------------- what is shown
def tables(result: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, header, rows): every source's scores, then the model's differences from each other source."""
    found = []
    entries: Sequence[Mapping[str, Any]] = result["scores"]
    for minus, title in PARTS.items():
        own = [e for e in entries if not minus or e["model_minus"]]
        sources = [s for s in result["sources"] if not minus or s != MODEL]
        for first in range(0, len(own), COLUMNS):
            some = own[first : first + COLUMNS]
            rows = [[source, *(_cell(e, source, minus) for e in some)] for source in sources]
            if not minus:
                rows.append(["chance", *("–" if e["chance"] is None else f"{e['chance']:.3f}" for e in some)])
            kept = [row for row in rows if set(row[1:]) != {"–"}]
            found.append((title if first == 0 else "", ["", *(e["metric"] for e in some)], kept))
    found += [
        (title, header, rows)
        for title, (header, rows) in (
            ("As sets of pictures, whoever saw them", sets.rows(result.get("sets", []), result["sources"])),
            ("Pictures of another class", confusion.rows(result.get("confusion", {}), result["sources"])),
        )
        if rows
    ]
    if result["not_possible"]:
        found.append(("Not possible", ["", "why"], [[name, why] for name, why in result["not_possible"].items()]))
    if result["of_sources"]:
        found.append(("Of the others", ["", ""], [[name, told] for name, told in result["of_sources"].items()]))
    return found


def _cell(entry: Mapping[str, Any], source: str, minus: bool) -> str:
    value = entry["model_minus" if minus else "scores"].get(source)
    told = report.cell(value, signed=minus)
    return f"{told} n.r. ≥ {value['detectable']:.2g}" if minus and value and value.get("detectable") else told


def text(result: Mapping[str, Any]) -> str:
    """A result for a terminal."""
    lines = [result["title"]]
    for title, header, rows in tables(result):
        lines += ["", *([title] if title else []), report.table(header, rows)]
    lines += ["", *(f"- {note}" for note in result["notes"]), *(f"! {warning}" for warning in result["warnings"])]
    return "\n".join(lines).rstrip()


def _page(result: Mapping[str, Any], asked: Trials, made: np.ndarray, seed: int) -> str:
    rows = [
        picture_page.Row(f"trial {i}", asked.true[asked.own[i]], list(made[i]))
        for i in picture_page.drawn(len(made), seed)
    ]
    return picture_page.page(
        title=result["title"],
        notes=[*result["notes"], *picture_page.of(len(rows), len(made))],
        rows=rows,
        tables=tables(result),
        warnings=result["warnings"],
    )


# ------------------------------------------------------------------------------------------------------------ honesty
def _named(sources: Sources, classes: controls.Asked) -> list[Column]:
    """How often a source names the class: of those that answer with one."""
    if not sources.named:
        return []
    values = {name: (said == classes.true).astype(float) for name, said in sources.named.items()}
    return [Column(NAMED, values, 1 / len(classes.names))]


def _leaks(sources: Sources, classes: controls.Asked, asked: Trials) -> list[str]:
    """A sentence for each null control that names classes better than chance."""
    out = []
    true = classes.true
    chance = max(1 / max(len(classes.names), 1), np.bincount(true[true >= 0]).max() / len(true) if len(true) else 0)
    for name, said in sources.named.items():
        share = decoding.interval((said == true).astype(float), asked)
        if name in LEAKS and share.known and share.low > chance:
            out.append(
                f"{name}: names {share.estimate:.0%} of the classes ({share.low:.0%} to {share.high:.0%}; chance "
                f"{chance:.0%}) although nothing of the picture is in it: the design leaks, and no score of these data "
                "that has to do with classes is evidence of anything seen"
            )
    return out


def _read_before(run: runs.Run, request: Request) -> list[str]:
    """How often the test split was scored, in words: whoever chooses by these scores chooses on the test split."""
    if request.split != "test":
        return []
    path = epath.Path(run.workdir) / READS
    before = len(path.read_text().splitlines()) if path.exists() else 0
    if not before:
        return ["the run's test split is scored for the first time; steps are chosen on split val alone"]
    times = "once" if before == 1 else f"{before} times"
    return [
        f"the run's test split was scored {times} before (see {READS}): a choice by these scores is no test any more"
    ]


def _remember(run: runs.Run, request: Request, result: Mapping[str, Any]) -> None:
    if request.split != "test":
        return
    path = epath.Path(run.workdir) / READS
    before = path.read_text() if path.exists() else ""
    entry = {"step": run.step, "trials": result["trials"], "samples": request.samples, **result["made"]}
    atomic.write_text(path, before + json.dumps(entry) + "\n")


def _seen(found: Any, own: np.ndarray, side: int) -> Trials:
    """The trials as `decoding` has them."""
    judged, place = np.unique(found.picture[own], return_inverse=True)
    labels = {int(found.picture[trial]): found.label[trial] for trial in own}
    names, people = sorted(set(labels.values())), sorted({found.person[trial] for trial in own})
    return Trials(
        true=pictures.load_all([found.pictures[i].path for i in judged], side),
        group=np.array([names.index(labels[int(i)]) for i in judged]),
        own=place,
        person=np.array([people.index(found.person[trial]) for trial in own]),
    )


def _pretrained(config: Any, found: Any, own: np.ndarray) -> list[str]:
    """What the encoder had seen of these trials before; their signals, never their pictures."""
    own_start = not config.encoder.path or config.encoder.start == "random"
    if own_start or config.target.people == "apart":
        return []
    paths = [os.path.abspath(path) for path in runs.config_of(config.encoder.path).data.path]
    recordings = tuple(found.recording[trial] for trial in own)
    chosen = dataclasses.replace(found, record=found.record[own], recording=recordings)
    count = trials.pretrained_on(chosen, paths)
    return [f"the encoder was pretrained on the signals of {count} of the {len(own)} trials, without their pictures"]


# -------------------------------------------------------------------------------------------------------------- judges
def _judges(dreamer: Dreamer, judging: Judging) -> tuple[list[Judge], Judge | None, list[str]]:
    """Who judges, the classifier among them, and what is missing and why."""
    mesh, notes, found = meshes.make(MeshConfig()), [], []
    aligned = dreamer.task.config.target.embedding
    if dreamer.task.embedding_dim:
        name = epath.Path(aligned.path).name
        view = judges.of_model(VisionModel.open(aligned.path, mesh), aligned, mesh)
        found.append(Judge(f"{name} (aligned with)", view))
        notes.append(f"{name} is what training aligned trials with: as a judge it is not independent")
    given, told = judges.open_judges(judging.judges, mesh)
    classifier = judges.open_classifier(judging.classifier, mesh) if judging.classifier else None
    if classifier is None:
        notes.append("no N-way accuracy: it takes a trained classifier (--classifier FOLDER)")
    return [*found, *given, *([classifier] if classifier else [])], classifier, [*notes, *told]
