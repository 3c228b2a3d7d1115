"""What a point of stage B is measured by: how often a trained classifier names its images as it names those seen.

N-way top-1 accuracy in closed form (`metrics.nway`), of trials whose images no run has trained on, the same
trials and the same noise for every point; minus that of the same images held against what the other trials saw. A
painter that knows which images there are, and nothing of the trial, has that difference at zero, whatever its own
accuracy. Scores are by person; of fewer than five people by image.
"""

from typing import Any

import numpy as np

from dreamjax.errors import UserError
from dreamjax.evaluation import image_scores, images, judges
from dreamjax.generation import from_trials
from dreamjax.generation.from_trials import Dreamer, Request
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.reports.image_report import MODEL
from dreamjax.sweeps import scoring
from dreamjax.sweeps.sweep_config import ScoreConfig
from dreamjax.systems import opening
from dreamjax.systems.dreamdiffusion import DreamDiffusionConfig

NOISE_SEED = 0  # of the images, whatever the run's seed
FEWEST = 5  # people, for intervals over them
OTHERS = "what other trials saw"


def measure(workdir: str, score: ScoreConfig) -> dict[str, Any]:
    """A run's newest step → JSON-able scores by person or image."""
    run = opening.open_run(workdir)
    dreamer, request = Dreamer.open(run), _request(score)
    found = dreamer.trials(request.split)
    own = from_trials.chosen(found, request)
    asked = images.trials_seen(found, own, dreamer.side(request))
    classifier = judges.open_classifier(score.classifier, meshes.make(MeshConfig()))
    image_scores.check_ways(classifier, asked, score.ways)
    made = np.stack(list(dreamer.images(found, own, request)))
    made = made.reshape(len(own), request.samples, *made.shape[1:])
    column = image_scores.named(classifier, asked, {MODEL: made}, score.ways, control=OTHERS)
    people = {int(place): found.person[trial] for place, trial in zip(asked.person, own, strict=True)}
    by_person = len(people) >= FEWEST
    units = asked.person if by_person else asked.own
    names = people if by_person else {int(i): f"image {i}" for i in np.unique(units)}

    def by_unit(values: np.ndarray) -> dict[str, float]:
        return {name: float(np.nanmean(values[units == unit])) for unit, name in names.items()}

    model, others = column.values[MODEL], column.values[OTHERS]
    if np.isnan(others).all():
        raise UserError(f"all trials of split {request.split} saw one image: nothing tells a model from a habit")
    return {
        "step": run.step,
        "examples": run.examples,
        "split": request.split,
        "windows": len(own),
        "own": {},
        "notes": images.pretrained(run.config, found, own),
        "images": {
            "metric": f"{column.name}, minus that of other trials' images",
            "chance": column.chance,
            "unit": "person" if by_person else "image",
            "accuracy": by_unit(model),
            "scores": by_unit(model - others),
        },
    }


def check(config: Any, score: ScoreConfig) -> None:
    """Raises UserError, before anything is trained, where a run of this config could not be scored."""
    if not isinstance(config, DreamDiffusionConfig):
        raise UserError(f"score.rank is images, which runs of dreamdiffusion make, and this is one of {config.system}")
    if not config.data.path:
        raise UserError("the base config has no data: give --config.base.data.path=SHARDS")
    if not score.classifier:
        raise UserError(
            "images are scored by a trained classifier: give --config.score.classifier=FOLDER; without one there is "
            "no score"
        )
    if config.model.context_tokens and score.guidance != 1:
        raise UserError("this model has no unconditional branch to be guided away from: set --config.score.guidance=1")
    classifier = judges.open_classifier(score.classifier, meshes.make(MeshConfig()))
    if score.ways is not None:
        image = np.zeros((1, config.target.resolution, config.target.resolution, 3), np.uint8)
        image_scores.check_ways(classifier, image_scores.Trials(image, *np.zeros((3, 1), int)), score.ways)
    _request(score)


def seen_alike(config: Any) -> Any:
    """What must be equal for points to be scored on the same trials."""
    return scoring.as_scored(config.data), config.target


def _request(score: ScoreConfig) -> Request:
    return Request(
        split=score.split,
        trials=score.windows,
        samples=score.samples,
        steps=score.sampler_steps,
        guidance=score.guidance,
        seed=NOISE_SEED,
    )
