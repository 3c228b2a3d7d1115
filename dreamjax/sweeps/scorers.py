"""Choose how runs are scored by `score.rank`: each rank needs one capability of the system and has a scoring module."""

from dataclasses import dataclass
from typing import Protocol

from etils import epath

from dreamjax.errors import UserError
from dreamjax.sweeps import example_score, image_score, scoring
from dreamjax.sweeps.scoring import RunScore
from dreamjax.sweeps.sweep_config import RunConfig, ScoreConfig
from dreamjax.systems import registry
from dreamjax.systems.base import Embeds, GeneratesFromTrials, Predicts, Reconstructs, Retrieves, capabilities


class Scorer(Protocol):
    """A module that scores runs, with the same functions as this one."""

    def check(self, config: RunConfig, score: ScoreConfig) -> None: ...

    def measure(self, workdir: str, score: ScoreConfig, shared: epath.Path) -> RunScore: ...

    def seen_alike(self, config: RunConfig) -> object: ...


@dataclass(frozen=True)
class Rank:
    """A way to rank. `capability`: the one that a system must have; None: any system."""

    scorer: Scorer
    capability: type | None
    purpose: str


RANKS = {
    "reconstruction": Rank(scoring, Reconstructs, "reconstruct a signal"),
    "probe": Rank(scoring, Embeds, "turn signals into features"),
    "images": Rank(image_score, GeneratesFromTrials, "generate images from trials"),
    "retrieval": Rank(example_score, Retrieves, "retrieve targets"),
    "prediction": Rank(example_score, Predicts, "predict vectors"),
    "held_out": Rank(example_score, None, "be trained"),
}


def check(config: RunConfig, score: ScoreConfig) -> None:
    """Raise UserError, before anything is trained, where a run of this config could not be scored."""
    rank, offered = RANKS[score.rank], capabilities(registry.find(config.system))
    if rank.capability not in (None, *offered):
        possible = [name for name, one in RANKS.items() if one.capability in (None, *offered)]
        raise UserError(
            f"score.rank is {score.rank}, but a run of {config.system} cannot {rank.purpose}; choose from "
            f"{', '.join(possible)}"
        )
    if lacks_data(config):
        raise UserError("the base config has no data: give --config.base.data.path=SHARDS")
    rank.scorer.check(config, score)


def lacks_data(config: RunConfig) -> bool:
    """Return whether a config that reads datasets names none."""
    return getattr(getattr(config, "data", None), "path", True) in ("", ())


def measure(workdir: str, score: ScoreConfig, shared: epath.Path) -> RunScore:
    """Return the score of a run's newest step. `shared`: folder of what all runs of a sweep have in common."""
    return RANKS[score.rank].scorer.measure(workdir, score, shared)


def seen_alike(config: RunConfig, score: ScoreConfig) -> object:
    """Return what must be equal for runs to be scored on the same data."""
    return RANKS[score.rank].scorer.seen_alike(config)
