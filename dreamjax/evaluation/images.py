"""Evaluate a system that generates images, on trials whose images it never saw: scores, controls, baselines.

The sources of images are in `image_sources`, the controls in `controls`, the metrics in `image_scores`.
"""

import dataclasses
import json
import os
from dataclasses import dataclass

import numpy as np
from etils import epath

from dreamjax.console import counted, progress
from dreamjax.errors import UserError
from dreamjax.evaluation import controls, image_scores, image_sources, judges, score_table
from dreamjax.evaluation.controls import ClassTask, ControlData
from dreamjax.evaluation.image_scores import Judge, ScoredTrials
from dreamjax.evaluation.image_sources import Sources
from dreamjax.evaluation.score_table import Column, ExampleSettings, ScoreTable
from dreamjax.generation import batches
from dreamjax.generation.from_trials import TrialGenerator, TrialRequest
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.reports import image_report
from dreamjax.reports.image_report import MODEL, TrialImages
from dreamjax.signals.recordings import identity
from dreamjax.storage import atomic, locks, manifest, presence
from dreamjax.systems import opening
from dreamjax.systems.base import GeneratesFromTrials, Pretrained, Run, System, capability, name_of, offered
from dreamjax.targets import images, trials
from dreamjax.targets.features import VisionModel
from dreamjax.targets.trials import ImageTrials

SHOWN = {"train": "that it was trained on", "val": "held out while it trained", "test": "that training never showed"}
PAGE = "images-{split}.html"  # in the folder of an evaluation
READS = "test_reads.jsonl"  # in the run: each scoring of its test split
PREDICTED = "class, as answered"
LEAKS = (controls.TIME, controls.BEFORE, controls.BLOCKS)  # controls whose answers do not depend on the image


@dataclass(frozen=True)
class ImageSettings(ExampleSettings):
    """The settings of an evaluation of images: which trials, which judging networks, which controls."""

    data: tuple[str, ...] = ()  # dataset folders; empty: those of the run
    trials: int | None = None  # drawn at random with the seed; None: all of the split
    samples: int = 1  # images of each trial
    steps: int = 30
    sampler: str | None = None
    guidance: float = 7.5
    judge: tuple[str, ...] = ()  # folders of vision models, in addition to the one aligned with
    classifier: str | None = None  # ViTForImageClassification: N-way accuracy
    ways: int | None = None
    before: tuple[str, ...] = ()  # see `controls.ControlData`
    free: tuple[str, ...] = ()
    prompt: tuple[str, ...] = ("a {label}",)  # of the baseline that classifies and prompts

    def __post_init__(self) -> None:
        for text in self.prompt:
            try:
                filled = text.format(label="dog")
            except (KeyError, IndexError, ValueError) as problem:
                raise UserError(f"--prompt {text!r}: only {{label}} may be in braces") from problem
            if filled == text:
                raise UserError(f"--prompt {text!r} does not name the class; put {{label}} where it belongs")

    @property
    def request(self) -> TrialRequest:
        """Return which trials images are generated from, and how."""
        same = ("split", "trials", "samples", "steps", "sampler", "guidance", "seed")
        return TrialRequest(input=self.data, **{name: getattr(self, name) for name in same})


def evaluate(workdir: str, settings: ImageSettings) -> ScoreTable:
    """Score a run on the trials of a split; write `image_report.RESULT` and `PAGE` into `out`.

    Raise UserError, before any image is generated, for images that could not be scored, and where the default folder
    holds the scores of more trials of the same step.
    """
    run = score_table.open_trained(workdir, settings.step, settings.best)
    folder = epath.Path(settings.folder(workdir))
    generator, request = TrialGenerator.open(run), settings.request
    seen = generator.trials(request.split, request.input)
    chosen = request.chosen(seen)
    scored = scored_trials(seen, chosen, generator.side(request))
    earlier = None if settings.out else image_report.saved_in(folder, run.step, request.split)
    if earlier and earlier["trials"] > len(chosen):
        raise UserError(
            f"{folder} holds the scores of {earlier['trials']} trials of split {request.split}, and these would be of "
            f"{len(chosen)}: name another folder with --out"
        )
    material = ControlData(settings.before, settings.free)
    controls.check(material)  # mistakes are reported before hours of work
    panel, classifier, notes = _judges(generator.task, settings)
    notes += draw_notes(workdir, run.step, request, len(chosen), len(seen))
    if classifier:
        image_scores.check_ways(classifier, scored, settings.ways)
    with progress("generate", len(chosen) * request.samples) as bar:
        made = np.stack(list(generator.images(seen, chosen, request, bar)))
    made = made.reshape(len(chosen), request.samples, *made.shape[1:])
    sources, classes = image_sources.sources(generator, seen, chosen, request, made, material, settings.prompt)
    shown = {MODEL: made} | sources.images
    columns = image_scores.columns(scored, shown, panel, settings.ways)
    if sources.predicted:
        values = {name: _right(predicted, classes.true) for name, predicted in sources.predicted.items()}
        columns.insert(0, Column(PREDICTED, values, 1 / len(classes.names)))
    known = [one for one in columns if any(np.isfinite(values).any() for values in one.values.values())]
    if empty := [one.name for one in columns if one not in known]:
        notes.append(f"too few images were seen in these trials for {', '.join(empty)}")
    people = {seen.person[trial] for trial in chosen}
    who = identity.in_words(people, "person", "people")
    if len(people) == 1 and not identity.caveat(people):
        notes.append("one person: intervals are over images alone, and say nothing about other people")
    summary = batches.summary(generator.model, request)
    result = ScoreTable(
        title=(
            f"{workdir}, step {run.step}: {counted(len(chosen), 'trial')} of split {request.split}, in which "
            f"{who} saw {counted(len(scored.true), 'image')} {SHOWN[request.split]}; "
            f"{request.samples} made of each"
        ),
        run=workdir,
        system=name_of(run.task),
        step=run.step,
        split=request.split,
        seed=request.seed,
        scores=[column.as_json(scored.clusters) for column in known],
        sources=list(shown),
        of_sources=sources.notes,
        notes=[
            *filter(None, [identity.caveat(people)]),
            *notes,
            *pretraining_notes(run.task, seen, chosen),
            *_test_reads(run, request.split),
        ],
        warnings=_leaks(sources, classes, scored),
        not_possible=sources.missing,
        details={
            "trials": len(chosen),
            "sets": [metric.as_json() for metric in image_scores.set_metrics(scored, shown, panel)],
            "confusion": image_scores.confusions(classifier, scored, shown) if classifier else {},
            "made": summary,
        },
    )
    data = result.as_json()
    page = image_report.page(
        title=result.title,
        notes=[*image_report.findings(data), *result.notes],
        trial=lambda i: TrialImages(f"trial {i}", scored.true[scored.image[i]], list(made[i])),
        count=len(made),
        seed=result.seed,
        tables=image_report.tables(data),
        warnings=result.warnings,
    )
    files = {image_report.RESULT: json.dumps(manifest.sealed(data), indent=1), PAGE: page}
    atomic.write_together(folder, {name.format(split=request.split): text.encode() for name, text in files.items()})
    if request.split == "test":
        path = epath.Path(workdir) / READS
        entry = {"step": run.step, "trials": len(chosen), "samples": request.samples, **summary}
        with locks.output(path, stop=lambda: False):  # another evaluation may add its line at the same moment
            before = path.read_text() if presence.exists(path) else ""
            atomic.write_text(path, before + json.dumps(entry) + "\n")
    return result


def _right(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return which predictions are right; NaN for a trial of a class that training does not have."""
    return np.where(true >= 0, predicted == true, np.nan)


def _leaks(sources: Sources, classes: ClassTask, scored: ScoredTrials) -> list[str]:
    """Return a sentence for each null control that predicts classes better than chance."""
    out = []
    true = classes.true
    known = true[true >= 0]
    chance = max(1 / max(len(classes.names), 1), np.bincount(known).max() / len(known) if len(known) else 0)
    for name, predicted in sources.predicted.items():
        share = score_table.interval(_right(predicted, true), scored.clusters)
        if name in LEAKS and share.known and share.low > chance:
            out.append(
                f"{name}: names {share.estimate:.0%} of the classes ({share.low:.0%} to {share.high:.0%}; chance "
                f"{chance:.0%}) although nothing of the image is in it: the design leaks, and no score of these data "
                "that has to do with classes is evidence of anything seen"
            )
    return out


def draw_notes(workdir: str, step: int, request: TrialRequest, trials: int, of: int) -> list[str]:
    """Return notes on random draws: of trials, of images, and earlier ones with other seeds."""
    notes = [f"{trials} of {of} trials, drawn at random with seed {request.seed}"] if trials < of else []
    if request.samples > 1:
        notes.append(f"every score is the mean over the {request.samples} images of a trial; none of them was chosen")
    path = epath.Path(workdir) / READS
    lines = path.read_text().splitlines() if request.split == "test" and presence.exists(path) else []
    same = [entry for entry in map(json.loads, lines) if entry.get("step") == step]
    seeds = sorted({entry["seed"] for entry in same if "seed" in entry} | {request.seed})
    if len(seeds) > 1:
        notes.append(
            f"this step was scored with {len(seeds)} random draws (seeds {', '.join(map(str, seeds))}): report all of "
            "them, as one that was picked from among them is not a test"
        )
    return notes


def _test_reads(run: Run, split: str) -> list[str]:
    """Return notes on how often the test split was scored before: choosing by these scores is choosing on test."""
    if split != "test":
        return []
    path = epath.Path(run.workdir) / READS
    before = len(path.read_text().splitlines()) if presence.exists(path) else 0
    if not before:
        return ["the run's test split is scored for the first time; steps are chosen on split val alone"]
    times = "once" if before == 1 else f"{before} times"
    return [
        f"the run's test split was scored {times} before (see {READS}): it is not a test for a choice by these scores"
    ]


def scored_trials(seen: ImageTrials, chosen: np.ndarray, side: int) -> ScoredTrials:
    """Return the trials as `image_scores` takes them."""
    numbers, place = np.unique(seen.image[chosen], return_inverse=True)
    labels = {int(seen.image[trial]): seen.label[trial] for trial in chosen}
    names, people = sorted(set(labels.values())), sorted({seen.person[trial] for trial in chosen})
    return ScoredTrials(
        true=images.load_all([seen.images[i].path for i in numbers], side),
        group=np.array([names.index(labels[int(i)]) for i in numbers]),
        image=place,
        person=np.array([people.index(seen.person[trial]) for trial in chosen]),
    )


def pretraining_notes(task: System, seen: ImageTrials, chosen: np.ndarray) -> list[str]:
    """Return notes on which signals of these trials (never images) the encoder was pretrained on."""
    start, target = offered(task, Pretrained), capability(task, GeneratesFromTrials, "see images in trials").target
    if start is None or not start.encoder_run or target.people == "apart":
        return []
    paths = [os.path.abspath(path) for path in opening.config_of(start.encoder_run).data.path]
    recordings = tuple(seen.recording[trial] for trial in chosen)
    count = trials.pretrained_on(dataclasses.replace(seen, record=seen.record[chosen], recording=recordings), paths)
    return [f"the encoder was pretrained on the signals of {count} of the {len(chosen)} trials, without their images"]


def _judges(task: GeneratesFromTrials, settings: ImageSettings) -> tuple[list[Judge], Judge | None, list[str]]:
    """Return all judges, the classifier among them, and notes on what is missing and why."""
    mesh, notes, panel = meshes.make(MeshConfig()), [], []
    if task.embedding_dim:
        aligned = task.target.embedding
        name = epath.Path(aligned.path).name
        view = judges.of_model(VisionModel.open(aligned.path, mesh), aligned, mesh)
        panel.append(Judge(f"{name} (aligned with)", view))
        notes.append(f"{name} is what training aligned trials with: as a judge it is not independent")
    given, about = judges.open_judges(settings.judge, mesh)
    classifier = judges.open_classifier(settings.classifier, mesh) if settings.classifier else None
    if classifier is None:
        notes.append("no N-way accuracy: it takes a trained classifier (--classifier FOLDER)")
    return [*panel, *given, *([classifier] if classifier else [])], classifier, [*notes, *about]
