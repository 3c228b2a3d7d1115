"""The config of a sweep: what is varied, on top of which run, and how each run is scored.

    def get_config(…) -> ConfigDict:
        return sweep_config.config(name, base, [axes.values("mask.ratio", 0.25, 0.75)], seeds=(0, 1, 2), …)

`base` is the ConfigDict of a run, as its own config file makes it. On the command line `--config.base.KEY=…` changes
it, `--config.KEY=…` the settings below.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from ml_collections import ConfigDict

from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.sweeps import axes as axes_
from dreamjax.sweeps.axes import Axis, Combination
from dreamjax.systems import registry
from dreamjax.training.train_config import TrainConfig

PRETRAIN = "pretrain."  # prefix of the keys of the pretraining before the base


class RunConfig(Protocol):
    """The fields that the config of every system has."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def system(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def train(self) -> TrainConfig: ...


@dataclass(frozen=True)
class ScoreConfig:
    """The settings of scoring, on windows of people that no run was trained on."""

    split: Literal["val", "test"] = "val"  # runs are chosen on it, so test is for the chosen run
    windows: int | None = 400  # spread evenly; of images, trials drawn at random
    rank: Literal["reconstruction", "probe", "images", "retrieval", "prediction", "held_out"] = "reconstruction"
    labels: tuple[str, ...] = ()  # two, for a linear probe; none: no probe
    patch: int | None = None  # samples that the masks hide at once; none: the model's patch
    baselines: bool = True  # interpolation and conditional mean too, once for all runs of equal windows
    classifier: str = ""  # of rank images: a folder, ViTForImageClassification
    ways: int | None = None  # … N of the N-way accuracy; none: all of its classes
    samples: int = 1  # … images of a trial
    sampler_steps: int = 30  # …
    guidance: float = 7.5  # … 1: none
    metric: str = "loss"  # of rank held_out: what the run's evaluation reports
    better: Literal["lower", "higher"] = "lower"  # … which values of it are the better ones

    def __post_init__(self) -> None:
        labels, images = ", ".join(self.labels), self.rank == "images"
        few = self.ways is not None and self.ways < 2
        _refuse(
            (len(self.labels) not in (0, 2), f"score.labels are {labels}, but a probe tells two labels apart"),
            (self.rank == "probe" and not self.labels, "score.rank is probe, which takes two score.labels"),
            (images and self.labels, "score.labels are of a linear probe, and score.rank is images; leave them out"),
            (
                self.classifier and not images,
                "score.classifier has an effect with score.rank=images only; leave it out",
            ),
            (few, f"score.ways is {self.ways}, but it must be at least 2 (none: all)"),
            *_least(self, 1, "score.", "samples", "sampler_steps"),
            (not self.guidance >= 0, f"score.guidance is {self.guidance}, but it must be 0 or more"),
            *_least(self, 1, "score.", "patch", "windows"),
        )


@dataclass(frozen=True)
class SweepSettings:
    """The settings of a sweep, apart from its base and its axes."""

    name: str = "sweep"
    search: Literal["grid", "list", "random", "tpe"] = "grid"  # tpe: each trial follows from the scores before it
    trials: int = 0  # combinations of values that random and tpe try; grid and list have as many as they have
    draw_seed: int = 0  # of random and tpe
    halvings: int = 0  # of tpe: a trial may be stopped after so many of …, 1/9, 1/3 of its steps
    seeds: tuple[int, ...] = (0,)  # each combination is trained with every one
    compare: tuple[Literal["examples", "flops"], ...] = ("examples", "flops")  # what is equal between runs
    retries: int = 1  # of a run that failed
    together: int = 1  # this many runs of equal shapes are trained as one program
    scaling: str = ""  # axis along which a power law is fitted to the errors
    hours: float | None = None  # start no further run after this many hours of this call
    score: ScoreConfig = field(default_factory=ScoreConfig)

    def __post_init__(self) -> None:
        drawn, tpe = self.search in ("random", "tpe"), self.search == "tpe"
        scaling = self.scaling and self.score.rank != "reconstruction"
        for seed in self.seeds:
            configs.check_seed("seeds", seed)
        _refuse(
            (not self.name, "name is empty; a report shows it"),
            (self.trials and not drawn, f"trials is {self.trials}, but the axes of search {self.search} say how many"),
            (drawn and self.trials < 1, f"search {self.search} takes trials, at least 1"),
            *_least(self, 0, "", "halvings"),
            (self.halvings and not tpe, f"halvings is {self.halvings}, but it has an effect with search tpe only"),
            (tpe and len(self.compare) != 1, "search tpe takes one comparison: set compare to examples or to flops"),
            (not _different(self.seeds), f"seeds are {self.seeds or 'none'}, but there must be some, each once"),
            (not _different(self.compare), "compare must be one or both of examples, flops"),
            *_least(self, 0, "", "retries"),
            (self.together < 1, f"together is {self.together}, but it must be at least 1 (one after another)"),
            (scaling, f"scaling fits errors of reconstruction, but score.rank is {self.score.rank}; leave it out"),
            (self.hours is not None and not self.hours > 0, f"hours is {self.hours}, but it must be positive"),
        )


def _refuse(*checks: tuple[object, str]) -> None:
    """Raise ValueError with the message of the first check that is true."""
    if message := next((message for wrong, message in checks if wrong), None):
        raise ValueError(message)


def _least(config: object, least: int, prefix: str, *names: str) -> Iterator[tuple[bool, str]]:
    """Return checks of numbers, or None, that may not be smaller."""
    for name in names:
        value = getattr(config, name)
        advice = f"at least {least}" if least else "0 or more"
        yield value is not None and value < least, f"{prefix}{name} is {value}, but it must be {advice}"


def _different(values: Sequence[object]) -> bool:
    return 0 < len(values) == len(set(values))


@dataclass(frozen=True)
class Sweep:
    """A checked sweep. `base`: a ConfigDict; `schema`: the dataclass that describes it.

    `pretrain`: the config of the pretraining whose encoders the runs start from (`runs`).
    """

    settings: SweepSettings
    base: ConfigDict
    schema: type[RunConfig]
    axes: tuple[Axis, ...]
    source: str
    pretrain: ConfigDict | None = None

    @property
    def pretrain_schema(self) -> type[RunConfig]:
        assert self.pretrain is not None
        return registry.schema_of(self.pretrain, self.source)

    def config_of(self, chosen: Combination, seed: int) -> RunConfig:
        """Return the run's config. Raise UserError naming values that do not go together."""
        return self._config(self.schema, self.base, "", chosen, seed)

    def pretrain_of(self, chosen: Combination, seed: int) -> RunConfig | None:
        """Return the config of the pretraining before the run, where the sweep has one."""
        if self.pretrain is None:
            return None
        return self._config(self.pretrain_schema, self.pretrain, PRETRAIN, chosen, seed)

    def base_config(self) -> RunConfig:
        return configs.to_dataclass(self.schema, self.base, self.source)

    def _config(
        self, schema: type[RunConfig], base: ConfigDict, prefix: str, chosen: Combination, seed: int
    ) -> RunConfig:
        config = base.copy_and_resolve_references()
        settings = [axis.setting(chosen[axis.name]) for axis in self.axes if axis.name in chosen]
        for key, value in [item for setting in settings for item in setting.items()] + [(f"{prefix}seed", seed)]:
            if key.startswith(PRETRAIN) == bool(prefix):
                configs.put(schema, config, key.removeprefix(prefix), value, self.source)
        where = ", ".join(f"{name}={value}" for name, value in chosen.items())
        return configs.to_dataclass(schema, config, f"{self.source}: {where}" if where else self.source)

    def identity(self) -> dict[str, object]:
        """Return the identity of the sweep: runs may be added, base and score may not change."""
        before = {} if self.pretrain is None else {"pretrain": json.loads(configs.to_json(self.pretrain_of({}, 0)))}
        return {
            "name": self.settings.name,
            **before,
            "base": json.loads(configs.to_json(self.base_config())),
            "score": dataclasses.asdict(self.settings.score),
            "compare": list(self.settings.compare),
        }


def config(
    name: str,
    base: ConfigDict,
    axes: Sequence[Mapping[str, object]],
    pretrain: ConfigDict | None = None,
    *,
    score: Mapping[str, Any] | None = None,
    **settings: Any,
) -> ConfigDict:
    """Return the ConfigDict of a sweep, for its config file to return."""
    sweep = configs.to_config_dict(SweepSettings(name=name, score=ScoreConfig(**(score or {})), **settings))
    with sweep.unlocked():
        sweep.base = base
        sweep.axes = tuple(dict(axis) for axis in axes)
        if pretrain is not None:
            sweep.pretrain = pretrain
    return sweep


def load(spec: str, overrides: Sequence[tuple[str, str]]) -> Sweep:
    """Return the sweep of a config file, `--config.…` applied. Raise UserError for every mistake."""
    values = configs.read(spec)
    path = spec.partition(":")[0]
    if not isinstance(values.get("base"), ConfigDict) or not isinstance(values.get("axes"), tuple | list):
        raise UserError(f"{path} is not a sweep, which has a base and axes (sweeps.sweep_config.config)")
    with values.unlocked():
        base, entries, pretrain = values.base, values.axes, values.get("pretrain")
        for key in {"base", "axes", "pretrain"} & set(values):
            del values[key]
    schema = registry.schema_of(base, path)
    for key, text in overrides:
        if key.startswith("base."):
            configs.override(schema, base, key.removeprefix("base."), text, f"{path} (base)")
        elif key.startswith(PRETRAIN) and pretrain is not None:
            before = registry.schema_of(pretrain, path)
            configs.override(before, pretrain, key.removeprefix(PRETRAIN), text, f"{path} (pretrain)")
        else:
            configs.override(SweepSettings, values, key, text, path)
    settings = configs.to_dataclass(SweepSettings, values, path)
    base = configs.to_config_dict(configs.to_dataclass(schema, base, f"{path} (base)"))  # also what it leaves out
    sweep = Sweep(settings, base, schema, axes_.read(entries, path), path, pretrain)
    sweep.pretrain_of({}, 0)
    _check_keys(sweep)
    return sweep


# keys that an axis may not set → what to do instead
REFUSED = {
    "seed": "list the sweep's seeds instead",
    "train.steps": "how long a run is trained follows from what is compared; change --config.base.train.steps",
    "data.path": "runs would be scored on different people",
    "encoder.path": "encoders are those of pretrain; vary pretrain.KEY",
    "pretrain.seed": "list the sweep's seeds instead",
    "pretrain.data.path": "give --config.pretrain.data.path",
}


def _check_keys(sweep: Sweep) -> None:
    """Raise UserError for a key that does not exist, that two axes set, or that would mislabel a score."""
    owner: dict[str, str] = {}
    for axis in sweep.axes:
        for key in axis.keys:
            where = f"{sweep.source}: axis {axis.name}"
            if key.startswith(PRETRAIN) and sweep.pretrain is not None:
                configs.kind_of(sweep.pretrain_schema, key.removeprefix(PRETRAIN), where)
            else:
                configs.kind_of(sweep.schema, key, where)
            if key in REFUSED:
                raise UserError(f"{where} sets {key}; {REFUSED[key]}")
            if key in owner:
                raise UserError(f"{where} sets {key}, which axis {owner[key]} sets too; let one of them set it")
            if key == "model.patch" and sweep.settings.score.patch is None:
                raise UserError(
                    f"{where} sets model.patch: masks would hide other samples of each run; set score.patch to a "
                    "length that all of them divide"
                )
            owner[key] = axis.name
    if (name := sweep.settings.scaling) and name not in [axis.name for axis in sweep.axes]:
        raise UserError(f"{sweep.source}: scaling is {name}, which is not an axis of this sweep")
