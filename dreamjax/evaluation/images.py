"""A trained DreamDiffusion on trials whose images it never saw: scores, controls and baselines in one table.

Where the images of the table come from is told in `image_sources` and `controls`.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from etils import epath

from dreamjax.console import counted, progress
from dreamjax.errors import UserError
from dreamjax.evaluation import confusion, controls, image_scores, image_sources, judges, set_scores
from dreamjax.evaluation.image_scores import Column, Judge, Trials
from dreamjax.evaluation.image_sources import How, Sources
from dreamjax.generation import batches, from_trials
from dreamjax.generation.from_trials import Dreamer, Request
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.reports import image_page, image_report
from dreamjax.reports.image_report import MODEL
from dreamjax.storage import atomic
from dreamjax.systems import opening
from dreamjax.targets import images, trials
from dreamjax.targets.features import VisionModel

SHOWN = {"train": "that it was trained on", "val": "held out while it trained", "test": "that training never showed"}
PAGE = "images-{split}.html"  # in the folder of an evaluation
READS = "test_reads.jsonl"  # in the run: each scoring of its test split
NAMED = "class, as answered"
LEAKS = (controls.TIME, controls.BEFORE, controls.BLOCKS)  # controls whose answers nothing seen can have helped


@dataclass(frozen=True)
class Judging:
    """By whom the images are judged, folders of vision models; and what they are compared with."""

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
    """Scores of a run on the trials of a split: `image_report.RESULT` and `PAGE` in `out` (default: RUN/evaluation).

    Raises UserError, before any image is made, for what could not be scored, and where the default folder holds the
    scores of more trials of this very step.
    """
    run = opening.open_run(workdir, step, best)
    if run.step == 0:
        raise UserError(f"{workdir} is untrained (step 0): no score is shown for it; train it first")
    dreamer = Dreamer.open(run)
    found = dreamer.trials(request.split, request.input)
    own = from_trials.chosen(found, request)
    side = dreamer.side(request)
    asked = trials_seen(found, own, side)
    folder = epath.Path(out or f"{workdir}/evaluation")
    if not out:
        _refuse_to_lose(folder, run, request, len(own))
    judged_by, classifier, notes = _judges(dreamer, judging)  # and the folders: mistakes are said before hours of work
    controls.check(judging.sources.material)
    if classifier:
        image_scores.check_ways(classifier, asked, judging.ways)
    with progress("generate", len(own) * request.samples) as bar:
        made = np.stack(list(dreamer.images(found, own, request, bar)))
    made = made.reshape(len(own), request.samples, *made.shape[1:])
    sources, classes = image_sources.others(dreamer, found, own, request, made, judging.sources)
    shown = {MODEL: made} | sources.images
    columns, empty = _told([*_named(sources, classes), *image_scores.columns(asked, shown, judged_by, judging.ways)])
    people, seen = len(set(asked.person.tolist())), len(asked.true)
    result = {
        "run": workdir,
        "system": run.config.system,
        "step": run.step,
        "split": request.split,
        "trials": len(own),
        "title": (
            f"{workdir}, step {run.step}: {counted(len(own), 'trial')} of split {request.split}, in which "
            f"{counted(people, 'person', 'people')} saw {counted(seen, 'image')} {SHOWN[request.split]}; "
            f"{request.samples} made of each"
        ),
        "notes": [*notes, *empty, *pretrained(run.config, found, own), *_read_before(run, request)],
        "scores": image_scores.scores_json(columns, asked, MODEL),
        "sets": set_scores.scores(asked, shown, judged_by),
        "confusion": confusion.table(classifier, asked, shown) if classifier else {},
        "sources": list(shown),
        "of_sources": sources.notes,
        "not_possible": sources.missing,
        "warnings": _leaks(sources, classes, asked),
        "made": batches.described(dreamer.model, request),
    }
    atomic.write_text(folder / image_report.RESULT.format(split=request.split), json.dumps(result, indent=1))
    atomic.write_text(folder / PAGE.format(split=request.split), _page(result, asked, made, request.seed))
    _remember(run, request, result)
    return result


def _refuse_to_lose(folder: epath.Path, run: opening.Run, request: Request, count: int) -> None:
    """Raises UserError where fewer trials than were scored before would take their place."""
    before = image_report.saved_in(folder, run.step, request.split)
    if before and before["trials"] > count:
        raise UserError(
            f"{folder} holds the scores of {before['trials']} trials of split {request.split}, and these would be of "
            f"{count}: name another folder with --out"
        )


def _page(result: Mapping[str, Any], asked: Trials, made: np.ndarray, seed: int) -> str:
    rows = [
        image_page.Row(f"trial {i}", asked.true[asked.own[i]], list(made[i])) for i in image_page.drawn(len(made), seed)
    ]
    return image_page.page(
        title=result["title"],
        notes=[*image_report.findings(result), *result["notes"], *image_page.of(len(rows), len(made))],
        rows=rows,
        tables=image_report.tables(result),
        warnings=result["warnings"],
    )


# ------------------------------------------------------------------------------------------------------------ honesty
def _named(sources: Sources, classes: controls.Asked) -> list[Column]:
    """How often a source names the class: of those that answer with one."""
    if not sources.named:
        return []
    values = {name: (said == classes.true).astype(float) for name, said in sources.named.items()}
    return [Column(NAMED, values, 1 / len(classes.names))]


def _told(columns: list[Column]) -> tuple[list[Column], list[str]]:
    """Those that any trial has a value of, and what is said of the others."""
    known = [one for one in columns if any(np.isfinite(values).any() for values in one.values.values())]
    if not (empty := [one.name for one in columns if one not in known]):
        return known, []
    return known, [f"too few images were seen in these trials for {', '.join(empty)}"]


def _leaks(sources: Sources, classes: controls.Asked, asked: Trials) -> list[str]:
    """A sentence for each null control that names classes better than chance."""
    out = []
    true = classes.true
    chance = max(1 / max(len(classes.names), 1), np.bincount(true[true >= 0]).max() / len(true) if len(true) else 0)
    for name, said in sources.named.items():
        share = image_scores.interval((said == true).astype(float), asked)
        if name in LEAKS and share.known and share.low > chance:
            out.append(
                f"{name}: names {share.estimate:.0%} of the classes ({share.low:.0%} to {share.high:.0%}; chance "
                f"{chance:.0%}) although nothing of the image is in it: the design leaks, and no score of these data "
                "that has to do with classes is evidence of anything seen"
            )
    return out


def _read_before(run: opening.Run, request: Request) -> list[str]:
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


def _remember(run: opening.Run, request: Request, result: Mapping[str, Any]) -> None:
    if request.split != "test":
        return
    path = epath.Path(run.workdir) / READS
    before = path.read_text() if path.exists() else ""
    entry = {"step": run.step, "trials": result["trials"], "samples": request.samples, **result["made"]}
    atomic.write_text(path, before + json.dumps(entry) + "\n")


def trials_seen(found: Any, own: np.ndarray, side: int) -> Trials:
    """The trials as `decoding` has them."""
    judged, place = np.unique(found.image[own], return_inverse=True)
    labels = {int(found.image[trial]): found.label[trial] for trial in own}
    names, people = sorted(set(labels.values())), sorted({found.person[trial] for trial in own})
    return Trials(
        true=images.load_all([found.images[i].path for i in judged], side),
        group=np.array([names.index(labels[int(i)]) for i in judged]),
        own=place,
        person=np.array([people.index(found.person[trial]) for trial in own]),
    )


def pretrained(config: Any, found: Any, own: np.ndarray) -> list[str]:
    """What the encoder had seen of these trials before; their signals, never their images."""
    own_start = not config.encoder.path or config.encoder.start == "random"
    if own_start or config.target.people == "apart":
        return []
    paths = [os.path.abspath(path) for path in opening.config_of(config.encoder.path).data.path]
    recordings = tuple(found.recording[trial] for trial in own)
    chosen = dataclasses.replace(found, record=found.record[own], recording=recordings)
    count = trials.pretrained_on(chosen, paths)
    return [f"the encoder was pretrained on the signals of {count} of the {len(own)} trials, without their images"]


# -------------------------------------------------------------------------------------------------------------- judges
def _judges(dreamer: Dreamer, judging: Judging) -> tuple[list[Judge], Judge | None, list[str]]:
    """Who judges, the classifier among them, and what is missing and why."""
    mesh, notes, found = meshes.make(MeshConfig()), [], []
    aligned = dreamer.task.target.embedding
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
