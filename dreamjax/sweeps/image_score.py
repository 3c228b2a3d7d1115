"""Score a system that generates images: how often a trained classifier gives them the class of the image seen.

The score is N-way top-1 accuracy in closed form (`metrics.nway`) on trials whose images no run has trained on, with the
same trials and noise for every run, minus that of the same images compared with the images of other trials. A model
that knows the set of images and ignores the trial has a difference of zero, whatever its accuracy. Scores are by
person, or by image with fewer than five people.
"""

from typing import Any, cast

import numpy as np
from etils import epath

from dreamjax.errors import UserError
from dreamjax.evaluation import image_scores, images, judges
from dreamjax.generation.from_trials import TrialGenerator, TrialRequest
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.reports.image_report import MODEL
from dreamjax.signals.recordings import identity
from dreamjax.sweeps import scoring
from dreamjax.sweeps.scoring import RunScore, UnitScores
from dreamjax.sweeps.sweep_config import RunConfig, ScoreConfig
from dreamjax.systems import opening, registry
from dreamjax.systems.base import GeneratesFromTrials

NOISE_SEED = 0  # of the images, whatever the run's seed
FEWEST = 5  # people, for intervals over them
OTHERS = "what other trials saw"


def measure(workdir: str, score: ScoreConfig, shared: epath.Path) -> RunScore:
    """Return the scores of a run's newest step by person or image."""
    del shared
    run = opening.open_run(workdir)
    generator, request = TrialGenerator.open(run), _request(score)
    trials = generator.trials(request.split)
    chosen = request.chosen(trials)
    seen = images.scored_trials(trials, chosen, generator.side(request))
    classifier = judges.open_classifier(score.classifier, meshes.make(MeshConfig()))
    image_scores.check_ways(classifier, seen, score.ways)
    made = np.stack(list(generator.images(trials, chosen, request)))
    made = made.reshape(len(chosen), request.samples, *made.shape[1:])
    column = image_scores.accuracy(classifier, seen, {MODEL: made}, score.ways, control=OTHERS)
    people = {int(person): trials.person[trial] for person, trial in zip(seen.person, chosen, strict=True)}
    by_person = len(people) >= FEWEST
    units = seen.person if by_person else seen.image
    names = people if by_person else {int(i): f"image {i}" for i in np.unique(units)}

    def by_unit(values: np.ndarray) -> dict[str, float]:
        return {name: float(np.nanmean(values[units == unit])) for unit, name in names.items()}

    model, others = column.values[MODEL], column.values[OTHERS]
    if np.isnan(others).all():
        raise UserError(f"all trials of split {request.split} saw the same image, so there is no control; add trials")
    metric, unit = (
        f"{column.name}, minus that of other trials' images",
        "image" if not by_person else "recording" if identity.caveat(people.values()) else "person",
    )
    scores = UnitScores(metric, unit, by_unit(model - others), column.chance, by_unit(model))
    details = {"notes": images.pretraining_notes(run.task, trials, chosen), "images": scores.as_json()}
    return RunScore(run.step, run.examples, request.split, len(chosen), details=details)


def check(config: RunConfig, score: ScoreConfig) -> None:
    """Raise UserError where a run of this config could not be scored."""
    if not score.classifier:
        raise UserError(
            "images are scored by a trained classifier: give --config.score.classifier=FOLDER; without one there is "
            "no score"
        )
    task = cast(GeneratesFromTrials, registry.build(config))
    if not task.guided and score.guidance != 1:
        raise UserError("this model has no unconditional branch for guidance: set --config.score.guidance=1")
    classifier = judges.open_classifier(score.classifier, meshes.make(MeshConfig()))
    if score.ways is not None:
        side = task.target.resolution
        image = np.zeros((1, side, side, 3), np.uint8)
        image_scores.check_ways(classifier, image_scores.ScoredTrials(image, *np.zeros((3, 1), int)), score.ways)
    _request(score)


def seen_alike(config: RunConfig) -> object:
    """Return the data and the targets, without what concerns training alone."""
    run = cast(Any, config)
    return scoring.as_scored(run.data), run.target


def _request(score: ScoreConfig) -> TrialRequest:
    return TrialRequest(
        split=score.split,
        trials=score.windows,
        samples=score.samples,
        steps=score.sampler_steps,
        guidance=score.guidance,
        seed=NOISE_SEED,
    )
