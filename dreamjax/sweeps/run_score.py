"""The score of a run, as every scorer returns it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RunScore:
    """`details`: what the ranking is made of, by the name of the rank; see `ranking.by_subject`."""

    step: int
    examples: int
    split: str
    windows: int | None = None
    reported: Mapping[str, float] = field(
        default_factory=dict
    )  # the run's own held-out metrics, which are not compared
    details: Mapping[str, object] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        return {
            "step": self.step,
            "examples": self.examples,
            "split": self.split,
            "windows": self.windows,
            "own": dict(self.reported),
            **self.details,
        }


@dataclass(frozen=True)
class UnitScores:
    """A score for each unit (person, image, …) of a rank that has one metric; higher is better."""

    metric: str
    unit: str
    scores: Mapping[str, float]
    chance: float | None = None
    accuracy: Mapping[str, float] = field(default_factory=dict)  # of images, not compared with a control

    def as_json(self) -> dict[str, object]:
        values: dict[str, object] = {"metric": self.metric, "chance": self.chance, "unit": self.unit}
        accuracy = {"accuracy": dict(self.accuracy)} if self.accuracy else {}
        return values | accuracy | {"scores": dict(self.scores)}
