"""What a point of stage B is measured by: how often a trained classifier names its pictures as it names those seen.

N-way top-1 accuracy in closed form (`evaluation.semantic`), of trials whose pictures no run has trained on, the same
trials and the same noise for every point. Scores are by person; of fewer than five people by picture.
"""

from typing import Any

import numpy as np
from etils import epath

from dreamjax.errors import UserError
from dreamjax.evaluation import decoding, judges
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.sweeps.description import ScoreConfig
from dreamjax.systems import dreamdiffusion_evaluation, eeg_to_image, runs
from dreamjax.systems.dreamdiffusion import DreamDiffusionConfig
from dreamjax.systems.eeg_to_image import Dreamer, Request

NOISE_SEED = 0  # of the pictures, whatever the run's seed
FEWEST = 5  # people, for intervals over them


def measure(workdir: str, score: ScoreConfig) -> dict[str, Any]:
    """A run's newest step → JSON-able scores by person or picture."""
    run = runs.open_run(workdir)
    dreamer, request = Dreamer.open(run), _request(score)
    found = dreamer.trials(request.split)
    own = eeg_to_image.chosen(found, request)
    asked = dreamdiffusion_evaluation.trials_seen(found, own, dreamer.side(request))
    classifier = judges.open_classifier(score.classifier, meshes.make(MeshConfig()))
    decoding.check_ways(classifier, asked, score.ways)
    made = np.stack(list(dreamer.pictures(found, own, request)))
    made = made.reshape(len(own), request.samples, *made.shape[1:])
    column = decoding.named(classifier, asked, {decoding.MODEL: made}, score.ways)
    people = {int(place): found.person[trial] for place, trial in zip(asked.person, own, strict=True)}
    by_person = len(people) >= FEWEST
    units = asked.person if by_person else asked.own
    values = column.values[decoding.MODEL]
    names = people if by_person else {int(i): f"picture {i}" for i in np.unique(units)}
    return {
        "step": run.step,
        "examples": run.examples,
        "split": request.split,
        "windows": len(own),
        "own": {},
        "pictures": {
            "metric": column.name,
            "chance": column.chance,
            "unit": "person" if by_person else "picture",
            "scores": {name: float(values[units == unit].mean()) for unit, name in names.items()},
        },
    }


def check(config: Any, score: ScoreConfig) -> None:
    """Raises UserError, before anything is trained, where a run of this config could not be scored."""
    if not isinstance(config, DreamDiffusionConfig):
        raise UserError(
            f"score.rank is pictures, which runs of dreamdiffusion make, and this is one of {config.system}"
        )
    if not config.data.path:
        raise UserError("the base config has no data: give --config.base.data.path=SHARDS")
    if not score.classifier:
        raise UserError(
            "pictures are scored by a trained classifier: give --config.score.classifier=FOLDER; without one there is "
            "no score"
        )
    if not epath.Path(score.classifier).is_dir():
        raise UserError(f"--config.score.classifier={score.classifier} is no folder")
    _request(score)


def seen_alike(config: Any) -> Any:
    """What must be equal for points to be scored on the same trials."""
    return config.data, config.target


def _request(score: ScoreConfig) -> Request:
    return Request(
        split=score.split,
        trials=score.windows,
        samples=score.samples,
        steps=score.sampler_steps,
        guidance=score.guidance,
        seed=NOISE_SEED,
    )
